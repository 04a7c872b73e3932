"""Long lists of values in queries, in parts: a statement of PostgreSQL takes 65,535 parameters."""

from collections.abc import Iterator, Sequence

PART = 10_000


def in_parts(values: Sequence[str], size: int = PART) -> Iterator[Sequence[str]]:
    """The values, so many at a time, for `column.in_(...)`; none where there are none."""
    return (values[start : start + size] for start in range(0, len(values), size))
