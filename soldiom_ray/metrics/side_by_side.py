"""Several runs compared on the samples that all of them were scored on, from their stored scores alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from soldiom_ray.domains.metrics import METRICS
from soldiom_ray.errors import InputError
from soldiom_ray.metrics.compare import Comparison, compare
from soldiom_ray.metrics.measurement import (
    TUNED,
    AnswerOutcome,
    HeldOutSample,
    LabelOutcome,
    Measurement,
    Outcome,
    PartOutcome,
    TokenOutcome,
)

COMPARED = (
    "loss", "perplexity", "token_accuracy", "accuracy", "macro_f1",
    "exact_match", "token_f1", "rouge_l", "chrf", "bleu",
)  # fmt: skip
"""Metrics that follow from what stored scores hold of each sample; probabilities of labels are not among it."""

RESAMPLES, SEED = 2000, 17


def compare_runs(stored: Mapping[str, Mapping[str, Any]], *, confidence: float = 0.95) -> dict[str, Any]:
    """{runs, samples, metrics: {metric: {run: {mean, low, high}}}, differences: {run: {metric: …}}, missing}: each run
    against the first, paired. `stored` is the content of each run's `scores.json`. InputError where the runs share no
    scored sample."""
    names = list(stored)
    parts = [part for part in (_documents_part(stored), _answers_part(stored)) if part is not None]
    if not parts:
        raise InputError(
            f"The runs {', '.join(names)} were scored on no sample in common.",
            remedy="evaluate them on one dataset: `soldiom evaluate RUN --data DATASET`",
        )
    measurement = Measurement(tuple(parts), [], names[0], 0, 0, 0)
    available = [name for name in COMPARED if any(part.part in METRICS[name].parts for part in parts)]  # type: ignore[index]
    comparison = compare(measurement, metrics=available, resamples=RESAMPLES, confidence=confidence, seed=SEED)
    return {
        "runs": names,
        "samples": {part.part: len(part.samples) for part in parts},
        "metrics": {
            name: {_run(system, names): interval.as_dict() for system, interval in score.values.items()}
            for name, score in comparison.scores.items()
        },
        "differences": {run: _differences(comparison, run) for run in names[1:]},
        "missing": comparison.missing,
        "confidence": confidence,
    }


def _run(system: str, names: Sequence[str]) -> str:
    """The first run stands where the comparison has the tuned model."""
    return names[0] if system == TUNED else system


def _differences(comparison: Comparison, run: str) -> dict[str, dict[str, Any]]:
    """A run minus the first."""
    differences = {}
    for name, each in comparison.differences(run).items():
        ends = {"mean": -each.interval.mean, "low": -each.interval.high, "high": -each.interval.low}
        differences[name] = each.as_dict() | ends
    return differences


def _shared(rows: Mapping[str, Sequence[Mapping[str, Any]]], key: str, same: Sequence[str]) -> list[list[Any]]:
    """Of each run its rows of the samples that all have, in one order; those that differ in what must be the same,
    such as their number of tokens, are no common samples."""
    by_id = [{row[key]: row for row in each} for each in rows.values()]
    common = sorted(set.intersection(*(set(each) for each in by_id))) if by_id else []
    chosen = [
        name
        for name in common
        if all(each[name].get(field) == by_id[0][name].get(field) for each in by_id for field in same)
    ]
    return [[each[name] for name in chosen] for each in by_id]


def _documents_part(stored: Mapping[str, Mapping[str, Any]]) -> PartOutcome | None:
    rows = _shared({name: content.get("documents", []) for name, content in stored.items()}, "id", ("tokens", "labels"))
    if not rows or not rows[0]:
        return None
    labelled = all("tuned_labels" in row for each in rows for row in each)
    outcomes = [_labels(each, rows) if labelled else _tokens(each) for each in rows]
    return _part("labels" if labelled else "tokens", rows[0], "id", stored, outcomes)


def _tokens(rows: Sequence[Mapping[str, Any]]) -> Outcome:
    import numpy as np

    columns = (
        np.array([row[name] for row in rows], dtype=np.float64) for name in ("tokens", "tuned_loss", "tuned_correct")
    )
    return TokenOutcome(*columns)


def _labels(rows: Sequence[Mapping[str, Any]], of_all: Sequence[Sequence[Mapping[str, Any]]]) -> Outcome:
    """What was decided, as probabilities of 0 and 1."""
    import numpy as np

    classes = tuple(
        sorted({label for each in of_all for row in each for label in (*row["labels"], *row["tuned_labels"])})
    )
    targets, decided = (
        np.array([[name in row[column] for name in classes] for row in rows]) for column in ("labels", "tuned_labels")
    )
    multi_label = any(len(row[column]) != 1 for each in of_all for row in each for column in ("labels", "tuned_labels"))
    losses = np.array([row["tuned_loss"] for row in rows], dtype=np.float64)
    return LabelOutcome(classes, targets, decided.astype(np.float64), losses, multi_label)


def _answers_part(stored: Mapping[str, Mapping[str, Any]]) -> PartOutcome | None:
    answers = {name: (content.get("answers") or {}).get("answers", []) for name, content in stored.items()}
    rows = _shared(answers, "document", ("prompt", "reference"))
    if not rows or not rows[0]:
        return None
    references = tuple(row["reference"] for row in rows[0])
    outcomes = [AnswerOutcome(tuple(row["tuned"] for row in each), references) for each in rows]
    return _part("answers", rows[0], "document", stored, outcomes)


def _part(
    part: Any, rows: Sequence[Mapping[str, Any]], key: str, stored: Mapping[str, Any], outcomes: Sequence[Outcome]
) -> PartOutcome:
    samples = tuple(HeldOutSample(row[key], row["group"]) for row in rows)
    systems = (TUNED, *list(stored)[1:])
    return PartOutcome(part, samples, dict(zip(systems, outcomes, strict=True)))
