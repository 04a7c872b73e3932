"""Per-token losses of a model on blocks of tokens: what evaluation compares.

Blocks of about one length are read together, filled up on the right: in a causal model nothing looks at what follows.
The output matrix meets only the positions whose prediction counts, and what many blocks begin with (a chat template's
system turn, a tuned prompt) is read once for all of them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from soldiom_ray.models.attention import SharedPrefix

    Ids = npt.NDArray[np.integer[Any]]
    Mask = npt.NDArray[np.bool_]

BATCH_TOKENS = 1024
"""Positions read together: more need more memory and fall out of the caches, fewer make narrow products."""
MIN_PREFIX, MIN_SHARING = 8, 4
"""Least tokens that are worth reading apart, and blocks that must begin with them."""


@dataclass(frozen=True)
class TokenScores:
    """One block's result, both [tokens - 1]: at position i the loss in nats of token i + 1 given all before it, and
    whether that token was the likeliest; 0 and False where the prediction does not count."""

    losses: "npt.NDArray[np.float32]"
    correct: "Mask"


def token_losses(
    model: Any, blocks: "Sequence[Ids]", loss_masks: "Sequence[Mask] | None" = None, *, batch_tokens: int = BATCH_TOKENS
) -> list[TokenScores]:
    """Score blocks of token ids, each [tokens] and at most the model's context long; the result is in their order.
    `loss_masks`, each [tokens], say which tokens' predictions count; without them all do."""
    scored: dict[int, TokenScores] = {}
    for batch in score_batches(model, blocks, loss_masks, batch_tokens=batch_tokens):
        scored |= batch
    return [scored[index] for index in range(len(blocks))]


def score_batches(
    model: Any, blocks: "Sequence[Ids]", loss_masks: "Sequence[Mask] | None" = None, *, batch_tokens: int = BATCH_TOKENS
) -> Iterator[dict[int, TokenScores]]:
    """As `token_losses`, batch by batch, by the blocks' numbers: at most `batch_tokens` positions, but at least one
    block. The first batches take the most memory."""
    import numpy as np

    from soldiom_ray.models.attention import SharedPrefix
    from soldiom_ray.models.layers import causal_blocks
    from soldiom_ray.models.loss import NextTokenLosses

    masks = loss_masks or [np.ones(len(block), np.bool_) for block in blocks]
    model.eval()
    prefix = SharedPrefix()
    with causal_blocks(model, prefix):
        losses = NextTokenLosses(model)
        for shared, members in _by_beginning(blocks, masks, share=prefix.is_usable and losses.chunked):
            losses.read_prefix(prefix, blocks[members[0]][:shared])
            order = sorted(members, key=lambda index: (-len(blocks[index]), index))
            while order:
                count = max(1, batch_tokens // (len(blocks[order[0]]) - shared))
                batch, order = order[:count], order[count:]
                yield _score_batch(losses, prefix, shared, {index: (blocks[index], masks[index]) for index in batch})
            prefix.clear()


def _by_beginning(blocks: "Sequence[Ids]", masks: "Sequence[Mask]", *, share: bool) -> list[tuple[int, list[int]]]:
    """(tokens that a group of blocks has in common at its beginning, its blocks' numbers): those that begin as most do,
    and the others. No prediction that counts is within what is in common."""
    import numpy as np

    everyone = list(range(len(blocks)))
    beginnings = [bytes(np.asarray(block[:MIN_PREFIX], np.int64)) for block in blocks]
    if not share or not blocks:
        return [(0, everyone)] if blocks else []
    commonest, count = Counter(beginnings).most_common(1)[0]
    group = [index for index in everyone if beginnings[index] == commonest]
    shared = min(int(np.argmax(masks[index][1:])) if masks[index][1:].any() else 0 for index in group)
    first = blocks[group[0]]
    for index in group:
        same = first[:shared] == blocks[index][:shared]
        shared = shared if same.all() else int(np.argmin(same))
    if count < MIN_SHARING or shared < MIN_PREFIX:
        return [(0, everyone)]
    rest = [index for index in everyone if beginnings[index] != commonest]
    return [(shared, group), *([(0, rest)] if rest else [])]


def _score_batch(
    losses: Any, prefix: "SharedPrefix", shared: int, batch: "dict[int, tuple[Ids, Mask]]"
) -> dict[int, TokenScores]:
    """Read what follows the shared tokens of each block; `batch` is by the blocks' numbers."""
    import numpy as np
    import torch

    from soldiom_ray.models.labels import IGNORE_INDEX

    width = max(len(ids) for ids, _ in batch.values()) - 1 - shared
    rows = np.zeros((len(batch), width), np.int64)
    labels = np.full((len(batch), width), IGNORE_INDEX, np.int64)
    for row, (ids, mask) in enumerate(batch.values()):
        end = len(ids) - 1 - shared
        rows[row, :end] = ids[shared:-1]
        labels[row, :end] = np.where(mask[shared + 1 :], ids[shared + 1 :], IGNORE_INDEX)
    device = losses.device
    with torch.no_grad():
        values, hits = losses(torch.from_numpy(rows).to(device), torch.from_numpy(labels).to(device), prefix)
    values, hits = values.cpu().numpy(), hits.cpu().numpy()
    return {
        index: TokenScores(
            *(np.concatenate([np.zeros(shared, of.dtype), of[row, : len(ids) - 1 - shared]]) for of in (values, hits))
        )
        for row, (index, (ids, _)) in enumerate(batch.items())
    }
