"""Scores of classifiers: every label's probability as the model is served, calibrated on the validation side; and
their trivial baselines."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.schema import Evaluate
from soldiom_ray.evaluate.baselines import linear_baseline
from soldiom_ray.evaluate.loaded import LoadedModels
from soldiom_ray.metrics.calibration import MIN_SAMPLES, abstention_threshold, fit_temperature
from soldiom_ray.metrics.labels import calibration_error
from soldiom_ray.metrics.measurement import LabelOutcome, Outcome, hash_order
from soldiom_ray.models.classifier import Calibration, Classifier, probabilities
from soldiom_ray.models.labels import labels_of
from soldiom_ray.records import Manifest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers = npt.NDArray[np.float64]

BATCH = 32
MAX_FITTED_ON = 2_000
"""Samples of the validation side that calibration reads at most: its two numbers are settled long before."""
UNSEEN_LOSS = 10.0
"""Nats above a uniform guess that a label costs which training never saw, and which no model can predict."""


@dataclass(frozen=True, slots=True)
class Results:
    """What one model did on the samples. `names` are the labels that it knows; `uncalibrated` is the outcome before
    `calibration`, where there is one."""

    outcome: Outcome
    answers: Sequence[str | None]
    names: Sequence[str] = ()
    uncalibrated: Outcome | None = None
    calibration: Mapping[str, Any] | None = None


def validation_samples(
    artifacts: Artifacts, dataset: Manifest, run: Manifest, declared: Evaluate
) -> list[dict[str, Any]]:
    """Samples of the validation side that have a label of the model, in an order by hash."""
    known = set(run.details.get("configuration", {}).get("id2label", {}).values())
    multi_label, samples = is_multi_label(run), []
    for row in artifacts.rows(dataset, "validation/"):
        labels = labels_of(row["metadata"])
        if (labels or multi_label) and known.issuperset(labels if multi_label else labels[:1]):
            samples.append({"id": row["id"], "text": row["text"], "image": row.get("image"), "labels": labels})
    samples.sort(key=lambda row: hash_order(declared.seed, row["id"]))
    return samples[:MAX_FITTED_ON]


def is_multi_label(run: Manifest) -> bool:
    """Whether a sample may have several labels."""
    return bool(run.details.get("configuration", {}).get("problem_type") == "multi_label_classification")


def logits_of(models: LoadedModels, system: str, samples: Sequence[Mapping[str, Any]], length: int) -> dict[str, Any]:
    """{values: logits [samples, labels], names: of the labels, multi_label}, computed as when it is deployed."""

    def classifier_of(model: Any, processor: Any) -> Classifier:
        return Classifier.taking_over(model, processor, length)

    classifier: Classifier = models.taken_over(system, classifier_of)
    values: list[list[float]] = []
    for first in range(0, len(samples), BATCH):
        inputs = [sample["image"] or sample["text"] for sample in samples[first : first + BATCH]]
        values += classifier.logits(classifier.read(inputs)).tolist()
    return {"values": values, "names": classifier.names, "multi_label": classifier.multi_label}


def label_results(
    logits: "Numbers",
    names: Sequence[str],
    multi_label: bool,
    rows: Sequence[Mapping[str, Any]],
    fitted_on: Sequence[Mapping[str, Any]],
    asked: Sequence[Mapping[str, Any]],
    declared: Evaluate,
) -> Results:
    """What one model did on the rows, with probabilities calibrated on the samples `fitted_on`. `logits` are of the
    rows and then of these samples."""
    outcome_of = partial(_label_outcome, names=names, multi_label=multi_label)
    plain = outcome_of(logits[: len(rows)], rows, Calibration())
    if len(fitted_on) < MIN_SAMPLES:
        return Results(plain, _answers(plain, rows, asked), names)
    fitted, facts = _calibrated(logits[len(rows) :], outcome_of, fitted_on, declared, multi_label)
    outcome = outcome_of(logits[: len(rows)], rows, fitted)
    if facts["max_error"] is not None:
        outcome = replace(outcome, threshold=fitted.threshold)
    return Results(outcome, _answers(outcome, rows, asked), names, plain, facts)


def _calibrated(
    logits: "Numbers",
    outcome_of: Callable[..., LabelOutcome],
    rows: Sequence[Mapping[str, Any]],
    declared: Evaluate,
    multi_label: bool,
) -> tuple[Calibration, dict[str, Any]]:
    """What is fitted on the validation side, and the facts of it for the scores."""
    before = outcome_of(logits, rows, Calibration())
    temperature = fit_temperature(logits, before.targets, multi_label=multi_label)
    after = outcome_of(logits, rows, Calibration(temperature=temperature))
    max_error = None if multi_label else declared.max_error
    confidence, right = after.probabilities.max(1), (after.predicted == after.targets).all(1)
    threshold = 0.0 if max_error is None else abstention_threshold(confidence, right, max_error)
    answered = confidence > threshold
    errors = [calibration_error(each) for each in (before, after)]
    calibration_errors = [float(each.value(each.rows.sum(0))) for each in errors]
    validation = {
        "samples": len(rows),
        "calibration_error_before": calibration_errors[0],
        "calibration_error_after": calibration_errors[1],
        "coverage": float(answered.mean()),
        "answered_error": float(1 - right[answered].mean()) if answered.any() else None,
    }
    facts = {"temperature": temperature, "threshold": threshold, "max_error": max_error, "validation": validation}
    return Calibration(temperature=temperature, threshold=threshold), facts


def _answers(outcome: LabelOutcome, rows: Sequence[Mapping[str, Any]], asked: Sequence[Mapping[str, Any]]) -> list[str]:
    """The labels decided for the samples that are shown."""
    places, predicted = {row["id"]: place for place, row in enumerate(rows)}, outcome.predicted
    return [_decided(outcome, predicted[places[row["id"]]]) for row in asked]


def _decided(outcome: LabelOutcome, predicted: "npt.NDArray[np.bool_]") -> str:
    return joined([name for name, yes in zip(outcome.classes, predicted, strict=True) if yes])


def joined(labels: Sequence[str]) -> str:
    """Labels as one text."""
    return ", ".join(labels) or "(no label)"


def _label_outcome(
    logits: "Numbers",
    rows: Sequence[Mapping[str, Any]],
    calibration: Calibration,
    *,
    names: Sequence[str],
    multi_label: bool,
) -> LabelOutcome:
    """From logits [samples, labels known to the model]: probabilities and losses, labels that occur in the samples only
    with probability 0."""
    chances = probabilities(logits, multi_label=multi_label, temperature=calibration.temperature)
    return _outcome_of(chances, names, rows, multi_label=multi_label)


def _outcome_of(
    probabilities: "npt.NDArray[np.float64]",
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    multi_label: bool,
) -> LabelOutcome:
    import numpy as np

    unseen = sorted({label for row in rows for label in row["labels"]} - set(names))
    classes = (*names, *unseen)
    targets = np.array(
        [[name in labels for name in classes] for labels in (_own_labels(row, multi_label) for row in rows)]
    )
    known = targets[:, : len(names)]
    if multi_label:
        clipped = probabilities.clip(1e-12, 1 - 1e-12)
        losses = -np.where(known, np.log(clipped), np.log(1 - clipped)).mean(1)
    else:
        chance = (probabilities * known).sum(1)
        losses = np.where(known.any(1), -np.log(chance.clip(1e-300)), math.log(len(names)) + UNSEEN_LOSS)
    padded = np.concatenate([probabilities, np.zeros((len(rows), len(unseen)))], axis=1)
    return LabelOutcome(classes, targets, padded, losses, multi_label)


def _own_labels(row: Mapping[str, Any], multi_label: bool) -> Sequence[str]:
    """A sample's labels; where only one is predicted, its first."""
    labels: list[str] = row["labels"]
    return labels if multi_label else labels[:1]


def prior(
    artifacts: Artifacts,
    dataset: Manifest,
    rows: Sequence[Mapping[str, Any]],
    asked: Sequence[Mapping[str, Any]],
    tuned: Results,
) -> Results:
    """The baseline that says of every sample how often each label occurs in the training split, and decides for the
    most frequent."""
    import numpy as np

    multi_label = isinstance(tuned.outcome, LabelOutcome) and tuned.outcome.multi_label
    counts: Counter[str] = Counter()
    samples = 0
    for sample in artifacts.rows(dataset, "train/", ("metadata",)):
        labels = labels_of(sample["metadata"])
        samples += bool(labels) or multi_label
        counts.update(labels)
    shares = np.array([(counts[name] + 0.5) / (samples + 1) for name in tuned.names])
    if not multi_label:
        shares /= shares.sum()
    outcome = _outcome_of(np.tile(shares, (len(rows), 1)), tuned.names, rows, multi_label=multi_label)
    return Results(outcome, [_decided(outcome, outcome.predicted[0])] * len(asked), tuned.names)


def linear(artifacts: Artifacts, dataset: Manifest, rows: Sequence[Mapping[str, Any]], tuned: Results) -> LabelOutcome:
    """The trivial baseline of texts."""
    multi_label = isinstance(tuned.outcome, LabelOutcome) and tuned.outcome.multi_label
    texts = [row["text"] for row in rows]
    chances = linear_baseline(artifacts, dataset, texts, tuned.names, multi_label=multi_label)
    return _outcome_of(chances, tuned.names, rows, multi_label=multi_label)
