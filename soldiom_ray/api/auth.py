"""Who may do what. A route says the role it needs in its `openapi_extra` (`needs("trainer")`); a route that says
nothing is refused to everybody. Keys and roles are checked before a body is read."""

import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Any

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from soldiom_ray.api.middleware import strict_json
from soldiom_ray.db import audit, keys
from soldiom_ray.db.engine import open_session
from soldiom_ray.errors import BusyError, DeniedError, UnauthenticatedError
from soldiom_ray.records import ROLES
from soldiom_ray.settings import Settings

ANYONE = "anyone"
LOCAL_OR_ADMIN = "local or admin"
ROLE = "x-role"
MULTIPART = "x-multipart"
SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0}


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose key came with the request."""

    key_id: str
    name: str
    role: str
    tenant: str

    def may(self, role: str) -> bool:
        """Whether the caller's role includes this one."""
        return ROLES.index(self.role) >= ROLES.index(role)


def needs(role: str, **more: Any) -> dict[str, Any]:
    """`openapi_extra` of a route that this role (or a higher one) may call."""
    return {ROLE: role, **more}


def settings_of(request: Request) -> Settings:
    """The settings of the application."""
    settings: Settings = request.app.state.settings
    return settings


def caller_of(request: Request) -> Caller:
    """Whose request this is; only on routes that need a role."""
    caller: Caller = request.state.caller
    return caller


Config = Annotated[Settings, Depends(settings_of)]
Who = Annotated[Caller, Depends(caller_of)]


class GuardedRoute(APIRoute):
    """A route that checks key, rate and role first, then the form of the body, then does its work."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        work = super().get_route_handler()
        extra = self.openapi_extra or {}
        role, takes_multipart = extra.get(ROLE, ""), MULTIPART in extra
        takes_body = bool(self.body_field) or "requestBody" in extra

        async def guarded(request: Request) -> Response:
            await _admit(request, role)
            if takes_body:
                await _read(request, takes_multipart)
            return await work(request)

        return guarded


async def _admit(request: Request, role: str) -> None:
    if role == ANYONE or (role == LOCAL_OR_ADMIN and is_local(request)):
        return
    wanted = "admin" if role == LOCAL_OR_ADMIN else role
    caller = await run_in_threadpool(_caller, settings_of(request), request.headers.get("authorization", ""))
    request.state.caller = caller
    limit: RateLimit = request.app.state.rate_limit
    limit.take(caller.key_id)
    allowed = wanted in ROLES and caller.may(wanted)
    changes = request.method not in ("GET", "HEAD") and wanted in ("trainer", "admin")
    if changes or not allowed:
        await run_in_threadpool(_note, request, caller, "allow" if allowed else "deny", wanted)
    if not allowed:
        raise DeniedError(
            f"The key's role is {caller.role}; this call needs {wanted or 'a role that nobody has'}.",
            remedy="ask an admin for a key with that role",
        )


def _caller(settings: Settings, header: str) -> Caller:
    scheme, _, plain = header.partition(" ")
    if scheme.lower() != "bearer" or not plain.strip():
        raise UnauthenticatedError(
            "This call needs a key.", remedy="send it as `Authorization: Bearer sld_…`; `soldiom keys create` makes one"
        )
    with open_session(settings) as session:
        row = keys.find(session, plain.strip())
        if row is None:
            raise UnauthenticatedError("The key is unknown or revoked.", remedy="`soldiom keys create` makes a new one")
        return Caller(row.id, row.name, row.role, row.tenant)


def _note(request: Request, caller: Caller, decision: str, wanted: str) -> None:
    details = {"key": caller.name, "role": caller.role, "needs": wanted}
    route = getattr(request.scope.get("route"), "path", request.url.path)
    with open_session(settings_of(request)) as session:
        audit.append(
            session, caller.key_id, f"{request.method} {route}", request.url.path, decision, details, caller.tenant
        )


async def _read(request: Request, takes_multipart: bool) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if takes_multipart and kind == "multipart/form-data":
        return
    body = await request.body()
    if not body:
        return
    if kind != "application/json" and not kind.endswith("+json"):
        raise HTTPException(415, "Send the body as application/json, and say so in Content-Type.")
    request._json = await run_in_threadpool(strict_json, body) if len(body) > 65536 else strict_json(body)


def is_local(request: Request) -> bool:
    """A request from this machine that no proxy passed on."""
    if request.client is None or any(name in request.headers for name in ("x-forwarded-for", "forwarded", "via")):
        return False
    try:
        return ip_address(request.client.host).is_loopback
    except ValueError:
        return False


class RateLimit:
    """So many requests per key within a sliding window, counted in this process."""

    def __init__(self, rate: str) -> None:
        count, _, period = rate.partition("/")
        self.count, self.seconds = int(count), SECONDS[period]
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def take(self, key_id: str) -> None:
        """Count one request; BusyError when the window is full. Refused requests do not count."""
        at = time.monotonic()
        with self._lock:
            times = self._times.setdefault(key_id, deque())
            while times and times[0] <= at - self.seconds:
                times.popleft()
            if len(times) >= self.count:
                raise BusyError(
                    f"This key may make {self.count} requests in {self.seconds:.0f} s.",
                    remedy="wait, or raise SOLDIOM_RATE_LIMIT",
                    retry_after_seconds=times[0] + self.seconds - at,
                )
            times.append(at)
