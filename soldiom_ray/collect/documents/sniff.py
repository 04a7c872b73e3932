"""What a file is, by its first bytes before its name."""

import re
from pathlib import PurePosixPath

from soldiom_ray.collect.documents import ole, zipped
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.file_types import FAMILY_OF_ENDING
from soldiom_ray.domains.signatures import HEAD_BYTES, OLE, ZIP, family_of_head, unread_kind

_MEDIA = ("audio", "video")
_TEXTUAL = ("text", "html", "table", "json", "sql", "email")
_SQL_DUMP = re.compile(rb"\A(?:--|/\*!|\s)*(?:PostgreSQL database dump|(?:MySQL|MariaDB) dump|PRAGMA foreign_keys)")


def family_of(name: str, data: bytes) -> str:
    """A family of `domains.file_types`. Raises SkippedError: empty, encrypted, damaged, too_large, wrong_type (the
    name says a format that the bytes are not), unsupported (a format that none of the parsers reads)."""
    ending = PurePosixPath(name.lower()).suffix
    named = FAMILY_OF_ENDING.get(ending, "text")
    if not data.strip(b"\0 \t\r\n\f\v"):
        raise SkippedError("empty", f"{len(data)} bytes, none of them says anything" if data else "no bytes")
    found = _by_bytes(ending, named, data)
    if named in _TEXTUAL:
        return found or _by_text(named, data)
    if found == named or (found in _MEDIA and named in _MEDIA):
        return named
    raise SkippedError("wrong_type", f"named {ending} but is {_said(found, data)}")


def _by_bytes(ending: str, named: str, data: bytes) -> str | None:
    """The family that the bytes show; None for what may be text."""
    head = data[:HEAD_BYTES]
    found = family_of_head(head, ending)
    if found == ZIP:
        return zipped.family_of(data)
    if found is not None and found != OLE:
        return found
    unread = ole.unread_kind(data) if found == OLE else unread_kind(head)
    if unread is None:
        return "workbook" if found == OLE else None
    if named not in _TEXTUAL:
        raise SkippedError("wrong_type", f"named {ending} but is {unread}")
    raise SkippedError("unsupported", f"is {unread}")


def _by_text(named: str, data: bytes) -> str:
    head = data[:HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "html"
    return "sql" if named == "text" and _SQL_DUMP.match(data[:HEAD_BYTES]) else named


def _said(found: str | None, data: bytes) -> str:
    if found is not None:
        return f"of the family {found}"
    return "binary data of no known kind" if b"\0" in data[:1024] else "text"
