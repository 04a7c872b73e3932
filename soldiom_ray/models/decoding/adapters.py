"""Adapters of many models on one base: a pass computes rows of different adapters together.

Every row of a product gets what the low-rank matrices of its own adapter add to it (as in Sheng et al. 2023, "S-LoRA");
a tuned prompt's vectors stand before its rows. A row's numbers depend on its own adapter alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from soldiom_ray.errors import InputError
from soldiom_ray.models.decoding.native import kernels_for

TOGETHER = 4
"""Rows of one adapter that the kernel computes with one reading of its matrices."""
LANES = 16
_PREFIX, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_OTHER_FORMS = ("use_dora", "rank_pattern", "alpha_pattern")
_REMEDY = "deploy it by itself: `soldiom deploy MODEL`"


@dataclass(frozen=True, slots=True)
class Part:
    """A linear module that reads `terms` numbers of a row and writes `width`."""

    module: str
    terms: int
    width: int


class AdaptedProducts:
    """A model's products that adapters may add to, by number; each is of one module, or of several side by side."""

    def __init__(self, products: Sequence[Sequence[Part]]) -> None:
        self.products = [tuple(product) for product in products]
        self.parts = [part for product in self.products for part in product]
        self.first = [0, *accumulate(len(product) for product in self.products)]
        self.widths = [torch.tensor([part.width for part in product]) for product in self.products]


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to a part's product: `up @ down`, `down` [rank, terms] and `up` with the adapter's scale, as
    the kernel reads it where there is one, [width / LANES, rank, LANES], else [width, rank]."""

    down: Tensor
    up: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Adapter:
    """An adapter as a pass takes it: its low-rank matrices by part of the model's `AdaptedProducts`, None where it
    leaves a part as it is; or the `vectors` of a tuned prompt, [virtual tokens, width]."""

    name: str
    low_rank: tuple[LowRank | None, ...] = ()
    vectors: Tensor | None = None
    table: Tensor = field(default_factory=lambda: torch.empty(0, 3, dtype=torch.long))
    """[parts, 3] for the kernel: addresses of `down` and `up`, and the rank."""

    @property
    def virtual_tokens(self) -> int:
        """Positions that it takes of every context."""
        return 0 if self.vectors is None else len(self.vectors)

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        tensors = [] if self.vectors is None else [self.vectors]
        for each in self.low_rank:
            tensors += [each.down, each.up] if each else []
        return sum(tensor.nbytes for tensor in tensors)


class _Adaptable(Protocol):
    """The forward of a model (`forward.Forward`), as far as adapters are fitted to it."""

    products: AdaptedProducts | None
    embedding: Any


def load_adapter(name: str, folder: Path, forward: _Adaptable) -> Adapter:
    """The adapter of a folder that peft wrote, in the element type of the model and on its device.

    InputError for one that adds more than low-rank products or a prompt, or was made on another model."""
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    weights = load_file(folder / "adapter_model.safetensors")
    like: Tensor = forward.embedding.weight
    if forward.products is None:
        raise _refused(name, "its base reads every answer by itself, by an architecture that takes no adapters")
    if config.get("peft_type") == "PROMPT_TUNING":
        vectors = weights.pop("prompt_embeddings", None)
        if vectors is None or weights or vectors.shape[1] != like.shape[1]:
            raise _refused(name, "its prompt does not fit the base")
        return Adapter(name, vectors=vectors.to(like))
    if config.get("peft_type") != "LORA" or any(config.get(key) for key in _OTHER_FORMS):
        raise _refused(name, "only LoRA with one rank and tuned prompts can be computed beside each other")
    pairs = []
    for part in forward.products.parts:
        pair = [weights.pop(f"{_PREFIX}{part.module}{end}", None) for end in (_DOWN, _UP)]
        pairs.append(_checked(name, part, *pair))
    if weights:
        raise _refused(name, f"it changes {', '.join(sorted(weights)[:3])}")
    low_rank = _packed(pairs, config, like)
    rows = [(each.down.data_ptr(), each.up.data_ptr(), len(each.down)) if each else (0, 0, 0) for each in low_rank]
    return Adapter(name, tuple(low_rank), None, torch.tensor(rows, dtype=torch.long))


_Pair = tuple[Tensor, Tensor]


def _checked(name: str, part: Part, down: Tensor | None, up: Tensor | None) -> _Pair | None:
    if down is None or up is None:
        return None
    if down.shape != (len(down), part.terms) or up.shape != (part.width, len(down)):
        raise _refused(name, f"its matrices for {part.module} are of another size")
    return down, up


def _packed(pairs: Sequence[_Pair | None], config: dict[str, Any], like: Tensor) -> list[LowRank | None]:
    """The matrices in one piece of memory, in the order in which a pass reads them."""
    blocks = kernels_for(like) is not None
    matrices: list[tuple[Tensor, Tensor] | None] = []
    for pair in pairs:
        if pair is None:
            matrices.append(None)
            continue
        down, up = pair
        rank = len(down)
        up = up.float() * (config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank))
        if blocks:
            up = functional.pad(up, (0, 0, 0, -len(up) % LANES)).view(-1, LANES, rank).transpose(1, 2)
        matrices.append((down, up))
    flat = [matrix for pair in matrices if pair for matrix in pair]
    memory = torch.empty(sum(matrix.numel() for matrix in flat), dtype=like.dtype, device=like.device)
    places = iter(torch.split(memory, [matrix.numel() for matrix in flat]))
    packed: list[LowRank | None] = []
    for each in matrices:
        if each is None:
            packed.append(None)
            continue
        down, up = (next(places).view(matrix.shape).copy_(matrix) for matrix in each)
        packed.append(LowRank(down, up))
    return packed


def _refused(name: str, reason: str) -> InputError:
    return InputError(f"The adapter {name} cannot be served on its base's endpoint: {reason}.", remedy=_REMEDY)


class PassAdapters:
    """The low-rank products of one pass. `rows` names each row's adapter."""

    def __init__(self, rows: Sequence[Adapter | None], products: AdaptedProducts, like: Tensor) -> None:
        self.products, self.kernels = products, kernels_for(like)
        self.adapters = list(dict.fromkeys(each for each in rows if each is not None and each.low_rank))
        numbers = {id(adapter): number for number, adapter in enumerate(self.adapters)}
        self.groups: list[tuple[int, int, int]] = []
        longest = TOGETHER if self.kernels is not None else len(rows)
        first = 0
        for number, members in groupby(rows, key=lambda each: numbers.get(id(each))):
            count = len(list(members))
            if number is not None:
                for start in range(0, count, longest):
                    self.groups.append((first + start, min(longest, count - start), number))
            first += count
        if self.kernels is not None and self.groups:
            self._table = torch.stack([adapter.table for adapter in self.adapters])
            self._groups = torch.tensor(self.groups)

    def add(self, number: int, x: Tensor, y: Tensor) -> None:
        """Add to the product `y` [rows, width] of the rows `x` [rows, terms] what their adapters add."""
        if not self.groups:
            return
        start, end = self.products.first[number : number + 2]
        if self.kernels is not None:
            widths = self.products.widths[number]
            self.kernels.add_low_rank(x.contiguous(), y, self._table[:, start:end], self._groups, widths)
            return
        for first, count, place in self.groups:
            rows, column = slice(first, first + count), 0
            for part in range(start, end):
                width = self.products.parts[part].width
                if low_rank := self.adapters[place].low_rank[part]:
                    down = functional.linear(x[rows], low_rank.down)
                    y[rows, column : column + width] += functional.linear(down, low_rank.up)
                column += width
