"""The dataset as token streams, and the order in which training reads their blocks."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts, Draft, Report
from soldiom_ray.errors import InputError
from soldiom_ray.models.chat import Conversation, encode_samples
from soldiom_ray.records import FileEntry, Manifest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CODE = 2
UNSCORED = -100
"""A label that is not to be learnt, as the loss knows it."""
TRAIN, VALIDATION = "train", "validation"


def tokenize(artifacts: Artifacts, dataset: Manifest, tokenizer: Any, tokenizer_id: str, report: Report) -> Manifest:
    """The token streams of a dataset's train and validation splits, as an artifact that later runs reuse.

    For each split `<split>.bin` holds ids, `<split>.lengths.bin` the samples' tokens (uint32), and where conversations
    are among them `<split>.scored.bin` a byte per id: 1 for what is to be learnt. Raises InputError when the train
    split is empty."""
    made_from = {"code": CODE, "dataset": dataset.id, "tokenizer": tokenizer_id}
    draft = artifacts.draft("tokens", made_from, parents=[dataset.id])
    if done := draft.finished():
        return done
    counts: dict[str, int] = {}
    samples = max(1, sum(dataset.counts.get(split, 0) for split in (TRAIN, VALIDATION)))
    kind, seen = "uint16" if len(tokenizer) <= 1 << 16 else "uint32", 0
    for split in (TRAIN, VALIDATION):
        counts[split] = 0
        with _Streams(draft, split) as streams:
            for sample in encode_samples(tokenizer, _samples(artifacts, dataset, split)):
                streams.add(sample, kind)
                counts[split] += len(sample.ids)
                seen += 1
                if seen % 64 == 0:
                    report(min(1.0, seen / samples), f"tokenising: {seen} samples, {sum(counts.values()):,} tokens")
        if split == TRAIN and counts[TRAIN] < 2:
            raise InputError(
                f"Dataset {dataset.id} holds no text in its train split ({dataset.counts.get(TRAIN, 0)} samples).",
                remedy="collect more documents, loosen `prepare.filters`, or hold out less in `prepare.split`",
            )
    return draft.commit(counts=counts, details={"dtype": kind})


def cuts(artifacts: Artifacts, tokens: Manifest, sequence_length: int) -> dict[str, int]:
    """How the training samples fit into sequences of this length: `samples`, the `longest_tokens` of them, how many are
    longer (`cut_samples`; they go on in the next sequence), and the tokens that then stand apart from their beginning
    (`cut_tokens`)."""
    import numpy as np

    lengths = np.frombuffer(artifacts.read(tokens, f"{TRAIN}.lengths.bin"), np.uint32).astype(np.int64)
    longer = lengths[lengths > sequence_length]
    return {
        "samples": len(lengths),
        "longest_tokens": int(lengths.max(initial=0)),
        "cut_samples": len(longer),
        "cut_tokens": int((longer - sequence_length).sum()),
    }


def _samples(artifacts: Artifacts, dataset: Manifest, split: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    for row in artifacts.rows(dataset, f"{split}/"):
        yield row["text"], json.loads(row["messages"]) if row.get("messages") else []


class _Streams:
    """The files of one split while they grow on disk; they are added to the draft at the end."""

    def __init__(self, draft: Draft, split: str) -> None:
        self.draft, self.split = draft, split
        self.lengths: list[int] = []
        self.has_unscored = False

    def __enter__(self) -> "_Streams":
        self._folder = tempfile.TemporaryDirectory(prefix="soldiom-tokens-")
        self._ids = (Path(self._folder.name) / "ids").open("wb")
        self._scored = (Path(self._folder.name) / "scored").open("wb")
        return self

    def add(self, sample: Conversation, kind: str) -> None:
        self._ids.write(sample.ids.astype(kind).tobytes())
        self._scored.write(sample.scored.tobytes())
        self.lengths.append(len(sample.ids))
        self.has_unscored |= not sample.scored.all()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        import numpy as np

        self._ids.close()
        self._scored.close()
        if kind is None:
            self._keep("bin", "ids")
            if self.has_unscored:
                self._keep("scored.bin", "scored")
            self.draft.write(f"{self.split}.lengths.bin", np.asarray(self.lengths, np.uint32).tobytes())
        self._folder.cleanup()

    def _keep(self, ending: str, file: str) -> None:
        name = f"{self.split}.{ending}"
        written = self.draft.artifacts.storage.write_file(f"{self.draft.prefix}/{name}", Path(self._folder.name) / file)
        self.draft.add([FileEntry(name=name, size_bytes=written.size_bytes, sha256=written.sha256)])


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

    def batch(self, indices: "npt.NDArray[np.int64]") -> tuple["npt.NDArray[np.int64]", "npt.NDArray[np.int64]"]:
        """(ids, labels), each [len(indices), width]; labels are the ids one place further, UNSCORED where they are not
        to be learnt."""
        import numpy as np

        rows = np.stack([self.stream[i * self.width : (i + 1) * self.width + 1] for i in indices]).astype(np.int64)
        labels = rows[:, 1:]
        if self.scored is not None:
            labels = np.where(np.stack([self._scored(i) for i in indices]), labels, UNSCORED)
        return rows[:, :-1], labels

    def learnt(self, indices: "npt.NDArray[np.int64]") -> int:
        """How many labels of these blocks are to be learnt."""
        if self.scored is None:
            return len(indices) * self.width
        return sum(int(self._scored(i).sum()) for i in indices)

    def _scored(self, index: int) -> "npt.NDArray[np.uint8]":
        if self.scored is None:
            raise ValueError("all labels of this stream are to be learnt")
        return self.scored[index * self.width + 1 : (index + 1) * self.width + 1]

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

        def blocks(split: str) -> Blocks:
            path, scored = folder / f"{split}.bin", folder / f"{split}.scored.bin"
            stream = np.memmap(path, dtype=kind, mode="r") if path.stat().st_size else np.empty(0, dtype=kind)
            return Blocks(stream, length, np.memmap(scored, np.uint8, mode="r") if scored.is_file() else None)

        yield blocks(TRAIN), blocks(VALIDATION)


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
