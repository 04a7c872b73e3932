"""Short texts that share one."""

from collections.abc import Iterator, Sequence

ROWS_PER_TEXT = 200
CHARACTERS_PER_TEXT = 8000
"""Short rows share a text, but not so many that a search returns all of them or none."""


def pack(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(index of the first row, rows) of packs of at most ROWS_PER_TEXT rows and about CHARACTERS_PER_TEXT."""
    start, current, size = 0, list[str](), 0
    for number, text in enumerate(texts):
        if current and (len(current) >= ROWS_PER_TEXT or size + len(text) > CHARACTERS_PER_TEXT):
            yield start, current
            start, current, size = number, [], 0
        current.append(text)
        size += len(text)
    if current:
        yield start, current
