"""The formats that a model can be compressed to: how each is checked, written, and what it is for."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from soldiom_ray.errors import InputError
from soldiom_ray.models.decoding.llama import ARCHITECTURES
from soldiom_ray.models.gguf import WEIGHTS as GGUF_WEIGHTS
from soldiom_ray.models.gguf_export import check_exportable, save_gguf
from soldiom_ray.models.quantization import check_quantizable, save_quantized


@dataclass(frozen=True, slots=True)
class Format:
    """A format of weights: `check` raises InputError for a model that it is not for, `save` writes model and tokenizer
    into a folder, whose weights are in `file`; `multiplied`: the engine computes with the small numbers themselves."""

    bits: int
    file: str
    check: Callable[[Any], None]
    save: Callable[[Any, Any, Path], None]
    multiplied: bool


def _check_faster(model: Any, bits: int) -> None:
    kind = model.config.model_type
    if kind not in ARCHITECTURES:
        raise InputError(
            f"The model is a {kind}; int{bits} is for {', '.join(ARCHITECTURES)}.",
            remedy="serve it as it is: of other architectures decoding would not become faster",
        )
    check_quantizable(model, bits)


def _rounded(bits: int) -> Format:
    return Format(
        bits, "model.safetensors", partial(_check_faster, bits=bits), partial(save_quantized, bits=bits), True
    )


def _gguf(to: str, bits: int) -> Format:
    return Format(bits, GGUF_WEIGHTS, check_exportable, partial(save_gguf, to=to), False)


FORMATS = {"int8": _rounded(8), "int4": _rounded(4), "gguf": _gguf("gguf", 8), "gguf-q4": _gguf("gguf-q4", 4)}
