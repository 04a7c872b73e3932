"""Checks of uploaded files: extension, content, archives, and the name under which a file is shown. The content is not
parsed here: the parsers do that in a process of their own, and refuse what passes these checks."""

import bz2
import gzip
import lzma
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import IO, Any

from soldiom_ray.domains.file_types import FAMILY_OF_ENDING, SOURCE_TEXT, SUPPORTED
from soldiom_ray.domains.signatures import (
    HEAD_BYTES,
    OLE,
    ZIP,
    family_of_head,
    family_of_zip,
    unsupported_format,
    utf16_encoding,
)
from soldiom_ray.errors import InputError, Problem

EXTENSIONS = tuple(ending.removeprefix(".") for ending in (*SUPPORTED, *SOURCE_TEXT))
OFFICE_ENTRIES = 1000
ARCHIVE_ENTRIES = 10_000
UNPACKED_BYTES = 400 << 20
ZIP_RATIO = 100
STREAM_RATIO = 500
_PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
_ARCHIVES = (".zip", ".jar", ".7z", ".rar", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst")
_END_OF_ZIP = b"PK\x05\x06"
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, ValueError, OSError, EOFError)


def check_upload(name: str, file: IO[bytes], field: str = "file") -> str:
    """The extension of an acceptable file (rewound). InputError for an extension that is not known, for content that
    is not of it, for nothing at all, and for an archive that unpacks to too much or leads elsewhere."""
    ending = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    if ending not in SUPPORTED and ending not in SOURCE_TEXT:
        raise _wrong(field, name, f"files of this kind are not taken; known: {', '.join(EXTENSIONS)}")
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if not head:
        raise _wrong(field, name, "the file is empty")
    try:
        problem = _problem(ending, head, file)
    except (*_BROKEN, NotImplementedError, RuntimeError, struct.error):
        problem = f"the content is not a whole {ending} file"
    finally:
        file.seek(0)
    if problem:
        raise _wrong(field, name, problem)
    return ending.removeprefix(".")


def display_name(name: str) -> str:
    """A file's name for display: the last part of its path, no control or direction characters, at most 200 long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    printable = "".join(character for character in last if unicodedata.category(character)[0] != "C")
    return printable.strip()[-200:] or "unnamed"


def _problem(ending: str, head: bytes, file: IO[bytes]) -> str:
    """What is wrong with a file's content, or "". A text file may be named like any other parsed text format."""
    expected = FAMILY_OF_ENDING.get(ending, "text")
    detected = family_of_head(head, ending)
    if detected == ZIP:
        return _zip_problem(expected, ending, file)
    if detected == "archive":
        problem = _stream_problem(head, file)
        return problem or (
            "" if expected in _TEXTUAL or expected == detected else f"the content is not of the kind {ending}"
        )
    unread = unsupported_format(head)
    if unread:
        return f"the content is {unread}"
    if expected in _TEXTUAL:
        return "" if detected or not _is_binary(head) else f"the content is not text, as {ending} says"
    alike = next((families for families in _ALIKE if detected in families), (detected,))
    same = expected in alike
    return "" if same else f"the content is not of the kind {ending}"


_ALIKE = ((OLE, "workbook", "outlook"), ("audio", "video"))
"""What the first bytes do not tell apart."""
_TEXTUAL = ("text", "html", "table", "json", "sql", "email")


def _is_binary(head: bytes) -> bool:
    """Whether bytes hold NULs and are no text in UTF-16 or UTF-32."""
    marked = head.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"))
    return head.count(0) > 1 and not marked and utf16_encoding(head) is None


def _zip_problem(expected: str, ending: str, file: IO[bytes]) -> str:
    entries = _zip_entries(file)
    if entries > ARCHIVE_ENTRIES:
        return f"the archive holds {entries} files, more than {ARCHIVE_ENTRIES}"
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = {member.filename for member in members}
        small = "mimetype" in names and archive.getinfo("mimetype").file_size < 200
        family = family_of_zip(names, archive.read("mimetype") if small else b"")
    if (expected not in _TEXTUAL and family != expected) or (expected == "docx" and "[Content_Types].xml" not in names):
        return f"the content is not of the kind {ending}"
    unpacked, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if family != "archive" and len(members) > OFFICE_ENTRIES:
        return f"the file holds {len(members)} parts, more than {OFFICE_ENTRIES}"
    if unpacked > UNPACKED_BYTES or unpacked > ZIP_RATIO * max(packed, 1 << 10):
        return f"the archive unpacks to too much ({unpacked} bytes)"
    if any(member.external_attr >> 28 == 0xA for member in members):
        return "the archive holds a link"
    return _names_problem((member.filename for member in members), nested=family != "archive")


def _zip_entries(file: IO[bytes]) -> int:
    """How many entries the end of a zip file announces (at most 65,535 there), without reading its directory."""
    size = file.seek(0, 2)
    file.seek(max(0, size - (1 << 16) - 22))
    tail = file.read()
    file.seek(0)
    position = tail.rfind(_END_OF_ZIP)
    return struct.unpack_from("<H", tail, position + 10)[0] if position >= 0 else 0


def _stream_problem(head: bytes, file: IO[bytes]) -> str:
    """A tar, a packed tar, or one packed file: read once, front to back, nothing kept."""
    opener: Any = next((opener for magic, opener in _PACKED.items() if head.startswith(magic)), None)
    size = file.seek(0, 2)
    file.seek(0)
    if opener is None:
        return _tar_problem(file)
    total, first = 0, b""
    with opener(file) as stream:
        while part := stream.read(1 << 20):
            first = first or part[:512]
            total += len(part)
            if total > UNPACKED_BYTES or total > STREAM_RATIO * max(size, 1 << 16):
                return f"it unpacks to too much (more than {total} bytes)"
    file.seek(0)
    if first[257:262] != b"ustar":
        family = family_of_head(first, "")
        return "an archive within an archive" if family in (ZIP, "archive") else ""
    with opener(file) as stream:
        return _tar_problem(stream)


def _tar_problem(stream: Any) -> str:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        names = []
        for number, member in enumerate(archive, 1):
            if number > ARCHIVE_ENTRIES:
                return f"the archive holds more than {ARCHIVE_ENTRIES} files"
            if not (member.isreg() or member.isdir()):
                return "the archive holds a link or a device"
            names.append(member.name)
    return _names_problem(names, nested=False)


def _names_problem(names: Iterable[str], nested: bool) -> str:
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or "\0" in name or (path.parts and ":" in path.parts[0]):
            return "the archive holds a path that leads out of it"
        if not nested and path.suffix.lower() in _ARCHIVES:
            return "an archive within an archive"
    return ""


def _wrong(field: str, name: str, message: str) -> InputError:
    label = display_name(name)
    return InputError(
        "A file cannot be taken.",
        remedy="leave it out or convert it",
        problems=[Problem(f"body.{field}", f"{label!r}: {message}")],
    )
