"""Loss and metrics of a sequence-to-sequence model, which learns to write a target text for a source text."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from soldiom_ray.domains.messages import ASSISTANT, Message
from soldiom_ray.models.labels import IGNORE_INDEX
from soldiom_ray.models.loss import Objective


def source_and_target(messages: Sequence[Message]) -> tuple[str, str] | None:
    """A conversation that ends with an answer as (source, target): the contents of all earlier messages, a line each,
    and the answer. None for other conversations."""
    if len(messages) < 2 or messages[-1]["role"] != ASSISTANT:
        return None
    return "\n".join(message["content"] for message in messages[:-1]), messages[-1]["content"]


class PairLoss(Objective):
    """(source ids, attention mask, labels) -> the summed loss of the labels, a float32 scalar.

    Ids and mask are [pairs, longest source], labels (the target's ids, IGNORE_INDEX where padded) [pairs, longest
    target], all in int64."""

    def forward(self, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        return self._loss(self._logits(ids, mask, labels), labels)

    def evaluate(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        ids, mask, labels = batch
        logits, loss_mask = self._logits(ids, mask, labels), labels != IGNORE_INDEX
        right = (logits.argmax(-1) == labels) & loss_mask
        return self._loss(logits, labels), torch.stack([right.sum(), loss_mask.sum()]).float()

    def metrics(self, counts: Tensor) -> dict[str, float]:
        """From counts [2]: labels predicted right, and all labels."""
        return {"token_accuracy": float(counts[0] / counts[1].clamp_min(1))}

    def _logits(self, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """[pairs, longest target, vocabulary]."""
        # `labels` makes the decoder's input (one position to the right); the mean loss that comes with it is not used.
        model: Any = self.model
        logits: Tensor = model(input_ids=ids, attention_mask=mask, labels=labels).logits
        return logits

    @staticmethod
    def _loss(logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
        )
