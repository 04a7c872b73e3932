"""Pictures for models that see: as they were given, PNG or JPEG, but without what stands beside the pixels (camera,
place, time, thumbnails). Other forms become PNG."""

import io
import re
from pathlib import PurePosixPath
from typing import Any

from soldiom_ray.collect.documents.columns import split_from_name
from soldiom_ray.collect.documents.parsed import ParsedText
from soldiom_ray.collect.text import SkippedError

MAX_PICTURE_BYTES = 10 << 20
_ORIENTATION = 0x0112  # EXIF 2.32, table 4
_PNG_CHUNKS = (
    b"IHDR",
    b"PLTE",
    b"IDAT",
    b"IEND",
    b"tRNS",
    b"gAMA",
    b"cHRM",
    b"sRGB",
    b"iCCP",
    b"sBIT",
    b"pHYs",
    b"bKGD",
)
_JPEG_TOLD = {0xE1, *range(0xE3, 0xEE), 0xEF, 0xFE}
"""Segments of applications and comments (ITU-T T.81, B.1), but for JFIF (E0), the colour profile (E2), Adobe's (EE)."""
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Begins a segment; within a scan FF stands only before 00 or D0 to D7 (B.1.1.5)."""

_GENERAL = ("images", "image", "imgs", "pictures", "photos", "data")
"""Folders that are named for what they hold and say nothing of a picture."""


def picture(data: bytes, image: Any, upright: Any, told: dict[str, Any]) -> ParsedText:
    """The picture of a file: `upright` is the first frame of `image`, decoded and turned. Raises SkippedError:
    too_large."""
    form = "JPEG" if image.format in ("JPEG", "MPO") else "PNG"
    is_turned = image.getexif().get(_ORIENTATION, 1) != 1
    kept = (
        b"" if is_turned else _bare_png(data) if image.format == "PNG" else _bare_jpeg(data) if form == "JPEG" else b""
    )
    kept = kept or encoded(upright, form)
    if len(kept) > MAX_PICTURE_BYTES:
        raise SkippedError("too_large", f"a picture of {len(kept)} bytes; at most {MAX_PICTURE_BYTES} are kept")
    return ParsedText("", metadata=told | {"format": form}, image=kept)


def encoded(image: Any, form: str = "PNG") -> bytes:
    """An image of Pillow's as PNG or JPEG, nothing beside its pixels but the colour profile."""
    modes = ("L", "RGB", "CMYK") if form == "JPEG" else ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    sink = io.BytesIO()
    shown = image if image.mode in modes else image.convert("RGB")
    shown.save(sink, form, exif=b"", **({"quality": 95} if form == "JPEG" else {}))
    return sink.getvalue()


def metadata_from_path(path: str) -> dict[str, str]:
    """What a picture's path below the folder that was given tells: the folder it lies in is its `label`, one named
    train, val or the like its `split`."""
    folders = PurePosixPath(path).parts[:-1]
    sides = [side for name in folders if (side := split_from_name(name))]
    labels = [name for name in folders if not split_from_name(name) and name.lower() not in _GENERAL]
    return ({"label": labels[-1]} if labels else {}) | ({"split": sides[-1]} if sides else {})


def _bare_png(data: bytes) -> bytes:
    """Only the chunks that say what the pixels are (PNG, third edition, 11.3); b"" where that cannot be told."""
    parts, place = [data[:8]], 8
    while place + 12 <= len(data):
        name, end = data[place + 4 : place + 8], place + 12 + int.from_bytes(data[place : place + 4], "big")
        if name in _PNG_CHUNKS:
            parts.append(data[place:end])
        if name == b"IEND":
            return b"".join(parts)
        place = end
    return b""


def _bare_jpeg(data: bytes) -> bytes:
    """Only the segments that say what the pixels are, to the end of the first image (T.81, B.2); b"" where that cannot
    be told."""
    parts, place = [data[:2]], 2
    while marker := _MARKER.search(data, place):
        start = marker.start()
        parts.append(data[place:start])
        if data[start + 1] == 0xD9:
            return b"".join((*parts, data[start : start + 2]))
        place = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if data[start + 1] not in _JPEG_TOLD:
            parts.append(data[start:place])
    return b""
