"""What a classifier learns and is measured by: texts or pictures to one label, or to several."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from soldiom_ray.models.loss import Objective


class ClassificationLoss(Objective):
    """(the model's input..., labels) -> the summed loss of the samples.

    Labels are [samples] numbers of labels, or [samples, labels] of 0 and 1 where a sample may have several; the loss of
    such a sample is the mean over its labels. `names` are the model's input arguments in the batch's order."""

    def __init__(self, model: Any, names: Sequence[str], *, several: bool = False) -> None:
        super().__init__(model)
        self.names, self.several = tuple(names), several

    def forward(self, *batch: Tensor) -> Tensor:
        return losses_of(self._logits(batch), batch[-1]).sum()

    def judge(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        logits, labels = self._logits(batch), batch[-1]
        return losses_of(logits, labels).sum(), count(logits, labels)

    def metrics(self, counts: Tensor) -> dict[str, float]:
        return metrics_of_several(counts) if self.several else metrics_of_one(counts)

    def _logits(self, batch: tuple[Tensor, ...]) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, batch[:-1], strict=True))).logits
        return logits.float()


def losses_of(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each sample, [samples]."""
    if labels.dim() == 1:
        return functional.cross_entropy(logits, labels, reduction="none")
    return functional.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(1)


def count(logits: Tensor, labels: Tensor) -> Tensor:
    """What the metrics need, to be added over batches: the confusion matrix [labels, labels] (row: what it is, column:
    what was said); with several labels a sample [1 + labels, 3]: (samples, samples wholly right, 0), then for each
    label (said and right, said and wrong, not said and wrong)."""
    size = logits.shape[-1]
    if labels.dim() == 1:
        pairs = labels * size + logits.argmax(-1)
        return torch.bincount(pairs, minlength=size * size).view(size, size).float()
    said, is_so = logits > 0, labels > 0
    first = torch.stack([torch.tensor(len(labels)), (said == is_so).all(1).sum().cpu(), torch.tensor(0)])
    rest = torch.stack([(said & is_so).sum(0), (said & ~is_so).sum(0), (~said & is_so).sum(0)], dim=1)
    return torch.cat([first[None].to(rest.device), rest]).float()


def metrics_of_one(counts: Tensor) -> dict[str, float]:
    """accuracy and macro_f1 (the mean over the labels that occur) from a confusion matrix."""
    counts = counts.double()
    right = counts.diagonal()
    said, occurs = counts.sum(0), counts.sum(1)
    f1 = 2 * right / (said + occurs).clamp_min(1)
    return {
        "accuracy": float(right.sum() / counts.sum().clamp_min(1)),
        "macro_f1": float(f1[occurs > 0].mean()) if bool((occurs > 0).any()) else 0.0,
    }


def metrics_of_several(counts: Tensor) -> dict[str, float]:
    """exact_match, micro_f1 and macro_f1 of samples that may have several labels."""
    (samples, whole, _), labels = counts[0].double(), counts[1:].double()
    right, wrong, missed = labels.T
    f1 = 2 * right / (2 * right + wrong + missed).clamp_min(1)
    occurs = right + missed > 0
    total = labels.sum(0)
    return {
        "exact_match": float(whole / samples.clamp_min(1)),
        "micro_f1": float(2 * total[0] / (2 * total[0] + total[1] + total[2]).clamp_min(1)),
        "macro_f1": float(f1[occurs].mean()) if bool(occurs.any()) else 0.0,
    }
