"""Compute-dtype copies of the weights, cached until the optimizer updates them.

Autocast casts every float32 weight anew in each forward pass. A copy that is refreshed once for each optimizer step
costs the same memory and a read of it instead.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CACHE = "_soldiom_copy"
"""Attribute of a cached parameter: [state of the weight that was copied, the copy]."""
ALIGNED_ROWS = 64
"""Products with a matrix of 50,257 rows took 119 ms where 50,304 took 98 ms (bf16, one core)."""


def autocast(device_type: str, *, enabled: bool = True) -> "torch.autocast":
    """Autocast to bfloat16 without torch's own cache.

    That one holds a copy of every float32 weight until the pass ends, also of those whose layers are computed again
    later (13 GiB of a model with 7 billion parameters), though each is used once in a pass; and whether it is on is a
    state of the thread, on which neither a training nor its plan may depend."""
    import torch

    return torch.autocast(device_type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def compute_weight(weight: "Tensor", dtype: "torch.dtype", *, aligned: bool = False) -> "Tensor":
    """The weight in another dtype, without gradient; the weight itself when it has that dtype.

    `weight` is [rows, ...]; with `aligned`, rows of zeros may follow, up to a multiple of ALIGNED_ROWS. The copy is
    cached only for weights given to `cache_weights`, and made anew after `invalidate_weights`, or when torch knows that
    the weight was written to."""
    plain = weight.detach()
    cache: list[Any] | None = getattr(weight, CACHE, None)
    if plain.dtype == dtype or cache is None:
        return plain.to(dtype)
    state = (weight._version, 0 if is_planned(weight) else weight.data_ptr(), dtype)
    rows = -(-len(plain) // ALIGNED_ROWS) * ALIGNED_ROWS if aligned else len(plain)
    if cache[0] != state or len(cache[1]) < rows:
        if cache[1] is None or cache[1].dtype != dtype or len(cache[1]) < rows:
            cache[1] = plain.new_zeros(rows, *plain.shape[1:], dtype=dtype)
        cache[1][: len(plain)].copy_(plain)
        cache[0] = state
    copy: Tensor = cache[1]
    return copy if aligned else copy[: len(plain)]


def is_planned(tensor: "Tensor") -> bool:
    """Whether it is a tensor of a planned model, which has a shape and no values."""
    from torch._subclasses import FakeTensor

    return isinstance(tensor, FakeTensor)


def cache_weights(parameters: "Iterable[nn.Parameter]") -> None:
    """Cache copies of these from now on: their owner promises to call `invalidate_weights` when it changes them."""
    for parameter in parameters:
        setattr(parameter, CACHE, [None, None])


def invalidate_weights(parameters: "Iterable[nn.Parameter]") -> None:
    """Have the copies of these cached weights made anew: the weights have changed."""
    for parameter in parameters:
        getattr(parameter, CACHE)[0] = None
