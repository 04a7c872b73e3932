"""Scores of runs."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from soldiom_ray.db.tables import Evaluation


def record(
    session: Session,
    *,
    run_artifact: str,
    scores: dict[str, Any],
    scores_artifact: str | None = None,
    model_id: str | None = None,
    tenant: str = "default",
) -> Evaluation:
    """Record the scores of a run; the same scores artifact is recorded once per tenant."""
    query = select(Evaluation).where(Evaluation.scores_artifact == scores_artifact, Evaluation.tenant == tenant)
    row = session.scalars(query.limit(1)).one_or_none() if scores_artifact else None
    if row is None:
        row = Evaluation(tenant=tenant, run_artifact=run_artifact, scores_artifact=scores_artifact)
        session.add(row)
    row.scores, row.model_id = scores, model_id or row.model_id
    session.flush()
    return row


def of_model(session: Session, model_id: str, tenant: str | None = None) -> list[Evaluation]:
    """Evaluations of a model, newest first."""
    query = select(Evaluation).where(Evaluation.model_id == model_id).order_by(Evaluation.id.desc())
    if tenant is not None:
        query = query.where(Evaluation.tenant == tenant)
    return list(session.scalars(query))
