"""Encryption at rest: AES-256-GCM in chunks bound to the object's key, its position and its end, so that changed,
swapped or shortened objects are refused (the STREAM construction, Hoang, Reyhanitabar, Rogaway, Vizar 2015)."""

import base64
import io
import os
from collections.abc import Iterable, Iterator
from typing import IO

from soldiom_ray.errors import DamagedError, InputError

CHUNK_BYTES = 1 << 20
MAGIC = b"SLDM1\0"
TAG_BYTES = 16
SEALED_PREFIX = "sealed:"
"""How a sealed text in the database starts."""


def seal_text(text: str, name: str, encryption_key: bytes | None) -> str:
    """A text as it may stand in a database: sealed and bound to `name` when there is a key, else as it is."""
    if encryption_key is None:
        return text
    return SEALED_PREFIX + base64.b64encode(b"".join(seal((text.encode(),), name, encryption_key))).decode()


def unseal_text(text: str, name: str, encryption_key: bytes | None) -> str:
    """The text that `seal_text` sealed, or one that never was. DamagedError when it was changed or moved, or the key is
    another one."""
    if not text.startswith(SEALED_PREFIX) or not (data := _sealed_bytes(text)).startswith(MAGIC):
        return text
    file = io.BytesIO(data)
    file.seek(len(MAGIC))
    return b"".join(unseal(file, name, encryption_key)).decode()


def seal(chunks: Iterable[bytes], key: str, secret: bytes) -> Iterator[bytes]:
    """The sealed form of an object that is stored under a key."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, nonce_prefix = AESGCM(secret), os.urandom(7)
    yield MAGIC + nonce_prefix
    index, held_back = 0, b""  # the last chunk is sealed as such, so each one waits for the next
    for chunk in _rechunk(chunks):
        if held_back:
            yield cipher.encrypt(_nonce(nonce_prefix, index, False), held_back, key.encode())
            index += 1
        held_back = chunk
    yield cipher.encrypt(_nonce(nonce_prefix, index, True), held_back, key.encode())


def unseal(file: IO[bytes], key: str, secret: bytes | None) -> Iterator[bytes]:
    """The content of a sealed object from which MAGIC has been read. InputError without a secret, DamagedError when the
    object was changed, moved or cut short, or sealed with another secret."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if secret is None:
        raise InputError(
            f"Object {key!r} is encrypted and no key is set.",
            remedy="set SOLDIOM_ENCRYPTION_KEY to the key it was written with",
        )
    cipher, nonce_prefix = AESGCM(secret), file.read(7)
    index, chunk = 0, _read_exactly(file, CHUNK_BYTES + TAG_BYTES)
    while True:
        following = _read_exactly(file, CHUNK_BYTES + TAG_BYTES)
        try:
            yield cipher.decrypt(_nonce(nonce_prefix, index, not following), chunk, key.encode())
        except InvalidTag as error:
            raise DamagedError(
                f"Object {key!r} does not open: it was changed, moved or cut short, or the key is another one.",
                remedy="restore it from a copy, or set the SOLDIOM_ENCRYPTION_KEY it was written with",
            ) from error
        if not following:
            return
        index, chunk = index + 1, following


def _sealed_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text.removeprefix(SEALED_PREFIX), validate=True)
    except ValueError:
        return b""


def _nonce(prefix: bytes, index: int, last: bool) -> bytes:
    return prefix + index.to_bytes(4, "big") + (b"\1" if last else b"\0")


def _rechunk(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in chunks of CHUNK_BYTES, the last one shorter."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= CHUNK_BYTES:
            yield bytes(buffer[:CHUNK_BYTES])
            del buffer[:CHUNK_BYTES]
    if buffer:
        yield bytes(buffer)


def _read_exactly(file: IO[bytes], count: int) -> bytes:
    parts: list[bytes] = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
