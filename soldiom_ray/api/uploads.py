"""Uploaded files: what may come in, under which name it is kept. What a file says is not read here."""

import unicodedata
import zipfile
from pathlib import PurePosixPath
from typing import IO

from soldiom_ray.errors import InputError, Problem

EXTENSIONS = ("txt", "md", "csv", "json", "jsonl", "pdf", "docx", "html", "py", "ipynb")
ZIP_ENTRIES = 1000
ZIP_BYTES = 1 << 30
ZIP_RATIO = 100


def check_upload(name: str, file: IO[bytes], field: str = "file") -> str:
    """The extension of an acceptable file (rewound). InputError for an extension that is not known, for content that
    is not of it, for nothing at all, and for an archive that unpacks to too much."""
    extension = PurePosixPath(name.replace("\\", "/")).suffix.lower().removeprefix(".")
    if extension not in EXTENSIONS:
        raise _wrong(field, f"files of this kind are not taken; known: {', '.join(EXTENSIONS)}")
    start = file.read(8192)
    file.seek(0)
    if not start:
        raise _wrong(field, "the file is empty")
    if extension == "pdf":
        if b"%PDF-" not in start[:1024]:
            raise _wrong(field, "the content is not a PDF")
    elif extension == "docx":
        _check_docx(file, field)
    elif b"\0" in start and not start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _wrong(field, f"the content is not text, as .{extension} says")
    return extension


def shown_name(name: str) -> str:
    """A file's name for showing: the last part of the path, no control or direction characters, at most 200 long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    kept = "".join(character for character in last if unicodedata.category(character)[0] != "C")
    return kept.strip()[-200:] or "unnamed"


def _check_docx(file: IO[bytes], field: str) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise _wrong(field, "the content is not a DOCX") from error
    finally:
        file.seek(0)
    names = {entry.filename for entry in entries}
    if "[Content_Types].xml" not in names or not any(name.startswith("word/") for name in names):
        raise _wrong(field, "the content is not a DOCX")
    whole, packed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
    if len(entries) > ZIP_ENTRIES or whole > ZIP_BYTES or whole > ZIP_RATIO * max(packed, 1):
        raise _wrong(field, "the archive unpacks to too much")


def _wrong(field: str, message: str) -> InputError:
    return InputError(
        "A file cannot be taken.", remedy="leave it out or convert it", problems=[Problem(f"body.{field}", message)]
    )
