"""Encryption at rest: AES-256-GCM in chunks bound to the object's key, its position and its end, so that changed,
swapped or shortened objects are refused (the STREAM construction, Hoang, Reyhanitabar, Rogaway, Vizar 2015).

A home has a tuple of keys: the first seals, each one opens, so that keys can be changed while everything is read. Where
there is a key, what has no seal is refused: somebody without the key may have put it there. With an empty tuple nothing
is sealed."""

import base64
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Literal

from soldiom_ray.errors import DamagedError, InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CHUNK_BYTES = 1 << 20
MAGIC = b"SLDM1\0"
TAG_BYTES = 16
Seal = Literal["newest", "earlier", "none", "unreadable"]
"""With which key something is sealed: `unreadable` with one that is not there, unless it was changed."""
SEALED_PREFIX = "sealed:"
"""How a sealed text in the database starts."""


def seal_text(text: str, name: str, encryption_keys: Sequence[bytes]) -> str:
    """A text as it may stand in a database: sealed and bound to `name` when there is a key, else as it is."""
    if not encryption_keys:
        return text
    return SEALED_PREFIX + base64.b64encode(b"".join(seal((text.encode(),), name, encryption_keys))).decode()


def unseal_text(text: str, name: str, encryption_keys: Sequence[bytes]) -> str:
    """The text that `seal_text` sealed, or, where there is no key, one that never was. DamagedError when it was changed
    or moved, or the keys are others; InputError when it has no seal though there is a key."""
    if not is_sealed_text(text):
        if encryption_keys and text:
            raise unsealed_error(name)
        return text
    file = io.BytesIO(_sealed_bytes(text))
    file.seek(len(MAGIC))
    return b"".join(unseal(file, name, encryption_keys)).decode()


def is_sealed_text(text: str) -> bool:
    """Whether `seal_text` made this with a key."""
    return text.startswith(SEALED_PREFIX) and _sealed_bytes(text).startswith(MAGIC)


def seal_by(encryption_keys: Sequence[bytes], open_with: Callable[[Sequence[bytes]], object]) -> Seal:
    """With which key something is sealed that `open_with` opens with the right one."""
    groups: tuple[tuple[Seal, Sequence[bytes]], ...] = (
        ("newest", encryption_keys[:1]),
        ("earlier", encryption_keys[1:]),
    )
    for seal_found, keys in groups:
        with suppress(DamagedError, InputError):
            open_with(keys)
            return seal_found
    return "unreadable"


def unsealed_error(name: str) -> InputError:
    """Something has no seal where everything should have one."""
    return InputError(
        f"{name!r} is not sealed, though this home has an encryption key: it was written before there was one, or by"
        " somebody without it.",
        remedy="if nobody else can write there, seal what was written earlier with `soldiom encryption reseal`",
    )


def seal(chunks: Iterable[bytes], key: str, encryption_keys: Sequence[bytes]) -> Iterator[bytes]:
    """The sealed form of an object that is stored under a key; as it is where there is no encryption key."""
    if not encryption_keys:
        yield from chunks
        return
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, nonce_prefix = AESGCM(encryption_keys[0]), os.urandom(7)
    yield MAGIC + nonce_prefix
    index, held_back = 0, b""  # the last chunk is sealed as such, so each one waits for the next
    for chunk in _rechunk(chunks):
        if held_back:
            yield cipher.encrypt(_nonce(nonce_prefix, index, False), held_back, key.encode())
            index += 1
        held_back = chunk
    yield cipher.encrypt(_nonce(nonce_prefix, index, True), held_back, key.encode())


def unseal(file: IO[bytes], key: str, encryption_keys: Sequence[bytes]) -> Iterator[bytes]:
    """The content of a sealed object from which MAGIC has been read. InputError without a key, DamagedError when the
    object was changed, moved or cut short, or sealed with another key."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if not encryption_keys:
        raise InputError(
            f"Object {key!r} is encrypted and no key is set.",
            remedy="set SOLDIOM_ENCRYPTION_KEY to the key it was written with",
        )
    ciphers = [AESGCM(each) for each in encryption_keys]
    nonce_prefix = file.read(7)
    index, chunk = 0, _read_exactly(file, CHUNK_BYTES + TAG_BYTES)
    while True:
        following = _read_exactly(file, CHUNK_BYTES + TAG_BYTES)
        cipher, opened = _open_chunk(ciphers, _nonce(nonce_prefix, index, not following), chunk, key)
        yield opened
        if not following:
            return
        ciphers, index, chunk = [cipher], index + 1, following


def _open_chunk(ciphers: "Sequence[AESGCM]", nonce: bytes, chunk: bytes, key: str) -> "tuple[AESGCM, bytes]":
    """A chunk and the cipher that opens it."""
    from cryptography.exceptions import InvalidTag

    for cipher in ciphers:
        with suppress(InvalidTag):
            return cipher, cipher.decrypt(nonce, chunk, key.encode())
    raise DamagedError(
        f"Object {key!r} does not open: it was changed, moved or cut short, or the key is another one.",
        remedy="restore it from a copy, or add the key it was written with to SOLDIOM_ENCRYPTION_KEY",
    )


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
