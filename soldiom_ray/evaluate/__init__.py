"""evaluate: a run and the held-out part of its dataset become scores."""

import json
from typing import Any

from soldiom_ray.artifacts import Context, Draft
from soldiom_ray.domains.schema import Evaluate, hash_input
from soldiom_ray.records import Manifest

STAGE_VERSION = 1
"""Raised when the same inputs would give other scores than before."""


def evaluate(context: Context, run: Manifest, dataset: Manifest, declared: Evaluate) -> Manifest:
    """Score a run's model and its base on the dataset's `test` split, and apply the gate to the difference.

    The scores artifact holds `scores.json` (every number, down to sums per document, and the examples) and `report.md`.
    Of a dataset without a test side nothing is scored; the gate says "Not measured". Raises InputError when the task
    can score none of the test samples, or when base and tuned model do not share a tokenizer.
    """
    made_from = {
        "declared": hash_input("evaluate", declared),
        "run": run.id,
        "dataset": dataset.id,
        "code": STAGE_VERSION,
    }
    draft = context.artifacts.draft("scores", made_from, (run.id, dataset.id))
    if (done := draft.finished()) is not None:
        return done
    if not any(entry.name.startswith("test/") for entry in dataset.files):
        return _not_measured(context, draft, run, dataset, declared)

    from soldiom_ray.evaluate.compare import compare
    from soldiom_ray.evaluate.gates import apply_gate
    from soldiom_ray.evaluate.report import scores_json, write_report
    from soldiom_ray.evaluate.scoring_task import score_models

    measurement = score_models(context, run, dataset, declared)
    context.report(0.95, "comparing")
    comparison = compare(
        measurement.documents, resamples=declared.resamples, confidence=declared.gate.confidence, seed=declared.seed
    )
    gate = apply_gate(
        comparison, metric=declared.gate.metric, beat=declared.gate.beat, confidence=declared.gate.confidence
    )
    shown = tuple(dict.fromkeys((*declared.metrics, declared.gate.metric)))
    draft.write("scores.json", scores_json(measurement, comparison, gate, shown, declared))
    draft.write("report.md", write_report(measurement, comparison, gate, shown, declared, run, dataset).encode())
    context.report(1.0, gate["verdict"])
    return draft.commit(
        counts={
            "tokens": measurement.tokens,
            "documents": len(measurement.documents),
            "groups": len(comparison.groups),
        },
        details={
            "run": run.id,
            "dataset": dataset.id,
            "base_model": measurement.base,
            "base": {name: comparison.base[name] for name in shown},
            "tuned": {name: comparison.tuned[name] for name in shown},
            "difference": {name: comparison.difference[name].as_dict() for name in shown},
            "tokens": measurement.tokens,
            "documents": len(measurement.documents),
            "groups": len(comparison.groups),
            "gate": gate,
        },
    )


def _not_measured(context: Context, draft: Draft, run: Manifest, dataset: Manifest, declared: Evaluate) -> Manifest:
    """Scores that hold no number."""
    from soldiom_ray.evaluate.gates import unmeasured_gate

    gate = unmeasured_gate(
        dataset.id, metric=declared.gate.metric, beat=declared.gate.beat, confidence=declared.gate.confidence
    )
    scores: dict[str, Any] = {"base_model": run.details.get("base_model"), "base": {}, "tuned": {}, "difference": {}}
    content = scores | {"metrics": [], "gate": gate, "groups": [], "documents": [], "examples": []}
    draft.write("scores.json", json.dumps(content, indent=1, ensure_ascii=False).encode())
    draft.write("report.md", f"# Scores of {run.id}\n\n{gate['verdict']}\n".encode())
    context.report(1.0, gate["verdict"])
    counts = {"tokens": 0, "documents": 0, "groups": 0}
    return draft.commit(counts=counts, details={"run": run.id, "dataset": dataset.id, **scores, **counts, "gate": gate})
