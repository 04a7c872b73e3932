"""What is known of all documents of a dataset in the making, in columns: some 700 bytes each, and no text."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from soldiom_ray.records import Split

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Positions = NDArray[np.int64]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
"""A split's number is its place in this."""

NO_SPLIT = -1


class DocumentTable:
    """A document is its position in the order of the stage; all arrays are [documents]. Where functions of documents
    are asked about, each of them is a row, and so is a document that is refused as a whole. `splits` (int8) are numbers
    of splits or NO_SPLIT; `rows`, `characters`, `image_bytes` and `sizes` (of both; int64) belong to those that passed
    the filters, and `rows` is negative for the others."""

    def __init__(self, facts: "pa.Table") -> None:
        import numpy as np

        self._facts = facts
        self.rows: NDArray[np.int64] = facts.column("row").to_numpy()
        self.parts: NDArray[np.int64] = facts.column("part").to_numpy()
        self.characters: NDArray[np.int64] = facts.column("characters").to_numpy()
        self.image_bytes: NDArray[np.int64] = facts.column("image_bytes").to_numpy()
        self.sizes = self.characters + self.image_bytes
        self.splits = np.full(len(facts), NO_SPLIT, np.int8)
        self._remains = self.rows >= 0
        self._drops: dict[int, tuple[str, str]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def remaining(self, split: int | None = None) -> "Positions":
        """Positions of the documents not dropped so far, ascending; all, or those of one split."""
        import numpy as np

        return np.flatnonzero(self._remains if split is None else self._remains & (self.splits == split))

    def dropped(self) -> "Positions":
        """Positions of the documents dropped so far, ascending."""
        import numpy as np

        return np.flatnonzero(~self._remains)

    def drop(self, position: int, reason: str, value: str) -> None:
        """Drop a document for a reason, with the value that decided."""
        self._remains[position] = False
        self._drops[position] = (reason, value)

    def set_splits(self, positions: "Positions", splits: Sequence[int]) -> None:
        """Set the split of each of these documents."""
        self.splits[positions] = splits

    def column(self, name: str, positions: "Positions") -> list[Any]:
        """Values of a column of the facts at these positions."""
        values: list[Any] = self._facts.column(name).take(positions).to_pylist()
        return values

    def documents(self, positions: "Positions") -> list[str]:
        """Ids of the documents at these positions, or of which the functions there are part."""
        columns = (self.column("document", positions), self.column("id", positions))
        return [document or name for document, name in zip(*columns, strict=True)]

    def functions(self) -> int:
        """How many rows are functions of documents."""
        return sum(map(bool, self._facts.column("document").to_pylist()))

    def reason(self, position: int) -> str:
        """Why a document was dropped; empty when it was not."""
        return self._drops[position][0] if position in self._drops else self._cell("reason", position)

    def value(self, position: int) -> str:
        """The value that decided; empty when the document was not dropped."""
        return self._drops[position][1] if position in self._drops else self._cell("value", position)

    def name(self, position: int) -> str:
        """A document's name for people: its group and path."""
        return f"{self._cell('group', position)}/{self._cell('path', position)}"

    def by_part(self, positions: "Iterable[int] | Positions") -> "list[tuple[int, Positions]]":
        """Positions by their part, the parts in the order of their first document."""
        import numpy as np

        all_positions = np.asarray(list(positions), np.int64)
        members: dict[int, list[int]] = {}
        for position, part in zip(all_positions.tolist(), self.parts[all_positions].tolist(), strict=True):
            members.setdefault(part, []).append(position)
        return [(part, np.asarray(some, np.int64)) for part, some in members.items()]

    def drop_rows(self, positions: "Positions") -> Iterator[dict[str, str]]:
        """Rows of the artifact's table of dropped documents."""
        names = ("id", "source", "group", "path")
        columns = [self.column(name, positions) for name in names]
        for position, *values in zip(positions.tolist(), *columns, strict=True):
            yield dict(zip(names, values, strict=True)) | {
                "reason": self.reason(position),
                "value": self.value(position),
            }

    def _cell(self, name: str, position: int) -> str:
        return str(self._facts.column(name)[position].as_py())
