"""Per-token losses of a model on blocks of tokens: what evaluation compares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class TokenScores:
    """One block's result, both [tokens - 1]: at position i the loss in nats of token i + 1 given all before it, and
    whether that token was the likeliest."""

    losses: "npt.NDArray[np.float32]"
    correct: "npt.NDArray[np.bool_]"


def token_losses(
    model: Any,
    blocks: Sequence["npt.NDArray[np.integer[Any]]"],
    *,
    batch_tokens: int = 8192,
    report: Callable[[float, str], None] | None = None,
) -> list[TokenScores]:
    """Score blocks of token ids, each [tokens] and at most the model's context long; the result is in their order.

    Logits are made a thousand positions at a time; blocks of one length are scored together, at most `batch_tokens`
    positions of them. `report(fraction, message)` is called after every batch."""
    import numpy as np
    import torch

    from soldiom_ray.models.layers import causal_blocks
    from soldiom_ray.models.loss import NextTokenLosses

    device, scored = next(model.parameters()).device, {}
    order = sorted(range(len(blocks)), key=lambda index: (len(blocks[index]), index))
    next_token_losses = NextTokenLosses(model)
    model.eval()
    longest = max((len(block) for block in blocks), default=0)
    with torch.no_grad(), causal_blocks(model, longest):
        while order:
            length = len(blocks[order[0]])
            count = max(1, batch_tokens // length)
            batch = [index for index in order[:count] if len(blocks[index]) == length]
            order = order[len(batch) :]
            rows = torch.from_numpy(np.stack([blocks[index] for index in batch]).astype(np.int64)).to(device)
            losses, correct = next_token_losses(rows[:, :-1], rows[:, 1:])
            for index, loss, hit in zip(batch, losses.cpu().numpy(), correct.cpu().numpy(), strict=True):
                scored[index] = TokenScores(loss, hit)
            if report is not None:
                report(len(scored) / len(blocks), f"scored {len(scored)} of {len(blocks)} blocks")
    return [scored[index] for index in range(len(blocks))]
