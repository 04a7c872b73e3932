"""Scores of runs."""

from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from soldiom_ray.db.ownership import belongs_to
from soldiom_ray.db.pages import newest_first
from soldiom_ray.db.tables import Evaluation
from soldiom_ray.errors import NotFoundError
from soldiom_ray.settings import HOME_TENANT


def record(
    session: Session,
    *,
    run_artifact: str,
    scores: dict[str, Any],
    scores_artifact: str | None = None,
    model_id: str | None = None,
    tenant: str = HOME_TENANT,
    owner: str = "",
) -> Evaluation:
    """Record the scores of a run; the same scores artifact is recorded once per owner."""
    its = belongs_to(owner)
    query = select(Evaluation).where(Evaluation.scores_artifact == scores_artifact, Evaluation.tenant == tenant)
    query = query.where(Evaluation.owner == its["owner"])
    row = session.scalars(query.limit(1)).one_or_none() if scores_artifact else None
    if row is None:
        row = Evaluation(tenant=tenant, run_artifact=run_artifact, scores_artifact=scores_artifact, **its)
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


def get(session: Session, id_or_scores: str, tenant: str | None = None) -> Evaluation:
    """An evaluation by its id or that of its scores artifact."""
    query = select(Evaluation).where(or_(Evaluation.id == id_or_scores, Evaluation.scores_artifact == id_or_scores))
    if tenant is not None:
        query = query.where(Evaluation.tenant == tenant)
    row = session.scalars(query.order_by(Evaluation.id.desc()).limit(1)).one_or_none()
    if row is None:
        raise NotFoundError(f"No evaluation {id_or_scores!r}.", remedy="list them with GET /api/evaluations")
    return row


def of_run(session: Session, run_artifact: str, tenant: str | None = None) -> Evaluation:
    """The newest evaluation of a run."""
    query = select(Evaluation).where(Evaluation.run_artifact == run_artifact)
    if tenant is not None:
        query = query.where(Evaluation.tenant == tenant)
    row = session.scalars(query.order_by(Evaluation.id.desc()).limit(1)).one_or_none()
    if row is None:
        raise NotFoundError(f"The run {run_artifact} was never evaluated.", remedy=f"soldiom evaluate {run_artifact}")
    return row


def list_evaluations(
    session: Session, tenant: str | None, cursor: str | None = None, limit: int = 50
) -> tuple[list[Evaluation], str | None]:
    """A page, newest first, and the cursor of the next page."""
    query = select(Evaluation)
    if tenant is not None:
        query = query.where(Evaluation.tenant == tenant)
    return newest_first(session, query, Evaluation.id, cursor or None, limit)


def as_dict(row: Evaluation) -> dict[str, Any]:
    """The evaluation as the API shows it."""
    names = ("id", "model_id", "run_artifact", "scores_artifact", "scores")
    return {name: getattr(row, name) for name in names} | {"created_at": row.created_at.isoformat()}
