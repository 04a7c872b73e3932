"""The family of a file, decided by its bytes and only then by its name."""

import re
from pathlib import PurePosixPath

from soldiom_ray.collect.documents import ole, zipped
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.file_types import FAMILY_OF_ENDING
from soldiom_ray.domains.signatures import HEAD_BYTES, OLE, ZIP, family_of_head, unsupported_format

_MEDIA = ("audio", "video")
_TEXTUAL = ("text", "html", "table", "json", "sql", "email")
_SQL_DUMP = re.compile(rb"\A(?:--|/\*!|\s)*(?:PostgreSQL database dump|(?:MySQL|MariaDB) dump|PRAGMA foreign_keys)")


def family_of(name: str, data: bytes) -> str:
    """A family of `domains.file_types`. Raises SkippedError: empty, encrypted, damaged, too_large, wrong_type (the
    bytes are not of the format that the name claims), unsupported (no parser reads the format)."""
    ending = PurePosixPath(name.lower()).suffix
    named_family = FAMILY_OF_ENDING.get(ending, "text")
    if not data.strip(b"\0 \t\r\n\f\v"):
        raise SkippedError("empty", f"{len(data)} bytes, all of them blank" if data else "no bytes")
    detected = _by_bytes(ending, named_family, data)
    if named_family in _TEXTUAL:
        return detected or _by_text(named_family, data)
    if detected == named_family or (detected in _MEDIA and named_family in _MEDIA):
        return named_family
    raise SkippedError("wrong_type", f"named {ending} but is {_description(detected, data)}")


def _by_bytes(ending: str, named_family: str, data: bytes) -> str | None:
    """The family that the bytes show; None for what may be plain text."""
    head = data[:HEAD_BYTES]
    detected = family_of_head(head, ending)
    if detected == ZIP:
        return zipped.family_of(data)
    if detected is not None and detected != OLE:
        return detected
    if detected == OLE and (family := ole.family_of(data)):
        return family
    unsupported = ole.unsupported_format(data) if detected == OLE else unsupported_format(head)
    if unsupported is None:
        return None
    if named_family not in _TEXTUAL:
        raise SkippedError("wrong_type", f"named {ending} but is {unsupported}")
    raise SkippedError("unsupported", f"is {unsupported}")


def _by_text(named_family: str, data: bytes) -> str:
    head = data[:HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "html"
    return "sql" if named_family == "text" and _SQL_DUMP.match(data[:HEAD_BYTES]) else named_family


def _description(detected: str | None, data: bytes) -> str:
    if detected is not None:
        return f"of the family {detected}"
    return "binary data of no known kind" if b"\0" in data[:1024] else "text"
