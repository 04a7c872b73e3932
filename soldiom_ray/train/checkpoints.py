"""Checkpoints in our storage: weights, optimizer state, position. Each has a manifest of hashes that is written last,
so a damaged or unfinished one is noticed and the one before it is used. A storage that is away is waited for.
The weights of a validation can be kept alone; their manifest has another name, and no training resumes from them.

Rank 0 writes; the tensors are whole, on the CPU, the same by name and shape under every strategy and number of ranks:
weights in the dtype that is trained (float32), `exp_avg/NAME` and `exp_avg_sq/NAME` like the weight NAME, `step` of
shape []."""

import errno
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ConfigDict
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_exponential

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
WEIGHTS_MANIFEST = "weights-manifest.json"
"""Of weights without the optimizer's state."""
NEWEST_KEPT = 2
"""Besides the best one: the second stands in when the first is damaged."""
PATIENCE_SECONDS = 300.0
"""How long a storage may be away before the training ends with its error."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 5.0
NETWORK_ERRORS = {
    errno.EIO,
    errno.EAGAIN,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EREMOTEIO,
    errno.EHOSTDOWN,
    errno.ENOTCONN,
}
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
        self, position: Position, weights: Mapping[str, "Tensor"], optimizer_state: Mapping[str, "Tensor"] | None
    ) -> None:
        """Store this state, then remove checkpoints that are neither among the newest nor the best. Without an
        optimizer's state these are weights that can become the best, not a checkpoint to resume from.

        The tensors are read once and never copied. StorageFullError when the disk is full: the half-written checkpoint
        is removed, the earlier ones stay."""
        folder = self._folder(position.step)
        manifest, groups = WEIGHTS_MANIFEST, [(WEIGHTS, weights)]
        if optimizer_state is not None:
            manifest, groups = MANIFEST, [*groups, (OPTIMIZER, optimizer_state)]
        try:
            self._remove_manifests(folder)
            entries = [
                self._write_shard(f"{folder}/{name}", shard)
                for stem, tensors in groups
                for name, shard in in_shards(stem, tensors)
            ]
            content = _Manifest(position=position, files=tuple(entries)).model_dump_json()
            sealed = json.dumps({"manifest": content, "sha256": hashlib.sha256(content.encode()).hexdigest()})
            _patiently(lambda: self.storage.write(f"{folder}/{manifest}", sealed.encode()))
        except SoldiomError as error:
            if not isinstance(error, UnavailableError):
                self.storage.remove(folder)
            raise
        self._prune(position.best_step)

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, oldest first. Their content is not checked."""
        return sorted(step for step, manifest in self._stored_steps().items() if manifest == MANIFEST)

    def newest(self) -> tuple[Position, dict[str, "Tensor"], dict[str, "Tensor"]] | None:
        """The newest checkpoint whose bytes are those that were written, as `read` returns it; damaged ones are logged
        and removed."""
        for step, manifest in sorted(self._stored_steps().items(), reverse=True):
            if manifest == WEIGHTS_MANIFEST:
                continue
            try:
                if not manifest:
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
        """The weights of the best validation; None when that checkpoint can no longer be read."""
        try:
            return self._read(position.best_step, (WEIGHTS,))[1][WEIGHTS]
        except (NotFoundError, DamagedError, ValueError) as error:
            log.warning(
                "best checkpoint unreadable, the last weights are used",
                extra={"data": {"step": position.best_step, "reason": type(error).__name__}},
            )
            return None

    def put_result(self, result: Mapping[str, Any]) -> None:
        """Store what the training came to, for the driver."""
        data = json.dumps(dict(result)).encode()
        _patiently(lambda: self.storage.write(f"{self.prefix}/result.json", data))

    def result(self) -> dict[str, Any]:
        """What `put_result` wrote."""
        return dict(json.loads(_patiently(lambda: self.storage.read(f"{self.prefix}/result.json"))))

    def clear(self) -> None:
        """Remove everything below the prefix."""
        _patiently(lambda: self.storage.remove(self.prefix))

    def _write_shard(self, key: str, tensors: Mapping[str, "Tensor"]) -> FileEntry:
        written = _patiently(lambda: self.storage.write_stream(key, safetensors_bytes(tensors)))
        return FileEntry(name=key.rpartition("/")[2], size_bytes=written.size_bytes, sha256=written.sha256)

    def _read(self, step: int, stems: tuple[str, ...]) -> tuple[Position, dict[str, dict[str, "Tensor"]]]:
        import safetensors.torch
        from safetensors import SafetensorError

        def load() -> tuple[Position, dict[str, dict[str, "Tensor"]]]:
            tensors: dict[str, dict[str, Tensor]] = {stem: {} for stem in stems}
            with self.storage.local_folder(self._folder(step)) as folder:
                name = WEIGHTS_MANIFEST if (folder / WEIGHTS_MANIFEST).exists() and stems == (WEIGHTS,) else MANIFEST
                manifest = _checked(folder / name)
                for entry in manifest.files:
                    stem = entry.name.partition(".")[0].partition("-")[0]
                    if stem in tensors:
                        _check(folder / entry.name, entry)
                        # The mapping outlives the file: a copy that lies in a temporary folder is gone with it.
                        tensors[stem] |= safetensors.torch.load_file(folder / entry.name)
            return manifest.position, tensors

        try:
            return _patiently(load)
        except FileNotFoundError as error:
            raise ValueError(f"{Path(str(error.filename)).name} of step {step} is missing") from error
        except SafetensorError as error:
            raise ValueError(f"step {step} cannot be read") from error

    def _stored_steps(self) -> dict[int, str]:
        """Every step of which anything is stored, and which manifest it has: "" where it has none."""
        steps: dict[int, str] = {}
        for key in _patiently(lambda: self.storage.keys(self.prefix)):
            name, _, rest = key.removeprefix(f"{self.prefix}/").partition("/")
            if name.isdecimal():
                steps[int(name)] = rest if rest in (MANIFEST, WEIGHTS_MANIFEST) else steps.get(int(name), "")
        return steps

    def _prune(self, best_step: int) -> None:
        stored = self._stored_steps()
        resumable = sorted(step for step, manifest in stored.items() if manifest == MANIFEST)
        retained = {*resumable[-NEWEST_KEPT:], best_step}
        for step in stored.keys() - retained:
            self._remove(step)

    def _folder(self, step: int) -> str:
        return f"{self.prefix}/{step:08d}"

    def _remove(self, step: int) -> None:
        self._remove_manifests(self._folder(step))
        _patiently(lambda: self.storage.remove(self._folder(step)))

    def _remove_manifests(self, folder: str) -> None:
        for name in (MANIFEST, WEIGHTS_MANIFEST):
            _patiently(partial(self.storage.remove, f"{folder}/{name}"))


def _patiently(call: Callable[[], Result]) -> Result:
    """Its result; while the storage is away it is called again, for PATIENCE_SECONDS."""
    retrying = Retrying(
        retry=retry_if_exception(_is_transient),
        wait=wait_exponential(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS),
        stop=stop_before_delay(PATIENCE_SECONDS),
        before_sleep=_log_outage,
        reraise=True,
    )
    began = time.monotonic()
    result = retrying(call)
    if retrying.statistics["attempt_number"] > 1:
        log.info("the storage is back", extra={"data": {"away_seconds": round(time.monotonic() - began, 1)}})
    return result


def _log_outage(state: RetryCallState) -> None:
    """Log the first failure of an outage."""
    if state.attempt_number == 1 and state.outcome is not None:
        error = type(state.outcome.exception()).__name__
        log.warning("the storage is away; waiting", extra={"data": {"error": error}})


def _is_transient(error: BaseException) -> bool:
    """Whether trying again may help: the storage is away, not the object or the right to it."""
    if isinstance(error, UnavailableError):
        answer = (getattr(error.__cause__, "response", None) or {}).get("ResponseMetadata", {})
        status = int(answer.get("HTTPStatusCode", 503))
        return status >= 500 or status == 429
    if isinstance(error, OSError):
        return isinstance(error, ConnectionError | TimeoutError) or error.errno in NETWORK_ERRORS
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
