"""Metrics of predicted labels. They agree with scikit-learn's, which the tests hold them to; as functions of sums
they are computed for thousands of resamples at once."""

import warnings
from typing import TYPE_CHECKING, Any

from soldiom_ray.metrics.measurement import LabelOutcome
from soldiom_ray.metrics.statistics import NotApplicableError, NotMeasurableError, Statistics, divided, mean_of, ratio

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

CALIBRATION_BINS = 15
"""As in Guo et al. 2017."""

LEVELS = 1000
"""Ranks are exact up to as many different probabilities of a label; more are merged into levels of equal size, which
moves an AUROC by less than 1e-4 and an average precision by less than 2e-3."""

MAX_LEVEL_COLUMNS = 8_000
"""Columns of all labels together: with many labels each gets fewer levels."""


def accuracy(outcome: LabelOutcome) -> Statistics:
    """The share of samples whose labels are all right."""
    return mean_of((outcome.predicted == outcome.targets).all(1))


def macro_f1(outcome: LabelOutcome) -> Statistics:
    """The mean of F1 over the labels that occur."""
    import numpy as np

    predicted, targets = outcome.predicted, outcome.targets
    size = len(outcome.classes)
    rows = np.concatenate([predicted & targets, predicted, targets], axis=1).astype(np.float64)

    def value(sums: "Numbers") -> "Numbers":
        right, decided, actual = sums[..., :size], sums[..., size : 2 * size], sums[..., 2 * size :]
        f1 = np.where(actual > 0, divided(2 * right, decided + actual), np.nan)
        return _mean_of_labels(f1)

    return Statistics(rows, value)


def micro_f1(outcome: LabelOutcome) -> Statistics:
    """F1 over all decisions. With one label per sample it would be the accuracy again."""
    import numpy as np

    if not outcome.multi_label:
        raise NotApplicableError("every sample has exactly one label, so it would be the accuracy again")
    predicted, targets = outcome.predicted, outcome.targets
    rows = np.stack([2 * (predicted & targets).sum(1), predicted.sum(1) + targets.sum(1)], axis=1).astype(np.float64)
    return Statistics(rows, ratio)


def calibration_error(outcome: LabelOutcome) -> Statistics:
    """Expected calibration error: |confidence - share that is right|, over bins of equal width of the confidence in
    what was decided. Of samples with several labels every decision counts."""
    import numpy as np

    if outcome.multi_label:
        confidence = np.where(outcome.predicted, outcome.probabilities, 1 - outcome.probabilities)
        right = outcome.predicted == outcome.targets
    else:
        confidence = outcome.probabilities.max(1)[:, None]
        right = np.logical_and(outcome.predicted, outcome.targets).any(axis=1, keepdims=True)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    in_bin = np.zeros((*bins.shape, CALIBRATION_BINS))
    np.put_along_axis(in_bin, bins[:, :, None], 1.0, axis=2)
    columns = ((in_bin * values[:, :, None]).sum(1) for values in (np.ones_like(confidence), confidence, right))

    def value(sums: "Numbers") -> "Numbers":
        count, sure, hits = (sums[..., i * CALIBRATION_BINS : (i + 1) * CALIBRATION_BINS] for i in range(3))
        return divided(np.abs(sure - hits).sum(-1), count.sum(-1))

    return Statistics(np.concatenate(list(columns), axis=1).astype(np.float64), value)


def auroc(outcome: LabelOutcome) -> Statistics:
    """The chance that a sample with the label is ranked above one without it, ties counting half; the mean over the
    labels that occur on some samples and not on all."""
    import numpy as np

    def of_histogram(negative: "Numbers", positive: "Numbers") -> "Numbers":
        below = negative.cumsum(-1) - negative / 2
        return divided((positive * below).sum(-1), positive.sum(-1) * negative.sum(-1))

    return _ranked(outcome, of_histogram, only_first=np.array(outcome.classes).size == 2 and not outcome.multi_label)


def average_precision(outcome: LabelOutcome) -> Statistics:
    """The mean precision over the samples with the label, from the surest down; the mean over labels as of `auroc`."""

    def of_histogram(negative: "Numbers", positive: "Numbers") -> "Numbers":
        down = positive[..., ::-1]
        hits = down.cumsum(-1)
        precision = hits / (hits + negative[..., ::-1].cumsum(-1)).clip(1e-12)
        return divided((down * precision).sum(-1), positive.sum(-1))

    return _ranked(outcome, of_histogram)


def coverage(outcome: LabelOutcome) -> Statistics:
    """The share of samples that are answered."""
    return mean_of(_answered(outcome))


def answered_error(outcome: LabelOutcome) -> Statistics:
    """The share of wrong answers among those given."""
    import numpy as np

    answered = _answered(outcome)
    wrong = answered & (outcome.predicted != outcome.targets).any(1)
    return Statistics(np.stack([wrong, answered], axis=1).astype(np.float64), ratio)


def _answered(outcome: LabelOutcome) -> "NDArray[np.bool_]":
    if outcome.threshold is None:
        raise NotApplicableError("the classifier answers every sample (`evaluate.max_error` is not set)")
    answered: NDArray[np.bool_] = outcome.probabilities.max(1) > outcome.threshold
    return answered


def confusion_matrix(outcome: LabelOutcome) -> "NDArray[np.int64]":
    """[classes, classes]: row the true label, column the predicted one. For one label per sample."""
    import numpy as np

    size = len(outcome.classes)
    pairs = outcome.targets.argmax(1) * size + outcome.predicted.argmax(1)
    return np.bincount(pairs, minlength=size * size).reshape(size, size)


def reliability(outcome: LabelOutcome) -> list[dict[str, float]]:
    """Of each bin of `calibration_error` that is not empty: samples, mean confidence, share that is right."""
    sums = calibration_error(outcome).rows.sum(0).reshape(3, CALIBRATION_BINS)
    return [
        {"count": float(count), "confidence": float(sure / count), "accuracy": float(hits / count)}
        for count, sure, hits in sums.T
        if count
    ]


def _ranked(outcome: LabelOutcome, of_histogram: Any, *, only_first: bool = False) -> Statistics:
    """A metric of ranks, from how many samples with and without a label lie at each level of its probability. Each
    sample adds one to one column of every label: [labels, without or with, levels]."""
    import numpy as np
    from scipy import sparse

    labels = [place for place in range(len(outcome.classes)) if 0 < outcome.targets[:, place].mean() < 1]
    if not labels:
        raise NotMeasurableError("the samples are all of one class")
    labels = labels[:1] if only_first else labels
    most = max(16, min(LEVELS, MAX_LEVEL_COLUMNS // (2 * len(labels))))
    levels = [_levels(outcome.probabilities[:, place], most) for place in labels]
    width = max(int(level.max()) for level in levels) + 1
    columns = [
        (2 * number + outcome.targets[:, place]) * width + level
        for number, (place, level) in enumerate(zip(labels, levels, strict=True))
    ]
    samples = len(outcome.targets)
    rows = sparse.csr_matrix(
        (np.ones(samples * len(labels)), np.stack(columns, axis=1).ravel(), np.arange(samples + 1) * len(labels)),
        shape=(samples, 2 * len(labels) * width),
    )

    def value(sums: "Numbers") -> "Numbers":
        histogram = sums.reshape(*sums.shape[:-1], len(labels), 2, width)
        return _mean_of_labels(of_histogram(histogram[..., 0, :], histogram[..., 1, :]))

    return Statistics(rows, value)


def _levels(scores: "Numbers", most: int) -> "NDArray[np.int64]":
    """The rank of each score among the different ones, or its level among `most` of about equal size; equal scores
    share one."""
    import numpy as np

    distinct, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
    if len(distinct) <= most:
        return ranks
    before = counts.cumsum() - counts
    _, merged = np.unique(before * most // len(scores), return_inverse=True)
    return merged[ranks]


def _mean_of_labels(values: "Numbers") -> "Numbers":
    """The mean over the last axis of what is defined; NaN where nothing is."""
    import numpy as np

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        mean: Numbers = np.nanmean(values, axis=-1)
    return mean
