"""Layers of Llama-like models for training on a CPU: the same numbers within bfloat16's rounding, in fewer passes.

Under autocast each small step of transformers' layers (norm, rotation, gate, adapter) reads and writes float32, keeps
it for the backward pass, and casts weights again and again. Here each is one step that keeps its bfloat16 inputs.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from soldiom_ray.models.attention import SharedPrefix, causal_attention, prefixed_attention, rotated_attention
from soldiom_ray.models.weight_cache import compute_weight, is_planned

log = logging.getLogger(__name__)
ATTENTION = "soldiom_causal"
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
MAX_DIFFERENCE = 0.05
"""How far the faster layers' states may be from the plain ones in a bfloat16 model, as a share of their size (the root
mean square of the difference): two orders of the same products differ by 0.01."""


@contextmanager
def causal_blocks(model: Any, prefix: SharedPrefix | None = None) -> Iterator[None]:
    """While it is open, the model reads token blocks [batch, positions] without padding in the fastest way: on the CPU,
    for the ARCHITECTURES, through attention that needs no mask and the layers below. Other models stay as they are, and
    so do those whose output differs on a trial.

    With a `prefix` blocks are read without gradients, after what was recorded in it where it `is_usable`."""
    from transformers import AttentionInterface

    language_model: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    config, device = language_model.config, next(language_model.parameters()).device
    supported = getattr(config, "model_type", "") in ARCHITECTURES and not getattr(config, "sliding_window", None)
    if not supported or device.type != "cpu":
        yield
        return
    AttentionInterface.register(ATTENTION, causal_attention)
    before = config._attn_implementation
    with ExitStack() as stack:
        stack.callback(language_model.set_attn_implementation, before)
        planned = is_planned(next(language_model.parameters()))
        expected = None if planned else _probe_states(language_model)
        language_model.set_attn_implementation(ATTENTION)
        patches = stack.enter_context(_faster_layers(language_model, prefix))
        if expected is None:
            yield
            return
        difference = (_probe_states(language_model) - expected).square().mean().sqrt() / expected.square().mean().sqrt()
        is_faster = bool(difference < MAX_DIFFERENCE)
        if not is_faster:
            log.info("layers stay as transformers computes them", extra={"data": {"difference": float(difference)}})
            patches.close()
        elif prefix is not None:
            prefix.is_usable = True
            stack.callback(setattr, prefix, "is_usable", False)
        yield


@contextmanager
def _faster_layers(model: nn.Module, prefix: SharedPrefix | None) -> Iterator[ExitStack]:
    """Give modules their faster forward passes. Their own return at the end, or when the stack that is given is
    closed."""
    with ExitStack() as stack:
        for module in model.modules():
            if (forward := faster_forward(module, prefix)) is not None and "forward" not in vars(module):
                module.forward = forward
                stack.callback(delattr, module, "forward")
        yield stack


def _probe_states(model: Any) -> Tensor:
    """The last layer's output for a few tokens, [1, 32, width] in float32."""
    ids = torch.arange(1, 33)[None] * 7 % model.config.vocab_size
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            states: Tensor = getattr(model, model.base_model_prefix)(input_ids=ids, use_cache=False)[0]
            return states.float()
    finally:
        model.train(training)


def faster_forward(module: nn.Module, prefix: SharedPrefix | None = None) -> Callable[..., Any] | None:
    """The forward pass that takes the place of this module's own; None where its own is as good, or the module is not
    known."""
    if prefix is not None:
        return _inference_forward(module, prefix)
    module_class = type(module)
    name, known = module_class.__name__, module_class.__module__.startswith("transformers.models.")
    if module_class is nn.Linear:
        return lambda x: linear(module, x)
    if module_class is nn.Embedding and module.max_norm is None:
        own = module.forward
        return lambda ids: own(ids).to(_compute_dtype(module.weight))
    if known and name.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
        return lambda x: _Norm.apply(x, module.weight, module.variance_epsilon, _compute_dtype(x))  # type: ignore[no-untyped-call]
    if known and name.endswith("MLP") and type(getattr(module, "act_fn", None)).__name__ in ("SiLUActivation", "SiLU"):
        gated: Any = module
        return lambda x: gated.down_proj(_Gate.apply(gated.gate_proj(x), gated.up_proj(x)))  # type: ignore[no-untyped-call]
    if known and name.endswith("Attention") and hasattr(module, "q_proj") and not module.attention_dropout:
        return _attention_forward(module)
    if name == "Linear" and module_class.__module__ == "peft.tuners.lora.layer":
        return _lora_forward(module)
    return None


def _inference_forward(module: nn.Module, prefix: SharedPrefix) -> Callable[..., Any] | None:
    """Of attention, norms and LoRA layers, without gradients. The others' own are as fast where weights have the
    compute dtype."""
    name, known = type(module).__name__, type(module).__module__.startswith("transformers.models.")
    if known and name.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
        return lambda x: _norm(module, x)
    if known and name.endswith("Attention") and hasattr(module, "q_proj"):
        return _attention_forward(module, prefix)
    if name == "Linear" and type(module).__module__ == "peft.tuners.lora.layer":
        return _lora_forward(module)
    return None


def _norm(module: Any, x: Tensor) -> Tensor:
    """As `_Norm`, rounded where transformers rounds: 0.72 ms where its own takes 1.36 (1,024 x 576, bf16, one core)."""
    wide = x.to(torch.float32, copy=True)
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = norm.square_().div_(x.shape[-1]).add_(module.variance_epsilon).rsqrt_()
    result: Tensor = wide.mul_(scale).to(x.dtype) * module.weight
    return result


def linear(module: Any, x: Tensor) -> Tensor:
    """A linear layer: x [..., in] -> [..., out] in the compute dtype; torch's own where the weight needs no cast."""
    weight, bias = module.weight, module.bias
    dtype = _compute_dtype(weight)
    x = x.to(dtype)
    if weight.dtype == dtype:
        return functional.linear(x, weight, None if bias is None else bias.to(dtype))
    result: Tensor = _Linear.apply(x, weight, compute_weight(weight, dtype), bias)  # type: ignore[no-untyped-call]
    return result


def _lora_forward(module: Any) -> Callable[..., Any] | None:
    """Of a plain LoRA layer with one adapter and no dropout; None for others."""
    base, names = module.base_layer, module.active_adapters
    if len(names) != 1 or type(base) is not nn.Linear or base.weight.requires_grad or names[0] in module.lora_variant:
        return None
    name, own = names[0], module.forward
    if type(module.lora_dropout[name]) is not nn.Identity or module.lora_B[name].bias is not None:
        return None
    down, up = module.lora_A[name].weight, module.lora_B[name].weight

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if module.merged or module.disable_adapters or args or kwargs:
            return own(x, *args, **kwargs)
        dtype = _compute_dtype(base.weight)
        copies = (compute_weight(base.weight, dtype), compute_weight(down, dtype), compute_weight(up, dtype))
        return _LoraLinear.apply(x.to(dtype), down, up, *copies, base.bias, module.scaling[name])  # type: ignore[no-untyped-call]

    return forward


def _attention_forward(module: Any, prefix: SharedPrefix | None = None) -> Callable[..., Any]:
    """hidden_states [batch, positions, width] -> (the same shape, None); with a cache the module's own is called."""
    own, norms = module.forward, hasattr(module, "q_norm")

    def forward(hidden_states: Tensor, position_embeddings: Any = None, *args: Any, **kwargs: Any) -> Any:
        if args or position_embeddings is None or kwargs.get("past_key_values") is not None:
            return own(hidden_states, position_embeddings, *args, **kwargs)
        shape = (*hidden_states.shape[:-1], -1, module.head_dim)
        query, key, value = (
            layer(hidden_states).view(shape) for layer in (module.q_proj, module.k_proj, module.v_proj)
        )
        cos, sin = position_embeddings
        if norms:
            query, key = module.q_norm(query), module.k_norm(key)
        if prefix is None:
            output = rotated_attention(query, key, value, cos, sin, module.scaling)
        else:
            output = prefixed_attention(module, prefix, query, key, value, cos, sin, module.scaling)
        return module.o_proj(output), None

    return forward


def _compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of products with a weight: autocast's where it is on."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


class _Linear(torch.autograd.Function):
    """`x @ copy.T + bias`: x [..., in], weight and its copy [out, in] -> [..., out]. The gradient is `weight`'s, whose
    copy is multiplied with."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, copy: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, copy)
        return functional.linear(x, copy, None if bias is None else bias.to(copy.dtype))

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, Tensor | None, None, Tensor | None]:
        x, copy = ctx.saved_tensors
        flat = outer[0].reshape(-1, outer[0].shape[-1])
        needs_x, needs_weight, _, needs_bias = ctx.needs_input_grad
        return (
            (flat @ copy).view(*outer[0].shape[:-1], -1) if needs_x else None,
            flat.t() @ x.reshape(-1, x.shape[-1]) if needs_weight else None,
            None,
            flat.sum(0, dtype=torch.float32) if needs_bias else None,
        )


class _LoraLinear(torch.autograd.Function):
    """`x @ base.T + bias + scale * (x @ down.T) @ up.T`: x [..., in], base [out, in], down [rank, in], up [out, rank]
    -> [..., out]. Gradients for x, down and up."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        down: Tensor,
        up: Tensor,
        base: Tensor,
        down_copy: Tensor,
        up_copy: Tensor,
        bias: Tensor | None,
        scale: float,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        narrow = flat @ down_copy.t()
        result = functional.linear(flat, base, None if bias is None else bias.to(base.dtype))
        result.addmm_(narrow, up_copy.t(), alpha=scale)
        ctx.save_for_backward(flat, narrow, base, down_copy, up_copy)
        ctx.scale = scale
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, narrow, base, down, up = ctx.saved_tensors
        flat = outer[0].reshape(-1, outer[0].shape[-1])
        back = (flat @ up).mul_(ctx.scale)
        result = None
        if ctx.needs_input_grad[0]:
            result = (flat @ base).addmm_(back, down).view(*outer[0].shape[:-1], -1)
        return result, back.t() @ x, (flat.t() @ narrow).mul_(ctx.scale), None, None, None, None, None


class _Norm(torch.autograd.Function):
    """Root mean square normalisation over the last dimension (Zhang and Sennrich 2019), computed in float32, returned
    in `dtype`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        result: Tensor = (x * scale).mul_(weight).to(dtype)
        return result

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, scale = ctx.saved_tensors
        gradient, normal = outer[0].float(), x * scale
        for_weight = None
        if ctx.needs_input_grad[1]:
            for_weight = (gradient * normal).flatten(0, -2).sum(0)
        scaled = gradient * weight
        mean = torch.linalg.vecdot(scaled, normal).div_(x.shape[-1])[..., None]
        return scaled.sub_(normal.mul_(mean)).mul_(scale).to(x.dtype), for_weight, None, None


class _Gate(torch.autograd.Function):
    """`silu(gate) * up`, elementwise (SwiGLU, Shazeer 2020)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        for_gate: Tensor = torch.ops.aten.silu_backward(outer[0] * up, gate)
        return for_gate, functional.silu(gate).mul_(outer[0])
