"""File formats by their first bytes, whatever the file's name: for the upload routes, which see a stream, and for the
parsers."""

import codecs
from collections.abc import Collection

ZIP, OLE = "zip", "ole"
"""Containers, whose members decide the family."""
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
HEAD_BYTES = 2048

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF-", "pdf"),
    (0, ZIP_MAGIC[0], ZIP),
    (0, ZIP_MAGIC[1], ZIP),
    (0, OLE_MAGIC, OLE),
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
    (0, b"ARROW1", "parquet"),
    (0, b"\xff\xff\xff\xff", "parquet"),
    (0, b"SQLite format 3\0", "sqlite"),
    (0, b"{\\rtf", "rtf"),
    (0, b"\x1f\x8b\x08", "archive"),
    (0, b"BZh", "archive"),
    (0, b"\xfd7zXZ\0", "archive"),
    (257, b"ustar", "archive"),
)
"""(offset, magic bytes, family or container) of supported formats."""

_UNSUPPORTED = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; pack it as .zip"),
    (b"Rar!\x1a\x07", "a RAR archive; pack it as .zip"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file; unpack it"),
    (b"\x78\x9f\x3e\x22", "a winmail.dat of Outlook; send the mail as HTML or plain text"),
    (b"\x7fELF", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"PGDMP", "a pg_dump archive; write it with --format=plain"),
    (b"ARROW1\0\0", "an Arrow file; save it as Parquet"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\0\1\0\0Standard ", "an Access database; export its tables as CSV"),
)
_BY_MEMBER = (
    ("word/document", "docx"),
    ("xl/workbook.", "workbook"),
    ("ppt/presentation.", "pptx"),
    ("META-INF/container.xml", "epub"),
)
_BY_MIMETYPE = (
    (b"application/epub+zip", "epub"),
    (b"application/vnd.oasis.opendocument.text", "opendocument"),
    (b"application/vnd.oasis.opendocument.presentation", "opendocument"),
    (b"application/vnd.oasis.opendocument.spreadsheet", "workbook"),
)
_UNPRINTED = "\r\n\t\f\v\xad\u200b\u200c\u200d\u200e\u200f\u2028\u3000"
_BITMAP_HEADERS = (b"\x0c\0\0\0", b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0")


def family_of_head(head: bytes, ending: str) -> str | None:
    """The family of `file_types` by a file's first HEAD_BYTES, or ZIP or OLE; None for what may be text. The ending
    (".m4a") decides between audio and video in one container, and for formats without magic bytes."""
    stripped = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if stripped.startswith(b"%PDF-") or (ending == ".pdf" and b"%PDF-" in head[:1024]):
        return "pdf"
    for offset, magic, family in _MAGIC:
        if head.startswith(magic, offset):
            return family
    return _by_structure(head, ending)


def unsupported_format(head: bytes) -> str | None:
    """Description of a format that no parser reads, with the remedy; None for other files."""
    if head.startswith(b"MZ") and b"\0" in head[:64]:
        return "a program"
    return next((description for magic, description in _UNSUPPORTED if head.startswith(magic)), None)


def family_of_zip(names: Collection[str], mimetype: bytes) -> str:
    """The family of a zip container, by the names of its members and the content of its member `mimetype` (b"" for
    none)."""
    for media, family in _BY_MIMETYPE:
        if mimetype.strip().startswith(media):
            return family
    if names and all(name.endswith(".npy") for name in names):
        return "arrays"
    for start, family in _BY_MEMBER:
        if any(name.startswith(start) for name in names):
            return family
    return "archive"


def utf16_encoding(sample: bytes) -> str | None:
    """utf-16-le or utf-16-be for text in that encoding without a byte order mark, recognised by line ends, blanks or
    Latin letters; None for other bytes."""
    for encoding, blanks, zeros in (
        ("utf-16-le", (b"\n\0", b" \0"), sample[1::2].count(0)),
        ("utf-16-be", (b"\0\n", b"\0 "), sample[::2].count(0)),
    ):
        has_blanks = any(sample[position : position + 2] in blanks for position in range(0, len(sample), 2))
        if not has_blanks and zeros < 0.2 * len(sample):
            continue
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(sample)
        except UnicodeDecodeError:
            continue
        unprintable = sum(not (character.isprintable() or character in _UNPRINTED) for character in text)
        if text and unprintable <= 0.01 * len(text):
            return encoding
    return None


def _by_structure(head: bytes, ending: str) -> str | None:
    """Formats that are recognised by more than a few fixed bytes."""
    if head.startswith(b"RIFF"):
        return {b"WAVE": "audio", b"WEBP": "image", b"AVI ": "video"}.get(head[8:12])
    if head[4:8] == b"ftyp":
        if head[8:12] in (b"avif", b"heic", b"heix", b"mif1"):
            return "image"
        return "audio" if ending == ".m4a" or head[8:12] in (b"M4A ", b"M4B ") else "video"
    if ending == ".mov" and head[4:8] in (b"moov", b"mdat", b"wide", b"free"):
        return "video"
    if head.startswith(b"BM") and head[6:10] == bytes(4) and head[14:18] in _BITMAP_HEADERS:
        return "image"
    if _is_mp3_frame(head):
        return "audio"
    return "archive" if ending == ".tar" and _is_old_tar(head) else None


def _is_mp3_frame(head: bytes) -> bool:
    """Whether the file starts with an MPEG audio frame of layer II or III (ISO 11172-3, 2.4.1.3)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer, rate, frequency = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer in (1, 2) and rate not in (0, 15) and frequency != 3


def _is_old_tar(head: bytes) -> bool:
    """Whether the first 512 bytes are a tar header without magic bytes: its checksum is right."""
    try:
        checksum = int(head[148:156].strip(b"\0 ") or b"x", 8)
    except ValueError:
        return False
    return len(head) >= 512 and checksum == sum(head[:148]) + 8 * 32 + sum(head[156:512])
