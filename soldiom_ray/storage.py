"""A few verbs over a local folder or an S3 bucket; the only user of boto3.

Keys are relative paths with `/`. A write is whole or does not happen. With encryption keys every object is sealed, and
one without a seal is refused (see `sealing`).
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar, cast
from urllib.parse import unquote, urlsplit

from soldiom_ray.errors import InputError, NotFoundError, StorageFullError, UnavailableError
from soldiom_ray.sealing import CHUNK_BYTES, MAGIC, Seal, seal, seal_by, unseal, unsealed_error
from soldiom_ray.settings import Settings

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class StoredContent:
    """Size in bytes and SHA-256 of what was written, before it was sealed."""

    size_bytes: int
    sha256: str


class Backend(Protocol):
    """What differs between a folder and S3. Keys are checked and bytes are sealed already."""

    def open(self, key: str) -> IO[bytes]:
        """The object's bytes; NotFoundError when there is none."""

    def write(self, key: str, chunks: Iterable[bytes], durable: bool) -> None:
        """Store an object whole or not at all; `durable`: return when the disk has it."""

    def size(self, key: str) -> int | None:
        """Size in bytes, or None when there is no such object."""

    def modified(self, key: str) -> float | None:
        """When an object was written, in seconds since 1970, or None when there is no such object."""

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys that start with the prefix."""

    def remove(self, key: str) -> None:
        """Remove an object if it is there."""


class Storage:
    """The verbs. Raises NotFoundError, StorageFullError, UnavailableError, DamagedError; InputError for an object
    without a seal where there are encryption keys."""

    def __init__(self, backend: Backend, encryption_keys: Sequence[bytes] = ()) -> None:
        self.backend = backend
        self.encryption_keys = tuple(encryption_keys)

    def write(self, key: str, data: bytes) -> StoredContent:
        """Store bytes under a key, replacing what was there in one step."""
        return self.write_stream(key, (data,))

    def write_once(self, key: str, data: bytes) -> None:
        """Store bytes under a key that is their hash, unless they are stored already. Returns before the disk has them
        (waiting takes 3.5 ms a file): after a power cut a shorter object is written again when the same bytes come
        again."""
        _check_key(key)
        size = self.backend.size(key)
        if size is None or size < len(data) or (self.encryption_keys and not self._is_sealed(key)):
            self.backend.write(key, seal((data,), key, self.encryption_keys), durable=False)

    def write_stream(self, key: str, chunks: Iterable[bytes]) -> StoredContent:
        """Store a stream; memory use does not grow with its length."""
        _check_key(key)
        digest, size = hashlib.sha256(), 0

        def hashed() -> Iterator[bytes]:
            nonlocal size
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                yield chunk

        self.backend.write(key, seal(hashed(), key, self.encryption_keys), durable=True)
        return StoredContent(size, digest.hexdigest())

    def write_file(self, key: str, path: Path) -> StoredContent:
        """Store a local file."""
        with path.open("rb") as file:
            return self.write_stream(key, iter(lambda: file.read(CHUNK_BYTES), b""))

    def read(self, key: str) -> bytes:
        """The whole object."""
        return b"".join(self.read_stream(key))

    def read_stream(self, key: str) -> Iterator[bytes]:
        """The object in chunks."""
        return self._read_stream(key, refuse_unsealed=bool(self.encryption_keys))

    def _read_stream(self, key: str, *, refuse_unsealed: bool) -> Iterator[bytes]:
        _check_key(key)
        with self.backend.open(key) as file:
            head = file.read(len(MAGIC))
            if head == MAGIC:
                yield from unseal(file, key, self.encryption_keys)
                return
            if refuse_unsealed:
                raise unsealed_error(key)
            if head:
                yield head
            yield from iter(lambda: file.read(CHUNK_BYTES), b"")

    def seal_of(self, key: str) -> Seal:
        """How an object is sealed, by its first chunk."""
        if not self._is_sealed(key):
            return "none"
        return seal_by(self.encryption_keys, lambda keys: next(Storage(self.backend, keys).read_stream(key), None))

    def reseal(self, key: str) -> Seal:
        """Seal an object with the newest key where it is not; returns how it was sealed. NotFoundError when it was
        removed or replaced meanwhile: what was removed does not come back."""
        seal_before = self.seal_of(key)
        if seal_before in ("earlier", "none"):
            size = self.backend.size(key)

            def content() -> Iterator[bytes]:
                yield from self._read_stream(key, refuse_unsealed=False)
                if self.backend.size(key) != size:
                    raise NotFoundError(f"Storage holds no object {key!r} any more, or another one.")

            self.backend.write(key, seal(content(), key, self.encryption_keys), durable=True)
        return seal_before

    def all_keys(self) -> Iterator[str]:
        """The keys of all objects, in no order."""
        return self.backend.keys("")

    def exists(self, key: str) -> bool:
        """Whether an object is stored under this key."""
        return self.backend.size(key) is not None

    def size(self, key: str) -> int:
        """Bytes that an object takes, sealed as it is."""
        return _there(key, self.backend.size(key))

    def modified(self, key: str) -> float:
        """When an object was written, in seconds since 1970."""
        return _there(key, self.backend.modified(key))

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix, sorted: those that start with `prefix/`."""
        below = prefix.rstrip("/")
        _check_key(below)
        return sorted(self.backend.keys(f"{below}/"))

    def remove(self, prefix: str) -> int:
        """Remove one object, or all below a prefix; returns how many there were."""
        keys = self.keys(prefix)
        if self.exists(prefix):
            keys.append(prefix)
        for key in keys:
            self.backend.remove(key)
        return len(keys)

    @contextmanager
    def local_folder(self, prefix: str) -> Iterator[Path]:
        """The objects below a prefix as plain files in a folder: the folder itself where that is possible, else a copy
        that is removed at the end. Do not write into it."""
        keys = self.keys(prefix)
        if not keys:
            raise NotFoundError(f"Storage holds nothing below {prefix!r}.")
        sealed = self.encryption_keys or any(self._is_sealed(key) for key in keys)
        if isinstance(self.backend, FolderBackend) and not sealed:
            yield self.backend.path(prefix)
            return
        with tempfile.TemporaryDirectory(prefix="soldiom-") as folder:
            for key in keys:
                target = Path(folder) / key.removeprefix(prefix.rstrip("/") + "/")
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    for chunk in self.read_stream(key):
                        file.write(chunk)
            yield Path(folder)

    def _is_sealed(self, key: str) -> bool:
        with self.backend.open(key) as file:
            return file.read(len(MAGIC)) == MAGIC


class FolderBackend(Backend):
    """Objects as files below a folder that only its owner can read."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        """The file that holds an object."""
        return self.root / key

    def open(self, key: str) -> IO[bytes]:
        try:
            return self.path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError) as error:
            raise NotFoundError(f"Storage holds no object {key!r}.") from error

    def write(self, key: str, chunks: Iterable[bytes], durable: bool) -> None:
        target = self.path(key)
        draft: str | None = None
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, draft = tempfile.mkstemp(prefix=".draft-", dir=target.parent)
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(draft, target)
        except BaseException as error:
            if draft:
                Path(draft).unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFullError(
                    f"No space left to write {key!r} below {self.root}"
                    f" ({shutil.disk_usage(self.root).free >> 20} MiB free).",
                    remedy="free space on that disk or set SOLDIOM_STORAGE to a larger one; what was complete is kept",
                ) from error
            raise

    def size(self, key: str) -> int | None:
        path = self.path(key)
        return path.stat().st_size if path.is_file() else None

    def modified(self, key: str) -> float | None:
        path = self.path(key)
        return path.stat().st_mtime if path.is_file() else None

    def keys(self, prefix: str) -> Iterator[str]:
        start = self.path(prefix)
        for folder, _, names in os.walk(start):
            for name in names:
                if not name.startswith(".draft-"):
                    yield (Path(folder) / name).relative_to(self.root).as_posix()

    def remove(self, key: str) -> None:
        path = self.path(key)
        path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == self.root or not parent.is_relative_to(self.root):
                break
            try:
                parent.rmdir()
            except OSError:
                break


class S3Backend(Backend):
    """Objects in a bucket. Credentials come from boto3's own chain (environment, profile, instance role)."""

    def __init__(self, bucket: str, prefix: str, endpoint: str | None) -> None:
        import boto3
        from botocore.config import Config

        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        config = Config(retries={"max_attempts": 8, "mode": "adaptive"}, connect_timeout=5, read_timeout=60)
        self.client: Any = boto3.client("s3", endpoint_url=endpoint, config=config)

    def open(self, key: str) -> IO[bytes]:
        with self._translated_errors(key):
            body = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"]
        return cast("IO[bytes]", _ObjectBody(body, lambda: self._translated_errors(key)))

    def write(self, key: str, chunks: Iterable[bytes], durable: bool) -> None:
        with tempfile.SpooledTemporaryFile(max_size=16 * CHUNK_BYTES) as spool:
            for chunk in chunks:
                spool.write(chunk)
            spool.seek(0)
            with self._translated_errors(key):
                self.client.upload_fileobj(spool, self.bucket, self.prefix + key)

    def size(self, key: str) -> int | None:
        head = self._head(key)
        return int(head["ContentLength"]) if head else None

    def modified(self, key: str) -> float | None:
        head = self._head(key)
        return float(head["LastModified"].timestamp()) if head else None

    def _head(self, key: str) -> Any:
        with suppress(NotFoundError), self._translated_errors(key):
            return self.client.head_object(Bucket=self.bucket, Key=self.prefix + key)
        return None

    def keys(self, prefix: str) -> Iterator[str]:
        with self._translated_errors(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    yield str(item["Key"]).removeprefix(self.prefix)

    def remove(self, key: str) -> None:
        with self._translated_errors(key):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    @contextmanager
    def _translated_errors(self, key: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in ("404", "NoSuchKey"):
                raise NotFoundError(f"Storage holds no object {key!r}.") from error
            if code == "NoSuchBucket":
                raise UnavailableError(
                    f"The S3 bucket {self.bucket!r} does not exist.", remedy="make it or correct SOLDIOM_STORAGE"
                ) from error
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            raise UnavailableError(
                f"S3 refused {key!r} in bucket {self.bucket!r}: {code}.",
                remedy="the server is in trouble; try again later"
                if status >= 500
                else "check the credentials and SOLDIOM_S3_ENDPOINT",
            ) from error
        except (BotoCoreError, Boto3Error) as error:
            raise UnavailableError(
                f"S3 bucket {self.bucket!r} cannot be reached: {error}",
                remedy="check SOLDIOM_S3_ENDPOINT and the network",
            ) from error


@dataclass(frozen=True)
class _ObjectBody:
    """An S3 object that is being read. botocore's own body, used as a context manager, gives the bare stream, which
    takes a connection that breaks off for the end of the object."""

    body: Any
    errors: Callable[[], AbstractContextManager[None]]

    def __enter__(self) -> "_ObjectBody":
        return self

    def __exit__(self, *_: object) -> None:
        self.body.close()

    def read(self, size: int | None = None) -> bytes:
        with self.errors():
            return bytes(self.body.read(size))


def open_storage(settings: Settings) -> Storage:
    """The storage that the settings name."""
    parts = urlsplit(settings.storage)
    backend: Backend
    if parts.scheme == "file":
        backend = FolderBackend(Path(unquote(parts.path)))
    else:
        backend = S3Backend(parts.netloc, parts.path.strip("/"), settings.s3_endpoint)
    return Storage(backend, settings.encryption_keys)


LOGS = "logs"
"""What the keys of logs begin with."""


def log_key(job_id: str) -> str:
    """The key of the log of a job that has ended."""
    return f"{LOGS}/{job_id}.log"


def raw_key(sha256: str) -> str:
    """The key of raw bytes with this hash, whether they were uploaded or collected."""
    return f"raw/sha256/{sha256[:2]}/{sha256}"


def _there(key: str, value: Number | None) -> Number:
    if value is None:
        raise NotFoundError(f"Storage holds no object {key!r}.")
    return value


def _check_key(key: str) -> None:
    parts = key.split("/")
    if not key or any(part in ("", ".", "..") for part in parts) or "\0" in key:
        raise InputError(
            f"Storage key {key!r} is not a plain relative path.", remedy="use names without '..' or empty parts"
        )
