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
    logits_of,
    plain_model,
)


class PreferenceLoss(Objective):
    """(ids, labels, reference) -> the summed loss of the pairs.

    Rows 0..n-1 of `ids` and `labels` [2n, positions] are chosen conversations, rows n..2n-1 their rejected ones; labels
    are shifted (`labels[i]` follows `ids[i]`) and IGNORE_INDEX except in the answer. `reference` [2n] are the base
    model's log-probabilities of the answers. `beta` is how strongly the model is held to them."""

    def __init__(self, model: Any, beta: float) -> None:
        super().__init__(model)
        self.beta, self.chunked = beta, is_chunkable(model)

    def forward(self, ids: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
        chosen, rejected = self._rewards(ids, labels, reference)
        return -functional.logsigmoid(chosen - rejected).sum()

    def judge(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        chosen, rejected = self._rewards(*batch)
        margin = chosen - rejected
        counts = [torch.tensor(float(len(margin))), (margin > 0).sum(), margin.sum(), chosen.sum(), rejected.sum()]
        return -functional.logsigmoid(margin).sum(), torch.stack([one.to(margin) for one in counts])

    def refer(self, ids: Tensor, labels: Tensor) -> Tensor:
        """What the base model says of the answers: the model without its adapter, [2n]."""
        model: Any = self.model
        base = model.disable_adapter() if hasattr(model, "disable_adapter") else contextlib.nullcontext()
        with base:
            return answer_logs(self.model, ids, labels, chunked=self.chunked)

    def metrics(self, counts: Tensor) -> dict[str, float]:
        pairs, right, margin, chosen, rejected = counts.tolist()
        pairs = max(1.0, pairs)
        return {
            "preference_accuracy": right / pairs,
            "reward_margin": margin / pairs,
            "chosen_reward": chosen / pairs,
            "rejected_reward": rejected / pairs,
        }

    def _rewards(self, ids: Tensor, labels: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        rewards = self.beta * (answer_logs(self.model, ids, labels, chunked=self.chunked) - reference)
        chosen, rejected = rewards.chunk(2)
        return chosen, rejected


def answer_logs(model: Any, ids: Tensor, labels: Tensor, *, chunked: bool) -> Tensor:
    """The log-probability of the scored labels of each row, summed, [rows] in float32.

    Only positions with a scored label meet the output matrix, a thousand at a time; their logits are made again in the
    backward pass instead of being kept."""
    scored = labels != IGNORE_INDEX
    rows = torch.arange(len(ids), device=ids.device)[:, None].expand_as(labels)[scored]
    wanted = labels[scored]
    if chunked:
        head = plain_model(model).get_output_embeddings()
        states = hidden_states(model, ids)[scored]
        parts = zip(torch.split(states, CHUNK_POSITIONS), torch.split(wanted, CHUNK_POSITIONS), strict=True)
        logs = torch.cat([checkpoint(_logs, part, head, aim, use_reentrant=False) for part, aim in parts])
    else:
        logs = _picked(logits_of(model, ids)[scored], wanted)
    return torch.zeros(len(ids), dtype=torch.float32, device=ids.device).index_add(0, rows, logs)


def _logs(states: Tensor, head: Any, wanted: Tensor) -> Tensor:
    return _picked(head(states.to(head.weight.dtype)), wanted)


def _picked(logits: Tensor, wanted: Tensor) -> Tensor:
    return -functional.cross_entropy(logits.float(), wanted, reduction="none")
