"""What is scored, divided into parts that any worker computes and that are kept with the dataset.

A part is named by the hash of all that decides its values: the model's weights, the samples, how they are computed. The
same part is never computed twice: an interrupted evaluation goes on, and the next model on the same base and samples
finds the base's part done. Values do not depend on which worker computes a part, nor on which others are there."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from soldiom_ray import __version__
from soldiom_ray.artifacts import Artifacts, kept_prefix
from soldiom_ray.errors import DamagedError, InputError, NotFoundError
from soldiom_ray.metrics.measurement import BASE, PREVIOUS, TUNED, Measurement
from soldiom_ray.models.load import model_folder
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    from soldiom_ray.evaluate.loaded import LoadedModels

log = logging.getLogger(__name__)

PARTS_VERSION = 1
"""Raised when the same part would have other values than before."""
ANSWERS_EACH = 64
TOKENS_EACH = 8192
"""Of a part, at least: eight batches, a few seconds to half a minute of two cores."""

WorkKind = Literal["scores", "answers", "tries"]
Payload = dict[str, Any]
"""What is stored of a part: `values`, one for each of its places, and what else its task needs. All of it is JSON."""


@dataclass(frozen=True, slots=True)
class Part:
    """One system's share of the work: the items at these places of the plan's list of `work`. `name` is the hash,
    `effort` about how long it takes, in tokens."""

    system: str
    work: WorkKind
    places: tuple[int, ...]
    name: str
    effort: float


class Plan(Protocol):
    """An evaluation's work, made once and sent to every worker."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """All there is to score, in the order in which the fewest models are loaded."""

    def check(self, system: str, model: Any, processor: Any) -> None:
        """Called with every model that was loaded: InputError, or SystemMissingError, where it does not compare."""

    def compute(self, models: "LoadedModels", part: Part) -> Payload:
        """The values of a part."""

    def measurement(
        self, artifacts: Artifacts, payloads: "Mapping[Part, Payload]", missing: Mapping[str, str]
    ) -> Measurement:
        """What all parts come to; `missing` are systems that could not be scored, with the reasons."""


def cut_into_parts(
    system: str,
    work: WorkKind,
    ordered: Sequence[int],
    efforts: Callable[[int], float],
    most: float,
    decided_by: Mapping[str, Any],
    describe: Callable[[int], Any],
) -> Iterator[Part]:
    """Parts of at least `most` effort each, of the places in this order. `describe` gives all of an item that decides
    its value, `decided_by` what decides that of all items."""
    members: list[int] = []
    spent = 0.0
    for number, place in enumerate(ordered, 1):
        members.append(place)
        spent += efforts(place)
        if spent >= most or number == len(ordered):
            inputs = {
                **decided_by,
                "work": work,
                "version": PARTS_VERSION,
                "items": [describe(each) for each in members],
            }
            yield Part(system, work, tuple(members), digest(inputs), spent)
            members, spent = [], 0.0


def digest(value: Any) -> str:
    """SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode(errors="surrogatepass")).hexdigest()


def read_part(artifacts: Artifacts, dataset: Manifest, part: Part) -> Payload | None:
    """A part that was computed before; None where it was not, or is damaged."""
    key = f"{kept_prefix(dataset.id)}/scored/{part.name}.json"
    if not artifacts.storage.exists(key):
        return None
    with suppress(ValueError, NotFoundError, DamagedError):
        payload: Payload = json.loads(artifacts.storage.read(key))
        if len(payload["values"]) == len(part.places):
            return payload
    log.warning("a part that was scored before is damaged and is scored again", extra={"data": {"part": part.name}})
    return None


def write_part(artifacts: Artifacts, dataset: Manifest, part: Part, payload: Payload) -> None:
    """Keep a part, whole or not at all."""
    key = f"{kept_prefix(dataset.id)}/scored/{part.name}.json"
    artifacts.storage.write(key, json.dumps(payload).encode(errors="surrogatepass"))


def fingerprints(models: "LoadedModels", base: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """What decides the answers of each system's model, and why a system is missing. Errors as of
    `models.load.model_folder` for the run and its base."""
    settings, artifacts = models.settings, models.artifacts
    prints: dict[str, Any] = {TUNED: _run_fingerprint(settings, artifacts, models.run)}
    missing: dict[str, str] = {}
    if base is not None:
        prints[BASE] = _base_fingerprint(settings, artifacts, base)
    if models.previous is not None:
        try:
            prints[PREVIOUS] = _run_fingerprint(settings, artifacts, models.previous)
        except (NotFoundError, InputError, DamagedError) as error:
            missing[PREVIOUS] = f"it cannot be loaded: {error.what}"
    return prints, missing


def _run_fingerprint(settings: Settings, artifacts: Artifacts, run: Manifest) -> list[Any]:
    """What decides the answers of a run's model. Errors as of `models.load.model_folder` for an adapter's base."""
    base = [] if run.details["method"] == "full" else _base_fingerprint(settings, artifacts, run.details["base_model"])
    weights = sorted((entry.name, entry.sha256) for entry in run.files if entry.name.startswith("weights/"))
    return [weights, run.details.get("configuration"), base]


def _base_fingerprint(settings: Settings, artifacts: Artifacts, name: str) -> list[Any]:
    """The same of a base model by its name: its files with their sizes and times, which are read faster than hashed."""
    if name.startswith("run-") and (run := artifacts.find(name)) is not None:
        return [name, sorted((entry.name, entry.sha256) for entry in run.files if entry.name.startswith("weights/"))]
    with model_folder(settings, artifacts, name) as folder:
        files = sorted(path.resolve() for path in folder.iterdir() if path.is_file())
        return [name, [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]]


def computed_by(model: Any, tokenizer: Any) -> dict[str, Any]:
    """What besides weights and samples decides the values: number format, device, and how text becomes tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text_to_tokens = backend.to_str() if backend is not None else type(tokenizer).__name__
    return {
        "dtype": str(model.dtype),
        "device": model.device.type,
        "tokenizer": digest([text_to_tokens, str(getattr(tokenizer, "special_tokens_map", ""))]),
        "package": __version__,
    }
