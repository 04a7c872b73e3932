"""evaluate: a run and the held-out part of its dataset become scores."""

import json
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Context, Draft
from soldiom_ray.domains.schema import Evaluate, hash_input
from soldiom_ray.domains.tasks import CAUSAL_LM
from soldiom_ray.models.task_models import TASK_MODELS
from soldiom_ray.records import Manifest

if TYPE_CHECKING:
    from soldiom_ray.evaluate.judge import Judging

STAGE_VERSION = 4
"""Raised when the same inputs would give other scores than before."""
LABELS_VERSION = 5
"""The same of classifications."""


def evaluate(
    context: Context,
    run: Manifest,
    dataset: Manifest,
    declared: Evaluate,
    previous: Manifest | None = None,
    judging: "Judging | None" = None,
) -> Manifest:
    """Score a run's model, its base, trivial baselines and the run of the version that is to be beaten (`previous`) on
    the dataset's `test` split, and apply the gate. `judging` is the declared judge with the way to it.

    The scores artifact holds `scores.json` (every number, down to sums per document, and the answers) and the
    report. Where nothing can be scored, the gate says "Not measured" and why. Raises InputError when base and tuned
    model do not share a tokenizer, and before anything is scored what `judge.check_judge` raises.
    """
    made_from: dict[str, Any] = {
        "declared": hash_input("evaluate", declared.model_copy(update={"workers": None})),
        "run": run.id,
        "dataset": dataset.id,
        "code": LABELS_VERSION if TASK_MODELS[run.details.get("task", CAUSAL_LM)].head else STAGE_VERSION,
    }
    if previous is not None:
        made_from["previous"] = previous.id
    parents = (run.id, dataset.id, *([previous.id] if previous else []))
    draft = context.artifacts.draft("scores", made_from, parents)
    if (done := draft.finished()) is not None:
        return done
    if not any(entry.name.startswith("test/") for entry in dataset.files):
        reason = (
            f"the dataset {dataset.id} holds no test samples. Prepare it with prepare.split.test above 0 or with"
            " prepare.split.test_groups, or evaluate on another dataset."
        )
        return _not_measured(context, draft, run, dataset, declared, reason)

    from soldiom_ray.evaluate.gates import apply_gate, gate_metrics
    from soldiom_ray.evaluate.judge import check_judge, with_verdicts
    from soldiom_ray.evaluate.scores import as_json, as_summary
    from soldiom_ray.evaluate.scoring_task import score_models
    from soldiom_ray.metrics.compare import compare
    from soldiom_ray.metrics.measurement import NotMeasured

    if judging is not None:
        check_judge(judging)
    measurement = score_models(context, run, dataset, declared, previous)
    if isinstance(measurement, NotMeasured):
        return _not_measured(context, draft, run, dataset, declared, measurement.reason)
    if judging is not None:
        measurement = with_verdicts(
            measurement, judging, lambda done, of: context.report(0.94, f"asking the judge: {done} of {of} pairs")
        )
    context.report(0.95, "comparing")
    metrics = (*declared.metrics, *gate_metrics(declared.gate, measurement)) if declared.metrics else ()
    comparison = compare(
        measurement,
        metrics=metrics,
        resamples=declared.resamples,
        confidence=declared.gate.confidence,
        seed=declared.seed,
    )
    gate = apply_gate(comparison, measurement, declared.gate)
    summary = as_summary(measurement, comparison, gate, previous)
    content = as_json(measurement, comparison, summary, declared)
    draft.write("scores.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode())
    _write_report(context, draft, content, run, dataset)
    context.report(1.0, gate["verdict"])
    counts = {name: summary[name] for name in ("tokens", "documents", "groups")}
    made_with = {"run": run.id, "dataset": dataset.id, "reused": measurement.reused}
    return draft.commit(counts=counts, details={**made_with, **summary})


def _write_report(context: Context, draft: Draft, content: dict[str, Any], run: Manifest, dataset: Manifest) -> None:
    """The report as Markdown with its pictures, and as one page of HTML."""
    from soldiom_ray.evaluate.page import write_page
    from soldiom_ray.evaluate.pictures import draw_pictures
    from soldiom_ray.evaluate.report import CURVES, write_report

    context.report(0.97, "writing the report")
    pictures = draw_pictures(content)
    if any(entry.name == CURVES for entry in run.files):
        pictures[CURVES] = context.artifacts.read(run, CURVES)
    markdown = write_report(content, run, dataset, pictures)
    page = write_page(f"Scores of {run.id}", markdown, pictures, passed=bool(content["gate"]["passed"]))
    draft.write("report.md", markdown.encode())
    draft.write("report.html", page.encode())
    for name, data in pictures.items():
        draft.write(f"pictures/{name}", data)


def _not_measured(
    context: Context, draft: Draft, run: Manifest, dataset: Manifest, declared: Evaluate, reason: str
) -> Manifest:
    """Scores that hold no number."""
    from soldiom_ray.evaluate.gates import unmeasured_gate

    gate = unmeasured_gate(reason, declared.gate)
    scores: dict[str, Any] = {"base_model": run.details.get("base_model"), "base": {}, "tuned": {}, "difference": {}}
    content = scores | {"metrics": [], "gate": gate, "groups": [], "documents": [], "examples": []}
    draft.write("scores.json", json.dumps(content, indent=1, ensure_ascii=False).encode())
    draft.write("report.md", f"# Scores of {run.id}\n\n{gate['verdict']}\n".encode())
    context.report(1.0, gate["verdict"])
    counts = {"tokens": 0, "documents": 0, "groups": 0}
    return draft.commit(counts=counts, details={"run": run.id, "dataset": dataset.id, **scores, **counts, "gate": gate})
