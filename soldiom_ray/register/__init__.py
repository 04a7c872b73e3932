"""register: a run becomes a version in the registry, in our database and in MLflow."""

from collections.abc import Sequence
from typing import Any

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Register
from soldiom_ray.errors import NotFoundError
from soldiom_ray.records import Manifest

STAGE_VERSION = 2


def register(
    context: Context,
    name: str,
    run: Manifest,
    scores: Manifest | None,
    dataset: Manifest,
    declared: Register,
    reasons: Sequence[str] = (),
) -> Manifest:
    """Register a run's model, and its base model when that is not known yet. `reasons`, for its card, say why it has
    the settings that it has.

    The same inputs give the same version. Registering does not promote a model whose gate did not pass: the alias
    `champion` in MLflow stays where it is. UnavailableError when the database or MLflow cannot be reached; run again,
    it goes on with the row it has already written.
    """
    made_from = {
        "name": name,
        "declared": declared.model_dump(mode="json"),
        "run": run.id,
        "scores": scores.id if scores else None,
        "dataset": dataset.id,
        "tenant": context.tenant,
        "code": STAGE_VERSION,
    }
    parents = [run.id, *([scores.id] if scores else []), dataset.id]
    draft = context.artifacts.draft("version", made_from, parents)
    done = draft.finished()
    if done is not None and _still_registered(context, done):
        return done

    from soldiom_ray.register.bases import ensure_base
    from soldiom_ray.register.versions import register_run

    context.report(0.1, "registering the base model")
    base = ensure_base(context, run)
    context.report(0.4, f"registering {declared.family}/{name}")
    details: dict[str, Any] = register_run(context, name, run, scores, dataset, declared, base, reasons)
    draft.write("card.md", str(details.pop("card")).encode())
    context.report(1.0, f"{declared.family}/{name} version {details['version']}")
    return draft.commit(details=details)


def _still_registered(context: Context, version: Manifest) -> bool:
    """Whether the row that a finished version artifact speaks of was not deleted since."""
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session

    try:
        with open_session(context.settings) as session:
            row = models.get(session, str(version.details["model_id"]), context.tenant)
            return row.id == version.details["model_id"] and row.mlflow_version is not None
    except NotFoundError:
        return False
