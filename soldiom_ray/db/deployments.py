"""The endpoint of each model as it should be and was last seen. Only the stage that deploys asks Serve itself."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from soldiom_ray.db.tables import Deployment, Model


def set_state(
    session: Session,
    model_id: str,
    status: str,
    *,
    replicas: int | None = None,
    config: dict[str, Any] | None = None,
    error: str | None = None,
) -> Deployment:
    """Record that a model is "deploying", "running", "failed" or "stopped"; `models.deployed` follows."""
    row = get(session, model_id)
    if row is None:
        row = Deployment(model_id=model_id, status=status)
        session.add(row)
    row.status, row.error = status, error
    if replicas is not None:
        row.replicas = replicas
    if config is not None:
        row.config = config
    model = session.get(Model, model_id)
    if model is not None:
        model.deployed = status == "running"
    session.flush()
    return row


def get(session: Session, model_id: str) -> Deployment | None:
    """The deployment of a model, or None when it never had one."""
    return session.scalars(select(Deployment).where(Deployment.model_id == model_id)).one_or_none()


def running(session: Session, tenant: str | None = None) -> list[Deployment]:
    """Deployments that run or are starting: those that a restart has to restore."""
    query = select(Deployment).where(Deployment.status.in_(("deploying", "running"))).order_by(Deployment.id)
    if tenant is not None:
        query = query.join(Model, Model.id == Deployment.model_id).where(Model.tenant == tenant)
    return list(session.scalars(query))


def as_dict(row: Deployment) -> dict[str, Any]:
    """The deployment as the API and the CLI show it."""
    shown: dict[str, Any] = {name: getattr(row, name) for name in ("id", "model_id", "status", "replicas", "config")}
    if row.error:
        shown["error"] = row.error
    return shown | {"created_at": row.created_at.isoformat(), "updated_at": row.updated_at.isoformat()}
