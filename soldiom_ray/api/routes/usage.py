"""What was used, by whom and of what; and how much may be used."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from soldiom_ray.api.auth import AppSettings, CurrentCaller, GuardedRoute, needs
from soldiom_ray.api.bodies import QuotaBody
from soldiom_ray.db import quotas, usage
from soldiom_ray.db.engine import open_session
from soldiom_ray.errors import InputError, Problem
from soldiom_ray.records import now

router = APIRouter(route_class=GuardedRoute, tags=["usage"])
Group = Literal["key", "user", "model", "hour", "job"]
Time = Annotated[datetime | None, Query(description="with its zone: 2026-11-01T00:00:00Z")]


@router.get("/api/usage", openapi_extra=needs("viewer"))
def show_usage(
    caller: CurrentCaller,
    settings: AppSettings,
    by: Annotated[tuple[Group, ...], Query(max_length=4)] = ("model",),
    since: Time = None,
    until: Time = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> dict[str, Any]:
    """Requests, errors, tokens, bytes, seconds of answering and device seconds of jobs by key, user, model and hour, or
    `by=job` the device seconds alone. From the beginning of this month, unless `since` says another hour. An admin sees
    all of the tenant, everybody else what their key used."""
    until = until or now() + timedelta(hours=1)
    since = since or now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if since.tzinfo is None or until.tzinfo is None:
        raise InputError("A time has no zone.", remedy="write Z", problems=[Problem("query.since", "has no zone")])
    if "job" in by and len(by) > 1:
        raise InputError("Jobs are told one by one.", problems=[Problem("query.by", "`job` stands alone")])
    owner = None if caller.may("admin") else caller.user
    with open_session(settings) as session:
        chosen: dict[str, Any] = {"since": since, "until": until, "owner": owner, "limit": limit}
        items = (
            usage.of_jobs(session, caller.tenant, **chosen)
            if by == ("job",)
            else usage.report(session, caller.tenant, list(dict.fromkeys(by)), **chosen)
        )
    return {"items": items, "next": None, "since": since.isoformat(), "until": until.isoformat()}


@router.get("/api/quotas", openapi_extra=needs("viewer"))
def list_quotas(caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """The quotas of the tenant, of its keys and its users, each with what of it was used in this day or month; an admin
    sees all, everybody else those that count for their key."""
    with open_session(settings) as session:
        rows = quotas.of_tenant(session, caller.tenant)
        if not caller.may("admin"):
            rows = [row for row in rows if row.subject in ("", f"key:{caller.user}", f"user:{caller.name}")]
        return {"items": [quotas.as_dict(session, row) for row in rows], "next": None}


@router.put("/api/quotas", openapi_extra=needs("admin"))
def set_quota(body: QuotaBody, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """Set how much of a resource the tenant (its budget), a key or a user may use in a day or a month; without `amount`
    the quota goes."""
    with open_session(settings) as session:
        row = quotas.put(session, caller.tenant, body.subject, body.resource, body.period, body.amount)
        return quotas.as_dict(session, row) if row else body.model_dump(mode="json")
