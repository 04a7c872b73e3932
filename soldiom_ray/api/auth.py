"""Authentication, roles and rate limits. A route names the role it needs in its `openapi_extra` (`needs("trainer")`);
a route that names none is closed to everybody. Key and role are checked before the body is read."""

import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from ipaddress import ip_address
from math import ceil
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from soldiom_ray.api.metrics import RequestMetrics
from soldiom_ray.api.middleware import strict_json
from soldiom_ray.api.oidc import Issuer, Login
from soldiom_ray.api.quotas import Quotas, user_of, with_balances
from soldiom_ray.db import audit, keys
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.ownership import Reader, act_as
from soldiom_ray.errors import BusyError, DeniedError, InputError, Problem, SoldiomError, UnauthenticatedError
from soldiom_ray.records import ROLES
from soldiom_ray.settings import Settings

ANYONE = "anyone"
LOCAL_OR_ADMIN = "local or admin"
ROLE = "x-role"
MULTIPART = "x-multipart"
"""Of a route that takes forms: true where it reads them itself, or the field whose file becomes part of the body."""
LARGE_BODY_BYTES = 64 << 10
SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0}


_large_bodies = CapacityLimiter(2)
"""Parsing holds the interpreter and up to twenty times the body's memory, so two large bodies at a time."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who came with a key, or with a login's token, whose subject `key_id` is, then; `user` is the owner of what is
    made with it."""

    key_id: str
    name: str
    role: str
    tenant: str
    user: str

    @property
    def reader(self) -> Reader:
        """What the caller may see."""
        return Reader(self.tenant, self.user, is_admin=self.may("admin"))

    def may(self, role: str) -> bool:
        """Whether the caller's role includes this one."""
        return ROLES.index(self.role) >= ROLES.index(role)


def needs(role: str, **extra: Any) -> dict[str, Any]:
    """`openapi_extra` of a route that this role (or a higher one) may call."""
    return {ROLE: role, **extra}


def settings_of(request: Request) -> Settings:
    """The settings of the application."""
    settings: Settings = request.app.state.settings
    return settings


def login_of(request: Request) -> Login | None:
    """How a person logs in at a provider; None where only keys are taken."""
    issuer: Issuer | None = request.app.state.issuer
    return issuer.provider.login if issuer else None


def metrics_of(request: Request) -> RequestMetrics:
    """What the application counts."""
    metrics: RequestMetrics = request.app.state.metrics
    return metrics


def caller_of(request: Request) -> Caller:
    """The caller of a request to a route that needs a role."""
    caller: Caller = request.state.caller
    return caller


AppSettings = Annotated[Settings, Depends(settings_of)]
AppMetrics = Annotated[RequestMetrics, Depends(metrics_of)]
CurrentCaller = Annotated[Caller, Depends(caller_of)]


class GuardedRoute(APIRoute):
    """A route that checks key, rate and role, then the form of the body, before it handles the request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        extra = self.openapi_extra or {}
        role, multipart = extra.get(ROLE, ""), extra.get(MULTIPART, False)
        takes_body = bool(self.body_field) or "requestBody" in extra

        async def guarded(request: Request) -> Response:
            await _admit(request, role)
            if takes_body:
                await _read_body(request, multipart)
            await _check_quotas(request)
            return await handle(request)

        return guarded


async def _admit(request: Request, role: str) -> None:
    if role == ANYONE or (role == LOCAL_OR_ADMIN and is_local(request)):
        return
    required_role = "admin" if role == LOCAL_OR_ADMIN else role
    issuer: Issuer | None = request.app.state.issuer
    header = request.headers.get("authorization", "")
    caller = await run_in_threadpool(_caller, settings_of(request), issuer, header)
    request.state.caller = caller
    act_as(caller.reader)
    limit: RateLimit = request.app.state.rate_limit
    standing = limit.take(caller.key_id)
    request.state.headers = standing.headers()
    standing.check()
    allowed = required_role in ROLES and caller.may(required_role)
    changes = request.method not in ("GET", "HEAD") and required_role in ("trainer", "admin")
    changes = changes or request.method == "DELETE"  # whoever deletes leaves a trace
    if changes or not allowed:
        await run_in_threadpool(_audit, request, caller, "allow" if allowed else "deny", required_role)
    if not allowed:
        raise DeniedError(
            f"The key's role is {caller.role}; this call needs {required_role or 'a role that nobody has'}.",
            remedy="ask an admin for a key with that role",
        )


async def _check_quotas(request: Request) -> None:
    """BusyError when a quota of the caller, the user or the tenant is used up; what is left goes to the headers."""
    caller: Caller | None = getattr(request.state, "caller", None)
    limits: Quotas = request.app.state.quotas
    if caller is None or not (used := limits.applies(request.method, request.url.path, caller.tenant)):
        return
    user = user_of(getattr(request, "_json", None), caller.name)
    balances = await run_in_threadpool(limits.check, caller.tenant, caller.user, user, used)
    request.state.headers = with_balances(request.state.headers, balances)


def _caller(settings: Settings, issuer: Issuer | None, header: str) -> Caller:
    scheme, _, plain = header.partition(" ")
    if scheme.lower() != "bearer" or not plain.strip():
        raise UnauthenticatedError(
            "This call needs a key.", remedy="send it as `Authorization: Bearer sld_…`; `soldiom keys create` makes one"
        )
    if issuer is not None and plain.count(".") == 2:
        try:
            caller_id, name, role = issuer.identify(plain.strip())
        except (DeniedError, UnauthenticatedError) as refusal:
            _audit_login(settings, issuer, plain.strip(), refusal)
            raise
        return Caller(caller_id, name, role, issuer.provider.tenant, caller_id)
    with open_session(settings) as session:
        row = keys.find(session, plain.strip())
        if row is None:
            raise UnauthenticatedError("The key is unknown or revoked.", remedy="`soldiom keys create` makes a new one")
        return Caller(row.id, row.name, row.role, row.tenant, keys.user_of(row))


def _audit_login(settings: Settings, issuer: Issuer, token: str, refusal: SoldiomError) -> None:
    """A row of the audit trail for a token that was refused: one without a role is told with its subject."""
    if not issuer.is_told():
        return
    subject = issuer.subject_of(token)[0] if isinstance(refusal, DeniedError) else "unknown"
    details = {"why": refusal.what, "issuer": issuer.provider.issuer[:200]}
    with open_session(settings) as session:
        audit.append(session, subject, "log in", issuer.provider.audience, "deny", details, issuer.provider.tenant)


def _audit(request: Request, caller: Caller, decision: str, required_role: str) -> None:
    details = {"key": caller.name, "role": caller.role, "needs": required_role}
    route = getattr(request.scope.get("route"), "path_format", request.url.path)
    with open_session(settings_of(request)) as session:
        audit.append(
            session, caller.key_id, f"{request.method} {route}", request.url.path, decision, details, caller.tenant
        )


async def _read_body(request: Request, multipart: bool | str) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if multipart and media_type == "multipart/form-data":
        if isinstance(multipart, str):
            await _read_form(request, multipart)
        return
    body = await request.body()
    if not body:
        return
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise HTTPException(415, "Send the body as application/json, and say so in Content-Type.")
    if len(body) > LARGE_BODY_BYTES:
        request._json = await to_thread.run_sync(strict_json, body, limiter=_large_bodies)
    else:
        request._json = strict_json(body)


async def _read_form(request: Request, field: str) -> None:
    """Read a form of one file as the JSON body that has the file's bytes as this member."""
    async with request.form(max_files=1, max_fields=1) as form:
        (name, file), *others = form.multi_items() or [("", "")]
        if others or name != field or not isinstance(file, UploadFile):
            problem = Problem(f"body.{name or field}", "is not the file that is read")
            raise InputError(f"The form has to hold one file, `{field}`.", problems=[problem])
        request._json = {field: await file.read()}
    request._body = b"{}"  # what FastAPI looks at before it takes the value above
    request.scope["headers"] = [
        (key, b"application/json" if key == b"content-type" else value) for key, value in request.scope["headers"]
    ]
    del request._headers


def is_local(request: Request) -> bool:
    """Whether a request comes from this machine and not through a proxy."""
    if request.client is None or any(name in request.headers for name in ("x-forwarded-for", "forwarded", "via")):
        return False
    try:
        return ip_address(request.client.host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a key stands within its window of `seconds`: how many of `count` requests it may still make, -1 when one
    was refused, and in how many seconds there is room for one more."""

    count: int
    seconds: float
    remaining: int
    until_next: float

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What every response tells of it (draft-ietf-httpapi-ratelimit-headers-10)."""
        policy = f'"requests";q={self.count};w={self.seconds:.0f}'
        left = f'"requests";r={max(0, self.remaining)};t={max(1, ceil(self.until_next))}'
        return [(b"ratelimit-policy", policy.encode()), (b"ratelimit", left.encode())]

    def check(self) -> None:
        """BusyError when the window is full."""
        if self.remaining < 0:
            raise BusyError(
                f"This key may make {self.count} requests in {self.seconds:.0f} s.",
                remedy="wait, or raise SOLDIOM_RATE_LIMIT",
                retry_after_seconds=self.until_next,
            )


class RateLimit:
    """At most `count` requests per key within a sliding window, counted in this process."""

    def __init__(self, rate: str) -> None:
        count, _, period = rate.partition("/")
        self.count, self.seconds = int(count), SECONDS[period]
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def take(self, key_id: str) -> Standing:
        """Count one request, unless the window is full, and tell how the key stands now."""
        now = time.monotonic()
        with self._lock:
            times = self._times.setdefault(key_id, deque())
            while times and times[0] <= now - self.seconds:
                times.popleft()
            admitted = len(times) < self.count
            if admitted:
                times.append(now)
            remaining = self.count - len(times) if admitted else -1
            return Standing(self.count, self.seconds, remaining, times[0] + self.seconds - now)
