"""A dataset's samples on their way to token files: what all tasks share."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from soldiom_ray.artifacts import Artifacts, Draft
from soldiom_ray.errors import InputError
from soldiom_ray.models.chat import Conversation
from soldiom_ray.records import FileEntry, Manifest
from soldiom_ray.train.tasks.task import TRAIN


def samples(artifacts: Artifacts, dataset: Manifest, split: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """(text, messages) of each sample; messages are empty where it is no conversation."""
    for row in artifacts.rows(dataset, f"{split}/"):
        yield row["text"], json.loads(row["messages"]) if row.get("messages") else []


def nothing_to_learn(dataset: Manifest, what: str) -> InputError:
    """The error of a train split that holds no `what`."""
    return InputError(
        f"Dataset {dataset.id} holds no {what} in its train split ({dataset.counts.get(TRAIN, 0)} samples).",
        remedy="collect more documents, loosen `prepare.filters`, or hold out less in `prepare.split`",
    )


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


class Streams:
    """The files of one split while they grow on disk; they are added to the draft at the end."""

    def __init__(self, draft: Draft, split: str) -> None:
        self.draft, self.split = draft, split
        self.lengths: list[int] = []
        self.has_unscored = False

    def __enter__(self) -> "Streams":
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
