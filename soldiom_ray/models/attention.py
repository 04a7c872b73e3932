"""Causal attention for training packed blocks on a CPU, and the context in which a model reads through it.

On the CPU torch's fused attention spends three quarters of its time in a backward pass that does not use the bf16
units; plain matrix products over the query's two halves (the first half never looks at the second) took 27 ms where it
took 60 ms (8 x 4 heads x 512 x 64, bf16, 2 cores). Four quarters are a fifth faster again than the whole at 512.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)
NAME = "soldiom_causal"
PLAIN = ("llama", "mistral", "qwen2", "qwen3")
MOST_POSITIONS = 1024
"""Beyond this the scores take more memory than the time is worth."""
PART_POSITIONS, MOST_PARTS = 128, 4
ALIKE = 0.05
"""How far the faster layers' states may be from the plain ones in a bfloat16 model, as a share of their size (the root
mean square of the difference): two orders of the same products differ by 0.01."""


@contextmanager
def causal_blocks(model: Any, positions: int) -> Iterator[None]:
    """Let a model read blocks without padding in the fastest way: on the CPU, for the plain architectures, up to
    MOST_POSITIONS, through attention that needs no mask and the layers of `layers`. Others stay as they are, and so do
    models whose output is not the same on a try."""
    from transformers import AttentionInterface

    plain: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    config, device = plain.config, next(plain.parameters()).device
    simple = getattr(config, "model_type", "") in PLAIN and not getattr(config, "sliding_window", None)
    if not simple or positions > MOST_POSITIONS or device.type != "cpu":
        yield
        return
    AttentionInterface.register(NAME, causal_attention)
    before = config._attn_implementation
    with ExitStack() as stack:
        stack.callback(plain.set_attn_implementation, before)
        expected = _states(plain)
        plain.set_attn_implementation(NAME)
        patches = stack.enter_context(_faster_layers(plain))
        difference = (_states(plain) - expected).square().mean().sqrt() / expected.square().mean().sqrt()
        if not difference < ALIKE:
            log.info("layers stay as transformers computes them", extra={"data": {"difference": float(difference)}})
            patches.close()
        yield


@contextmanager
def _faster_layers(model: nn.Module) -> Iterator[ExitStack]:
    """Give modules the forward passes of `layers`; they get their own back at the end, or when the stack is closed."""
    from soldiom_ray.models.layers import faster

    with ExitStack() as stack:
        for module in model.modules():
            if (forward := faster(module)) is not None and "forward" not in vars(module):
                module.forward = forward
                stack.callback(delattr, module, "forward")
        yield stack


def _states(model: Any) -> Tensor:
    """The last layer's output for a few tokens."""
    ids = torch.arange(1, 33)[None] * 7 % model.config.vocab_size
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            states: Tensor = getattr(model, model.base_model_prefix)(input_ids=ids, use_cache=False)[0]
            return states.float()
    finally:
        model.train(training)


def causal_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [batch, heads, positions, width] -> [batch, positions, heads, width].

    Every position sees itself and all before it; the mask argument is not looked at, so only blocks without padding.
    """
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    positions = query.shape[2]
    query = query * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    half = (positions + 1) // 2
    parts = [
        _attend(query, key, value, start, min(start + half, positions), dropout if module.training else 0.0)
        for start in (0, half)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _attend(query: Tensor, key: Tensor, value: Tensor, start: int, end: int, dropout: float) -> Tensor:
    scores = query[:, :, start:end] @ key[:, :, :end].transpose(-1, -2)
    future = torch.full((end - start, end), -torch.inf, dtype=scores.dtype, device=scores.device).triu(start + 1)
    weights = scores.add_(future).softmax(-1).to(value.dtype)
    if dropout:
        weights = torch.nn.functional.dropout(weights, dropout)
    return weights @ value[:, :, :end]


def rotated_attention(query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, scale: float) -> Tensor:
    """Causal attention of queries and keys that are still to be turned by their positions (RoPE, Su et al. 2021).

    query [batch, positions, heads, width], key and value with as many heads or a divisor of them, cos and sin [1 or
    batch, positions, width] -> [batch, positions, heads * width]."""
    repeats = query.shape[2] // key.shape[2]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=2), value.repeat_interleave(repeats, dim=2)
    result: Tensor = _Rotated.apply(query, key, value, cos, sin, scale)  # type: ignore[no-untyped-call]
    return result


class _Rotated(torch.autograd.Function):
    """Keeps the turned queries and keys, the values and the weights of the parts."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, scale: float) -> Tensor:
        batch, positions, heads, width = query.shape
        half = width // 2
        turns = [table[:, :, None, :half].transpose(1, 2).to(query.dtype) for table in (cos, sin)]
        query, key = (_turned(one.transpose(1, 2), *turns) for one in (query, key))
        value = value.transpose(1, 2).contiguous().view(-1, positions, width)
        read, weights = torch.empty_like(value), []
        for start, end in _parts(positions):
            scores = torch.bmm(query[:, start:end], key[:, :end].transpose(1, 2)).mul_(scale)
            future = scores.new_full((end - start, end - start), -torch.inf).triu_(1)
            scores[:, :, start:].add_(future)
            torch.softmax(scores, -1, out=scores)
            read[:, start:end] = torch.bmm(scores, value[:, :end])
            weights.append(scores)
        ctx.save_for_backward(query, key, value, *turns, *weights)
        ctx.scale, ctx.shape = scale, (batch, heads, positions, width)
        return read.view(batch, heads, positions, width).transpose(1, 2).reshape(batch, positions, -1)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        query, key, value, cos, sin, *weights = ctx.saved_tensors
        batch, heads, positions, width = ctx.shape
        given = outer[0].view(batch, positions, heads, width).transpose(1, 2).reshape(-1, positions, width)
        for_query, for_key, for_value = (torch.zeros_like(one) for one in (query, key, value))
        for (start, end), part in zip(_parts(positions), weights, strict=True):
            out = given[:, start:end]
            for_value[:, :end] += torch.bmm(part.transpose(1, 2), out)
            scores = torch.bmm(out, value[:, :end].transpose(1, 2))
            scores = torch._softmax_backward_data(scores, part, -1, part.dtype).mul_(ctx.scale)
            for_query[:, start:end] = torch.bmm(scores, key[:, :end])
            for_key[:, :end] += torch.bmm(scores.transpose(1, 2), query[:, start:end])
        turned = (one.view(batch, heads, positions, width) for one in (for_query, for_key))
        back = [_turned(one, cos, -sin).view(batch, heads, positions, width).transpose(1, 2) for one in turned]
        return back[0], back[1], for_value.view(batch, heads, positions, width).transpose(1, 2), None, None, None


def _parts(positions: int) -> list[tuple[int, int]]:
    """Ranges of queries, none of which looks beyond its end."""
    count = max(1, min(MOST_PARTS, positions // PART_POSITIONS))
    cuts = [positions * part // count for part in range(count + 1)]
    return list(pairwise(cuts))


def _turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """States [batch, heads, positions, width] turned by their positions, [batch * heads, positions, width]."""
    result = states.new_empty(states.shape)
    half = states.shape[-1] // 2
    first, second = states[..., :half], states[..., half:]
    torch.mul(first, cos, out=result[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=result[..., half:]).addcmul_(first, sin)
    return result.view(-1, *states.shape[2:])
