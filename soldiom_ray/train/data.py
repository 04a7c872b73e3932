"""From a dataset's samples to token files: what all tasks have in common."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts, Draft, Report
from soldiom_ray.errors import InputError
from soldiom_ray.models.infill import sample_text
from soldiom_ray.records import FileEntry, Manifest
from soldiom_ray.train.splits import TRAIN, VALIDATION

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

REPORT_SECONDS = 0.5


def samples(artifacts: Artifacts, dataset: Manifest, split: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """(text, messages) of each sample; messages are empty where it is no conversation."""
    for row in artifacts.rows(dataset, f"{split}/"):
        yield sample_text(row), json.loads(row["messages"]) if row.get("messages") else []


def nothing_to_learn(dataset: Manifest, what: str) -> InputError:
    """The error of a train split that holds no `what`."""
    return InputError(
        f"Dataset {dataset.id} holds no {what} in its train split ({dataset.counts.get(TRAIN, 0)} samples).",
        remedy="collect more documents, loosen `prepare.filters`, or hold out less in `prepare.split`",
    )


def sample_counter(dataset: Manifest, report: Report) -> Callable[..., None]:
    """A function to call after every sample, or with the number of samples: now and then it passes progress on to
    `report`, which may raise to stop the work."""
    expected, seen = max(1, sum(dataset.counts.get(split, 0) for split in (TRAIN, VALIDATION))), 0
    reported_at = time.monotonic()

    def count(samples: int = 1) -> None:
        nonlocal seen, reported_at
        seen += samples
        if time.monotonic() - reported_at >= REPORT_SECONDS:
            reported_at = time.monotonic()
            report(min(1.0, seen / expected), f"tokenising: {seen} of {expected} samples")

    return count


def lengths_of(artifacts: Artifacts, tokens: Manifest, name: str) -> "npt.NDArray[np.int64]":
    """[rows] how many tokens each row of a stream has."""
    import numpy as np

    return np.frombuffer(artifacts.read(tokens, f"{name}.lengths.bin"), np.uint32).astype(np.int64)


class StreamWriter:
    """Writes rows of ids, one after the other, to disk, and at the end to an artifact: `<name>.bin` (uint8, uint16 or
    uint32) and `<name>.lengths.bin` (uint32). Where not all ids count for the loss, `<name>.scored.bin` has a byte for
    each."""

    def __init__(self, draft: Draft, name: str, values: int) -> None:
        """`values` is the number of different ids."""
        self.draft, self.name = draft, name
        self.dtype = next(
            dtype for bits, dtype in ((8, "uint8"), (16, "uint16"), (32, "uint32")) if values <= 1 << bits
        )
        self.lengths: list[int] = []
        self.is_masked = False

    def __enter__(self) -> "StreamWriter":
        self._folder = tempfile.TemporaryDirectory(prefix="soldiom-tokens-")
        self._ids = (Path(self._folder.name) / "ids").open("wb")
        self._masks = (Path(self._folder.name) / "masks").open("wb")
        return self

    def add(self, ids: "npt.NDArray[Any]", loss_mask: "npt.NDArray[np.bool_] | None" = None) -> None:
        """One row of ids [length]; `loss_mask` [length] says which of them count for the loss, None: all."""
        import numpy as np

        self._ids.write(ids.astype(self.dtype).tobytes())
        self._masks.write((np.ones(len(ids), np.bool_) if loss_mask is None else loss_mask).tobytes())
        self.lengths.append(len(ids))
        self.is_masked |= loss_mask is not None and not loss_mask.all()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        import numpy as np

        self._ids.close()
        self._masks.close()
        if kind is None:
            self._store("bin", "ids")
            if self.is_masked:
                self._store("scored.bin", "masks")
            self.draft.write(f"{self.name}.lengths.bin", np.asarray(self.lengths, np.uint32).tobytes())
        self._folder.cleanup()

    def _store(self, ending: str, file: str) -> None:
        name = f"{self.name}.{ending}"
        written = self.draft.artifacts.storage.write_file(f"{self.draft.prefix}/{name}", Path(self._folder.name) / file)
        self.draft.add_written([FileEntry(name=name, size_bytes=written.size_bytes, sha256=written.sha256)])


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


def tokenizer_hash(folder: Path) -> str:
    """Which tokenizer a model's folder holds: what a tokens artifact is named by, in a plan as in a training."""
    return folder_hash(folder, ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"))
