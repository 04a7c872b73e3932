"""Checkpoints in our storage: weights, optimiser, position. Each has a manifest of hashes that is written last, so a
damaged or unfinished one is seen and the one before it is taken."""

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict

from soldiom_ray.errors import NotFoundError, SoldiomError
from soldiom_ray.records import FileEntry, Record
from soldiom_ray.storage import Storage
from soldiom_ray.train.loop import Position

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
MANIFEST, WEIGHTS, MOMENTS = "manifest.json", "weights.safetensors", "optimizer.safetensors"
KEPT = 2
"""Newest checkpoints kept besides the best one: the second stands in when the first is damaged."""


class _Manifest(Record):
    model_config = ConfigDict(ser_json_inf_nan="constants")

    position: Position
    files: tuple[FileEntry, ...]


class Checkpoints:
    """The checkpoints of one run, below one prefix of storage."""

    def __init__(self, storage: Storage, prefix: str) -> None:
        self.storage = storage
        self.prefix = prefix.rstrip("/")

    def write(self, position: Position, weights: Mapping[str, "Tensor"], moments: Mapping[str, "Tensor"]) -> None:
        """Keep this state, then remove what is neither among the newest nor the best. StorageFullError when the disk
        is full: the half-written checkpoint goes, the earlier ones stay."""
        import safetensors.torch

        folder = self._folder(position.step)
        try:
            entries = []
            for name, tensors in ((WEIGHTS, weights), (MOMENTS, moments)):
                written = self.storage.write(f"{folder}/{name}", safetensors.torch.save(dict(tensors)))
                entries.append(FileEntry(name=name, size_bytes=written.size_bytes, sha256=written.sha256))
            manifest = _Manifest(position=position, files=tuple(entries))
            self.storage.write(f"{folder}/{MANIFEST}", manifest.model_dump_json().encode())
        except SoldiomError:
            self.storage.remove(folder)
            raise
        kept = {*self.steps()[-KEPT:], position.best_step}
        for step in self.steps():
            if step not in kept:
                self._remove(step)

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, oldest first (their content is not checked here)."""
        ends = f"/{MANIFEST}"
        found = [
            key.removesuffix(ends).rpartition("/")[2] for key in self.storage.keys(self.prefix) if key.endswith(ends)
        ]
        return sorted(int(name) for name in found if name.isdecimal())

    def newest(self) -> tuple[Position, dict[str, "Tensor"], dict[str, "Tensor"]] | None:
        """The newest checkpoint whose bytes are those that were written; damaged ones are logged and removed."""
        for step in reversed(self.steps()):
            try:
                return self.read(step)
            except (SoldiomError, ValueError) as error:
                reason = error.what if isinstance(error, SoldiomError) else type(error).__name__
                log.warning("checkpoint skipped: damaged", extra={"data": {"step": step, "reason": reason}})
                self._remove(step)
        return None

    def read(self, step: int) -> tuple[Position, dict[str, "Tensor"], dict[str, "Tensor"]]:
        """One checkpoint: position, weights and moments by name (see `Strategy.moments`). ValueError when its bytes have
        changed."""
        import safetensors.torch

        folder = self._folder(step)
        manifest = _Manifest.model_validate_json(self.storage.read(f"{folder}/{MANIFEST}"))
        data: dict[str, bytes] = {}
        for entry in manifest.files:
            data[entry.name] = self.storage.read(f"{folder}/{entry.name}")
            if hashlib.sha256(data[entry.name]).hexdigest() != entry.sha256:
                raise ValueError(f"{entry.name} of step {step} is not what was written")
        return manifest.position, safetensors.torch.load(data[WEIGHTS]), safetensors.torch.load(data[MOMENTS])

    def best_weights(self, position: Position) -> dict[str, "Tensor"] | None:
        """The weights of the best validation, when that checkpoint can still be read."""
        try:
            return self.read(position.best_step)[1]
        except (NotFoundError, ValueError) as error:
            log.warning(
                "best checkpoint unreadable, the last weights are kept",
                extra={"data": {"step": position.best_step, "reason": type(error).__name__}},
            )
            return None

    def put_result(self, result: Mapping[str, Any]) -> None:
        """What the training came to, for whoever started it."""
        self.storage.write(f"{self.prefix}/result.json", json.dumps(dict(result)).encode())

    def result(self) -> dict[str, Any]:
        """What `put_result` wrote."""
        return dict(json.loads(self.storage.read(f"{self.prefix}/result.json")))

    def clear(self) -> None:
        """Remove everything below the prefix."""
        self.storage.remove(self.prefix)

    def _folder(self, step: int) -> str:
        return f"{self.prefix}/{step:08d}"

    def _remove(self, step: int) -> None:
        self.storage.remove(f"{self._folder(step)}/{MANIFEST}")
        self.storage.remove(self._folder(step))
