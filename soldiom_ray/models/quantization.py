"""Weights in 8 or 4 bits: how they are rounded, stored and multiplied with.

int8 has one scale for each row (the largest weight of a row is 127 steps), int4 a scale and an offset for each group of
GROUP weights of a row. Only weights are rounded, and no data is needed. A matrix whose rows are tokens (the embedding,
which is often the output matrix, too) keeps 8 bits in either. torch multiplies with both formats on CPUs of their own
(`_weight_int8pack_mm`, `_weight_int4pack_mm_for_cpu`): one stream reads a half or a third of the bytes.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from soldiom_ray.errors import DamagedError, InputError
from soldiom_ray.models.making import MAKING

FORMAT_FILE = "quantization.json"
"""Beside config.json: says in which format `model.safetensors` holds the weights."""
FORMAT_VERSION = 1
GROUP = 32
ROWS_AT_ONCE = 16
"""A matrix of 4 bits is packed in strips of so many rows."""
RANGES = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Shares of a group's range that are tried: of those the one with the least squared error is taken. On SmolLM2-135M it
is a tenth less than that of the whole range."""
EXPANDING = 4
"""On two cores 106 million weights of 8 bits are expanded in 30 ms, of 4 in 180 ms."""
VALUES, SCALES, OFFSETS = "values", "scales", "offsets"


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A matrix [rows, terms]. Of 8 bits: `values` int8 [rows, terms], `scales` [rows]. Of 4: `values` uint8
    [rows, terms] from 0 to 15, `scales` and `offsets` [rows, terms / GROUP]; a weight is (value - 8) * scale + offset.
    """

    values: Tensor
    scales: Tensor
    offsets: Tensor | None = None

    @property
    def bits(self) -> int:
        """8 or 4."""
        return 8 if self.offsets is None else 4

    def dequantized(self, out: Tensor | None = None) -> Tensor:
        """The matrix in the scales' number format, into `out` where that is given."""
        out = torch.empty(self.values.shape, dtype=self.scales.dtype) if out is None else out
        if self.offsets is None:
            return torch.mul(self.values, self.scales[:, None], out=out)
        groups = out.copy_(self.values).sub_(8).view(*self.scales.shape, -1)
        torch.addcmul(self.offsets[..., None], groups, self.scales[..., None], out=groups)
        return out


def quantized(weight: Tensor, bits: int) -> QuantizedWeight:
    """A matrix [rows, terms] rounded to 8 or 4 bits; scales have its number format. `terms` is a multiple of GROUP and
    `rows` of ROWS_AT_ONCE for 4 bits."""
    exact = weight.detach().float()
    if bits == 8:
        scales = (exact.abs().amax(1) / 127).clamp_min(1e-12).to(weight.dtype)
        values = (exact / scales.float()[:, None]).round_().clamp_(-127, 127).to(torch.int8)
        return QuantizedWeight(values, scales)
    groups = exact.view(len(exact), -1, GROUP)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    least = torch.full(groups.shape[:2], torch.inf)
    for share in RANGES:
        low, high = share * groups.amin(-1), share * groups.amax(-1)
        scales = ((high - low) / 15).clamp_min(1e-12).to(weight.dtype)
        offsets = (low + 8 * scales.float()).to(weight.dtype)
        scale, offset = scales.float()[..., None], offsets.float()[..., None]
        values = ((groups - offset) / scale + 8).round_().clamp_(0, 15)
        errors = ((values - 8) * scale + offset - groups).square_().sum(-1)
        if best is None:
            best, least = (values, scales, offsets), errors
            continue
        better = errors < least
        best = (
            torch.where(better[..., None], values, best[0]),
            torch.where(better, scales, best[1]),
            torch.where(better, offsets, best[2]),
        )
        least = torch.minimum(least, errors)
    assert best is not None
    return QuantizedWeight(best[0].to(torch.uint8).view_as(exact), best[1], best[2])


class QuantizedProduct:
    """Products of rows with matrices one below the other, on a CPU.

    Up to `few` rows (of 4 bits, which take longer to expand, four times as many) are multiplied with the small numbers
    themselves, which is fast where reading them is what takes the time; a row's sums are the same however many there
    are. More rows, those of a long prompt, are worth expanding the matrix for, into memory that all products of a model
    share. Not thread-safe."""

    def __init__(
        self, parts: Sequence[QuantizedWeight], bias: Tensor | None, few: int, scratch: dict[str, Tensor]
    ) -> None:
        first = parts[0]
        self.bias, self.scratch = bias, scratch
        self.few = few if first.bits == 8 else EXPANDING * few
        self.terms = first.values.shape[1]
        offsets = [each.offsets for each in parts if each.offsets is not None]
        joined = QuantizedWeight(
            torch.cat([each.values for each in parts]),
            torch.cat([each.scales for each in parts]),
            torch.cat(offsets) if offsets else None,
        )
        self.rows, self.dtype = len(joined.values), joined.scales.dtype
        self._whole = joined
        self._packed: tuple[Tensor, Tensor] | None = None
        if joined.offsets is not None:
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(joined.values.to(torch.int32), 1)
            pairs = torch.stack((joined.scales, joined.offsets), -1).transpose(0, 1).contiguous()
            self._packed = packed, pairs
            # Two to a byte: what prompts expand is packed on its own, in an order that torch can read.
            self._whole = QuantizedWeight(_pair(joined.values), joined.scales, joined.offsets)

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) > self.few:
            return functional.linear(x, self._expanded(), self.bias)
        if self._packed is None:
            y: Tensor = torch._weight_int8pack_mm(x, self._whole.values, self._whole.scales)
        else:
            packed, pairs = self._packed
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(x.contiguous(), packed, GROUP, pairs)
        return y if self.bias is None else y.add_(self.bias)

    @property
    def nbytes(self) -> int:
        """What it holds in memory."""
        held = [self._whole.values, self._whole.scales, *(self._packed or ())]
        held += [] if self._whole.offsets is None else [self._whole.offsets]
        return sum(each.nbytes for each in held)

    def _expanded(self) -> Tensor:
        size = self.rows * self.terms
        buffer = self.scratch.get("")
        if buffer is None or buffer.numel() < size:
            buffer = self.scratch[""] = torch.empty(size, dtype=self.dtype)
        out = buffer[:size].view(self.rows, self.terms)
        whole = self._whole
        if whole.offsets is not None:
            whole = QuantizedWeight(_unpair(whole.values), whole.scales, whole.offsets)
        return whole.dequantized(out)


def _pair(values: Tensor) -> Tensor:
    """Numbers from 0 to 15, two to a byte: [rows, terms] -> [rows, terms / 2]."""
    return values[:, 0::2] | values[:, 1::2] << 4


def _unpair(packed: Tensor) -> Tensor:
    return torch.stack((packed & 15, packed >> 4), -1).flatten(1)


def check_quantizable(model: Any, bits: int) -> None:
    """InputError for a model whose matrices do not have the shapes that the format needs."""
    for name, module in _matrices(model):
        rows, terms = module.weight.shape
        if bits == 4 and type(module) is nn.Linear and (terms % GROUP or rows % ROWS_AT_ONCE):
            raise InputError(
                f"The layer {name} is {rows} x {terms}; int4 takes groups of {GROUP} terms and {ROWS_AT_ONCE} rows.",
                remedy="compress the model to int8",
            )


def save_quantized(model: Any, tokenizer: Any, folder: Path, bits: int) -> None:
    """Write the model's folder with its matrices in 8 or 4 bits: safetensors, configuration, tokenizer, format. The
    model's weights are left as they were."""
    from safetensors.torch import save_file

    for part in (model.config, model.generation_config, tokenizer):
        part.save_pretrained(folder)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    state = dict(model.state_dict())
    for name, module in _matrices(model):
        weight = state.pop(f"{name}.weight")
        if module is head and is_tied(model):
            continue
        matrix = quantized(weight, 8 if module in (embedding, head) else bits)
        state[f"{name}.{VALUES}"] = matrix.values if matrix.bits == 8 else _pair(matrix.values)
        state[f"{name}.{SCALES}"] = matrix.scales
        if matrix.offsets is not None:
            state[f"{name}.{OFFSETS}"] = matrix.offsets
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    told = {"format": f"int{bits}", "group": GROUP if bits == 4 else None, "version": FORMAT_VERSION}
    (folder / FORMAT_FILE).write_text(json.dumps(told, indent=2))


def is_quantized(folder: Path) -> bool:
    """Whether a folder holds weights in 8 or 4 bits."""
    return (folder / FORMAT_FILE).is_file()


def read_quantized(folder: Path) -> tuple[dict[str, Tensor], dict[str, QuantizedWeight]]:
    """(the whole state, expanded; the small matrices by their modules' names). DamagedError for another format."""
    from safetensors.torch import load_file

    told = json.loads((folder / FORMAT_FILE).read_text())
    if told.get("version") != FORMAT_VERSION or told.get("format") not in ("int8", "int4"):
        raise DamagedError(
            f"The weights are in format {told.get('format')!r}, version {told.get('version')!r}, which is not known.",
            remedy="update Soldiom, or compress the model again",
        )
    tensors, matrices = load_file(folder / "model.safetensors"), dict[str, QuantizedWeight]()
    small = (VALUES, SCALES, OFFSETS)
    state = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] not in small}
    for name in [name.removesuffix(f".{VALUES}") for name in tensors if name.endswith(f".{VALUES}")]:
        values, offsets = tensors[f"{name}.{VALUES}"], tensors.get(f"{name}.{OFFSETS}")
        if offsets is not None:
            values = _unpair(values)
        matrices[name] = QuantizedWeight(values, tensors[f"{name}.{SCALES}"], offsets)
        state[f"{name}.weight"] = matrices[name].dequantized()
    return state, matrices


def load_quantized(folder: Path, dtype: "torch.dtype | str") -> Any:
    """The causal language model of a folder that `save_quantized` wrote, its weights expanded: any code computes with
    it. Its modules know their small matrices besides, which decoding multiplies with."""
    import transformers

    state, matrices = read_quantized(folder)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with MAKING:
        model: Any = kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype)
    model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    for name, matrix in matrices.items():
        model.get_submodule(name).quantized = matrix
    if is_tied(model):
        model.get_output_embeddings().quantized = model.get_input_embeddings().quantized
    return model


def small_matrices(modules: Iterable[nn.Module]) -> list[QuantizedWeight] | None:
    """The modules' small matrices where all have one of the same format; None where one has none."""
    found = [getattr(module, "quantized", None) for module in modules]
    matrices = [each for each in found if isinstance(each, QuantizedWeight)]
    return matrices if len(matrices) == len(found) and len({each.bits for each in matrices}) == 1 else None


def _matrices(model: Any) -> list[tuple[str, Any]]:
    """The modules whose weights are rounded: linear layers and the embedding of tokens."""
    embedding = model.get_input_embeddings()
    return [
        (name, module) for name, module in model.named_modules() if type(module) is nn.Linear or module is embedding
    ]


def is_tied(model: Any) -> bool:
    """Whether the embedding of tokens is the output matrix, too."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight
