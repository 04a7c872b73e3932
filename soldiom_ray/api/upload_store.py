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

from soldiom_ray.db import inputs, locks, requests, usage
from soldiom_ray.db.engine import open_session
from soldiom_ray.errors import StorageFullError
from soldiom_ray.sealing import CHUNK_BYTES
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, open_storage, raw_key


@dataclass(frozen=True, slots=True)
class Upload:
    """One uploaded file, on disk. `metadata` is stored in its row."""

    file: IO[bytes]
    sha256: str
    size_bytes: int
    metadata: Mapping[str, Any]

    @property
    def key(self) -> str:
        return raw_key(self.sha256)


def read_upload(file: IO[bytes], metadata: Mapping[str, Any]) -> Upload:
    """A file with its hash, read chunk by chunk."""
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(file):
        digest.update(chunk)
        size += len(chunk)
    return Upload(file, digest.hexdigest(), size, metadata)


def store_uploads(
    settings: Settings,
    tenant: str,
    user_id: str,
    uploads: Sequence[Upload],
    idempotency_key: str | None,
    owner: str = "",
) -> list[dict[str, Any]]:
    """Store the files and a row for each, counted for the key `owner`; with an idempotency key that was used before,
    return what that request made. StorageFullError when the tenant's quota is exceeded; ConflictError when the key was
    used for another request."""
    request_hash = fingerprint("files", user_id, [[upload.sha256, upload.metadata] for upload in uploads])
    added = sum(upload.size_bytes for upload in uploads)
    with open_session(settings) as session:
        previous = requests.find(session, tenant, owner, idempotency_key, request_hash) if idempotency_key else None
        if previous is not None:
            return _rows(session, tenant, previous)
        check_quota(session, settings, tenant, added)
    storage = open_storage(settings)
    keys = sorted({upload.key for upload in uploads})
    try:
        for upload in uploads:
            _write(storage, upload)
        with open_session(settings) as session:
            for lock in sorted({locks.of_content(key) for key in keys}):
                locks.hold(session, lock)
            locks.hold(session, f"uploads/{tenant}")
            previous = requests.find(session, tenant, owner, idempotency_key, request_hash) if idempotency_key else None
            if previous is not None:
                return _rows(session, tenant, previous)
            check_quota(session, settings, tenant, added)
            for upload in uploads:
                _write(storage, upload)
            rows = [_add_row(session, tenant, user_id, owner, upload) for upload in uploads]
            if idempotency_key:
                requests.record(session, tenant, owner, idempotency_key, request_hash, [row["id"] for row in rows])
            usage.add(session, tenant=tenant, owner=owner, user_id=user_id, requests=1, bytes=added)
            return rows
    except BaseException:
        remove_unreferenced(settings, keys)
        raise


def remove_unreferenced(settings: Settings, keys: Sequence[str]) -> None:
    """Remove the objects that no row refers to, whoever uploaded them."""
    storage = open_storage(settings)
    for key in keys:
        with open_session(settings) as session:
            locks.hold(session, locks.of_content(key))
            if not inputs.is_referenced(session, key):
                storage.remove(key)


def check_quota(session: Session, settings: Settings, tenant: str, added: int) -> None:
    """StorageFullError when the tenant's inputs would exceed its quota with `added` bytes more."""
    used = inputs.kept_bytes(session, tenant)
    if used + added > settings.upload_quota_bytes:
        raise StorageFullError(
            f"The tenant uses {used} bytes; with these {added} it would exceed its {settings.upload_quota_bytes}.",
            remedy="delete inputs that are no longer needed, or raise SOLDIOM_UPLOAD_QUOTA_BYTES",
        )


def fingerprint(*parts: Any) -> str:
    """Hash by which a repeated request is recognised."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _add_row(session: Session, tenant: str, user_id: str, owner: str, upload: Upload) -> dict[str, Any]:
    row = inputs.add(
        session,
        user_id=user_id,
        input_type="file",
        content=upload.key,
        sha256=upload.sha256,
        size_bytes=upload.size_bytes,
        metadata=dict(upload.metadata),
        tenant=tenant,
        owner=owner,
    )
    return inputs.as_dict(row)


def _rows(session: Session, tenant: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    return [inputs.as_dict(inputs.get(session, input_id, tenant)) for input_id in ids]


def _write(storage: Storage, upload: Upload) -> None:
    if not storage.exists(upload.key):
        upload.file.seek(0)
        storage.write_stream(upload.key, _chunks(upload.file))


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(CHUNK_BYTES), b"")
