"""Old Office files (Compound File Binary, [MS-CFB]): which program's they are, by the names in their root folder."""

import struct

from soldiom_ray.collect.text import LeftOut

_ENTRY_BYTES = 128
_NO_ENTRY = 0xFFFFFFFF
_OTHER = (
    ("WordDocument", "an old Word file; save it as .docx"),
    ("PowerPoint Document", "an old PowerPoint file; save it as .pptx"),
    ("__properties_version1.0", "an Outlook message; save it as .eml"),
    ("VisioDocument", "a Visio drawing; save it as PDF"),
)


def unread_kind(data: bytes) -> str | None:
    """None for a workbook, else what the file is and its remedy. Raises LeftOut: encrypted, damaged."""
    names = _root_names(data)
    if "EncryptedPackage" in names:
        raise LeftOut("encrypted", "an Office file with a password")
    if names & {"Workbook", "Book"}:
        return None
    known = (what for name, what in _OTHER if name in names)
    return next(known, "an old Office file of a program that is not known")


def _root_names(data: bytes) -> set[str]:
    """The names of streams and folders that lie directly in the root."""
    try:
        directory = _directory(data)
        names: set[str] = set()
        waiting, seen = [struct.unpack_from("<I", directory, 76)[0]], set()
        while waiting:
            number = waiting.pop()
            if number == _NO_ENTRY or number in seen:
                continue
            seen.add(number)
            start = number * _ENTRY_BYTES
            length = struct.unpack_from("<H", directory, start + 64)[0]
            names.add(directory[start : start + min(length, 64)].decode("utf-16-le", "replace").rstrip("\0"))
            waiting.extend(struct.unpack_from("<II", directory, start + 68))
    except struct.error as error:
        raise LeftOut("damaged", "an old Office file whose directory is cut off") from error
    return names


def _directory(data: bytes) -> bytes:
    """The bytes of the directory: its chain of sectors through the file allocation table."""
    shift = struct.unpack_from("<H", data, 30)[0]
    if shift not in (9, 12):
        raise LeftOut("damaged", "an old Office file with sectors of an impossible size")
    size = 1 << shift
    per_sector = size // 4
    tables = struct.unpack_from("<109I", data, 76)
    sector = struct.unpack_from("<I", data, 48)[0]
    parts: list[bytes] = []
    seen: set[int] = set()
    while sector < 0xFFFFFFFA and sector not in seen and len(parts) < 4096:
        seen.add(sector)
        parts.append(data[(sector + 1) * size : (sector + 2) * size])
        if sector // per_sector >= len(tables):
            break
        sector = struct.unpack_from("<I", data, (tables[sector // per_sector] + 1) * size + sector % per_sector * 4)[0]
    return b"".join(parts)
