"""Delete documents, a dataset or an index, with everything that was only made to read it."""

import json
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from soldiom_ray import vectors
from soldiom_ray.artifacts import Artifacts
from soldiom_ray.db import audit, datasets, jobs, locks
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.ownership import check_change, may_change
from soldiom_ray.db.tables import CollectedDocument, Dataset, Model
from soldiom_ray.errors import ConflictError
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage

ACTION = "delete dataset"
NAMED = 5
"""Of what uses a dataset, this many are named in the refusal."""


def delete_dataset(settings: Settings, id_or_artifact: str, tenant: str, actor: str) -> dict[str, Any]:
    """Delete it as its owner has it: its row, and, where nobody else has it, the artifact with its token files, its
    vectors and the rows of its documents; returns it as the API shows it. Raw bytes that nothing refers to any more go
    with the next `soldiom gc`. Bytes go first and the row last, so that a call that was interrupted can be repeated.

    ConflictError while a model, another dataset or a job that has not ended uses it; the audit trail has that, too.
    DeniedError for one that another user shares."""
    with open_session(settings) as session:
        found = datasets.get(session, id_or_artifact, tenant)
        check_change(session, found, f"Dataset {found.id}")
    try:
        with open_session(settings, reach="all") as session:
            row = datasets.get(session, found.id, tenant)
            locks.hold(session, f"dataset {row.artifact_id}")
            others = select(Dataset.id).where(Dataset.artifact_id == row.artifact_id, Dataset.id != row.id)
            same = session.scalars(others.where(Dataset.tenant == tenant).limit(1)).first()
            if same is None:  # of who has it as well, it stays what it was
                _refuse_in_use(session, row, tenant)
            shown = datasets.as_dict(row)
            is_last = session.scalars(others.limit(1)).first() is None
            if is_last:
                _remove_bytes(settings, row)
                session.execute(delete(CollectedDocument).where(CollectedDocument.artifact_id == row.artifact_id))
            session.delete(row)
            details = {"artifact": row.artifact_id, "name": row.name, "bytes_removed": is_last}
            audit.append(session, actor, ACTION, row.id, "allow", details, tenant)
            return shown
    except ConflictError as refusal:
        with open_session(settings) as session:
            audit.append(session, actor, ACTION, id_or_artifact, "deny", {"why": refusal.what}, tenant)
        raise


def _refuse_in_use(session: Session, row: Dataset, tenant: str) -> None:
    users = [*_models(session, row, tenant), *_datasets(session, row, tenant), *_jobs(session, row, tenant)]
    if users:
        more = f" and {len(users) - NAMED} more" if len(users) > NAMED else ""
        raise ConflictError(
            f"{row.artifact_id} is in use: {', '.join(users[:NAMED])}{more}.",
            remedy="delete those first, and let the jobs end or cancel them",
        )


def _models(session: Session, row: Dataset, tenant: str) -> list[str]:
    """Versions that were trained or scored on it, or made of its documents; others' without their names."""
    found = []
    for model in session.scalars(select(Model).where(Model.tenant == tenant).order_by(Model.id)):
        documents = {str(each.get("id")) for each in model.lineage.get("documents") or () if isinstance(each, dict)}
        if row.artifact_id in {model.dataset_id, *documents}:
            known = may_change(session, model)
            found.append(f"model {model.family}/{model.name}@{model.version}" if known else "another user's model")
    return found


def _datasets(session: Session, row: Dataset, tenant: str) -> list[str]:
    others = session.scalars(select(Dataset).where(Dataset.tenant == tenant).order_by(Dataset.id))
    return [
        f"{other.stage} {other.artifact_id}" if may_change(session, other) else f"another user's {other.stage}"
        for other in others
        if row.artifact_id in other.parents
    ]


def _jobs(session: Session, row: Dataset, tenant: str) -> list[str]:
    """Jobs that have not ended whose recipe names it, or that have made it."""
    names = (row.id, row.artifact_id)
    found = []
    for job in jobs.stale(session, 0):
        made = {stage.artifact_id for stage in jobs.stages(session, job.id)}
        if job.tenant == tenant and (row.artifact_id in made or any(name in json.dumps(job.config) for name in names)):
            found.append(f"job {job.id}" if may_change(session, job) else "another user's job")
    return found


def _remove_bytes(settings: Settings, row: Dataset) -> None:
    artifacts = Artifacts(open_storage(settings))
    if row.stage == "index":
        vectors.delete_collections(settings, row.artifact_id)
    for tokens in [each.id for each in artifacts.all_of("tokens") if row.artifact_id in each.parents]:
        artifacts.delete(tokens)
    artifacts.delete(row.artifact_id)
