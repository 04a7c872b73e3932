"""Copies of weights in the kind of number that is multiplied, kept until the weights change.

Autocast casts every float32 weight anew in each forward pass. A copy that is refreshed once for each optimiser step
costs the same memory and a read of it instead.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

COPY = "_soldiom_copy"
ALIGNED_ROWS = 64
"""Products with a matrix of 50,257 rows took 119 ms where 50,304 took 98 ms (bf16, one core)."""


def working_copy(weight: "Tensor", kind: "torch.dtype", *, aligned: bool = False) -> "Tensor":
    """The weight in another kind of number, without gradient; the weight itself when it is of that kind.

    `aligned`: rows of zeros may follow, up to a multiple of ALIGNED_ROWS. Kept only for weights given to `hold_copies`;
    made anew after `copies_are_old`, or when torch knows that the weight was written to."""
    plain = weight.detach()
    held: list[Any] | None = getattr(weight, COPY, None)
    if plain.dtype == kind or held is None:
        return plain.to(kind)
    state = (weight._version, weight.data_ptr(), kind)
    rows = -(-len(plain) // ALIGNED_ROWS) * ALIGNED_ROWS if aligned else len(plain)
    if held[0] != state or len(held[1]) < rows:
        if held[1] is None or held[1].dtype != kind or len(held[1]) < rows:
            held[1] = plain.new_zeros(rows, *plain.shape[1:], dtype=kind)
        held[1][: len(plain)].copy_(plain)
        held[0] = state
    copy: Tensor = held[1]
    return copy if aligned else copy[: len(plain)]


def hold_copies(parameters: "Iterable[nn.Parameter]") -> None:
    """Keep copies of these from now on: their owner promises to call `copies_are_old` when it changes them."""
    for parameter in parameters:
        setattr(parameter, COPY, [None, None])


def copies_are_old(parameters: "Iterable[nn.Parameter]") -> None:
    """The weights have changed."""
    for parameter in parameters:
        getattr(parameter, COPY)[0] = None


def drop_copies(parameters: "Iterable[nn.Parameter]") -> None:
    """Keep none any longer."""
    for parameter in parameters:
        if hasattr(parameter, COPY):
            delattr(parameter, COPY)
