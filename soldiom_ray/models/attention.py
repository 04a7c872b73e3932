"""Causal attention for training packed blocks on a CPU.

On the CPU torch's fused attention spends three quarters of its time in a backward pass that does not use the bf16
units; plain matrix products over the query's two halves (the first half never looks at the second) took 27 ms where it
took 60 ms (8 x 4 heads x 512 x 64, bf16, 2 cores).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

NAME = "soldiom_causal"
PLAIN = ("llama", "mistral", "qwen2", "qwen3")
MOST_POSITIONS = 1024
"""Beyond this the scores take more memory than the time is worth."""


@contextmanager
def causal_blocks(model: Any, positions: int) -> Iterator[None]:
    """Let a model read blocks without padding through `causal_attention` where that is the faster way: on the CPU, for
    the plain architectures, up to MOST_POSITIONS. Others stay as they are."""
    from transformers import AttentionInterface

    plain: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    config, device = plain.config, next(plain.parameters()).device
    simple = getattr(config, "model_type", "") in PLAIN and not getattr(config, "sliding_window", None)
    if not simple or positions > MOST_POSITIONS or device.type != "cpu":
        yield
        return
    AttentionInterface.register(NAME, causal_attention)
    before = config._attn_implementation
    plain.set_attn_implementation(NAME)
    try:
        yield
    finally:
        plain.set_attn_implementation(before)


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
