"""Passes of the Llama family in as few operations as they take.

Through transformers' modules a token of SmolLM2-135M spends more time between its products than in them. Here queries,
keys and values are one product and gate and up another, on a CPU in bfloat16 the weights are packed once in the order
that oneDNN multiplies in, and what is between the products is compiled (native.py) where that can be. Every rounding is
where transformers has it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from soldiom_ray.models.decoding.adapters import AdaptedProducts, Part, PassAdapters
from soldiom_ray.models.decoding.forward import (
    ROWS,
    UnsupportedError,
    check_logits,
    embedded,
    language_model,
    make_pool,
    probe_ids,
    prompt_rows,
    prompt_vectors,
)
from soldiom_ray.models.decoding.native import Kernels, kernels_for
from soldiom_ray.models.decoding.passes import Attention, Pass, Read
from soldiom_ray.models.decoding.pool import KeyValuePool, LayerShape, Range
from soldiom_ray.models.load import context_length
from soldiom_ray.models.loss import virtual_tokens
from soldiom_ray.models.quantization import QuantizedProduct, small_matrices

ARCHITECTURES = ("llama", "mistral", "qwen2")
SPLIT_WIDTH = 1024
"""Above this many terms oneDNN adds up a product of more than ROWS rows in parts that depend on their number (measured:
none of 576 terms, 11 of 147,456 sums of 1,536). There a prompt's blocks are multiplied one by one."""
Product = Callable[[Tensor], Tensor]


@dataclass(slots=True)
class _Layer:
    """A decoder layer: its products and the weights of its norms."""

    qkv: Product
    out: Product
    gate_up: Product
    down: Product
    norms: tuple[Tensor, Tensor]


class LlamaModel:
    """Takes the model over: its layers' weights are packed and the modules left without. Not thread-safe."""

    shares_prefixes = True
    mixes_prompts = True

    def __init__(self, model: Any, sequences: int) -> None:
        plain = language_model(model)
        config = plain.config
        if config.model_type not in ARCHITECTURES or getattr(config, "sliding_window", None):
            raise UnsupportedError(f"{config.model_type} is no plain Llama")
        self.vectors = prompt_vectors(model)
        self.body: Any = plain.model
        attention = self.body.layers[0].self_attn
        self.width = int(attention.head_dim)
        self.kv_heads = attention.k_proj.out_features // self.width
        self.heads = attention.q_proj.out_features // self.width
        self.scaling, self.epsilon = float(attention.scaling), float(self.body.norm.variance_epsilon)
        self.embedding: Any = self.body.embed_tokens
        weight = self.embedding.weight
        self.layers = [_plain_layer(each) for each in self.body.layers]
        self.products = None if self.vectors is not None else _adapted_products(self.body.layers)
        self.head: Product = plain.lm_head
        shapes = [LayerShape(self.kv_heads, self.width, self.width)] * len(self.layers)
        self.prompt_rows = prompt_rows(weight)
        self.operations: Kernels | TorchOperations = kernels_for(weight) or TorchOperations()
        self.pool = KeyValuePool(shapes, 64, weight.dtype, weight.device)
        ids = probe_ids(plain)
        check_logits(plain, ids, self._probe(ids[0].tolist()))
        self._take_over(plain)
        self.pool = make_pool(model, shapes, sequences, weight.dtype, weight.device)
        self.context = min(context_length(model), self.pool.positions - virtual_tokens(model))

    def __call__(self, work: Pass) -> Tensor:
        with torch.inference_mode():
            states, cosines, sines = self._embed(work)
            attention = Attention(self.pool, work)
            # Only blocks of a prompt are ever more than ROWS rows.
            parts = attention.parts(len(work.tokens)) if len(work.tokens) > ROWS else None
            operations, delta = self.operations, None
            product = partial(_product, parts, self._adapters_of(work))
            for number, layer in enumerate(self.layers):
                normed = operations.add_norm(states, delta, layer.norms[0], self.epsilon)
                qkv = product(4 * number, layer.qkv, normed).view(len(states), -1, self.width)
                operations.rotate(qkv, cosines, sines, self.pool.states[number], attention.slots)
                attended = attention.read(number, qkv[:, : self.heads], self.scaling).flatten(1)
                delta = product(4 * number + 1, layer.out, attended)
                normed = operations.add_norm(states, delta, layer.norms[1], self.epsilon)
                gated = operations.gate(product(4 * number + 2, layer.gate_up, normed))
                delta = product(4 * number + 3, layer.down, gated)
            if not work.logits_of:
                return states.new_empty(0, 0)
            normed = operations.add_norm(states, delta, self.body.norm.weight, self.epsilon)
            last = normed if len(work.logits_of) == len(normed) else normed[torch.tensor(work.logits_of)]
            return self.head(last).float()

    def release(self, taken: Range) -> None:
        """Nothing is kept beside the pool."""

    def _adapters_of(self, work: Pass) -> PassAdapters | None:
        if not work.adapters or self.products is None:
            return None
        return PassAdapters(work.adapters, self.products, self.embedding.weight)

    def _probe(self, tokens: list[int]) -> Tensor:
        """Logits of the last token, which continues the others."""
        read = range(len(tokens) - 1)
        self(Pass(tokens[:-1], read, read, (Read(0, len(read), 0, len(read)),), ()))
        return self(Pass(tokens[-1:], [len(read)], [len(read)], (Read(0, 1, 0, len(tokens)),), [0]))

    def _embed(self, work: Pass) -> tuple[Tensor, Tensor, Tensor]:
        """The rows' states, and the cosines and sines of their rotation [rows, width]."""
        inputs = embedded(work.tokens, self.embedding, self.vectors, work.adapters)
        states = inputs["inputs_embeds"] if "inputs_embeds" in inputs else self.embedding(inputs["input_ids"])
        positions = torch.tensor([work.positions], device=states.device)
        cosines, sines = (table[0].contiguous() for table in self.body.rotary_emb(states, positions))
        if cosines.shape[-1] != self.width:
            raise UnsupportedError("it rotates parts of its heads")
        return states[0], cosines, sines

    def _take_over(self, plain: Any) -> None:
        """Pack the weights, layer by layer, so that there are never two copies of more than one."""
        joined = partial(_joined, scratch={})
        for module, layer in zip(self.body.layers, self.layers, strict=True):
            attention, mlp = module.self_attn, module.mlp
            layer.qkv = joined(attention.q_proj, attention.k_proj, attention.v_proj)
            layer.out = joined(attention.o_proj)
            layer.gate_up = joined(mlp.gate_proj, mlp.up_proj)
            layer.down = joined(mlp.down_proj)
        tied = plain.lm_head.weight is self.embedding.weight
        self.head = joined(plain.lm_head, keep=tied)

    @property
    def weight_bytes(self) -> int:
        """What its weights take in memory."""
        products = [each for layer in self.layers for each in (layer.qkv, layer.out, layer.gate_up, layer.down)]
        packed = sum(each.nbytes for each in (*products, self.head) if isinstance(each, HELD))
        return int(packed + self.embedding.weight.nbytes)


def _plain_layer(module: Any) -> _Layer:
    """A layer that computes with its modules' own weights."""
    attention, mlp = module.self_attn, module.mlp
    linears = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj)
    if any(type(each) is not nn.Linear for each in (*linears, mlp.down_proj)) or hasattr(attention, "q_norm"):
        raise UnsupportedError("its layers are not plain ones")
    q, k, v, out, gate, up = linears
    return _Layer(
        lambda x: torch.cat((q(x), k(x), v(x)), -1),
        out,
        lambda x: torch.cat((gate(x), up(x)), -1),
        mlp.down_proj,
        (module.input_layernorm.weight, module.post_attention_layernorm.weight),
    )


def _adapted_products(layers: Any) -> AdaptedProducts:
    """The four products of each layer, in the order in which a pass computes them."""
    names = (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    )
    products = []
    for number, layer in enumerate(layers):
        for joined in names:
            linears = [(f"model.layers.{number}.{name}", layer.get_submodule(name)) for name in joined]
            products.append([Part(name, linear.in_features, linear.out_features) for name, linear in linears])
    return AdaptedProducts(products)


def _joined(*linears: nn.Linear, scratch: dict[str, Tensor], keep: bool = False) -> Product:
    """The product with several layers' weights at once; the layers are left without theirs unless they are to `keep`
    them. `scratch` is memory that products with weights in few bits share."""
    with torch.inference_mode():
        weight = linears[0].weight.data if len(linears) == 1 else torch.cat([each.weight.data for each in linears])
        biases = [each.bias.data if each.bias is not None else None for each in linears]
        bias = None
        if any(each is not None for each in biases):
            pairs = zip(linears, biases, strict=True)
            bias = torch.cat([weight.new_zeros(each.out_features) if own is None else own for each, own in pairs])
        if not keep:
            for each in linears:
                each.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
        matrices = small_matrices(linears) if weight.device.type == "cpu" else None
        if matrices is not None and matrices[0].scales.dtype == weight.dtype:
            return QuantizedProduct(matrices, bias, ROWS, scratch)
        if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not torch._C._has_mkldnn:
            return _Plain(weight, bias)
        # Packed for one row: so up to ROWS rows and more give the same numbers, where oneDNN can.
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 1)
        return _Packed(packed, bias, weight.shape[1])


class TorchOperations:
    """What `Kernels` does, in torch: on GPUs, and where nothing can be compiled."""

    def add_norm(self, states: Tensor, delta: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        """See `Kernels`."""
        if delta is not None:
            states.add_(delta)
        return functional.rms_norm(states, states.shape[-1:], None, epsilon).mul_(weight)

    def rotate(self, heads: Tensor, cosines: Tensor, sines: Tensor, pool: Tensor, slots: Tensor) -> None:
        """See `Kernels`."""
        width, queries = heads.shape[2], heads.shape[1] - pool.shape[1]
        rotated = heads[:, : queries + pool.shape[1] // 2]
        turned = torch.cat((-rotated[..., width // 2 :], rotated[..., : width // 2]), -1)
        rotated.mul_(cosines[:, None]).add_(turned.mul_(sines[:, None]))
        pool.index_copy_(0, slots, heads[:, queries:])

    def gate(self, gate_up: Tensor) -> Tensor:
        """See `Kernels`."""
        gate, up = gate_up.chunk(2, -1)
        return functional.silu(gate).mul_(up)


@dataclass(slots=True)
class _Plain:
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    @property
    def nbytes(self) -> int:
        """What it holds in memory."""
        return self.weight.nbytes


@dataclass(slots=True)
class _Packed:
    weight: Tensor
    bias: Tensor | None
    terms: int

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return result

    @property
    def nbytes(self) -> int:
        """What it holds in memory."""
        return self.weight.numel() * self.weight.element_size()


HELD = (_Plain, _Packed, QuantizedProduct)
SUMMED_IN_PARTS = (_Packed, QuantizedProduct)


def _product(
    parts: Sequence[int] | None, adapters: PassAdapters | None, number: int, product: Product, x: Tensor
) -> Tensor:
    """The layer's product, of each part on its own where together the sums would depend on how many rows there are;
    and what the rows' adapters add to it."""
    if parts is None or len(parts) == 1 or not isinstance(product, SUMMED_IN_PARTS) or product.terms <= SPLIT_WIDTH:
        y = product(x)
    else:
        y = torch.cat([product(part) for part in torch.split(x, list(parts))])
    if adapters is not None:
        adapters.add(number, x, y)
    return y
