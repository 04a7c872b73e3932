"""The scores as plain values: a summary for rows, cards and terminals, and everything that was counted."""

from dataclasses import asdict
from typing import Any

from soldiom_ray.domains.schema import Evaluate
from soldiom_ray.evaluate.answers import judge_answers
from soldiom_ray.examples import examples_as_dicts
from soldiom_ray.metrics.compare import Comparison
from soldiom_ray.metrics.labels import confusion_matrix, reliability
from soldiom_ray.metrics.measurement import BASE, TUNED, LabelOutcome, Measurement, document_sums
from soldiom_ray.records import Manifest

MAX_CONFUSION_CLASSES = 50
"""With more the matrix is left out."""


def as_summary(
    measurement: Measurement, comparison: Comparison, gate: dict[str, Any], previous: Manifest | None
) -> dict[str, Any]:
    """What rows, cards and terminals show: no text of a sample is in it.

    `base`, `tuned` and `difference` are by metric; `intervals` are the tuned model's own; `comparisons` have the
    differences from each system with their p-values; `missing` says why a metric is not there."""
    systems = dict.fromkeys(system for score in comparison.scores.values() for system in score.values)
    answers = judge_answers(measurement)
    return {
        "base_model": measurement.base,
        "base": comparison.values(BASE),
        "tuned": comparison.values(TUNED),
        "difference": {
            name: difference.interval.as_dict() for name, difference in comparison.differences(BASE).items()
        },
        "intervals": {name: score.values[TUNED].as_dict() for name, score in comparison.scores.items()},
        "systems": {system: comparison.values(system) for system in systems if system not in (BASE, TUNED)},
        "red_team": {name: value for name, value in measurement.red_team.items() if name != "answers"}
        if measurement.red_team
        else None,
        "comparisons": {
            system: {name: difference.as_dict() for name, difference in comparison.differences(system).items()}
            for system in systems
            if system != TUNED
        },
        "calibration": measurement.calibration,
        "judge": {name: value for name, value in measurement.judge.items() if name != "verdicts"}
        if measurement.judge
        else None,
        "missing": comparison.missing,
        "previous": previous.id if previous else None,
        "answers": {name: answers[name] for name in ("metric", "count", "better", "worse", "same")}
        if answers
        else None,
        "tokens": measurement.tokens,
        "documents": len(measurement.main.samples),
        "groups": len(comparison.groups),
        "gate": gate,
    }


def as_json(
    measurement: Measurement, comparison: Comparison, summary: dict[str, Any], declared: Evaluate
) -> dict[str, Any]:
    """Everything that was counted, down to each document and each answer."""
    outcome = measurement.main.outcomes[TUNED]
    content: dict[str, Any] = summary | {
        "metrics": list(comparison.scores),
        "difference_over_groups": {
            name: score.over_groups.as_dict() for name, score in comparison.scores.items() if score.over_groups
        },
        "system_intervals": {
            name: {system: interval.as_dict() for system, interval in score.values.items()}
            for name, score in comparison.scores.items()
        },
        "units": {
            name: {"part": score.part, "samples": score.samples, "unit": score.unit, "units": score.units}
            for name, score in comparison.scores.items()
        },
        "groups": comparison.groups,
        "slices": comparison.slices,
        "documents": _documents(measurement),
        "examples": examples_as_dicts(measurement.examples[: declared.examples]),
        "answers": judge_answers(measurement),
        "judge": measurement.judge,
        "red_team": measurement.red_team,
        "method": {
            "tokens": measurement.tokens,
            "blocks": measurement.blocks,
            "block_tokens": measurement.block_tokens,
            "unit": next((score.unit for score in comparison.scores.values()), "document"),
            "resamples": declared.resamples,
            "confidence": comparison.confidence,
            "seed": declared.seed,
        },
        "seconds": measurement.seconds,
    }
    if isinstance(outcome, LabelOutcome):
        content["labels"] = _labels(outcome)
    return content


def _documents(measurement: Measurement) -> list[dict[str, Any]]:
    """Both models' sums per document; of labels also the true ones and those of the tuned model."""
    documents = [_finite(asdict(document)) for document in document_sums(measurement.main)]
    outcome = measurement.main.outcomes[TUNED]
    if isinstance(outcome, LabelOutcome):
        for document, actual, decided in zip(documents, outcome.targets, outcome.predicted, strict=True):
            for name, chosen in (("labels", actual), ("tuned_labels", decided)):
                document[name] = [label for label, is_there in zip(outcome.classes, chosen, strict=True) if is_there]
    return documents


def _labels(outcome: LabelOutcome) -> dict[str, Any]:
    """The labels, the confusion matrix (row: true label) of samples with one label each, and how sure the model was."""
    labels: dict[str, Any] = {"names": list(outcome.classes), "reliability": reliability(outcome)}
    if not outcome.multi_label and len(outcome.classes) <= MAX_CONFUSION_CLASSES:
        labels["confusion"] = confusion_matrix(outcome).tolist()
    return labels


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """The values, None in place of a number that is none."""
    return {name: None if value != value else value for name, value in values.items()}
