"""What is known of all documents of a dataset in the making, in columns: some 700 bytes each, and no text."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Positions = NDArray[np.int64]

NO_SIDE = -1


class Ledger:
    """A document is its position in the order of the stage. `sides` are numbers of splits; `rows`,
    `characters`, `image_bytes` and `sizes` (of both) belong to those that passed."""

    def __init__(self, facts: "pa.Table") -> None:
        import numpy as np

        self._facts = facts
        self.rows: NDArray[np.int64] = facts.column("row").to_numpy()
        self.parts: NDArray[np.int64] = facts.column("part").to_numpy()
        self.characters: NDArray[np.int64] = facts.column("characters").to_numpy()
        self.image_bytes: NDArray[np.int64] = facts.column("image_bytes").to_numpy()
        self.sizes = self.characters + self.image_bytes
        self.sides = np.full(len(facts), NO_SIDE, np.int8)
        self._is_kept = self.rows >= 0
        self._drops: dict[int, tuple[str, str]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def kept(self, side: int | None = None) -> "Positions":
        """Documents not dropped so far, in order; all, or those of one side."""
        import numpy as np

        return np.flatnonzero(self._is_kept if side is None else self._is_kept & (self.sides == side))

    def dropped(self) -> "Positions":
        """Documents dropped so far, in order."""
        import numpy as np

        return np.flatnonzero(~self._is_kept)

    def drop(self, position: int, reason: str, value: str) -> None:
        """Leave a document out, and say why."""
        self._is_kept[position] = False
        self._drops[position] = (reason, value)

    def set_sides(self, positions: "Positions", sides: Sequence[int]) -> None:
        """The split of each of these."""
        self.sides[positions] = sides

    def column(self, name: str, positions: "Positions") -> list[Any]:
        """Values of one column."""
        values: list[Any] = self._facts.column(name).take(positions).to_pylist()
        return values

    def reason(self, position: int) -> str:
        """Why a document was dropped; empty for one that was not."""
        return self._drops[position][0] if position in self._drops else self._cell("reason", position)

    def value(self, position: int) -> str:
        """The value that decided."""
        return self._drops[position][1] if position in self._drops else self._cell("value", position)

    def name(self, position: int) -> str:
        """A document's name for people: its group and path."""
        return f"{self._cell('group', position)}/{self._cell('path', position)}"

    def by_part(self, positions: "Iterable[int] | Positions") -> "list[tuple[int, Positions]]":
        """Positions by the work file they lie in, the files in the order of their first document."""
        import numpy as np

        all_positions = np.asarray(list(positions), np.int64)
        found: dict[int, list[int]] = {}
        for position, part in zip(all_positions.tolist(), self.parts[all_positions].tolist(), strict=True):
            found.setdefault(part, []).append(position)
        return [(part, np.asarray(members, np.int64)) for part, members in found.items()]

    def drops_as_rows(self, positions: "Positions") -> Iterator[dict[str, str]]:
        """Rows of the dropped table."""
        names = ("id", "source", "group", "path")
        columns = [self.column(name, positions) for name in names]
        for position, *values in zip(positions.tolist(), *columns, strict=True):
            yield dict(zip(names, values, strict=True)) | {
                "reason": self.reason(position),
                "value": self.value(position),
            }

    def _cell(self, name: str, position: int) -> str:
        return str(self._facts.column(name)[position].as_py())
