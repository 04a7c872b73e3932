"""Checkpoints in our storage: weights, optimiser, position. Each has a manifest of hashes that is written last, so a
damaged or unfinished one is seen and the one before it is taken. A storage that is away for a while is waited for."""

import errno
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ConfigDict

from soldiom_ray.errors import DamagedError, NotFoundError, SoldiomError, UnavailableError
from soldiom_ray.records import FileEntry, Record
from soldiom_ray.storage import Storage
from soldiom_ray.train.state import Position
from soldiom_ray.train.tensors import in_shards, safetensors_bytes

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
Result = TypeVar("Result")
MANIFEST, WEIGHTS, OPTIMIZER = "manifest.json", "weights", "optimizer"
KEPT = 2
"""Newest checkpoints kept besides the best one: the second stands in when the first is damaged."""
PATIENCE_SECONDS = 300.0
"""How long a storage may be away before the training ends with its error."""
LONGEST_WAIT_SECONDS = 5.0
PASSING = {errno.EIO, errno.EAGAIN, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.EHOSTDOWN, errno.ENOTCONN}
"""What a network file system answers while its server is away."""


class _Manifest(Record):
    model_config = ConfigDict(ser_json_inf_nan="constants")

    position: Position
    files: tuple[FileEntry, ...]


class Checkpoints:
    """The checkpoints of one run, below one prefix of storage."""

    def __init__(self, storage: Storage, prefix: str) -> None:
        self.storage = storage
        self.prefix = prefix.rstrip("/")

    def write(
        self, position: Position, weights: Mapping[str, "Tensor"], optimizer_state: Mapping[str, "Tensor"]
    ) -> None:
        """Keep this state, then remove what is neither among the newest nor the best. The tensors are read once and
        never copied. StorageFullError when the disk is full: the half-written one goes, the earlier ones stay."""
        folder = self._folder(position.step)
        try:
            self._patiently(lambda: self.storage.remove(f"{folder}/{MANIFEST}"))
            entries = [
                self._write_shard(f"{folder}/{name}", shard)
                for stem, tensors in ((WEIGHTS, weights), (OPTIMIZER, optimizer_state))
                for name, shard in in_shards(stem, tensors)
            ]
            content = _Manifest(position=position, files=tuple(entries)).model_dump_json()
            sealed = json.dumps({"manifest": content, "sha256": hashlib.sha256(content.encode()).hexdigest()})
            self._patiently(lambda: self.storage.write(f"{folder}/{MANIFEST}", sealed.encode()))
        except SoldiomError as error:
            if not isinstance(error, UnavailableError):
                self.storage.remove(folder)
            raise
        self._prune(position.best_step)

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, oldest first (their content is not checked here)."""
        return sorted(step for step, finished in self._found().items() if finished)

    def newest(self) -> tuple[Position, dict[str, "Tensor"], dict[str, "Tensor"]] | None:
        """The newest checkpoint whose bytes are those that were written; damaged ones are logged and removed."""
        for step, finished in sorted(self._found().items(), reverse=True):
            try:
                if not finished:
                    raise ValueError("it has no manifest")
                return self.read(step)
            except (NotFoundError, DamagedError, ValueError) as error:
                reason = error.what if isinstance(error, SoldiomError) else _first_line(error)
                log.warning("checkpoint skipped: damaged", extra={"data": {"step": step, "reason": reason}})
                self._remove(step)
        return None

    def read(self, step: int) -> tuple[Position, dict[str, "Tensor"], dict[str, "Tensor"]]:
        """One checkpoint: position, weights and optimizer state by name (see `Strategy.optimizer_state`).

        ValueError when its bytes have changed. Tensors are mapped from files: only those in use take memory."""
        position, tensors = self._read(step, (WEIGHTS, OPTIMIZER))
        return position, tensors[WEIGHTS], tensors[OPTIMIZER]

    def best_weights(self, position: Position) -> dict[str, "Tensor"] | None:
        """The weights of the best validation, when that checkpoint can still be read."""
        try:
            return self._read(position.best_step, (WEIGHTS,))[1][WEIGHTS]
        except (NotFoundError, DamagedError, ValueError) as error:
            log.warning(
                "best checkpoint unreadable, the last weights are kept",
                extra={"data": {"step": position.best_step, "reason": type(error).__name__}},
            )
            return None

    def put_result(self, result: Mapping[str, Any]) -> None:
        """What the training came to, for whoever started it."""
        data = json.dumps(dict(result)).encode()
        self._patiently(lambda: self.storage.write(f"{self.prefix}/result.json", data))

    def result(self) -> dict[str, Any]:
        """What `put_result` wrote."""
        return dict(json.loads(self._patiently(lambda: self.storage.read(f"{self.prefix}/result.json"))))

    def clear(self) -> None:
        """Remove everything below the prefix."""
        self._patiently(lambda: self.storage.remove(self.prefix))

    def _write_shard(self, key: str, tensors: Mapping[str, "Tensor"]) -> FileEntry:
        written = self._patiently(lambda: self.storage.write_stream(key, safetensors_bytes(tensors)))
        return FileEntry(name=key.rpartition("/")[2], size_bytes=written.size_bytes, sha256=written.sha256)

    def _read(self, step: int, stems: tuple[str, ...]) -> tuple[Position, dict[str, dict[str, "Tensor"]]]:
        import safetensors.torch
        from safetensors import SafetensorError

        def load() -> tuple[Position, dict[str, dict[str, "Tensor"]]]:
            tensors: dict[str, dict[str, Tensor]] = {stem: {} for stem in stems}
            with self.storage.local_folder(self._folder(step)) as folder:
                manifest = _checked(folder / MANIFEST)
                for entry in manifest.files:
                    stem = entry.name.partition(".")[0].partition("-")[0]
                    if stem in tensors:
                        _check(folder / entry.name, entry)
                        # The mapping outlives the file: a copy that lies in a temporary folder is gone with it.
                        tensors[stem] |= safetensors.torch.load_file(folder / entry.name)
            return manifest.position, tensors

        try:
            return self._patiently(load)
        except FileNotFoundError as error:
            raise ValueError(f"{Path(str(error.filename)).name} of step {step} is missing") from error
        except SafetensorError as error:
            raise ValueError(f"step {step} cannot be read") from error

    def _found(self) -> dict[int, bool]:
        """Every step of which anything is stored, and whether it has its manifest."""
        steps: dict[int, bool] = {}
        for key in self._patiently(lambda: self.storage.keys(self.prefix)):
            name, _, rest = key.removeprefix(f"{self.prefix}/").partition("/")
            if name.isdecimal():
                steps[int(name)] = steps.get(int(name), False) or rest == MANIFEST
        return steps

    def _prune(self, best_step: int) -> None:
        found = self._found()
        kept = {*sorted(step for step, finished in found.items() if finished)[-KEPT:], best_step}
        for step in found.keys() - kept:
            self._remove(step)

    def _folder(self, step: int) -> str:
        return f"{self.prefix}/{step:08d}"

    def _remove(self, step: int) -> None:
        self._patiently(lambda: self.storage.remove(f"{self._folder(step)}/{MANIFEST}"))
        self._patiently(lambda: self.storage.remove(self._folder(step)))

    def _patiently(self, call: Callable[[], Result]) -> Result:
        """Its result; while the storage is away it is called again, for PATIENCE_SECONDS."""
        began, wait, told = time.monotonic(), 0.25, False
        while True:
            try:
                result = call()
            except Exception as error:
                if not _passes(error) or time.monotonic() - began + wait > PATIENCE_SECONDS:
                    raise
                if not told:
                    log.warning("the storage is away; waiting", extra={"data": {"error": type(error).__name__}})
                told = True
                time.sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)
            else:
                if told:
                    seconds = round(time.monotonic() - began, 1)
                    log.info("the storage is back", extra={"data": {"away_seconds": seconds}})
                return result


def _passes(error: Exception) -> bool:
    """Whether trying again may help: the storage is away, not the object or the right to it."""
    if isinstance(error, UnavailableError):
        answer = getattr(error.__cause__, "response", {}).get("ResponseMetadata", {})
        status = int(answer.get("HTTPStatusCode", 503))
        return status >= 500 or status == 429
    if isinstance(error, OSError):
        return isinstance(error, ConnectionError | TimeoutError) or error.errno in PASSING
    # An answer of S3 that breaks off while its body is read.
    return type(error).__module__.partition(".")[0] in ("botocore", "urllib3")


def _checked(path: Path) -> _Manifest:
    sealed = json.loads(path.read_bytes())
    if not isinstance(sealed, dict) or not isinstance(content := sealed.get("manifest"), str):
        raise ValueError("its manifest is not what was written")
    if hashlib.sha256(content.encode()).hexdigest() != sealed.get("sha256"):
        raise ValueError("its manifest is not what was written")
    return _Manifest.model_validate_json(content)


def _check(path: Path, entry: FileEntry) -> None:
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            raise ValueError(f"{entry.name} is not what was written")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
