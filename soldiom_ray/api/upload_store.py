"""Uploads in storage: bytes once by their hash, a row for each upload, all files of a request or none.

An object is written whole before any row names it, and removed only while its lock is held and no row names it, so
neither a failed request nor a deletion can take bytes away from another upload.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from sqlalchemy.orm import Session

from soldiom_ray.db import inputs, locks, requests
from soldiom_ray.db.engine import open_session
from soldiom_ray.errors import StorageFullError
from soldiom_ray.sealing import CHUNK_BYTES
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, open_storage, raw_key


@dataclass(frozen=True, slots=True)
class Given:
    """One uploaded file, on disk. `metadata` is what its row will tell."""

    file: IO[bytes]
    sha256: str
    size_bytes: int
    metadata: Mapping[str, Any]

    @property
    def key(self) -> str:
        return raw_key(self.sha256)


def read_given(file: IO[bytes], metadata: Mapping[str, Any]) -> Given:
    """A file with its hash, read chunk by chunk."""
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(file):
        digest.update(chunk)
        size += len(chunk)
    return Given(file, digest.hexdigest(), size, metadata)


def keep_files(
    settings: Settings, tenant: str, user_id: str, given: Sequence[Given], idempotency_key: str | None
) -> list[dict[str, Any]]:
    """Store the files and note them; with a key that was used before, what that request made. StorageFullError when
    the tenant's quota does not hold them; ConflictError when the key was used for something else."""
    print_ = fingerprint("files", user_id, [[each.sha256, each.metadata] for each in given])
    with open_session(settings) as session:
        known = requests.find(session, tenant, idempotency_key, print_) if idempotency_key else None
        if known is not None:
            return _shown(session, tenant, known)
        _check_quota(session, settings, tenant, given)
    storage = open_storage(settings)
    keys = sorted({each.key for each in given})
    try:
        for each in given:
            _write(storage, each)
        with open_session(settings) as session:
            for lock in sorted({_lock_of(key) for key in keys}):
                locks.hold(session, lock)
            locks.hold(session, f"uploads/{tenant}")
            known = requests.find(session, tenant, idempotency_key, print_) if idempotency_key else None
            if known is not None:
                return _shown(session, tenant, known)
            _check_quota(session, settings, tenant, given)
            for each in given:
                _write(storage, each)
            rows = [_noted(session, tenant, user_id, each) for each in given]
            if idempotency_key:
                requests.record(session, tenant, idempotency_key, print_, [row["id"] for row in rows])
            return rows
    except BaseException:
        forget_unnamed(settings, keys)
        raise


def forget_unnamed(settings: Settings, keys: Sequence[str]) -> None:
    """Remove those objects that no row names, whoever uploaded them."""
    storage = open_storage(settings)
    for key in keys:
        with open_session(settings) as session:
            locks.hold(session, _lock_of(key))
            if not inputs.is_referenced(session, key):
                storage.remove(key)


def fingerprint(*parts: Any) -> str:
    """What makes two requests the same request."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _noted(session: Session, tenant: str, user_id: str, given: Given) -> dict[str, Any]:
    row = inputs.add(
        session,
        user_id=user_id,
        input_type="file",
        content=given.key,
        sha256=given.sha256,
        size_bytes=given.size_bytes,
        metadata=dict(given.metadata),
        tenant=tenant,
    )
    return inputs.as_dict(row)


def _shown(session: Session, tenant: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    return [inputs.as_dict(inputs.get(session, each, tenant)) for each in ids]


def _check_quota(session: Session, settings: Settings, tenant: str, given: Sequence[Given]) -> None:
    kept, more = inputs.uploaded_bytes(session, tenant), sum(each.size_bytes for each in given)
    if kept + more > settings.upload_quota_bytes:
        raise StorageFullError(
            f"The tenant keeps {kept} bytes; with these {more} it would be over its {settings.upload_quota_bytes}.",
            remedy="delete inputs that are not needed, or raise SOLDIOM_UPLOAD_QUOTA_BYTES",
        )


def _write(storage: Storage, given: Given) -> None:
    if not storage.exists(given.key):
        given.file.seek(0)
        storage.write_stream(given.key, _chunks(given.file))


def _lock_of(key: str) -> str:
    """One of 4096 locks, by the hash's beginning: rows of locks are never removed."""
    return f"content/{key.rpartition('/')[2][:3]}"


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(CHUNK_BYTES), b"")
