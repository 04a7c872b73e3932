"""NumPy archives (.npz) that hold pictures with their labels, as MedMNIST and Keras publish them: `train_images` and
`train_labels`, `x_test` and `y_test`, or `images` and `labels`. Pickled objects are never read."""

import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from soldiom_ray.collect.documents import zipped
from soldiom_ray.collect.documents.columns import split_from_name
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.documents.pictures import MAX_PICTURE_BYTES, encoded
from soldiom_ray.collect.documents.progress import beat
from soldiom_ray.collect.text import SkippedError

MAX_PICTURES = 200_000
MAX_HEADER_BYTES = 10_000
PICTURES_PER_BEAT = 1000
_IMAGES, _LABELS = ("images", "image", "x"), ("labels", "label", "y", "targets", "target")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, slots=True)
class _Array:
    """A member of the archive before it is read. `split` is "" where its name contains none."""

    member: zipfile.ZipInfo
    split: str
    shape: tuple[int, ...]
    dtype: Any

    @property
    def name(self) -> str:
        return self.member.filename.removesuffix(".npy")


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """A picture (PNG) per image, with `label` (a string; a list of the marked classes where labels are rows of 0 and 1)
    and `split` where array names contain one. Raises SkippedError: unsupported, damaged, too_large, encrypted."""
    if not options.pictures:
        raise SkippedError("unsupported", "arrays of NumPy; pictures in them are read when pictures are asked for")
    with zipped.open_zip(data) as archive:
        arrays = [_read_header(archive, member) for member in archive.infolist()]
        images = [array for array in arrays if _has_part(array.name, _IMAGES) and _is_of_pictures(array)]
        if not images:
            descriptions = ", ".join(f"{array.name} {array.dtype} {array.shape}" for array in arrays)
            raise SkippedError(
                "unsupported", f"no array of pictures (8 bits, N x height x width) in it; it holds {descriptions}"
            )
        if (count := sum(array.shape[0] for array in images)) > MAX_PICTURES:
            raise SkippedError("too_large", f"holds {count} pictures, more than {MAX_PICTURES}")
        texts: list[ParsedText] = []
        for array in images:
            label_arrays = [
                other
                for other in arrays
                if other.split == array.split and _has_part(other.name, _LABELS) and other.shape[:1] == array.shape[:1]
            ]
            labels = _labels(_read(archive, label_arrays[0])) if label_arrays else []
            texts.extend(_pictures(array, _read(archive, array), labels))
    return texts


def _read_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Array:
    from numpy.lib import format as npy

    try:
        with archive.open(member) as file:
            readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            shape, _, dtype = readers[npy.read_magic(file)](file, max_header_size=MAX_HEADER_BYTES)
            content_bytes = member.file_size - file.tell()
    except RuntimeError as error:
        raise SkippedError("encrypted", "a zip archive with a password") from error
    except zipped.BROKEN as error:
        raise SkippedError("damaged", f"{member.filename} is no array of NumPy ({type(error).__name__})") from error
    size = dtype.itemsize
    for length in shape:
        size *= length
    if not dtype.hasobject and size != content_bytes:
        raise SkippedError("damaged", f"{member.filename} holds {content_bytes} bytes where its header says {size}")
    words = re.split(r"[_\-.]", member.filename.removesuffix(".npy"))
    return _Array(member, next((split for part in words if (split := split_from_name(part))), ""), shape, dtype)


def _has_part(name: str, words: Sequence[str]) -> bool:
    return any(part in words for part in re.split(r"[_\-.]", name.lower()))


def _is_of_pictures(array: _Array) -> bool:
    shape = array.shape
    coloured = len(shape) == 4 and shape[3] in _MODES
    return array.dtype.name == "uint8" and (len(shape) == 3 or coloured) and 0 not in shape


def _read(archive: zipfile.ZipFile, array: _Array) -> Any:
    from numpy.lib import format as npy

    try:
        with archive.open(array.member) as file:
            return npy.read_array(file, allow_pickle=False, max_header_size=MAX_HEADER_BYTES)
    except zipped.BROKEN as error:
        raise SkippedError("damaged", f"{array.member.filename} does not read ({type(error).__name__})") from error


def _pictures(array: _Array, pixels: Any, labels: Sequence[Any]) -> Iterator[ParsedText]:
    from PIL import Image

    height, width = array.shape[1:3]
    channels = array.shape[3] if len(array.shape) == 4 else 1
    if height * width * channels > MAX_PICTURE_BYTES:
        raise SkippedError("too_large", f"pictures of {width} x {height}; at most {MAX_PICTURE_BYTES} bytes are taken")
    metadata: dict[str, Any] = {"width": width, "height": height, "mode": _MODES[channels], "format": "PNG"}
    metadata |= {"split": array.split} if array.split else {}
    for number in range(len(pixels)):
        picture = Image.fromarray(
            pixels[number].reshape((height, width) if channels == 1 else (height, width, channels))
        )
        label = {"label": labels[number]} if labels else {}
        yield ParsedText("", f"picture {number + 1} of {array.name}", metadata | label, image=encoded(picture))
        if not (number + 1) % PICTURES_PER_BEAT:
            beat()


def _labels(array: Any) -> list[Any]:
    """A string per row; a list of those of several columns that are not 0."""
    if array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1):
        return [_label_text(value) for value in array.reshape(-1).tolist()]
    if array.ndim == 2:
        return [[str(index) for index, is_marked in enumerate(row) if is_marked] for row in array.tolist()]
    return []


def _label_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
