"""Logits of a pass, from any causal language model of transformers.

`FlatModel` lets transformers' own modules compute all rows of a pass at once and replaces their attention only.
Architectures that this does not fit (state space models, attention biases, rotations that depend on the length) are
found by a trial against their plain forward pass; `StepwiseModel` then reads every answer on its own, with
transformers' own cache.
"""

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from soldiom_ray.models.decoding.adapters import AdaptedProducts, Adapter, Part, PassAdapters
from soldiom_ray.models.decoding.passes import Attention, Pass, Read
from soldiom_ray.models.decoding.pool import BLOCK, KeyValuePool, LayerShape, Range
from soldiom_ray.models.load import context_length
from soldiom_ray.models.loss import virtual_tokens

ATTENTION = "soldiom_flat"
POOL_BYTES = 1 << 30
"""Memory of the key-value cache, unless one context takes more; on a GPU it is POOL_SHARE of what is free."""
POOL_SHARE = 0.4
ROWS = 32
"""oneDNN computes up to 32 rows of a bfloat16 product in one way, without regard to how many, and more in another
(measured with AMX). So answers are continued at most 32 together."""
PROBE_TOKENS = 40
MAX_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""How far logits on the trial may be from the plain ones, as a share of their size (root mean square)."""
_current = threading.local()


class Forward(Protocol):
    """A model that computes passes. `vectors` are those of a tuned prompt, [virtual tokens, width]; `prompt_rows` is
    the least number of rows for a pass of prompts, which may hold several blocks where the model `mixes_prompts`;
    `products` are those that rows' adapters may add to, None where it takes no adapters."""

    pool: KeyValuePool
    context: int
    embedding: Any
    vectors: Tensor | None
    products: AdaptedProducts | None
    shares_prefixes: bool
    prompt_rows: int
    mixes_prompts: bool

    def __call__(self, work: Pass) -> Tensor:
        """Logits [rows of `logits_of`, vocabulary] in float32."""

    def release(self, taken: Range) -> None:
        """An answer has ended whose range this was."""


class FlatModel:
    """All rows in one forward pass of transformers' modules; not thread-safe."""

    shares_prefixes = True
    prompt_rows = 0

    def __init__(self, model: Any, sequences: int) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(ATTENTION, _attention)
        self.model = language_model(model)
        self.vectors = prompt_vectors(model)
        self.embedding: Any = self.model.get_input_embeddings()
        self.takes_last_only = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        weight = self.embedding.weight
        recorder = _Recorder()
        ids = probe_ids(self.model)
        with torch.inference_mode(), self._attending(recorder):
            logits = self.model(input_ids=ids, position_ids=_positions(ids), use_cache=False).logits[0, -1]
        if not recorder.shapes:
            raise UnsupportedError("its attention cannot be replaced")
        check_logits(self.model, ids, logits)
        shapes = [recorder.shapes[layer] for layer in sorted(recorder.shapes)]
        self.layers = {layer: number for number, layer in enumerate(sorted(recorder.shapes))}
        self.pool = make_pool(model, shapes, sequences, recorder.dtype, weight.device)
        self.context = min(context_length(model), self.pool.positions - virtual_tokens(model))
        # Rows of products in bfloat16 depend on how many there are, above ROWS: a prompt's block has its own number.
        self.mixes_prompts = not prompt_rows(weight)
        self.products: AdaptedProducts | None = None if self.vectors is not None else _linear_products(self.model)
        self._adapters: PassAdapters | None = None
        self._is_hooked = False

    def __call__(self, work: Pass) -> Tensor:
        device = self.embedding.weight.device
        rows = torch.tensor(work.logits_of, dtype=torch.long, device=device)
        inputs: dict[str, Any] = {"position_ids": torch.tensor([work.positions], device=device), "use_cache": False}
        inputs |= embedded(work.tokens, self.embedding, self.vectors, work.adapters)
        if self.takes_last_only:
            inputs["logits_to_keep"] = rows
        with torch.inference_mode(), self._attending(Attention(self.pool, work)), self._adapting(work):
            logits: Tensor = self.model(**inputs).logits[0]
            return (logits if self.takes_last_only else logits[rows]).float()

    def release(self, taken: Range) -> None:
        """Nothing is kept beside the pool."""

    @contextmanager
    def _attending(self, attention: Any) -> Iterator[None]:
        """While it is open, the model's attention is `attention`'s. Others may use the model in between."""
        config = self.model.config
        before, _current.attention = config._attn_implementation, attention
        config._attn_implementation = ATTENTION
        try:
            yield
        finally:
            config._attn_implementation, _current.attention = before, None

    @contextmanager
    def _adapting(self, work: Pass) -> Iterator[None]:
        """While it is open, products are those of the rows' adapters."""
        if not work.adapters or self.products is None:
            yield
            return
        if not self._is_hooked:  # modules with hooks are slower, so those whose base alone is asked have none
            for number, (part,) in enumerate(self.products.products):
                self.model.get_submodule(part.module).register_forward_hook(partial(self._adapt, number))
            self._is_hooked = True
        self._adapters = PassAdapters(work.adapters, self.products, self.embedding.weight)
        try:
            yield
        finally:
            self._adapters = None

    def _adapt(self, number: int, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if self._adapters is not None:
            self._adapters.add(number, inputs[0].flatten(0, -2), output.flatten(0, -2))


class StepwiseModel:
    """Every answer of a pass on its own, by the model's own forward pass and cache; not thread-safe."""

    shares_prefixes = False
    prompt_rows = 0
    mixes_prompts = True
    products: AdaptedProducts | None = None

    def __init__(self, model: Any, sequences: int) -> None:
        self.model = language_model(model)
        self.vectors = prompt_vectors(model)
        self.embedding: Any = self.model.get_input_embeddings()
        accepted = inspect.signature(self.model.forward).parameters
        self.takes_positions, self.takes_last_only = "position_ids" in accepted, "logits_to_keep" in accepted
        weight = self.embedding.weight
        self.context = context_length(model)
        positions = sequences * (self.context + virtual_tokens(model))
        self.pool = KeyValuePool((), positions, weight.dtype, weight.device)
        self.caches: dict[int, Any] = {}

    def __call__(self, work: Pass) -> Tensor:
        wanted = set(work.logits_of)
        results = []
        with torch.inference_mode():
            for read in work.reads:
                logits = self._read(work, read)
                if read.first + read.rows - 1 in wanted:
                    results.append(logits)
        return torch.stack(results).float() if results else torch.empty(0, 0)

    def release(self, taken: Range) -> None:
        """Forget the answer's cache."""
        self.caches.pop(taken.start, None)

    def _read(self, work: Pass, read: Read) -> Tensor:
        rows = slice(read.first, read.first + read.rows)
        inputs = embedded(work.tokens[rows], self.embedding, self.vectors)
        device = self.embedding.weight.device
        if self.takes_positions:
            inputs["position_ids"] = torch.tensor([work.positions[rows]], device=device)
        if self.takes_last_only:
            inputs["logits_to_keep"] = 1
        if read.end == read.rows:
            self.caches.pop(read.start, None)
        output = self.model(**inputs, past_key_values=self.caches.get(read.start), use_cache=True)
        cache = getattr(output, "past_key_values", None)
        self.caches[read.start] = getattr(output, "cache_params", None) if cache is None else cache
        logits: Tensor = output.logits[0, -1]
        return logits


class UnsupportedError(Exception):
    """The model does not compute right this way."""


def make_pool(
    model: Any, shapes: Sequence[LayerShape], sequences: int, dtype: torch.dtype, device: torch.device
) -> KeyValuePool:
    """A pool for so many answers at once, within the memory that it may take; at least one context."""
    width = sum(shape.heads * (shape.key_width + shape.value_width) for shape in shapes) * dtype.itemsize
    longest = context_length(model) + virtual_tokens(model)
    room = POOL_BYTES
    if device.type == "cuda":
        room = int(torch.cuda.mem_get_info(device)[0] * POOL_SHARE)
    positions = max(min(room // width, sequences * longest), min(longest, 4 * room // width))
    return KeyValuePool(shapes, -(-positions // BLOCK) * BLOCK, dtype, device)


def embedded(
    tokens: Sequence[int], embedding: Any, vectors: Tensor | None, adapters: Sequence[Adapter | None] = ()
) -> dict[str, Any]:
    """The rows as a model's input; where a tuned prompt's vectors are among them, its own or those of the rows'
    adapters, as what the tokens stand for."""
    ids = torch.tensor([tokens], device=embedding.weight.device)
    if min(tokens) >= 0:
        return {"input_ids": ids}
    prompts = [each.vectors if each else None for each in adapters] or [vectors] * len(tokens)
    with torch.inference_mode():
        states = embedding(ids.clamp_min(0))
        for row, (token, prompt) in enumerate(zip(tokens, prompts, strict=True)):
            if token < 0 and prompt is not None:
                states[0, row] = prompt[-1 - token].to(states.dtype)
    return {"inputs_embeds": states}


def prompt_vectors(model: Any) -> Tensor | None:
    """The vectors of a tuned prompt, [virtual tokens, width]; None for other models."""
    if not virtual_tokens(model):
        return None
    with torch.inference_mode():
        vectors: Tensor = model.get_prompt(batch_size=1)[0]
        return vectors


def prompt_rows(weight: Tensor) -> int:
    """The least number of rows for a pass of prompts: on a CPU in bfloat16, more than answers are continued by."""
    return ROWS + 1 if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 else 0


def _linear_products(model: Any) -> AdaptedProducts:
    """The linear modules of a model, each a product of its own, but for its head."""
    from transformers.pytorch_utils import Conv1D

    head, products = model.get_output_embeddings(), []
    for name, module in model.named_modules():
        if type(module) is nn.Linear and module is not head:
            products.append([Part(name, module.in_features, module.out_features)])
        elif type(module) is Conv1D:
            products.append([Part(name, *module.weight.shape)])
    return AdaptedProducts(products)


def probe_ids(model: Any) -> Tensor:
    """A few tokens, [1, PROBE_TOKENS]."""
    weight: Tensor = model.get_input_embeddings().weight
    return torch.arange(1, PROBE_TOKENS + 1, device=weight.device)[None] * 7 % weight.shape[0]


def check_logits(model: Any, ids: Tensor, logits: Tensor) -> None:
    """UnsupportedError when the last position's logits are not the plain forward pass's, within rounding; or when the
    rotation of positions depends on how many there are."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if str(rope.get("rope_type", "default")) in ("dynamic", "longrope"):
        raise UnsupportedError(f"its rotation is {rope['rope_type']}")
    with torch.inference_mode():
        expected = model(input_ids=ids, use_cache=False).logits[0, -1].float()
    difference = (logits.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    if not difference < MAX_DIFFERENCE.get(model.dtype, MAX_DIFFERENCE[torch.bfloat16]):
        raise UnsupportedError(f"logits differ by {float(difference):.3g}")


class _Recorder:
    """Attention of a single text, which notes what each layer keeps."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self.dtype = torch.float32

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        self.shapes[layer] = LayerShape(key.shape[1], key.shape[2], value.shape[2])
        self.dtype = key.dtype
        rows = query.shape[0]
        pool = KeyValuePool([self.shapes[layer]], rows, key.dtype, key.device)
        work = Pass((), (), range(rows), (Read(0, rows, 0, rows),), ())
        return Attention(pool, work).attend(0, query, key, value, scaling, window)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float | None = None, **more: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: states [1, heads, rows, width] -> [1, rows, heads, width]."""
    if more.get("softcap") or more.get("s_aux") is not None or more.get("position_bias") is not None:
        raise UnsupportedError("its attention has terms of its own")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    rows = (states[0].transpose(0, 1) for states in (query, key, value))
    output = _current.attention.attend(module.layer_idx, *rows, scale, more.get("sliding_window"))
    return output[None], None


def _positions(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1], device=ids.device)[None]


def language_model(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
