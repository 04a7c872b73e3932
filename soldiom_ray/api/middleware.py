"""The API's outermost middleware: limits of requests, headers of every response; and strict JSON."""

import re
import time
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from soldiom_ray import logs
from soldiom_ray.api import problems
from soldiom_ray.api.hosts import HostCheck
from soldiom_ray.db.ownership import NOBODY, act_as
from soldiom_ray.records import new_id
from soldiom_ray.settings import UPLOAD_MAX_BYTES
from soldiom_ray.tracing import Mark, span

JSON_BYTES = 10 << 20
SMALL_JSON_BYTES = 1 << 20
JSON_VALUES = 1_000_000
"""Most values in a body, by its commas and brackets: ten million bytes of `[[],[],…` become 240 MB of lists."""
UPLOAD_BYTES = UPLOAD_MAX_BYTES
HEADER_BYTES = 16 << 10
CLIENT_GONE = 499
"""The status of a request whose client went away, in the metrics: nginx's number."""
UPLOADS = ("/api/training/collect/user-input",)
LARGE_JSON = (*UPLOADS, "/api/inference/", "/api/specialists/", "/api/training/jobs", "/v1/")
"""Paths (or their beginnings) that take JSON of JSON_BYTES: users' texts and recipes. Others take SMALL_JSON_BYTES."""

PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

STEERING_HEADERS = frozenset(
    {b"x-request-timeout-seconds", b"x-request-disconnect-disabled", b"serve_multiplexed_model_id"}
)
"""Headers by which a client could steer Ray Serve. Serve's proxy reads them first; `proxy_middleware` drops them."""

Observe = Callable[[str, str, int, float], None]
"""Called once per request with method, route, status and seconds."""


class RequestMiddleware:
    """ASGI middleware that limits headers and bodies (bodies of unknown length too), adds the headers that every
    response carries, and turns an exception that nobody caught into a 500 that reveals nothing."""

    def __init__(
        self, app: ASGIApp, observe: Observe, over_tls: bool, hosts: HostCheck, upload_bytes: int = UPLOAD_BYTES
    ) -> None:
        self.app = app
        self.hosts = hosts
        self.observe = observe
        self.upload_bytes = upload_bytes
        self.headers = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
        if over_tls:
            self.headers.append((b"strict-transport-security", b"max-age=31536000"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        parent = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), None)
        with span("request", parent, **{"http.request.method": scope["method"]}) as mark:
            await self._answer(scope, receive, send, mark)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, mark: Mark) -> None:
        started, status = time.perf_counter(), 0
        request_id = _request_id(scope)
        logs.request_id.set(request_id)
        act_as(NOBODY)  # until its route knows the caller
        state = scope.setdefault("state", {})  # of the request; `headers` are those that its route adds

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name for name, _ in message["headers"]}
                identity = (b"x-request-id", request_id.encode())
                added = [*self.headers, (b"cache-control", b"no-store"), identity, *state.get("headers", ())]
                missing = (pair for pair in added if pair[0] not in names)
                message["headers"] = [*message["headers"], *missing, *self.hosts.cross_origin_headers(scope)]
            await send(message)

        try:
            refusal = refuse(scope, self.upload_bytes) or self.hosts.refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, send_with_headers)
                return
            limit = _limit(scope, self.upload_bytes)
            drop_steering_headers(scope)
            await self.app(scope, _limited(receive, limit), send_with_headers)
        except ClientDisconnect:
            status = CLIENT_GONE  # nobody is there to answer, and nothing went wrong here
        except Exception as error:
            if not status:
                await problems.unexpected_response(error)(scope, receive, send_with_headers)
            else:
                problems.unexpected_response(error)
                raise
        finally:
            route = getattr(scope.get("route"), "path_format", "unmatched")
            self.observe(scope["method"], str(route), status, time.perf_counter() - started)
            mark.rename(f"{scope['method']} {route}")
            mark.set(http__route=str(route), http__response__status_code=status, request=request_id)
            if status >= 500:
                mark.failed(str(status))


def _request_id(scope: Scope) -> str:
    """The id by which logs and traces know a request: the caller's, or Serve's, where it is a plain word."""
    given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
    return given if PLAIN_ID.fullmatch(given) else new_id()


def drop_steering_headers(scope: Scope) -> None:
    """Remove the headers that would steer Ray Serve."""
    scope["headers"] = [(name, value) for name, value in scope["headers"] if name.lower() not in STEERING_HEADERS]


def refuse(scope: Scope, upload_bytes: int | None = None) -> ASGIApp | None:
    """The response to a request whose headers are too large, not ASCII, or announce too large a body; None for a good
    one. Without `upload_bytes` (the proxy reads no settings) the size of uploads is left to the application."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    if sum(len(name) + len(value) + 4 for name, value in headers) > HEADER_BYTES or len(headers) > 100:
        return problems.protocol_response(
            431, f"The headers are larger than {HEADER_BYTES} bytes.", {"Connection": "close"}
        )
    if any(byte > 126 or (byte < 32 and byte != 9) for name, value in headers for byte in name + value):
        return problems.protocol_response(
            400, "A header holds a character that is not printable ASCII.", {"Connection": "close"}
        )
    lengths = {value for name, value in headers if name.lower() == b"content-length"}
    if len(lengths) > 1 or any(not value.isdigit() or len(value) > 15 for value in lengths):
        return problems.protocol_response(400, "The Content-Length header is not one number.", {"Connection": "close"})
    limit = _limit(scope, upload_bytes if upload_bytes is not None else 10**15)
    if lengths and int(lengths.pop()) > limit:
        return problems.protocol_response(413, _too_large(limit), {"Connection": "close"})
    return None


def _limit(scope: Scope, upload_bytes: int) -> int:
    kind = next((value for name, value in scope["headers"] if name.lower() == b"content-type"), b"")
    upload = scope["path"] in UPLOADS and kind.lower().startswith(b"multipart/")
    return upload_bytes if upload else JSON_BYTES if scope["path"].startswith(LARGE_JSON) else SMALL_JSON_BYTES


def _too_large(limit: int) -> str:
    return f"The body is larger than {limit >> 20} MiB."


def _limited(receive: Receive, limit: int) -> Receive:
    received = 0

    async def receive_counted() -> Message:
        nonlocal received
        message: Message = await receive()
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, _too_large(limit), headers={"Connection": "close"})
        return message

    return receive_counted


def strict_json(body: bytes) -> Any:
    """The value of a JSON text (RFC 8259). HTTPException 400 for what is not JSON (NaN among it), 422 for JSON that
    cannot be stored or sent on: numbers beyond a double, lone surrogates, NUL characters, a key given twice; 413 for
    more than JSON_VALUES values."""
    import json

    def refuse_constant(name: str) -> float:
        raise HTTPException(400, f"The body is not JSON: {name} is no JSON number.")

    def parse_finite(text: str) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise HTTPException(422, "The body holds a number that is too large.")
        return value

    def parse_integer(text: str) -> int:
        if len(text) > 300:
            raise HTTPException(422, "The body holds a number that is too large.")
        return int(text)

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise HTTPException(422, "The body gives a key twice in one object.")
        return members

    if len(body) > JSON_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > JSON_VALUES:
        raise HTTPException(413, f"The body holds more than {JSON_VALUES} values.")
    try:
        text = body.decode("utf-8")
        value = json.loads(
            text,
            parse_constant=refuse_constant,
            parse_float=parse_finite,
            parse_int=parse_integer,
            object_pairs_hook=unique_keys,
        )
    except UnicodeDecodeError as error:
        raise HTTPException(400, "The body is not UTF-8.") from error
    except RecursionError as error:
        raise HTTPException(400, "The body is nested too deeply.") from error
    except ValueError as error:
        where = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise HTTPException(400, f"The body is not JSON{where}.") from error
    if "\\u" in text:
        _check_texts(value)
    return value


def _check_texts(value: Any) -> None:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            if "\0" in item or any("\ud800" <= character <= "\udfff" for character in item):
                raise HTTPException(422, "The body holds a text with a NUL character or a lone surrogate.")
        elif isinstance(item, dict):
            pending.extend(item)
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
