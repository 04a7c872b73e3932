"""Direct preference optimisation (Rafailov et al. 2023): a chosen answer becomes likelier than a rejected one, measured
against how likely the base model found both."""

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from soldiom_ray.models.labels import IGNORE_INDEX
from soldiom_ray.models.loss import (
    CHUNK_POSITIONS,
    Objective,
    hidden_states,
    is_chunkable,
    language_model,
    position_logits,
)


class PreferenceLoss(Objective):
    """(ids, labels, reference) -> the summed loss of the pairs, a float32 scalar.

    Rows 0..n-1 of `ids` and `labels` [2n, positions] are chosen conversations, rows n..2n-1 their rejected ones; labels
    are shifted (`labels[i]` follows `ids[i]`) and IGNORE_INDEX except in the answer. `reference` [2n] are the base
    model's log-probabilities of the answers. `beta` is how strongly the model is held to them."""

    def __init__(self, model: Any, beta: float) -> None:
        super().__init__(model)
        self.beta, self.chunked = beta, is_chunkable(model)

    def forward(self, ids: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
        chosen, rejected = self._rewards(ids, labels, reference)
        return -functional.logsigmoid(chosen - rejected).sum()

    def evaluate(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        chosen, rejected = self._rewards(*batch)
        margin = chosen - rejected
        counts = [torch.tensor(float(len(margin))), (margin > 0).sum(), margin.sum(), chosen.sum(), rejected.sum()]
        return -functional.logsigmoid(margin).sum(), torch.stack([value.to(margin) for value in counts])

    def reference_logprobs(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Log-probabilities of the answers under the base model, which is the model without its adapter: [2n] in
        float32, from ids and labels [2n, positions]."""
        model: Any = self.model
        base = model.disable_adapter() if hasattr(model, "disable_adapter") else contextlib.nullcontext()
        with base:
            return answer_logprobs(self.model, ids, labels, chunked=self.chunked)

    def metrics(self, counts: Tensor) -> dict[str, float]:
        """From counts [5]: pairs, pairs in the right order, and the sums of margins, chosen and rejected rewards."""
        pairs, right, margin, chosen, rejected = counts.tolist()
        pairs = max(1.0, pairs)
        return {
            "preference_accuracy": right / pairs,
            "reward_margin": margin / pairs,
            "chosen_reward": chosen / pairs,
            "rejected_reward": rejected / pairs,
        }

    def _rewards(self, ids: Tensor, labels: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards of the chosen and of the rejected answers, [n] each, in float32."""
        rewards = self.beta * (answer_logprobs(self.model, ids, labels, chunked=self.chunked) - reference)
        chosen, rejected = rewards.chunk(2)
        return chosen, rejected


def answer_logprobs(model: Any, ids: Tensor, labels: Tensor, *, chunked: bool) -> Tensor:
    """Log-probability of each row's labels that are not IGNORE_INDEX, summed: ids and labels [rows, positions] ->
    [rows] in float32.

    Only positions with such a label meet the output matrix, a thousand at a time; their logits are computed again in
    the backward pass instead of being stored."""
    loss_mask = labels != IGNORE_INDEX
    rows = torch.arange(len(ids), device=ids.device)[:, None].expand_as(labels)[loss_mask]
    targets = labels[loss_mask]
    if chunked:
        head = language_model(model).get_output_embeddings()
        states = hidden_states(model, ids)[loss_mask]
        parts = zip(torch.split(states, CHUNK_POSITIONS), torch.split(targets, CHUNK_POSITIONS), strict=True)
        logprobs = torch.cat([checkpoint(_state_logprobs, part, head, aim, use_reentrant=False) for part, aim in parts])
    else:
        logprobs = _target_logprobs(position_logits(model, ids)[loss_mask], targets)
    return torch.zeros(len(ids), dtype=torch.float32, device=ids.device).index_add(0, rows, logprobs)


def _state_logprobs(states: Tensor, head: Any, targets: Tensor) -> Tensor:
    """Hidden states [n, width], targets [n] -> [n] in float32."""
    return _target_logprobs(head(states.to(head.weight.dtype)), targets)


def _target_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits [n, vocabulary], targets [n] -> [n] in float32."""
    return -functional.cross_entropy(logits.float(), targets, reduction="none")
