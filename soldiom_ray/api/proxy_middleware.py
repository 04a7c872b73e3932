"""Middleware around Ray Serve's proxy, which runs before Serve reads a request or looks for an application.

Serve lets a client set its timeouts by header, breaks on header bytes that are not UTF-8 (status 500 before any
application runs) and lists all applications at `/-/routes`. The head is started with
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH naming `middlewares`; on a cluster that is not ours its operator sets that.
"""

import asyncio
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from soldiom_ray.api import connections, problems
from soldiom_ray.api.backpressure import bound_bodies_in_proxy
from soldiom_ray.api.memory import return_freed_memory
from soldiom_ray.api.middleware import drop_steering_headers, refuse
from soldiom_ray.errors import BusyError

KEY_REQUESTS = 64
"""Requests of one key that are answered at once. Requests without a key count together, by client address."""
KEY_LARGE_REQUESTS = 4
LARGE_BYTES = 1 << 20
"""A body of more bytes than these, or of unknown length, is large."""
FRESH_SECONDS = 10.0
"""For how long an answer of the application proves that it is alive: Serve's own health check is slower."""
PROBE_SECONDS = 5.0
RESTARTS = "The API is being restarted, or is too busy. What was asked may have been done."
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

logger = logging.getLogger(__name__)


class ProxyMiddleware:
    """ASGI middleware that refuses malformed requests and Serve's own routes, drops headers that steer Serve, answers
    `/healthz` however busy the application is, and holds no more than a few requests of one key at once."""

    def __init__(self, app: ASGIApp, key_requests: int = KEY_REQUESTS) -> None:
        self.app = app
        self.key_requests = key_requests
        self.health = HealthLane(app)
        self._requests: Counter[bytes] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = refuse(scope)
        if scope["path"] == "/-/routes":
            refusal = problems.protocol_response(404, "Not Found")
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        drop_steering_headers(scope)
        if scope["path"] == "/healthz" and scope["method"] == "GET":
            await self.health(scope, receive, send)
        else:
            await self._answer_few(scope, receive, send)

    async def _answer_few(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = _key_of(scope)
        limits = {key: self.key_requests}
        if _is_large(scope):
            limits[key + b" large"] = KEY_LARGE_REQUESTS
        for name, limit in limits.items():
            if self._requests[name] >= limit:
                what = "large bodies" if name != key else "requests"
                error = BusyError(f"This key has {limit} {what} under way.", remedy="send fewer at once")
                await problems.problem_response(error)(scope, receive, send)
                return
        self._requests.update(limits.keys())
        try:
            own = OwnErrors(scope, receive, send)
            await self.app(scope, receive, own)
            await own.end()
        finally:
            for name in limits:
                self._requests[name] -= 1
                if not self._requests[name]:
                    del self._requests[name]


class HealthLane:
    """Answers `/healthz` itself: at once when the application has answered within FRESH_SECONDS (it is asked again
    beside that), else when it answers now. So a request for health waits in no queue of the application's."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._answered_at = float("-inf")
        self._probe: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for health."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._ask(scope))
        if not self._is_fresh():
            await asyncio.wait([self._probe], timeout=PROBE_SECONDS)
        if self._is_fresh():
            response: Response = JSONResponse({"status": "ok"}, headers=HEADERS)
        else:
            response = problems.protocol_response(503, "The API does not answer.", {"Retry-After": "2"})
        await response(scope, receive, send)

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._answered_at < FRESH_SECONDS

    async def _ask(self, scope: Scope) -> None:
        """Send the application a request of its own, without headers, and note that it answered well."""
        ended: asyncio.Future[Message] = asyncio.get_running_loop().create_future()  # ends with the task

        async def receive() -> Message:
            if not asked:
                asked.append(True)
                return {"type": "http.request", "body": b"", "more_body": False}
            return await ended

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                self._answered_at = time.monotonic()

        asked: list[bool] = []
        own: dict[str, Any] = {**scope, "method": "GET", "headers": [(b"host", b"localhost")], "query_string": b""}
        try:
            async with asyncio.timeout(PROBE_SECONDS * 4):
                await self.app(own, receive, send)
        except Exception as error:
            logger.warning("the application's health is unknown", extra={"data": {"type": type(error).__name__}})


def middlewares() -> list[Middleware]:
    """The middleware that Serve's proxy puts around itself. Serve asks for it before its server starts, so this is
    also where the server gets limits for which Serve has no setting."""
    connections.install()
    bound_bodies_in_proxy()
    return_freed_memory()
    return [Middleware(ProxyMiddleware)]


class OwnErrors:
    """Sends a problem, with the time of the next try, in place of an error of Serve's own: it sends nothing at all for
    a replica that died, which uvicorn makes a 500 of, and a text for one that is not there or has a full queue."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._began = self._replaced = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._began = True
            message["headers"] = _with_one_id(message.get("headers", ()))
            kind = next((value for name, value in message.get("headers", ()) if name.lower() == b"content-type"), b"")
            if message["status"] >= 500 and kind.startswith(b"text/plain"):
                self._replaced = True
                await self._refuse()
        if not self._replaced:
            await self._send(message)

    async def end(self) -> None:
        """The application has returned."""
        if not self._began:
            await self._refuse()

    async def _refuse(self) -> None:
        headers = {"Retry-After": str(problems.RETRY_SECONDS), **HEADERS}
        await problems.protocol_response(503, RESTARTS, headers)(self._scope, self._receive, self._send)


def _with_one_id(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of a response with the application's id of the request, without the one that Serve adds."""
    seen = Counter[bytes]()

    def is_kept(name: bytes) -> bool:
        seen[name.lower()] += 1
        return name.lower() != b"x-request-id" or seen[name.lower()] == 1

    return [(name, value) for name, value in headers if is_kept(name)]


def _key_of(scope: Scope) -> bytes:
    """What counts as one caller: the key as it was sent (whether it is good, the application finds out), or the
    client's address."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            return hashlib.sha256(value).digest()
    return str((scope.get("client") or ("",))[0]).encode()


def _is_large(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or int(headers.get(b"content-length", 0)) > LARGE_BYTES
