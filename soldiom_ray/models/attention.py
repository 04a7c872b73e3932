"""Causal attention for blocks without padding on a CPU.

On the CPU torch's fused attention spends three quarters of its time in a backward pass that does not use the bf16
units; plain matrix products over the query's two halves (the first half never looks at the second) took 27 ms where it
took 60 ms (8 x 4 heads x 512 x 64, bf16, 2 cores). Four quarters are a fifth faster again than the whole at 512.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

RANGE_POSITIONS, MAX_RANGES = 128, 4
"""Least number of queries that are computed together, and most ranges that a block's queries are cut into."""
STORED_POSITIONS = 1024
"""Attention weights of longer blocks are computed again in the backward pass: they grow with the square of the length,
and the ranges are then at most LONG_RANGE_POSITIONS, since one of them is all that exists at a time."""
LONG_RANGE_POSITIONS = 256


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
    """transformers' attention interface: query [batch, heads, positions, width], key and value with as many heads or a
    divisor of them -> [batch, positions, heads, width] in value's dtype.

    Every position sees itself and all before it; `attention_mask` is not looked at, so only for blocks without padding.
    """
    repeats, positions = query.shape[1] // key.shape[1], query.shape[2]
    dropout = dropout if module.training else 0.0
    if positions > STORED_POSITIONS:
        output = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=repeats > 1
        )
        return output.transpose(1, 2).contiguous(), None
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    query = query * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    half = (positions + 1) // 2
    parts = [_attend(query, key, value, start, min(start + half, positions), dropout) for start in (0, half)]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _attend(query: Tensor, key: Tensor, value: Tensor, start: int, end: int, dropout: float) -> Tensor:
    """Queries start..end, all [batch, heads, positions, width] -> [batch, heads, end - start, width]."""
    scores = query[:, :, start:end] @ key[:, :, :end].transpose(-1, -2)
    future = torch.full((end - start, end), -torch.inf, dtype=scores.dtype, device=scores.device).triu(start + 1)
    weights = scores.add_(future).softmax(-1).to(value.dtype)
    if dropout:
        weights = functional.dropout(weights, dropout)
    return weights @ value[:, :, :end]


def rotated_attention(query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, scale: float) -> Tensor:
    """Causal attention of queries and keys that are still to be rotated by their positions (RoPE, Su et al. 2021).

    query [batch, positions, heads, width], key and value with as many heads or a divisor of them, cos and sin [1 or
    batch, positions, width] -> [batch, positions, heads * width] in query's dtype. `scale` multiplies the scores."""
    repeats = query.shape[2] // key.shape[2]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=2), value.repeat_interleave(repeats, dim=2)
    result: Tensor = _RotatedAttention.apply(query, key, value, cos, sin, scale)  # type: ignore[no-untyped-call]
    return result


class _RotatedAttention(torch.autograd.Function):
    """Keeps the rotated queries and keys and the values; up to STORED_POSITIONS the attention weights of each range of
    queries too."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, scale: float) -> Tensor:
        batch, positions, heads, width = query.shape
        half = width // 2
        rotation = [table[:, :, None, :half].transpose(1, 2).to(query.dtype) for table in (cos, sin)]
        query, key = (_rotate(states.transpose(1, 2), *rotation) for states in (query, key))
        value = value.transpose(1, 2).contiguous().view(-1, positions, width)
        output, weights = torch.empty_like(value), []
        for start, end in _query_ranges(positions):
            attended = _attention_weights(query, key, start, end, scale)
            output[:, start:end] = torch.bmm(attended, value[:, :end])
            if positions <= STORED_POSITIONS:
                weights.append(attended)
        ctx.save_for_backward(query, key, value, *rotation, *weights)
        ctx.scale, ctx.shape = scale, (batch, heads, positions, width)
        return output.view(batch, heads, positions, width).transpose(1, 2).reshape(batch, positions, -1)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        query, key, value, cos, sin, *weights = ctx.saved_tensors
        batch, heads, positions, width = ctx.shape
        gradient = outer[0].view(batch, positions, heads, width).transpose(1, 2).reshape(-1, positions, width)
        for_query, for_key, for_value = (torch.zeros_like(states) for states in (query, key, value))
        for number, (start, end) in enumerate(_query_ranges(positions)):
            attended = weights[number] if weights else _attention_weights(query, key, start, end, ctx.scale)
            out = gradient[:, start:end]
            for_value[:, :end] += torch.bmm(attended.transpose(1, 2), out)
            scores = torch.bmm(out, value[:, :end].transpose(1, 2))
            scores = torch._softmax_backward_data(scores, attended, -1, attended.dtype).mul_(ctx.scale)
            for_query[:, start:end] = torch.bmm(scores, key[:, :end])
            for_key[:, :end] += torch.bmm(scores.transpose(1, 2), query[:, start:end])
        rotated = (states.view(batch, heads, positions, width) for states in (for_query, for_key))
        back = [_rotate(states, cos, -sin).view(batch, heads, positions, width).transpose(1, 2) for states in rotated]
        return back[0], back[1], for_value.view(batch, heads, positions, width).transpose(1, 2), None, None, None


def _attention_weights(query: Tensor, key: Tensor, start: int, end: int, scale: float) -> Tensor:
    """Of queries start..end to all keys up to them: query and key [rows, positions, width] -> [rows, end - start,
    end]."""
    scores = torch.bmm(query[:, start:end], key[:, :end].transpose(1, 2)).mul_(scale)
    future = scores.new_full((end - start, end - start), -torch.inf).triu_(1)
    scores[:, :, start:].add_(future)
    return torch.softmax(scores, -1, out=scores)


class SharedPrefix:
    """What each attention layer keeps of tokens that all rows of the following batches begin with. Inference only.

    `states` are keys, rotated by their positions, and values, [1, heads, positions, width]; `positions` is 0 when
    nothing was recorded. `is_usable` where the model's layers look at it."""

    def __init__(self) -> None:
        self.states: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self.positions = 0
        self.is_recording = self.is_usable = False
        self._mask: Tensor | None = None

    @contextmanager
    def recording(self, positions: int) -> Iterator[None]:
        """While it is open, a forward pass over one row of `positions` tokens becomes the prefix."""
        self.clear()
        self.is_recording = True
        try:
            yield
        finally:
            self.is_recording = False
        self.positions = positions

    def clear(self) -> None:
        """Forget what was recorded."""
        self.states, self.positions, self._mask = {}, 0, None

    def mask(self, like: Tensor) -> Tensor:
        """[positions of a row, those of the prefix and of the row]: 0 for what a position sees, -inf for what follows
        it; `like` is a query, [..., positions, width]."""
        rows, whole = like.shape[-2], self.positions + like.shape[-2]
        if self._mask is None or len(self._mask) != rows:
            self._mask = like.new_full((rows, whole), -torch.inf).triu_(self.positions + 1)
        return self._mask


def prefixed_attention(
    layer: nn.Module,
    prefix: SharedPrefix,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    scale: float,
) -> Tensor:
    """As `rotated_attention`, without gradients, and after the prefix that was recorded in this layer.

    Without a backward pass torch's fused attention is the faster one: 2.1 ms where products and a softmax took 5 (4 x 9
    heads x 256 x 64, bf16, one core)."""
    batch, positions, _, width = query.shape
    rotation = [table[:, :, None, : width // 2].transpose(1, 2).to(query.dtype) for table in (cos, sin)]
    shape = (batch, -1, positions, width)
    query, key = (_rotate(states.transpose(1, 2), *rotation).view(shape) for states in (query, key))
    value = value.transpose(1, 2)
    mask = None
    if prefix.is_recording:
        prefix.states[layer] = key, value
    elif prefix.positions:
        old_key, old_value = (states.expand(batch, -1, -1, -1) for states in prefix.states[layer])
        key, value = torch.cat((old_key, key), 2), torch.cat((old_value, value), 2)
        mask = prefix.mask(query)
    output = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )
    return output.transpose(1, 2).reshape(batch, positions, -1)


def _query_ranges(positions: int) -> list[tuple[int, int]]:
    """Ranges [start, end) of queries, none of which looks beyond its end."""
    count = max(1, min(MAX_RANGES, positions // RANGE_POSITIONS))
    if positions > STORED_POSITIONS:
        count = -(-positions // LONG_RANGE_POSITIONS)
    cuts = [positions * number // count for number in range(count + 1)]
    return list(pairwise(cuts))


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """States [batch, heads, positions, width] rotated by their positions, [batch * heads, positions, width]; cos and
    sin are [1 or batch, 1, positions, width / 2]."""
    result = states.new_empty(states.shape)
    half = states.shape[-1] // 2
    first, second = states[..., :half], states[..., half:]
    torch.mul(first, cos, out=result[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=result[..., half:]).addcmul_(first, sin)
    return result.view(-1, *states.shape[2:])
