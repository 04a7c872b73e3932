"""The dataset as token streams, and the order in which training reads their blocks."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts, Report
from soldiom_ray.errors import InputError
from soldiom_ray.models.tokens import encode_documents
from soldiom_ray.records import FileEntry, Manifest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CODE = 1
TRAIN, VALIDATION = "train", "validation"


def tokenize(artifacts: Artifacts, dataset: Manifest, tokenizer: Any, tokenizer_id: str, report: Report) -> Manifest:
    """The token streams of a dataset's train and validation splits, as an artifact that later runs reuse.

    Raises InputError when the train split is empty."""
    made_from = {"code": CODE, "dataset": dataset.id, "tokenizer": tokenizer_id}
    draft = artifacts.draft("tokens", made_from, parents=[dataset.id])
    if done := draft.finished():
        return done
    counts: dict[str, int] = {}
    samples = max(1, sum(dataset.counts.get(split, 0) for split in (TRAIN, VALIDATION)))
    kind, seen = "uint16", 0
    for split in (TRAIN, VALIDATION):
        counts[split] = 0
        with tempfile.NamedTemporaryFile(prefix="soldiom-tokens-") as file:
            texts = (row["text"] for row in artifacts.rows(dataset, f"{split}/"))
            for ids in encode_documents(tokenizer, texts):
                kind = str(ids.dtype)
                file.write(ids.tobytes())
                counts[split] += len(ids)
                seen += 1
                if seen % 64 == 0:
                    report(min(1.0, seen / samples), f"tokenising: {seen} documents, {sum(counts.values()):,} tokens")
            file.flush()
            written = artifacts.storage.write_file(f"{draft.prefix}/{split}.bin", Path(file.name))
            draft.add([FileEntry(name=f"{split}.bin", size_bytes=written.size_bytes, sha256=written.sha256)])
        if split == TRAIN and counts[TRAIN] < 2:
            raise InputError(
                f"Dataset {dataset.id} holds no text in its train split ({dataset.counts.get(TRAIN, 0)} samples).",
                remedy="collect more documents, loosen `prepare.filters`, or hold out less in `prepare.split`",
            )
    return draft.commit(counts=counts, details={"dtype": kind})


@dataclass(frozen=True)
class Blocks:
    """A token stream seen as blocks of `length` ids and the ids that follow them.

    A stream shorter than one block is one shorter block."""

    stream: "npt.NDArray[np.integer[Any]]"
    length: int

    def __len__(self) -> int:
        return (len(self.stream) - 1) // self.width if len(self.stream) > 1 else 0

    @property
    def width(self) -> int:
        """Ids per block."""
        return min(self.length, len(self.stream) - 1)

    def batch(self, indices: "npt.NDArray[np.int64]") -> tuple["npt.NDArray[np.int64]", "npt.NDArray[np.int64]"]:
        """(ids, labels), each [len(indices), width]; labels are the ids one place further."""
        import numpy as np

        rows = np.stack([self.stream[i * self.width : (i + 1) * self.width + 1] for i in indices]).astype(np.int64)
        return rows[:, :-1], rows[:, 1:]

    def spread(self, tokens: int) -> "npt.NDArray[np.int64]":
        """Indices of blocks spread evenly over the stream, about `tokens` ids together."""
        import numpy as np

        count = min(len(self), max(1, tokens // self.width))
        return np.linspace(0, len(self) - 1, count).round().astype(np.int64)


@dataclass(frozen=True)
class Order:
    """Which blocks each step reads: every epoch is a permutation decided by the seed, so a step can be found again."""

    blocks: int
    per_step: int
    seed: int

    def step(self, number: int) -> "npt.NDArray[np.int64]":
        """Block indices of a step (counted from 0)."""
        import numpy as np

        places = np.arange(number * self.per_step, (number + 1) * self.per_step)
        epochs = places // self.blocks
        orders = {
            epoch: np.random.default_rng((self.seed, int(epoch))).permutation(self.blocks)
            for epoch in np.unique(epochs)
        }
        return np.array(
            [orders[epoch][place % self.blocks] for epoch, place in zip(epochs, places, strict=True)], dtype=np.int64
        )


@contextmanager
def open_tokens(artifacts: Artifacts, tokens: Manifest, length: int) -> Iterator[tuple[Blocks, Blocks]]:
    """(train, validation) blocks, read from disk as they are needed."""
    import numpy as np

    kind = np.dtype(tokens.details["dtype"])
    with artifacts.storage.local_folder(f"tokens/{tokens.id}") as folder:

        def stream(split: str) -> "npt.NDArray[np.integer[Any]]":
            path = folder / f"{split}.bin"
            return np.memmap(path, dtype=kind, mode="r") if path.stat().st_size else np.empty(0, dtype=kind)

        yield Blocks(stream(TRAIN), length), Blocks(stream(VALIDATION), length)


def folder_hash(folder: Path, names: tuple[str, ...]) -> str:
    """A short hash over the named files of a folder (those that exist)."""
    import hashlib

    digest = hashlib.sha256()
    for name in names:
        if (path := folder / name).is_file():
            digest.update(json.dumps([name, path.stat().st_size]).encode())
            with path.open("rb") as file:
                for chunk in iter(lambda: file.read(1 << 20), b""):
                    digest.update(chunk)
    return digest.hexdigest()[:16]
