"""The safetensors files of a model's folder: their headers, and whether all of them are there and whole."""

import json
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

from soldiom_ray.errors import InputError

INDEX = "model.safetensors.index.json"
MOST_HEADER_BYTES = 100_000_000
"""The limit of the format itself."""
LFS_POINTER = b"version https://git-lfs"


def check_weight_files(folder: Path, name: str) -> None:
    """InputError for a folder without safetensors weights, or with a file of them missing or cut short."""
    index = folder / INDEX
    if index.is_file():
        _check_shards(folder, index, name)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        weights = f"only pickled weights ({pickled[0]}), which can run code" if pickled else "no *.safetensors"
        raise InputError(
            f"The model {name!r} holds {weights}.", remedy="convert it to safetensors or choose another model"
        )
    for path in files:
        header = read_header(path, name)
        ends = (tensor["data_offsets"][1] for key, tensor in header.items() if key != "__metadata__")
        wanted = header_bytes(path) + max(ends, default=0)
        if path.stat().st_size < wanted:
            raise InputError(
                f"{path.name} of the model {name!r} is cut short: {path.stat().st_size:,} bytes, of which its header"
                f" names {wanted:,}.",
                remedy="download or copy the file again",
            )


def read_header(path: Path, name: str) -> dict[str, Any]:
    """Tensor -> `dtype`, `shape`, `data_offsets` of a safetensors file, parsed once while the file stays the same.
    InputError when it holds no such header."""
    status = path.stat()
    try:
        return _parsed_header(path, status.st_size, status.st_mtime_ns)
    except _PointerError as error:
        raise InputError(
            f"{path.name} of the model {name!r} is only Git's pointer to the file.",
            remedy="run `git lfs pull` in the model's repository",
        ) from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"{path.name} of the model {name!r} is no safetensors file, or is damaged.",
            remedy="download or copy the file again",
        ) from error


class _PointerError(Exception):
    """The file is Git's pointer to a file elsewhere."""


@lru_cache(maxsize=64)
def _parsed_header(path: Path, _size: int, _changed: int) -> dict[str, Any]:
    with path.open("rb") as file:
        beginning = file.read(8)
        if LFS_POINTER.startswith(beginning):
            raise _PointerError
        length = struct.unpack("<Q", beginning)[0] if len(beginning) == 8 else 0
        if not 2 <= length <= MOST_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(file.read(length))
    for tensor in (tensor for key, tensor in header.items() if key != "__metadata__"):
        _ = tensor["dtype"], tensor["shape"], int(tensor["data_offsets"][1])
    return dict(header)


def header_bytes(path: Path) -> int:
    """Where the tensors of a safetensors file begin."""
    with path.open("rb") as file:
        return 8 + int(struct.unpack("<Q", file.read(8))[0])


def tensor_shapes(folder: Path, name: str) -> dict[str, tuple[int, ...]]:
    """Tensor -> shape over all safetensors files of a folder."""
    return {
        key: tuple(tensor["shape"])
        for path in sorted(folder.glob("*.safetensors"))
        for key, tensor in read_header(path, name).items()
        if key != "__metadata__"
    }


def _check_shards(folder: Path, index: Path, name: str) -> None:
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{INDEX} of the model {name!r} names no files of weights.", remedy="download or copy the file again"
        ) from error
    missing = [shard for shard in shards if not (folder / str(shard)).is_file()]
    if missing:
        raise InputError(
            f"The model {name!r} lacks {len(missing)} of the {len(shards)} files that {INDEX} names: {missing[0]}"
            f"{', …' if missing[1:] else ''}.",
            remedy="download the model again, or copy the missing files",
        )
