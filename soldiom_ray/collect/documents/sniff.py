"""What a file is, by its first bytes before its name."""

import io
import zipfile
from pathlib import PurePosixPath

from soldiom_ray.collect.text import LeftOut

MAX_UNPACKED_BYTES = 400 << 20
MAX_RATIO = 200

_OTHER = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a RIFF file (WAV, WebP or AVI)"),
    (b"ID3", "an MP3 file"),
    (b"fLaC", "a FLAC file"),
    (b"OggS", "an Ogg file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3", "an SQLite database"),
)
_ZIPPED = (
    ("word/", "docx"),
    ("xl/", "an Excel workbook"),
    ("ppt/", "a PowerPoint file"),
    ("META-INF/container.xml", "an EPUB book"),
)


def family_of(name: str, data: bytes) -> str:
    """pdf, docx, html, table, json or text. Raises LeftOut for what none of the parsers reads."""
    ending = PurePosixPath(name.lower()).suffix
    if not data.strip():
        raise LeftOut("empty")
    found = _by_bytes(data)
    if ending in (".pdf", ".docx") and found != ending[1:]:
        raise LeftOut("wrong_type", f"named {ending} but is {'something else' if found is None else found}")
    if found in ("pdf", "docx"):
        return found
    if found is not None:
        raise LeftOut("unsupported", f"is {found}")
    if ending in (".csv", ".tsv"):
        return "table"
    if ending in (".json", ".jsonl", ".ndjson"):
        return "json"
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return "html" if ending in (".html", ".htm") or head.startswith((b"<!doctype html", b"<html")) else "text"


def _by_bytes(data: bytes) -> str | None:
    if b"%PDF-" in data[:1024]:
        return "pdf"
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        if "EncryptedPackage".encode("utf-16-le") in data:
            raise LeftOut("encrypted", "an Office file with a password")
        return "an old Office file (.doc, .xls, .ppt)"
    if data.startswith(b"PK\x03\x04"):
        return _by_zip(data)
    return next((what for magic, what in _OTHER if data.startswith(magic)), None)


def _by_zip(data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise LeftOut("damaged", "a zip archive that does not open") from error
    unpacked = sum(member.file_size for member in members)
    if unpacked > MAX_UNPACKED_BYTES or unpacked > max(len(data), 1 << 16) * MAX_RATIO:
        raise LeftOut("too_large", f"would unpack to {unpacked} bytes")
    for start, what in _ZIPPED:
        if any(member.filename.startswith(start) for member in members):
            return what
    return "a zip archive"
