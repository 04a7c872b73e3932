"""What a training reads, and in which order: units of token ids, drawn by each step and divided among its ranks.

Every rank reads the same source; indices are those of the whole split."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from soldiom_ray.models.labels import IGNORE_INDEX

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Indices = npt.NDArray[np.int64]
    """[units]: which units of a source, or a number for each of them."""


class Source(Protocol):
    """Units numbered from 0: blocks of a token stream, or samples."""

    def __len__(self) -> int: ...

    def positions(self, indices: "Indices") -> "Indices":
        """[len(indices)] int64: how many positions of a forward pass each unit takes."""
        ...

    def batch(self, indices: "Indices") -> tuple["npt.NDArray[Any]", ...]:
        """The arrays that the task's objective takes, on the CPU, each [len(indices), ...] in the order of `indices`,
        padded to the longest unit."""
        ...

    def label_count(self, indices: "Indices") -> int:
        """How many labels of these units count for the loss: what a summed loss is divided by."""
        ...


@dataclass(frozen=True)
class Blocks:
    """A token stream as blocks of `length` ids and the ids that follow them.

    `stream` is [tokens], uint16 or uint32, mapped from disk. A stream shorter than one block is one shorter block.
    `loss_mask` [tokens] has 0 for ids that are read without counting for the loss; None when all count.
    `sample_lengths` [samples] says how many tokens each sample has."""

    stream: "npt.NDArray[np.integer[Any]]"
    length: int
    loss_mask: "npt.NDArray[np.uint8] | None" = None
    sample_lengths: "Indices | None" = None

    def __len__(self) -> int:
        return (len(self.stream) - 1) // self.width if len(self.stream) > 1 else 0

    @property
    def width(self) -> int:
        """Ids per block."""
        return min(self.length, len(self.stream) - 1)

    def positions(self, indices: "Indices") -> "Indices":
        """[len(indices)]: the same for every block."""
        import numpy as np

        return np.full(len(indices), self.width, np.int64)

    def batch(self, indices: "Indices") -> tuple["npt.NDArray[np.int64]", "npt.NDArray[np.int64]"]:
        """(ids, labels), each [len(indices), width] int64; labels are the ids one position further, IGNORE_INDEX where
        they do not count for the loss."""
        import numpy as np

        rows = np.stack([self.stream[i * self.width : (i + 1) * self.width + 1] for i in indices]).astype(np.int64)
        labels = rows[:, 1:]
        if self.loss_mask is not None:
            labels = np.where(np.stack([self._label_mask(i) for i in indices]), labels, IGNORE_INDEX)
        return rows[:, :-1], labels

    def label_count(self, indices: "Indices") -> int:
        """How many labels of these blocks count for the loss."""
        if self.loss_mask is None:
            return len(indices) * self.width
        return sum(int(self._label_mask(i).sum()) for i in indices)

    def _label_mask(self, index: int) -> "npt.NDArray[np.uint8]":
        if self.loss_mask is None:
            raise ValueError("all labels of this stream count for the loss")
        return self.loss_mask[index * self.width + 1 : (index + 1) * self.width + 1]


@dataclass(frozen=True)
class Rows:
    """Parts of a token stream that each begin with a sample, or go on in one that is longer than `length`.

    Row i is the `lengths[i]` ids from `starts[i]` on (both [rows]) and the id that follows each."""

    blocks: Blocks
    starts: "Indices"
    lengths: "Indices"

    @classmethod
    def of(cls, blocks: Blocks) -> "Rows":
        """A stream's samples, without rows in which nothing counts for the loss."""
        import numpy as np

        if blocks.sample_lengths is None:
            raise ValueError("where the samples of this stream begin is not known")
        ends = np.cumsum(blocks.sample_lengths, dtype=np.int64)
        starts, lengths = [], []
        for end, size in zip(ends.tolist(), blocks.sample_lengths.tolist(), strict=True):
            for start in range(end - size, end - 1, blocks.length):
                starts.append(start)
                lengths.append(min(blocks.length, end - 1 - start))
        rows = cls(blocks, np.array(starts, np.int64), np.array(lengths, np.int64))
        counted = np.array([rows.label_count(np.array([row])) > 0 for row in range(len(rows))], np.bool_)
        return cls(blocks, rows.starts[counted], rows.lengths[counted])

    def __len__(self) -> int:
        return len(self.starts)

    def positions(self, indices: "Indices") -> "Indices":
        """[len(indices)] ids of each row that are read."""
        return self.lengths[indices]

    def batch(self, indices: "Indices") -> tuple["npt.NDArray[np.int64]", "npt.NDArray[np.int64]"]:
        """(ids, labels), each [len(indices), longest] int64, as of `Blocks.batch`. What is padded at the end has id 0,
        which no earlier position sees, and no label."""
        import numpy as np

        width = int(self.lengths[indices].max())
        ids = np.zeros((len(indices), width), np.int64)
        labels = np.full((len(indices), width), IGNORE_INDEX, np.int64)
        for row, index in enumerate(indices.tolist()):
            start, length = self.starts[index], self.lengths[index]
            ids[row, :length] = self.blocks.stream[start : start + length]
            labels[row, :length] = self.blocks.stream[start + 1 : start + length + 1]
            if self.blocks.loss_mask is not None:
                labels[row, :length][self.blocks.loss_mask[start + 1 : start + length + 1] == 0] = IGNORE_INDEX
        return ids, labels

    def label_count(self, indices: "Indices") -> int:
        """How many labels of these rows count for the loss."""
        mask = self.blocks.loss_mask
        if mask is None:
            return int(self.lengths[indices].sum())
        spans = zip(self.starts[indices].tolist(), self.lengths[indices].tolist(), strict=True)
        return sum(int(mask[start + 1 : start + length + 1].sum()) for start, length in spans)


@dataclass(frozen=True)
class Order:
    """Which units each step reads: every epoch is a permutation decided by the seed, so a step can be found again."""

    units: int
    per_step: int
    seed: int

    def step(self, number: int) -> "Indices":
        """[per_step] indices of a step's units, of all ranks together (steps are counted from 0)."""
        import numpy as np

        drawn = np.arange(number * self.per_step, (number + 1) * self.per_step)
        epochs = drawn // self.units
        orders = {epoch: _permutation(self.units, self.seed, int(epoch)) for epoch in np.unique(epochs)}
        return np.array(
            [orders[epoch][draw % self.units] for epoch, draw in zip(epochs, drawn, strict=True)], dtype=np.int64
        )


@lru_cache(maxsize=2)
def _permutation(units: int, seed: int, epoch: int) -> "Indices":
    """[units] an epoch's order; a step lies in two at most. A million units take 30 ms, too long for every step."""
    import numpy as np

    return np.random.default_rng((seed, epoch)).permutation(units)


def evenly_spaced(source: Source, tokens: int) -> "Indices":
    """Indices of units spread evenly over a source, about `tokens` positions together."""
    import numpy as np

    indices = np.arange(len(source), dtype=np.int64)
    if not len(indices):
        return indices
    mean = float(source.positions(indices).mean())
    count = min(len(indices), max(1, int(tokens / mean)))
    return np.linspace(0, len(indices) - 1, count).round().astype(np.int64)


def batches_by_rank(
    source: Source, indices: "Indices", world: int, positions: int, *, virtual_positions: int = 0
) -> "Sequence[Sequence[Indices]]":
    """[world][batches] indices: for each rank its batches of one step. A padded batch has at most `positions` (but at
    least one unit), and each unit takes `virtual_positions` more than its own.

    Units are dealt by length, so that little is padding, and every rank has as many batches as the others: strategies
    that exchange weights in every forward pass need that. A batch is empty only where there are fewer units than
    ranks."""
    import numpy as np

    lengths = source.positions(indices) + virtual_positions
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
