"""Files of one repository at one commit: listed, fetched with resume, checked by hash, stored once by content.

A record, `raw/huggingface/<kind>/<id>/<commit>.json`, names what is stored of a commit; the bytes lie under their hash.
So nothing of a commit is fetched twice, and a run that was killed goes on after the last whole file; inside a
file it goes on from a part below the home's run folder.
"""

import errno
import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from soldiom_ray.collect.huggingface.api import HubApi, file_path
from soldiom_ray.collect.raw import raw_key, store_raw
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.errors import StorageFullError
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage

PART_DAYS = 7
"""After so many days an unfinished part of a file is deleted."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as the Hub lists it: its size in bytes, the git blob's SHA-1, and the SHA-256 when it lies in LFS."""

    path: str
    size_bytes: int
    blob: str = ""
    sha256: str = ""


@dataclass
class CommitRecord:
    """What is stored of one commit: files by name with hash and size, names known to be missing, and facts that were
    read from it."""

    storage: Storage
    kind: str
    id: str
    sha: str
    license: str = ""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    listed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"raw/huggingface/{self.kind}/{self.id}/{self.sha}.json"

    def load(self) -> "CommitRecord":
        """Read what an earlier run stored."""
        if self.storage.exists(self.key):
            fields = json.loads(self.storage.read(self.key))
            self.files, self.missing = fields["files"], fields["missing"]
            self.listed, self.facts = fields["listed"], fields["facts"]
        return self

    def save(self) -> None:
        """Store the record; the files it names lie in storage already."""
        fields = {
            "repository": self.id,
            "kind": self.kind,
            "commit": self.sha,
            "license": self.license,
            "files": dict(sorted(self.files.items())),
            "missing": self.missing,
            "listed": self.listed,
            "facts": self.facts,
        }
        self.storage.write(self.key, json.dumps(fields, indent=1).encode())

    def bytes_of(self, name: str) -> bytes | None:
        """A stored file, or None."""
        stored = self.files.get(name)
        key = raw_key(stored["sha256"]) if stored else ""
        return self.storage.read(key) if stored and self.storage.exists(key) else None

    def store_bytes(self, name: str, data: bytes) -> None:
        """Store a small file."""
        self.files[name] = {"sha256": store_raw(self.storage, data), "size_bytes": len(data)}
        self.save()


@dataclass(frozen=True)
class HubFolder:
    """One repository's files at one commit, fetched into storage."""

    api: HubApi
    settings: Settings
    record: CommitRecord

    def small_file(self, name: str, max_bytes: int) -> bytes:
        """A file whose hash is not listed. Raises what `HubApi` raises, and SkippedError `no_file`."""
        stored = self.record.bytes_of(name)
        if stored is not None:
            return stored
        if name in self.record.missing:
            raise SkippedError("no_file")
        try:
            data = self.api.small_file(self._path(name), max_bytes)
        except SkippedError as skipped:
            if skipped.reason == "no_file":
                self.record.missing.append(name)
                self.record.save()
            raise
        self.record.store_bytes(name, data)
        return data

    def listing(self) -> list[HubFile]:
        """All files with their hashes, in the order of their names. Raises what `HubApi` raises."""
        if "files" not in self.record.listed:
            path = f"/api/{self.record.kind}/{self.record.id}/tree/{self.record.sha}"
            files = [
                file
                for _, entries in self.api.pages(path, {"recursive": "true"})
                for entry in entries
                if (file := _hub_file(entry))
            ]
            self.record.listed["files"] = [asdict(file) for file in sorted(files, key=lambda file: file.path)]
            self.record.save()
        return [HubFile(**fields) for fields in self.record.listed["files"]]

    def store(self, file: HubFile) -> str:
        """Fetch the file into storage unless it is there, its bytes checked against the listed hash; its SHA-256. It is
        fetched again once when they differ. Raises what `HubApi` raises, and SkippedError `wrong_hash`, with nothing
        stored."""
        stored = self.record.files.get(file.path)
        sha256 = str(stored["sha256"]) if stored else file.sha256
        if not sha256 or not self.record.storage.exists(raw_key(sha256)):
            sha256 = self._fetch(file)
        if not stored:
            self.record.files[file.path] = {"sha256": sha256, "size_bytes": file.size_bytes}
            self.record.save()
        return sha256

    def _fetch(self, file: HubFile) -> str:
        detail = ""
        with _disk_errors(self.settings), _part(self.settings, file) as part:
            for _ in range(2):
                try:
                    self.api.download(self._path(file.path), part, file.size_bytes)
                except SkippedError as skipped:
                    if skipped.reason != "wrong_hash":
                        raise
                    detail = skipped.detail
                    continue
                sha256, blob = _hashes(part)
                if sha256 == file.sha256 if file.sha256 else blob == file.blob:
                    if not self.record.storage.exists(raw_key(sha256)):
                        self.record.storage.write_file(raw_key(sha256), part)
                    part.unlink()
                    return sha256
                part.unlink()
                detail = f"{'sha256' if file.sha256 else 'git blob'} differs from the listed one, twice"
        raise SkippedError("wrong_hash", detail)

    def _path(self, name: str) -> str:
        return file_path(self.record.kind, self.record.id, self.record.sha, name)


def _hub_file(entry: Any) -> HubFile | None:
    """None for a folder, and for an entry that names no file, no size or no hash."""
    if not isinstance(entry, dict) or entry.get("type") != "file" or not isinstance(entry.get("path"), str):
        return None
    lfs = entry["lfs"] if isinstance(entry.get("lfs"), dict) else {}
    size, blob, sha256 = lfs.get("size", entry.get("size")), str(entry.get("oid") or ""), str(lfs.get("oid") or "")
    sha256 = sha256.removeprefix("sha256:").lower()
    has_hash = len(sha256) == 64 if lfs else len(blob) == 40
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or not has_hash or not entry["path"].strip("/"):
        return None
    if not set(sha256 + blob) <= set("0123456789abcdef"):
        return None
    return HubFile(entry["path"], size, "" if lfs else blob, sha256)


@contextmanager
def _disk_errors(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFullError(
            f"No space left below {settings.run_folder}, where files grow before they are checked and stored.",
            remedy="free space on that disk; what was complete is kept",
        ) from error


@contextmanager
def _part(settings: Settings, file: HubFile) -> Iterator[Path]:
    """Where a file grows. While another process fetches the same file, this one gets a folder of its own."""
    folder = settings.run_folder / "downloads"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _remove_old(folder)
    shared = folder / (file.sha256 or file.blob)
    with shared.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            with tempfile.TemporaryDirectory(prefix="soldiom-", dir=folder) as own_folder:
                yield Path(own_folder) / "part"
            return
        yield shared
        if not shared.exists():
            Path(lock.name).unlink(missing_ok=True)


def _remove_old(folder: Path) -> None:
    oldest = time.time() - PART_DAYS * 86_400
    for path in folder.iterdir():
        try:
            if path.is_file() and path.stat().st_mtime < oldest:
                path.unlink()
        except OSError:  # another process was faster
            continue


def _hashes(path: Path) -> tuple[str, str]:
    """SHA-256 of a file, and the SHA-1 that git gives it as a blob."""
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % os.path.getsize(path), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            blob.update(chunk)
    return sha256.hexdigest(), blob.hexdigest()
