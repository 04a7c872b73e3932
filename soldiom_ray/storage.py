"""A few verbs over a local folder or an S3 bucket; the only user of boto3.

Keys are relative paths with `/`. A write is whole or does not happen. With an encryption key every object is sealed
with AES-256-GCM in chunks bound to the object's key, its position and its end, so that swapped, changed or shortened
objects are refused (the STREAM construction, Hoang, Reyhanitabar, Rogaway, Vizar 2015).
"""

import base64
import errno
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast
from urllib.parse import unquote, urlsplit

from soldiom_ray.errors import DamagedError, InputError, NotFoundError, StorageFullError, UnavailableError
from soldiom_ray.settings import Settings

CHUNK_BYTES = 1 << 20
MAGIC = b"SLDM1\0"
TAG_BYTES = 16


@dataclass(frozen=True, slots=True)
class Written:
    """What a write stored: size in bytes and SHA-256 of the content as given (before sealing)."""

    size_bytes: int
    sha256: str


class Place(Protocol):
    """Where objects lie: the part that differs between a folder and S3."""

    def open(self, key: str) -> IO[bytes]: ...
    def put(self, key: str, chunks: Iterable[bytes], durable: bool) -> None: ...
    def size(self, key: str) -> int | None: ...
    def keys(self, prefix: str) -> Iterator[str]: ...
    def remove(self, key: str) -> None: ...


class Storage:
    """The verbs. Raises NotFoundError, StorageFullError, UnavailableError, DamagedError."""

    def __init__(self, place: Place, encryption_key: bytes | None = None) -> None:
        self.place = place
        self.encryption_key = encryption_key

    def write(self, key: str, data: bytes) -> Written:
        """Store bytes under a key, replacing what was there in one step."""
        return self.write_stream(key, (data,))

    def keep(self, key: str, data: bytes) -> None:
        """Store bytes under a key that only they can have, unless they are there. Not waited for until the disk has
        them (3.5 ms a file): after a power cut a shorter object is written again when the same bytes come again."""
        _check_key(key)
        size = self.place.size(key)
        if size is None or size < len(data):
            whole = (data,)
            sealed = _seal(whole, key, self.encryption_key) if self.encryption_key else whole
            self.place.put(key, sealed, durable=False)

    def write_stream(self, key: str, chunks: Iterable[bytes]) -> Written:
        """Store a stream; memory use does not grow with its length."""
        _check_key(key)
        digest, size = hashlib.sha256(), 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                yield chunk

        sealed = _seal(counted(), key, self.encryption_key) if self.encryption_key else counted()
        self.place.put(key, sealed, durable=True)
        return Written(size, digest.hexdigest())

    def write_file(self, key: str, path: Path) -> Written:
        """Store a local file."""
        with path.open("rb") as file:
            return self.write_stream(key, iter(lambda: file.read(CHUNK_BYTES), b""))

    def read(self, key: str) -> bytes:
        """The whole object."""
        return b"".join(self.read_stream(key))

    def read_stream(self, key: str) -> Iterator[bytes]:
        """The object in chunks."""
        _check_key(key)
        with self.place.open(key) as file:
            head = file.read(len(MAGIC))
            if head == MAGIC:
                yield from _unseal(file, key, self.encryption_key)
            else:
                if head:
                    yield head
                yield from iter(lambda: file.read(CHUNK_BYTES), b"")

    def exists(self, key: str) -> bool:
        """Whether an object is stored under this key."""
        return self.place.size(key) is not None

    def keys(self, prefix: str) -> list[str]:
        """All keys that start with `prefix/`, sorted."""
        return sorted(self.place.keys(prefix.rstrip("/") + "/"))

    def remove(self, prefix: str) -> int:
        """Remove one object, or all below a prefix; how many went."""
        keys = self.keys(prefix)
        if self.exists(prefix):
            keys.append(prefix)
        for key in keys:
            self.place.remove(key)
        return len(keys)

    @contextmanager
    def local_folder(self, prefix: str) -> Iterator[Path]:
        """The objects below a prefix as plain files in a folder: the folder itself where that is possible, else a copy
        that is removed at the end. Do not write into it."""
        keys = self.keys(prefix)
        if not keys:
            raise NotFoundError(f"Storage holds nothing below {prefix!r}.")
        if isinstance(self.place, FolderPlace) and not any(self._is_sealed(key) for key in keys):
            yield self.place.path(prefix)
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
        with self.place.open(key) as file:
            return file.read(len(MAGIC)) == MAGIC


class FolderPlace:
    """Objects as files below a folder that only its owner can read."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        return self.root / key

    def open(self, key: str) -> IO[bytes]:
        try:
            return self.path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError) as error:
            raise NotFoundError(f"Storage holds no object {key!r}.") from error

    def put(self, key: str, chunks: Iterable[bytes], durable: bool) -> None:
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


class S3Place:
    """Objects in a bucket. Credentials come from boto3's own chain (environment, profile, instance role)."""

    def __init__(self, bucket: str, prefix: str, endpoint: str | None) -> None:
        import boto3
        from botocore.config import Config

        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        config = Config(retries={"max_attempts": 8, "mode": "adaptive"}, connect_timeout=5, read_timeout=60)
        self.client: Any = boto3.client("s3", endpoint_url=endpoint, config=config)

    def open(self, key: str) -> IO[bytes]:
        with self._errors(key):
            body = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"]
        return cast("IO[bytes]", _Body(body, lambda: self._errors(key)))

    def put(self, key: str, chunks: Iterable[bytes], durable: bool) -> None:
        with tempfile.SpooledTemporaryFile(max_size=16 * CHUNK_BYTES) as spool:
            for chunk in chunks:
                spool.write(chunk)
            spool.seek(0)
            with self._errors(key):
                self.client.upload_fileobj(spool, self.bucket, self.prefix + key)

    def size(self, key: str) -> int | None:
        try:
            with self._errors(key):
                return int(self.client.head_object(Bucket=self.bucket, Key=self.prefix + key)["ContentLength"])
        except NotFoundError:
            return None

    def keys(self, prefix: str) -> Iterator[str]:
        with self._errors(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    yield str(item["Key"]).removeprefix(self.prefix)

    def remove(self, key: str) -> None:
        with self._errors(key):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
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
class _Body:
    """An object of S3 that is being read. botocore's own body, entered as a context, gives the bare stream, which takes
    a connection that breaks off for the end of the object."""

    body: Any
    errors: Callable[[], AbstractContextManager[None]]

    def __enter__(self) -> "_Body":
        return self

    def __exit__(self, *_: object) -> None:
        self.body.close()

    def read(self, size: int | None = None) -> bytes:
        with self.errors():
            return bytes(self.body.read(size))


def open_storage(settings: Settings) -> Storage:
    """The storage that the settings name."""
    parts = urlsplit(settings.storage)
    place: Place
    if parts.scheme == "file":
        place = FolderPlace(Path(unquote(parts.path)))
    else:
        place = S3Place(parts.netloc, parts.path.strip("/"), settings.s3_endpoint)
    return Storage(place, settings.encryption_key)


def raw_key(sha256: str) -> str:
    """Where raw bytes with this hash lie, whoever brought them: uploads and collected files alike."""
    return f"raw/sha256/{sha256[:2]}/{sha256}"


SEALED = "sealed:"
"""What a sealed text begins with."""


def seal_text(text: str, name: str, encryption_key: bytes | None) -> str:
    """A text as it may stand in a database: sealed and bound to `name` when there is a key, else as it is."""
    if encryption_key is None:
        return text
    return SEALED + base64.b64encode(b"".join(_seal((text.encode(),), name, encryption_key))).decode()


def open_text(text: str, name: str, encryption_key: bytes | None) -> str:
    """What `seal_text` was given. DamagedError when the text was changed or moved, or the key is another one."""
    if not text.startswith(SEALED) or not (data := _sealed_bytes(text)).startswith(MAGIC):
        return text
    file = io.BytesIO(data)
    file.seek(len(MAGIC))
    return b"".join(_unseal(file, name, encryption_key)).decode()


def _sealed_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text.removeprefix(SEALED), validate=True)
    except ValueError:
        return b""


def _check_key(key: str) -> None:
    parts = key.split("/")
    if not key or any(part in ("", ".", "..") for part in parts) or "\0" in key:
        raise InputError(
            f"Storage key {key!r} is not a plain relative path.", remedy="use names without '..' or empty parts"
        )


def _seal(chunks: Iterable[bytes], key: str, secret: bytes) -> Iterator[bytes]:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, prefix = AESGCM(secret), os.urandom(7)
    yield MAGIC + prefix
    index, waiting = 0, b""
    for piece in _even(chunks):
        if waiting:
            yield cipher.encrypt(_nonce(prefix, index, False), waiting, key.encode())
            index += 1
        waiting = piece
    yield cipher.encrypt(_nonce(prefix, index, True), waiting, key.encode())


def _unseal(file: IO[bytes], key: str, secret: bytes | None) -> Iterator[bytes]:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if secret is None:
        raise InputError(
            f"Object {key!r} is encrypted and no key is set.",
            remedy="set SOLDIOM_ENCRYPTION_KEY to the key it was written with",
        )
    cipher, prefix = AESGCM(secret), file.read(7)
    index, piece = 0, _read_exactly(file, CHUNK_BYTES + TAG_BYTES)
    while True:
        following = _read_exactly(file, CHUNK_BYTES + TAG_BYTES)
        try:
            yield cipher.decrypt(_nonce(prefix, index, not following), piece, key.encode())
        except InvalidTag as error:
            raise DamagedError(
                f"Object {key!r} does not open: it was changed, moved or cut short, or the key is another one.",
                remedy="restore it from a copy, or set the SOLDIOM_ENCRYPTION_KEY it was written with",
            ) from error
        if not following:
            return
        index, piece = index + 1, following


def _nonce(prefix: bytes, index: int, last: bool) -> bytes:
    return prefix + index.to_bytes(4, "big") + (b"\1" if last else b"\0")


def _even(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of CHUNK_BYTES, the last one shorter."""
    waiting = bytearray()
    for chunk in chunks:
        waiting += chunk
        while len(waiting) >= CHUNK_BYTES:
            yield bytes(waiting[:CHUNK_BYTES])
            del waiting[:CHUNK_BYTES]
    if waiting:
        yield bytes(waiting)


def _read_exactly(file: IO[bytes], count: int) -> bytes:
    parts: list[bytes] = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
