"""Loss and metrics of a classifier that gives texts or images one label, or several."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from soldiom_ray.models.loss import Objective


class ClassificationLoss(Objective):
    """(the model's inputs..., labels) -> the summed loss of the samples, a float32 scalar.

    Labels are [samples], each the number of a label, or [samples, labels] of 0 and 1 where a sample may have several;
    the loss of such a sample is the mean over its labels. `names` are the model's input arguments in the batch's
    order."""

    def __init__(self, model: Any, names: Sequence[str], *, multi_label: bool = False) -> None:
        super().__init__(model)
        self.names, self.multi_label = tuple(names), multi_label

    def forward(self, *batch: Tensor) -> Tensor:
        return sample_losses(self._logits(batch), batch[-1]).sum()

    def evaluate(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        logits, labels = self._logits(batch), batch[-1]
        return sample_losses(logits, labels).sum(), confusion_counts(logits, labels)

    def metrics(self, counts: Tensor) -> dict[str, float]:
        """From the sum of `confusion_counts`."""
        return multi_label_metrics(counts) if self.multi_label else single_label_metrics(counts)

    def _logits(self, batch: tuple[Tensor, ...]) -> Tensor:
        """[samples, labels] in float32."""
        logits: Tensor = self.model(**dict(zip(self.names, batch[:-1], strict=True))).logits
        return logits.float()


def sample_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each sample, [samples] in float32: logits [samples, labels], labels as `ClassificationLoss` takes
    them."""
    if labels.dim() == 1:
        return functional.cross_entropy(logits, labels, reduction="none")
    return functional.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(1)


def confusion_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """What the metrics need, in float32, to be added over batches: the confusion matrix [labels, labels] (row: true
    label, column: predicted label). Where a sample may have several labels, [1 + labels, 3]: (samples, samples that
    match exactly, 0), then for each label (true positives, false positives, false negatives)."""
    size = logits.shape[-1]
    if labels.dim() == 1:
        pairs = labels * size + logits.argmax(-1)
        return torch.bincount(pairs, minlength=size * size).view(size, size).float()
    predicted, actual = logits > 0, labels > 0
    first = torch.stack([torch.tensor(len(labels)), (predicted == actual).all(1).sum().cpu(), torch.tensor(0)])
    rest = torch.stack([(predicted & actual).sum(0), (predicted & ~actual).sum(0), (~predicted & actual).sum(0)], dim=1)
    return torch.cat([first[None].to(rest.device), rest]).float()


def single_label_metrics(counts: Tensor) -> dict[str, float]:
    """accuracy and macro_f1 (the mean over the labels that occur) from a confusion matrix [labels, labels]."""
    counts = counts.double()
    correct = counts.diagonal()
    predicted, actual = counts.sum(0), counts.sum(1)
    f1 = 2 * correct / (predicted + actual).clamp_min(1)
    return {
        "accuracy": float(correct.sum() / counts.sum().clamp_min(1)),
        "macro_f1": float(f1[actual > 0].mean()) if bool((actual > 0).any()) else 0.0,
    }


def multi_label_metrics(counts: Tensor) -> dict[str, float]:
    """exact_match, micro_f1 and macro_f1 of samples that may have several labels, from `confusion_counts` [1 + labels,
    3]."""
    (samples, exact, _), labels = counts[0].double(), counts[1:].double()
    true_positives, false_positives, false_negatives = labels.T
    f1 = 2 * true_positives / (2 * true_positives + false_positives + false_negatives).clamp_min(1)
    occurs = true_positives + false_negatives > 0
    total = labels.sum(0)
    return {
        "exact_match": float(exact / samples.clamp_min(1)),
        "micro_f1": float(2 * total[0] / (2 * total[0] + total[1] + total[2]).clamp_min(1)),
        "macro_f1": float(f1[occurs].mean()) if bool(occurs.any()) else 0.0,
    }
