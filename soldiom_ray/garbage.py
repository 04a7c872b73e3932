"""What storage holds that nothing refers to any more: raw bytes, results of parsing, shared files of artifacts, what
interrupted jobs had begun, and batches that were kept long enough."""

import json
import re
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from soldiom_ray import batches
from soldiom_ray.artifacts import MANIFEST, Artifacts, prefix_of
from soldiom_ray.db import audit, jobs, locks
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.tables import UserInput
from soldiom_ray.errors import NotFoundError
from soldiom_ray.records import COMMAND_LINE, now
from soldiom_ray.settings import HOME_TENANT, Settings
from soldiom_ray.storage import Storage, open_storage

RAW = "raw/sha256/"
REMEMBERED = "work/evaluation-sets/"
"""With which test sets a dataset was compared: decides what its recipe means from then on."""
UNFINISHED_DAYS = 7
"""How long what an interrupted job has begun waits to be resumed, and a cached result to be used."""
_SHA256 = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True, slots=True)
class Garbage:
    """An object that nothing refers to: `raw bytes`, a `cached result`, a `shared file`, `unfinished work`; or what a
    `batch` asked and was answered."""

    key: str
    kind: str
    size_bytes: int


def collect_garbage(settings: Settings, days: int = UNFINISHED_DAYS, *, remove: bool = True) -> dict[str, Any]:
    """Remove what nothing refers to; returns {kind: {objects, bytes}}. With `remove=False` it only counts.
    ConflictError while jobs run: what they have written is not referred to yet."""
    with open_session(settings) as session:
        why, remedy = "what they write is not referred to yet", "collect the garbage once they have ended"
        jobs.refuse_during(session, None, now(), why=why, remedy=remedy)
    storage = open_storage(settings)
    objects, sizes = Counter[str](), Counter[str]()
    for garbage in list(find_garbage(settings, storage, days)):
        if remove and not _remove(settings, storage, garbage):
            continue
        objects[garbage.kind] += 1
        sizes[garbage.kind] += garbage.size_bytes
    counts = {kind: {"objects": objects[kind], "bytes": sizes[kind]} for kind in sorted(objects)}
    if remove and counts:
        with open_session(settings) as session:
            audit.append(session, COMMAND_LINE, "collect garbage", "storage", "allow", dict(counts), HOME_TENANT)
    return counts


def find_garbage(settings: Settings, storage: Storage, days: int) -> Iterator[Garbage]:
    """What nothing refers to, and what was begun or cached more than so many days ago."""
    artifacts, before = Artifacts(storage), time.time() - days * 86_400
    keys = sorted(storage.all_keys())
    kinds = sorted({key.partition("/")[0] for key in keys if key.endswith(f"/{MANIFEST}")})
    manifests = [manifest for kind in kinds for manifest in artifacts.all_of(kind)]
    finished = {prefix_of(manifest.id) for manifest in manifests}
    shared = {entry.key for manifest in manifests for entry in manifest.files if entry.key}
    needed = raw_references(artifacts) | _uploaded(settings)
    for key in keys:
        family, _, rest = key.partition("/")
        kind = ""
        if key.startswith(RAW):
            kind = "raw bytes" if key.rpartition("/")[2] not in needed else ""
        elif family == "parts":
            kind = "shared file" if key not in shared else ""
        elif family == "kept":
            kind = "cached result"
        elif key.startswith(REMEMBERED):
            continue
        elif family == batches.FOLDER:
            kind = "batch" if storage.modified(key) < time.time() - batches.KEPT_DAYS * 86_400 else ""
        elif family == "work" or (rest.startswith(f"{family}-") and prefix_of(rest.partition("/")[0]) not in finished):
            kind = "unfinished work"
        with suppress(NotFoundError):
            if kind and (kind in ("raw bytes", "shared file", "batch") or storage.modified(key) < before):
                yield Garbage(key, kind, storage.size(key))


def raw_references(artifacts: Artifacts, without: Collection[str] = ()) -> set[str]:
    """Hashes of the raw bytes that documents artifacts, other than those, name (files, what they had attached), and
    those that records of the Hub, GitHub and of endpoints name, which stand for a network that may be away."""
    storage = artifacts.storage
    hashes: set[str] = set()
    for manifest in artifacts.all_of("documents"):
        if manifest.id not in without:
            for row in artifacts.rows(manifest, "documents/", ("sha256", "metadata")):
                hashes |= hashes_of(row)
    for prefix in ("raw/huggingface", "raw/github", "kept/url"):
        for key in storage.keys(prefix):
            if key.endswith(".json"):
                hashes |= set(_SHA256.findall(storage.read(key).decode(errors="replace")))
    return hashes


def hashes_of(document: dict[str, Any]) -> set[str]:
    """Hashes of the raw bytes that a document's row (`sha256`, `metadata`) names."""
    metadata = json.loads(document["metadata"] or "{}")
    attached = (each["sha256"] for each in metadata.get("attachments") or ())
    return {document["sha256"], metadata.get("file_sha256") or document["sha256"], *attached}


def _uploaded(settings: Settings) -> set[str]:
    with open_session(settings) as session:
        return set(session.scalars(select(UserInput.sha256).distinct()))


def _remove(settings: Settings, storage: Storage, garbage: Garbage) -> bool:
    """Remove an object; raw bytes only if nobody has uploaded the same meanwhile."""
    with open_session(settings) as session:
        if garbage.kind == "raw bytes":
            locks.hold(session, locks.of_content(garbage.key))
            sha256 = garbage.key.rpartition("/")[2]
            if session.scalars(select(UserInput.id).where(UserInput.sha256 == sha256).limit(1)).first():
                return False
        return storage.remove(garbage.key) > 0
