"""Pictures for vision models: the original PNG or JPEG, without the metadata beside the pixels (camera, place, time,
thumbnails). Other formats become PNG."""

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
_JPEG_METADATA_MARKERS = {0xE1, *range(0xE3, 0xEE), 0xEF, 0xFE}
"""Segments of applications and comments (ITU-T T.81, B.1), but for JFIF (E0), the colour profile (E2), Adobe's (EE)."""
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Begins a segment; within a scan FF stands only before 00 or D0 to D7 (B.1.1.5)."""

_GENERIC_FOLDERS = ("images", "image", "imgs", "pictures", "photos", "data")
"""Folder names that are no label: they say only that the folder holds pictures."""


def picture(data: bytes, image: Any, upright: Any, metadata: dict[str, Any]) -> ParsedText:
    """The picture of a file: `upright` is the first frame of `image`, decoded and turned. Raises SkippedError:
    too_large."""
    form = "JPEG" if image.format in ("JPEG", "MPO") else "PNG"
    is_turned = image.getexif().get(_ORIENTATION, 1) != 1
    content = (
        b"" if is_turned else _bare_png(data) if image.format == "PNG" else _bare_jpeg(data) if form == "JPEG" else b""
    )
    content = content or encoded(upright, form)
    if len(content) > MAX_PICTURE_BYTES:
        raise SkippedError("too_large", f"a picture of {len(content)} bytes; at most {MAX_PICTURE_BYTES} are taken")
    return ParsedText("", metadata=metadata | {"format": form}, image=content)


def encoded(image: Any, form: str = "PNG") -> bytes:
    """A Pillow image as PNG or JPEG, with its colour profile as the only metadata."""
    modes = ("L", "RGB", "CMYK") if form == "JPEG" else ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    sink = io.BytesIO()
    converted = image if image.mode in modes else image.convert("RGB")
    converted.save(sink, form, exif=b"", **({"quality": 95} if form == "JPEG" else {}))
    return sink.getvalue()


def metadata_from_path(path: str) -> dict[str, str]:
    """Metadata from a picture's path below the collected folder: the folder it lies in is its `label`, a folder named
    train, val or the like its `split`."""
    folders = PurePosixPath(path).parts[:-1]
    splits = [split for name in folders if (split := split_from_name(name))]
    labels = [name for name in folders if not split_from_name(name) and name.lower() not in _GENERIC_FOLDERS]
    return ({"label": labels[-1]} if labels else {}) | ({"split": splits[-1]} if splits else {})


def _bare_png(data: bytes) -> bytes:
    """Only the chunks that define the pixels (PNG, third edition, 11.3); b"" when the file has no proper end."""
    parts, offset = [data[:8]], 8
    while offset + 12 <= len(data):
        name, end = data[offset + 4 : offset + 8], offset + 12 + int.from_bytes(data[offset : offset + 4], "big")
        if name in _PNG_CHUNKS:
            parts.append(data[offset:end])
        if name == b"IEND":
            return b"".join(parts)
        offset = end
    return b""


def _bare_jpeg(data: bytes) -> bytes:
    """Only the segments that define the pixels, to the end of the first image (T.81, B.2); b"" when the file has no
    proper end."""
    parts, offset = [data[:2]], 2
    while marker := _MARKER.search(data, offset):
        start = marker.start()
        parts.append(data[offset:start])
        if data[start + 1] == 0xD9:
            return b"".join((*parts, data[start : start + 2]))
        offset = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if data[start + 1] not in _JPEG_METADATA_MARKERS:
            parts.append(data[start:offset])
    return b""
