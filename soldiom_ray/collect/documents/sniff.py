"""What a file is, by its first bytes before its name."""

import re
from pathlib import PurePosixPath

from soldiom_ray.collect.documents import ole, zipped
from soldiom_ray.collect.text import LeftOut
from soldiom_ray.domains.file_types import FAMILY_OF_ENDING

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "image"),
    (0, b"\xff\xd8\xff", "image"),
    (0, b"GIF87a", "image"),
    (0, b"GIF89a", "image"),
    (0, b"II*\0", "image"),
    (0, b"MM\0*", "image"),
    (0, b"fLaC", "audio"),
    (0, b"ID3", "audio"),
    (0, b"OggS", "audio"),
    (0, b"\x1a\x45\xdf\xa3", "video"),
    (0, b"PAR1", "parquet"),
    (0, b"SQLite format 3\0", "sqlite"),
    (0, b"{\\rtf", "rtf"),
    (0, b"\x1f\x8b\x08", "archive"),
    (0, b"BZh", "archive"),
    (0, b"\xfd7zXZ\0", "archive"),
    (257, b"ustar", "archive"),
)
"""(offset, bytes, family) of what is read."""

_OTHER = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; pack it as .zip"),
    (b"Rar!\x1a\x07", "a RAR archive; pack it as .zip"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file; unpack it"),
    (b"\x7fELF", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"PGDMP", "a pg_dump archive; write it with --format=plain"),
    (b"ARROW1\0\0", "an Arrow file; save it as Parquet"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\0\1\0\0Standard ", "an Access database; export its tables as CSV"),
)
_MEDIA = ("audio", "video")
_TEXTUAL = ("text", "html", "table", "json", "sql", "email")
_SQL_DUMP = re.compile(
    rb"\A(?:--|/\*!|\s)*(?:-- ?)?(?:PostgreSQL database dump|MySQL dump|MariaDB dump|PRAGMA foreign_keys)"
)


def family_of(name: str, data: bytes) -> str:
    """A family of `domains.file_types`. Raises LeftOut: empty, encrypted, damaged, too_large, wrong_type (the name says
    a format that the bytes are not), unsupported (a format that none of the parsers reads)."""
    ending = PurePosixPath(name.lower()).suffix
    named = FAMILY_OF_ENDING.get(ending, "text")
    if not data.strip(b"\0 \t\r\n\f\v"):
        raise LeftOut("empty", f"{len(data)} bytes, none of them says anything" if data else "no bytes")
    found = _by_bytes(ending, named, data)
    if named in _TEXTUAL:
        return found or _by_text(named, data)
    if found == named or (found in _MEDIA and named in _MEDIA):
        return named
    raise LeftOut("wrong_type", f"named {ending} but is {_said(found, data)}")


def _by_bytes(ending: str, named: str, data: bytes) -> str | None:
    """The family that the bytes show; None for what may be text."""
    if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"%PDF-") or (named == "pdf" and b"%PDF-" in data[:1024]):
        return "pdf"
    if data.startswith(ole.MAGIC):
        return _wanted(ole.family_of(data), named, ending)
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return zipped.family_of(data)
    for offset, magic, family in _MAGIC:
        if data.startswith(magic, offset):
            return family
    other = next((what for magic, what in _OTHER if data.startswith(magic)), None)
    if data.startswith(b"MZ") and b"\0" in data[:64]:
        other = "a program"
    if other is not None:
        return _wanted(f"unsupported: {other}", named, ending)
    return _by_structure(ending, data)


def _by_structure(ending: str, data: bytes) -> str | None:
    """Formats whose sign is more than a few fixed bytes."""
    if data.startswith(b"RIFF"):
        return {b"WAVE": "audio", b"WEBP": "image", b"AVI ": "video"}.get(data[8:12])
    if data[4:8] == b"ftyp":
        if data[8:12] in (b"avif", b"heic", b"heix", b"mif1"):
            return "image"
        return "audio" if ending == ".m4a" or data[8:12] in (b"M4A ", b"M4B ") else "video"
    if data[4:12] in (b"moov", b"mdat", b"wide", b"free") and ending == ".mov":
        return "video"
    if (
        data.startswith(b"BM")
        and data[6:10] == bytes(4)
        and data[14:18] in (b"\x0c\0\0\0", b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0")
    ):
        return "image"
    if _is_mp3_frame(data):
        return "audio"
    return "archive" if ending == ".tar" and _is_old_tar(data) else None


def _is_mp3_frame(data: bytes) -> bool:
    """Whether an MPEG audio frame of layer II or III stands at the start (ISO 11172-3, 2.4.1.3)."""
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return False
    version, layer, rate, frequency = data[1] >> 3 & 3, data[1] >> 1 & 3, data[2] >> 4, data[2] >> 2 & 3
    return version != 1 and layer in (1, 2) and rate not in (0, 15) and frequency != 3


def _is_old_tar(data: bytes) -> bool:
    try:
        told = int(data[148:156].strip(b"\0 ") or b"x", 8)
    except ValueError:
        return False
    return len(data) >= 512 and told == sum(data[:148]) + 8 * 32 + sum(data[156:512])


def _by_text(named: str, data: bytes) -> str:
    head = data[:2048].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "html"
    return "sql" if named == "text" and _SQL_DUMP.match(data[:2048]) else named


def _wanted(family: str, named: str, ending: str) -> str:
    """A family that is read; LeftOut for `unsupported: what`, as wrong_type where the name says something else."""
    if not family.startswith("unsupported: "):
        return family
    what = family.removeprefix("unsupported: ")
    if named not in _TEXTUAL:
        raise LeftOut("wrong_type", f"named {ending} but is {what}")
    raise LeftOut("unsupported", f"is {what}")


def _said(found: str | None, data: bytes) -> str:
    if found is not None:
        return f"of the family {found}"
    return "binary data of no known kind" if b"\0" in data[:1024] else "text"
