"""What is used, by hour, key, user and model: counted in the transaction of each answer, so that all replicas of the
API count together."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from soldiom_ray.db import counts as counts_in_rows
from soldiom_ray.db.tables import Job, Model, Usage
from soldiom_ray.records import now

COUNTS = ("requests", "errors", "prompt_tokens", "completion_tokens", "bytes", "seconds", "device_seconds")
GROUPS = {"key": "owner", "user": "user_id", "model": "model_id", "hour": "hour"}
"""What a report may be grouped by -> its column."""


def add(
    session: Session, *, tenant: str, owner: str = "", user_id: str = "", model_id: str = "", **counts: float
) -> None:
    """Add to what was used in this hour; `counts` are of COUNTS. Called last in a transaction, it is the only lock that
    answers of one key wait for."""
    hour = now().replace(minute=0, second=0, microsecond=0)
    keys = {"hour": hour, "tenant": tenant, "owner": owner, "user_id": user_id, "model_id": model_id}
    counts_in_rows.add(session, Usage, keys, counts)


def of_model(session: Session, model_id: str, *, since: datetime, until: datetime) -> tuple[int, int]:
    """Answers of a model that failed, and all that were asked for, in the hours that begin within these times."""
    query = select(func.sum(Usage.errors), func.sum(Usage.requests + Usage.errors))
    query = query.where(Usage.model_id == model_id, Usage.hour >= since, Usage.hour < until)
    errors, asked = session.execute(query).one()
    return int(errors or 0), int(asked or 0)


def report(
    session: Session,
    tenant: str,
    by: Sequence[str],
    *,
    since: datetime,
    until: datetime,
    owner: str | None = None,
    limit: int = 1000,
) -> list[dict[str, Any]]:
    """Sums of what a tenant, or one key of it, used in the hours that begin within these times, by GROUPS; those that
    used the most device seconds and tokens first."""
    columns = [getattr(Usage, GROUPS[group]).label(group) for group in by]
    sums = [func.sum(getattr(Usage, name)).label(name) for name in COUNTS]
    query = select(*columns, *sums).where(Usage.tenant == tenant, Usage.hour >= since, Usage.hour < until)
    if owner is not None:
        query = query.where(Usage.owner == owner)
    tokens = func.sum(Usage.prompt_tokens + Usage.completion_tokens)
    query = query.group_by(*columns).order_by(func.sum(Usage.device_seconds).desc(), tokens.desc()).limit(limit)
    return [_shown(row._mapping) for row in session.execute(query)]


def of_jobs(
    session: Session, tenant: str, *, since: datetime, until: datetime, owner: str | None = None, limit: int = 1000
) -> list[dict[str, Any]]:
    """Device seconds of the jobs that began within these times, whole, those that used the most first."""
    charged = func.coalesce(Job.account, Job.owner).label("charged")
    query = select(Job.id, Job.name, Job.kind, charged, Job.status, Job.device_seconds).where(
        Job.tenant == tenant, Job.started_at >= since, Job.started_at < until
    )
    if owner is not None:
        query = query.where(charged == owner)
    rows = session.execute(query.order_by(Job.device_seconds.desc(), Job.id).limit(limit))
    return [
        {"job": row.id, "name": row.name, "kind": row.kind, "key": row.charged, "status": row.status}
        | {"device_seconds": round(row.device_seconds, 3)}
        for row in rows
    ]


def of_version(session: Session, model: Model) -> dict[str, Any]:
    """What a version cost until now: the device seconds of the job that made it, and what its answers used."""
    sums = [func.sum(getattr(Usage, name)).label(name) for name in COUNTS]
    shown = _shown(session.execute(select(*sums).where(Usage.model_id == model.id)).one()._mapping)
    job = session.get(Job, model.training_job_id) if model.training_job_id else None
    return shown | {"device_seconds": round(job.device_seconds, 3) if job else 0.0}


def totals(session: Session) -> dict[str, float]:
    """Device seconds of all tenants' jobs, by their kind, since the first."""
    query = select(Job.kind, func.sum(Job.device_seconds)).group_by(Job.kind).order_by(Job.kind)
    return {str(kind): float(seconds or 0) for kind, seconds in session.execute(query)}


def _shown(row: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name, value in row.items():
        if name in COUNTS:
            value = round(float(value or 0), 3) if name.endswith("seconds") else int(value or 0)
        shown[name] = value.isoformat() if isinstance(value, datetime) else value
    return shown
