"""Keys and the audit trail, for admins; and whose key a call is made with, for everybody."""

from typing import Any

from fastapi import APIRouter

from soldiom_ray.api.auth import AppSettings, CurrentCaller, GuardedRoute, needs
from soldiom_ray.api.bodies import KeyBody
from soldiom_ray.api.routes.jobs import Cursor, Limit
from soldiom_ray.db import audit, keys
from soldiom_ray.db.engine import open_session
from soldiom_ray.errors import DeniedError
from soldiom_ray.settings import HOME_TENANT

router = APIRouter(route_class=GuardedRoute, tags=["keys"])


@router.post("/api/keys", status_code=201, openapi_extra=needs("admin"))
def create_key(body: KeyBody, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """Create a key. `key` is shown only this once."""
    tenant = body.tenant or caller.tenant
    if tenant != caller.tenant and caller.tenant != HOME_TENANT:
        raise DeniedError("Keys of other tenants are made by an admin of the tenant 'default'.")
    with open_session(settings) as session:
        row, plain = keys.create(session, body.role, body.name, tenant, body.user)
        return keys.as_dict(row) | {"key": plain}


@router.get("/api/keys/current", openapi_extra=needs("viewer"))
def show_current_key(caller: CurrentCaller) -> dict[str, Any]:
    """The key that the call is made with: its name, role and tenant."""
    names = {"id": caller.key_id, "user": caller.user, "name": caller.name}
    return {**names, "role": caller.role, "tenant": caller.tenant}


@router.get("/api/keys", openapi_extra=needs("admin"))
def list_keys(caller: CurrentCaller, settings: AppSettings, cursor: Cursor = None, limit: Limit = 50) -> dict[str, Any]:
    """Keys of the tenant, including revoked ones."""
    with open_session(settings) as session:
        rows, next_cursor = keys.list_keys(session, caller.tenant, cursor, limit)
        return {"items": [keys.as_dict(row) for row in rows], "next": next_cursor}


@router.delete("/api/keys/{key_id}", status_code=204, openapi_extra=needs("admin"))
def revoke_key(key_id: str, caller: CurrentCaller, settings: AppSettings) -> None:
    """Revoke a key at once."""
    with open_session(settings) as session:
        keys.revoke(session, key_id, caller.tenant)


@router.get("/api/audit", openapi_extra=needs("admin"))
def list_audit(
    caller: CurrentCaller, settings: AppSettings, cursor: Cursor = None, limit: Limit = 50
) -> dict[str, Any]:
    """The tenant's audit trail, newest first."""
    with open_session(settings) as session:
        rows, next_cursor = audit.list_rows(session, caller.tenant, cursor, limit)
        return {"items": [audit.as_dict(row) for row in rows], "next": next_cursor}


@router.get("/api/audit/verify", openapi_extra=needs("admin"))
def verify_audit(caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """Whether the audit trail is unchanged; `first_bad` is the first row that was changed."""
    with open_session(settings) as session:
        first_bad = audit.verify(session)
    return {"holds": first_bad is None, "first_bad": first_bad}
