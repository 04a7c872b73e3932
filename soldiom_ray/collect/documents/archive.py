"""Archives (ZIP, TAR, both packed or not) and single files packed with gzip, bzip2 or xz: every member is parsed as a
file of its own. Nothing is written anywhere."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import IO, Any

from soldiom_ray.collect.documents import zipped
from soldiom_ray.collect.documents.nested import Members, allowance
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError

MAX_RATIO = 500
"""Unpacked to packed bytes of a stream; real tables and logs reach 300."""
_BROKEN = (tarfile.TarError, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError)
_PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
_ENDINGS = (".gz", ".bz2", ".xz")
_CHUNK_BYTES = 1 << 20
_SYSTEM_FILES = ("__MACOSX/", ".DS_Store", "Thumbs.db", "desktop.ini")


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The texts of all members, each named after its member. Members that could not be read are listed in the first
    text's metadata."""
    members = Members()
    with allowance():
        if data.startswith(b"PK"):
            _read_zip(data, members, options)
        else:
            _read_stream(name, data, members, options)
    if not members.texts:
        raise _why_empty(members)
    metadata = {"members": members.parsed}
    return members.with_skipped(replace(text, metadata=metadata | text.metadata) for text in members.texts)


def safe_path(name: str) -> str | None:
    """A member's path; None when it leads out of the archive."""
    path = name.replace("\\", "/")
    parts = PurePosixPath(path).parts
    return (
        None
        if not parts or path.startswith("/") or "\0" in path or ".." in parts or ":" in parts[0]
        else "/".join(parts)
    )


def _read_zip(data: bytes, members: Members, options: ParseOptions) -> None:
    with zipped.open_zip(data) as archive:
        for member in archive.infolist():
            path = safe_path(member.filename)
            if member.is_dir() or _is_system_file(member.filename):
                continue
            if path is None:
                members.skip(member.filename, SkippedError("unsafe_path", "leads out of the archive"))
            elif member.external_attr >> 28 == 0xA:
                members.skip(path, SkippedError("link", "a link, not a file"))
            elif member.flag_bits & 1:
                members.skip(path, SkippedError("encrypted", "needs a password"))
            else:
                _add_zipped(archive, member, path, members, options)


def _add_zipped(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: str, members: Members, options: ParseOptions
) -> None:
    with allowance() as remaining:
        try:
            if member.file_size > remaining.bytes_left:
                raise SkippedError("too_large", f"{member.file_size} bytes")
            content = archive.read(member)
        except SkippedError as skipped:
            members.skip(path, skipped)
        except (*zipped.BROKEN, RuntimeError) as error:
            members.skip(path, SkippedError("damaged", f"does not unpack ({type(error).__name__})"))
        else:
            members.add(path, content, options)


def _read_stream(name: str, data: bytes, members: Members, options: ParseOptions) -> None:
    opener = next((opener for magic, opener in _PACKED.items() if data.startswith(magic)), None)
    content = data if opener is None else _unpacked(opener(io.BytesIO(data)), len(data))
    inner = PurePosixPath(name).name
    if opener is not None:
        ending = PurePosixPath(inner).suffix.lower()
        inner = inner[: -len(ending)] if ending in _ENDINGS else f"{PurePosixPath(inner).stem}.tar"
    if content[257:262] == b"ustar" or inner.lower().endswith(".tar"):
        for path, member in _tar_members(content, members):
            members.add(path, member, options)
    else:
        members.add(inner or "unnamed", content, options)


def _unpacked(stream: IO[bytes], packed_bytes: int) -> bytes:
    parts: list[bytes] = []
    total = 0
    with allowance() as remaining, stream:
        try:
            while part := stream.read(_CHUNK_BYTES):
                total += len(part)
                if total > remaining.bytes_left or total > max(packed_bytes, 1 << 16) * MAX_RATIO:
                    raise SkippedError("too_large", f"unpacks from {packed_bytes} to more than {total} bytes")
                parts.append(part)
        except _BROKEN as error:
            raise SkippedError("damaged", f"does not unpack to its end ({type(error).__name__})") from error
    return b"".join(parts)


def _tar_members(content: bytes, members: Members) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                path = safe_path(member.name)
                if member.isdir() or _is_system_file(member.name):
                    continue
                if path is None:
                    members.skip(member.name, SkippedError("unsafe_path", "leads out of the archive"))
                elif not member.isreg():
                    members.skip(path, SkippedError("link", "a link or a device, not a file"))
                elif file := archive.extractfile(member):
                    if member.issparse() and member.size > len(content):
                        members.skip(path, SkippedError("too_large", f"a sparse file of {member.size} bytes"))
                    else:
                        yield path, file.read()
    except _BROKEN as error:
        members.skip("", SkippedError("damaged", f"the archive does not open to its end ({type(error).__name__})"))


def _is_system_file(name: str) -> bool:
    return name.startswith(_SYSTEM_FILES[0]) or PurePosixPath(name).name in _SYSTEM_FILES[1:]


def _why_empty(members: Members) -> SkippedError:
    """Why an archive gives no text: the reason of its members where all have the same."""
    if not members.skipped:
        return SkippedError("empty", "an archive without files")
    reasons = {reason for _, reason, _ in members.skipped}
    detail = f"none of its {len(members.skipped)} files could be read; the first: {members.skipped[0][2]}"
    return SkippedError(reasons.pop() if len(reasons) == 1 else "nothing_readable", detail)
