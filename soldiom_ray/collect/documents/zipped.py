"""Zip containers: their family, and their members within limits on size, ratio and count."""

import contextlib
import io
import zipfile
import zlib
from typing import Any

from soldiom_ray.collect.documents.parsed import MAX_UNPACKED_BYTES
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.signatures import family_of_zip

MAX_RATIO = 200
MAX_MEMBERS = 100_000
BROKEN = (zipfile.BadZipFile, zlib.error, ValueError, OSError, NotImplementedError, EOFError, KeyError)
"""Exceptions that the standard library raises on a damaged archive."""

_ENTITIES = (b"<!ENTITY", "<!ENTITY".encode("utf-16-le")[:-1])
"""In UTF-8 and in UTF-16 of either order, looked for one by one: ten times as fast as a pattern."""


def family_of(data: bytes) -> str:
    """docx, workbook, pptx, opendocument, epub, or archive. Raises SkippedError: damaged, too_large."""
    with open_zip(data) as archive:
        names = archive.namelist()
        mimetype = b""
        if "mimetype" in names and archive.getinfo("mimetype").file_size < 200:
            with contextlib.suppress(*BROKEN, RuntimeError):
                mimetype = archive.read("mimetype")
        return family_of_zip(names, mimetype)


def open_zip(data: bytes) -> zipfile.ZipFile:
    """The archive, after a check that the sizes in its directory are within limits; Python reads no member beyond the
    size stated there. Raises SkippedError: damaged, too_large."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except BROKEN as error:
        raise SkippedError("damaged", "a zip archive that does not open") from error
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if unpacked > MAX_UNPACKED_BYTES or unpacked > max(len(data), 1 << 16) * MAX_RATIO:
        raise SkippedError("too_large", f"would unpack from {len(data)} to {unpacked} bytes")
    if len(members) > MAX_MEMBERS:
        raise SkippedError("too_large", f"holds {len(members)} files, more than {MAX_MEMBERS}")
    return archive


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """One member's bytes. Raises SkippedError: damaged, encrypted."""
    try:
        return archive.read(name)
    except RuntimeError as error:
        raise SkippedError("encrypted", "a zip archive with a password") from error
    except BROKEN as error:
        raise SkippedError("damaged", f"a part of it does not unpack ({type(error).__name__})") from error


def check_office_file(data: bytes) -> None:
    """Check that every part of an office file unpacks and none declares XML entities, which the formats never need and
    which can read other files or grow without bound. Raises SkippedError: damaged, too_large, encrypted, unsafe_xml."""
    with open_zip(data) as archive:
        for member in archive.infolist():
            content = read_member(archive, member.filename)
            if member.filename.endswith((".xml", ".rels", ".opf", ".ncx", ".vml")) and _declares_entities(content):
                raise SkippedError("unsafe_xml", "one of its parts declares XML entities")


def _declares_entities(content: bytes) -> bool:
    return any(declaration in content for declaration in _ENTITIES)


def parse_xml(source: bytes) -> Any:
    """The tree of a part, read without entities and without a network. Raises SkippedError: damaged."""
    from lxml import etree  # type: ignore[import-untyped, unused-ignore]

    try:
        return etree.fromstring(source, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))
    except etree.LxmlError as error:
        raise SkippedError("damaged", f"the XML of a part is broken ({type(error).__name__})") from error
