"""What a training reads, and in which order: units of token ids that a step draws and its workers share."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from soldiom_ray.models.labels import IGNORE_INDEX

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Indices = npt.NDArray[np.int64]


class Source(Protocol):
    """Units numbered from 0: blocks of a stream, or examples."""

    def __len__(self) -> int: ...

    def positions(self, indices: "Indices") -> "Indices":
        """How many positions of a forward pass each unit takes."""
        ...

    def batch(self, indices: "Indices") -> tuple["npt.NDArray[Any]", ...]:
        """The arrays that the task's objective takes, a row for each unit, padded to the longest."""
        ...

    def label_count(self, indices: "Indices") -> int:
        """How many labels of these units are to be learnt: what a summed loss is divided by."""
        ...


@dataclass(frozen=True)
class Blocks:
    """A token stream seen as blocks of `length` ids and the ids that follow them.

    A stream shorter than one block is one shorter block. `scored` has a byte per id, 0 for what is read but not to be
    learnt; None when all of it is."""

    stream: "npt.NDArray[np.integer[Any]]"
    length: int
    scored: "npt.NDArray[np.uint8] | None" = None

    def __len__(self) -> int:
        return (len(self.stream) - 1) // self.width if len(self.stream) > 1 else 0

    @property
    def width(self) -> int:
        """Ids per block."""
        return min(self.length, len(self.stream) - 1)

    def positions(self, indices: "Indices") -> "Indices":
        """The same for every block."""
        import numpy as np

        return np.full(len(indices), self.width, np.int64)

    def batch(self, indices: "Indices") -> tuple["npt.NDArray[np.int64]", "npt.NDArray[np.int64]"]:
        """(ids, labels), each [len(indices), width]; labels are the ids one place further, IGNORE_INDEX where they are
        not to be learnt."""
        import numpy as np

        rows = np.stack([self.stream[i * self.width : (i + 1) * self.width + 1] for i in indices]).astype(np.int64)
        labels = rows[:, 1:]
        if self.scored is not None:
            labels = np.where(np.stack([self._scored(i) for i in indices]), labels, IGNORE_INDEX)
        return rows[:, :-1], labels

    def label_count(self, indices: "Indices") -> int:
        """How many labels of these blocks are to be learnt."""
        if self.scored is None:
            return len(indices) * self.width
        return sum(int(self._scored(i).sum()) for i in indices)

    def _scored(self, index: int) -> "npt.NDArray[np.uint8]":
        if self.scored is None:
            raise ValueError("all labels of this stream are to be learnt")
        return self.scored[index * self.width + 1 : (index + 1) * self.width + 1]


@dataclass(frozen=True)
class Order:
    """Which units each step reads: every epoch is a permutation decided by the seed, so a step can be found again."""

    units: int
    per_step: int
    seed: int

    def step(self, number: int) -> "Indices":
        """Indices of a step's units (steps counted from 0)."""
        import numpy as np

        places = np.arange(number * self.per_step, (number + 1) * self.per_step)
        epochs = places // self.units
        orders = {epoch: _permutation(self.units, self.seed, int(epoch)) for epoch in np.unique(epochs)}
        return np.array(
            [orders[epoch][place % self.units] for epoch, place in zip(epochs, places, strict=True)], dtype=np.int64
        )


@lru_cache(maxsize=2)
def _permutation(units: int, seed: int, epoch: int) -> "Indices":
    """An epoch's order; a step lies in two at most. A million units take 30 ms, too long for every step."""
    import numpy as np

    return np.random.default_rng((seed, epoch)).permutation(units)


def spread(source: Source, tokens: int) -> "Indices":
    """Indices of units spread evenly over a source, about `tokens` positions together."""
    import numpy as np

    everything = np.arange(len(source), dtype=np.int64)
    if not len(everything):
        return everything
    mean = float(source.positions(everything).mean())
    count = min(len(everything), max(1, int(tokens / mean)))
    return np.linspace(0, len(everything) - 1, count).round().astype(np.int64)


def shares(source: Source, indices: "Indices", world: int, positions: int) -> "Sequence[Sequence[Indices]]":
    """For each rank its batches of one step, every batch at most `positions` when padded (but at least one unit).

    Units are dealt by length, so that little is padding, and every rank has as many batches as the others: strategies
    that exchange weights in every forward pass need that. A batch is empty only where there are fewer units than
    ranks."""
    import numpy as np

    lengths = source.positions(indices)
    order = np.argsort(-lengths, kind="stable")
    ordered, lengths = indices[order], lengths[order]
    rows = [ordered[start : start + world] for start in range(0, len(ordered), world)]
    cuts, begun = [0], 0
    for row in range(1, len(rows)):
        last_alone = row == len(rows) - 1 and len(rows[row]) < world
        if lengths[begun * world] * (row - begun + 1) > positions and not last_alone:
            cuts.append(row)
            begun = row
    groups = [ordered[start * world : stop * world] for start, stop in zip(cuts, [*cuts[1:], len(rows)], strict=True)]
    return [[group[rank::world] for group in groups] for rank in range(world)]
