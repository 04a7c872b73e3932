"""Tensors as safetensors, a piece at a time: their bytes are never in memory twice.

The format: the header's length (8 bytes, little endian), a JSON header of names, types, shapes and offsets, then the
tensors' bytes one after the other (https://github.com/huggingface/safetensors#format)."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 1 << 30
PIECE_BYTES = 4 << 20
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def in_shards(stem: str, tensors: "Mapping[str, Tensor]") -> "Iterator[tuple[str, dict[str, Tensor]]]":
    """(file name, tensors) of each file: one `<stem>.safetensors`, or `<stem>-00001-of-0000N.safetensors` and so on
    where they take more than SHARD_BYTES."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    for number, shard in enumerate(shards, 1):
        yield (
            f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else f"{stem}.safetensors",
            shard,
        )


def safetensors_bytes(tensors: "Mapping[str, Tensor]") -> Iterator[bytes]:
    """One safetensors file in pieces. The tensors, of any shape and a dtype of DTYPES, are on the CPU."""
    import torch

    header: dict[str, object] = {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        content = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        for start in range(0, len(content), PIECE_BYTES):
            yield content[start : start + PIECE_BYTES].tobytes()
