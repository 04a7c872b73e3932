"""A run's row in our database and its version in MLflow."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Register
from soldiom_ray.domains.tasks import CAUSAL_LM
from soldiom_ray.errors import InputError
from soldiom_ray.examples import Example, read_examples
from soldiom_ray.licenses import judge
from soldiom_ray.models.chat import prompt_format_of_run
from soldiom_ray.records import COMMAND_LINE, Manifest
from soldiom_ray.register.bases import RegisteredBase
from soldiom_ray.register.card import write_card
from soldiom_ray.register.sources import collected_from, combined_license, data_sources, ingredients_of, licensed_use

if TYPE_CHECKING:
    from soldiom_ray.db.tables import Model

PERFORMANCE_KEYS = (
    "base", "tuned", "difference", "intervals", "comparisons", "missing", "answers", "judge", "red_team",
    "tokens", "documents", "groups",
)  # fmt: skip
UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".msgpack", ".h5", ".py", ".so")
"""Suffixes of files that can run code when they are loaded, and of weights that are not safetensors."""


def register_run(
    context: Context,
    name: str,
    run: Manifest,
    scores: Manifest | None,
    dataset: Manifest,
    declared: Register,
    base: RegisteredBase | None,
    reasons: Sequence[str] = (),
) -> dict[str, Any]:
    """Create or reuse the row and the MLflow version; returns the version artifact's details, with `card`.

    InputError for weights that may not be registered, UnavailableError when MLflow cannot be reached."""
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.registry import changing_champion

    check_weights(run)
    sources = data_sources(context.artifacts, dataset)
    license_, unknown = combined_license(base.license if base else None, sources)
    use, accepted = licensed_use(dataset)
    ingredients = [*(base.ingredients if base else ()), *ingredients_of(sources, accepted)]
    compliance = judge(name, ingredients, use)
    gate = dict(scores.details.get("gate", {})) if scores else {}
    values = {
        "base_model": run.details.get("base_model") if base else None,
        "base_model_id": base.model_id if base else None,
        "training_job_id": context.job_id or None,
        "dataset_id": dataset.id,
        "run_artifact": run.id,
        "scores_artifact": scores.id if scores else None,
        "specialization": declared.specialization,
        "performance_metrics": _performance(scores),
        "gate": gate | {"promoted": False},
        "license": license_,
        "card": write_card(
            name,
            run,
            scores,
            dataset,
            declared,
            base,
            sources,
            license_,
            unknown,
            _examples(context, scores),
            compliance,
            reasons,
        ),
        "lineage": _lineage(context, run, scores, dataset, unknown)
        | {"use": use, "ingredients": [each.as_dict() for each in ingredients]},
    }
    promotes = bool(gate.get("passed")) and not compliance.violations
    row = _write_row(context, declared.family, name, values, scores)
    context.report(0.7, "registering in MLflow")
    mlflow_name, mlflow_version = _put_in_mlflow(context, row, run, scores, dataset, gate)
    columns = {"mlflow_name": mlflow_name, "mlflow_version": mlflow_version, "gate": gate | {"promoted": promotes}}
    if promotes:
        told = {"name": f"{row.family}/{row.name}", "version": row.version, "verdict": str(gate.get("verdict") or "")}
        with changing_champion(context.settings, row, "promote", context.job_id or COMMAND_LINE, told) as change:
            row = models.update(change.session, row.id, context.tenant, **columns)
            change.set(mlflow_version)
    else:
        with open_session(context.settings) as session:
            row = models.update(session, row.id, context.tenant, **columns)
    return {
        "model_id": row.id,
        "family": row.family,
        "name": row.name,
        "version": row.version,
        "base_model_id": row.base_model_id,
        "mlflow_name": mlflow_name,
        "mlflow_version": mlflow_version,
        "license": row.license,
        "gate": gate,
        "promoted": promotes,
        "license_violations": [asdict(violation) for violation in compliance.violations[:50]],
        "card": row.card,
    }


def _write_row(context: Context, family: str, name: str, values: dict[str, Any], scores: Manifest | None) -> "Model":
    """The row of an earlier, perhaps interrupted, registration of the same run and scores, else a new one; with scores,
    their evaluation is recorded."""
    from soldiom_ray.db import evaluations, models
    from soldiom_ray.db.engine import open_session

    with open_session(context.settings) as session:
        row = _existing(session, context, family, name, values)
        if row is None:
            whose = {"tenant": context.tenant, "owner": context.owner}
            row = models.create(session, family=family, name=name, **whose, **values)
        if scores:
            evaluations.record(
                session,
                run_artifact=values["run_artifact"],
                scores=scores.details,
                scores_artifact=scores.id,
                model_id=row.id,
                tenant=context.tenant,
                owner=context.owner,
            )
        return row


def _examples(context: Context, scores: Manifest | None) -> list[Example]:
    """What the card shows of held-out samples. None with an encryption key: a card lies unsealed in the database."""
    if scores is None or context.settings.encryption_keys:
        return []
    return read_examples(context.artifacts, scores.id)


def _lineage(
    context: Context, run: Manifest, scores: Manifest | None, dataset: Manifest, unknown: list[str]
) -> dict[str, Any]:
    return {
        "run": run.id,
        "scores": scores.id if scores else None,
        "dataset": dataset.id,
        "documents": [dict(parent) for parent in collected_from(context.artifacts, dataset)],
        "base_model": run.details.get("base_model"),
        "method": run.details.get("method"),
        "task": run.details.get("task", CAUSAL_LM),
        "prompt_format": prompt_format_of_run(run.details),
        "unknown_licenses": unknown,
    }


def check_weights(run: Manifest) -> None:
    """InputError when a run's weights are in a format that could hold code, or missing."""
    weights = [entry.name for entry in run.files if entry.name.startswith("weights/")]
    unsafe = [name for name in weights if name.lower().endswith(UNSAFE_SUFFIXES)]
    if unsafe:
        raise InputError(
            f"The weights of {run.id} hold {', '.join(unsafe)}: only safetensors and GGUF are registered.",
            remedy="save the model again with safe_serialization and without code",
        )
    if not any(name.endswith((".safetensors", ".gguf")) for name in weights):
        raise InputError(
            f"The run {run.id} holds no weights (safetensors or GGUF below weights/).",
            remedy="run the training stage again",
        )


def _existing(connection: Any, context: Context, family: str, name: str, values: dict[str, Any]) -> "Model | None":
    from soldiom_ray.db import models
    from soldiom_ray.db.ownership import belongs_to

    chosen: dict[str, Any] = {"family": family, "name": name, "owner": belongs_to(context.owner)["owner"]}
    cursor = None
    while True:
        rows, cursor = models.list_models(connection, context.tenant, **chosen, cursor=cursor)
        for row in rows:
            if all(getattr(row, key) == values[key] for key in ("run_artifact", "scores_artifact")):
                return row
        if cursor is None:
            return None


def _performance(scores: Manifest | None) -> dict[str, Any]:
    if scores is None:
        return {}
    return {key: scores.details[key] for key in PERFORMANCE_KEYS if key in scores.details}


def _put_in_mlflow(
    context: Context,
    row: "Model",
    run: Manifest,
    scores: Manifest | None,
    dataset: Manifest,
    gate: dict[str, Any],
) -> tuple[str, str]:
    from soldiom_ray.registry import log_metrics, put_version, registered_name, source_of

    name = registered_name(row.family, row.name, context.tenant, row.owner)
    failed = "not passed" if gate.get("measured", True) else "not measured"
    verdict = "passed" if gate.get("passed") else failed if gate else "none"
    tags = {
        "family": row.family,
        "tenant": context.tenant,
        "model_id": row.id,
        "run": run.id,
        "dataset": dataset.id,
        "gate": verdict,
        "license": row.license[:500],
    }
    if scores:
        tags["scores"] = scores.id
        tags["report"] = f"{context.settings.api_url}/api/evaluations/{scores.id}/report"
    version = put_version(
        context.settings,
        name,
        source=source_of(context.settings, run.id),
        run_id=run.details.get("mlflow_run_id"),
        tags=tags,
        description=str(gate.get("verdict") or "Not evaluated."),
    )
    if scores and run.details.get("mlflow_run_id"):
        log_metrics(context.settings, str(run.details["mlflow_run_id"]), _mlflow_metrics(scores.details))
    return name, version


def _mlflow_metrics(details: dict[str, Any]) -> dict[str, float]:
    """The scores as metrics of the training's run: of both models, and the ends of the difference's interval."""
    metrics = {f"test_{name}": value for name, value in details.get("tuned", {}).items()}
    metrics |= {f"base_test_{name}": value for name, value in details.get("base", {}).items()}
    for name, interval in details.get("difference", {}).items():
        metrics |= {f"test_{name}_difference_{end}": interval[end] for end in ("low", "high")}
    return metrics
