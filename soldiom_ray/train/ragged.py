"""Rows of different lengths in one flat array, and the padded batches made of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soldiom_ray.models.tokens import truncate

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from soldiom_ray.train.blocks import Indices


@dataclass(frozen=True)
class Ragged:
    """`flat` [values] holds the rows one after the other, row i from `starts[i]` to `starts[i + 1]`; `starts` is
    [rows + 1]."""

    flat: "npt.NDArray[Any]"
    starts: "Indices"

    @classmethod
    def open(cls, folder: Path, name: str, dtype: Any) -> "Ragged":
        """Map the files that `data.StreamWriter` wrote: `<name>.bin` with values of `dtype`, `<name>.lengths.bin`."""
        import numpy as np

        lengths = np.fromfile(folder / f"{name}.lengths.bin", np.uint32)
        path = folder / f"{name}.bin"
        flat = np.memmap(path, dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)
        return cls(flat, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, index: int) -> "npt.NDArray[Any]":
        """One row as it is stored: [length], in the dtype of `flat`."""
        return self.flat[self.starts[index] : self.starts[index + 1]]

    def lengths(self, indices: "Indices", limit: int) -> "Indices":
        """[len(indices)] lengths of rows that are cut to `limit`."""
        import numpy as np

        lengths: Indices = np.minimum(self.starts[indices + 1] - self.starts[indices], limit)
        return lengths

    def padded(self, indices: "Indices", limit: int, pad: int, *, keep_last: bool = True) -> "npt.NDArray[np.int64]":
        """[len(indices), longest] rows, padded at the end with `pad`; longer ones are truncated to `limit`."""
        import numpy as np

        lengths = self.lengths(indices, limit)
        rows = np.full((len(indices), int(lengths.max(initial=1))), pad, np.int64)
        for row, (index, length) in enumerate(zip(indices, lengths, strict=True)):
            rows[row, :length] = truncate(self.row(int(index)), limit, keep_last=keep_last)
        return rows


def count_cuts(lengths: "Indices", limit: int) -> dict[str, int]:
    """How rows of these lengths [rows] fit into `limit`: see `Task.cuts`."""
    longer = lengths[lengths > limit]
    return {
        "samples": len(lengths),
        "longest_tokens": int(lengths.max(initial=0)),
        "cut_samples": len(longer),
        "cut_tokens": int((longer - limit).sum()),
    }
