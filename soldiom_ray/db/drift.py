"""How far the questions of each served model were compared with its training set."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from soldiom_ray.db.tables import Answer, Drift, Model


def watched(session: Session) -> list[Model]:
    """The served models whose training set is known and whose questions were not found to differ yet."""
    noticed = select(Drift.model_id).where(Drift.noticed_at.is_not(None))
    query = select(Model).where(Model.deployed.is_(True), Model.dataset_id.is_not(None), Model.id.not_in(noticed))
    return list(session.scalars(query.order_by(Model.id)))


def locked(session: Session, model_id: str) -> Drift | None:
    """The state of a model, made where there is none, locked until the transaction ends; None where another process
    looks at it, or a shift was noticed."""
    if session.get(Drift, model_id) is None:
        try:
            with session.begin_nested():
                session.add(Drift(model_id=model_id))
        except IntegrityError:
            return None
    query = select(Drift).where(Drift.model_id == model_id, Drift.noticed_at.is_(None))
    options = {"populate_existing": True}
    return session.scalars(query.with_for_update(skip_locked=True).execution_options(**options)).one_or_none()


def answers_after(session: Session, model_id: str, last: str, limit: int) -> list[Answer]:
    """Stored answers of a model after the one looked at last, in their order."""
    query = select(Answer).where(Answer.model_id == model_id, Answer.id > last)
    return list(session.scalars(query.order_by(Answer.id).limit(limit)))


def of_model(session: Session, model_id: str) -> dict[str, Any] | None:
    """What is known of a model, as the API shows it; None where nothing was looked at."""
    row = session.get(Drift, model_id)
    if row is None:
        return None
    times = {name: time.isoformat() if (time := getattr(row, name)) else None for name in ("noticed_at", "looked_at")}
    return {"questions": row.questions, **row.figures, **times}


def states(session: Session) -> dict[str, bool]:
    """Of each served model that is compared, whether its questions were found to differ."""
    query = select(Drift.model_id, Drift.noticed_at).join(Model, Model.id == Drift.model_id)
    rows = session.execute(query.where(Model.deployed.is_(True)).order_by(Drift.model_id))
    return {str(model_id): noticed_at is not None for model_id, noticed_at in rows}
