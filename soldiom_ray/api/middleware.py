"""The outermost layer: what a request may be made of, before anything reads it, and what every answer carries."""

import time
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from soldiom_ray.api import problems
from soldiom_ray.settings import UPLOAD_MAX_BYTES

JSON_BYTES = 10 << 20
UPLOAD_BYTES = UPLOAD_MAX_BYTES
HEADER_BYTES = 16 << 10
UPLOADS = ("/api/training/collect/user-input",)

DROPPED = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled", b"serve_multiplexed_model_id"})
"""Headers by which a client could steer Ray Serve. Serve's own proxy reads them first, so `edge` drops them there."""

Observe = Callable[[str, str, int, float], None]
"""Called once per request with method, route, status and seconds."""


class Door:
    """ASGI middleware. Limits headers and bodies (also bodies that do not say their length), adds the headers that
    every answer carries, and turns what nobody caught into a 500 that tells nothing."""

    def __init__(self, app: ASGIApp, observe: Observe, over_tls: bool, upload_bytes: int = UPLOAD_BYTES) -> None:
        self.app = app
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
        started, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name for name, _ in message["headers"]}
                added = [*self.headers, (b"cache-control", b"no-store")]
                message["headers"] = [*message["headers"], *(pair for pair in added if pair[0] not in names)]
            await send(message)

        try:
            refusal = refused(scope, self.upload_bytes)
            if refusal is not None:
                await refusal(scope, receive, sending)
                return
            limit = _limit(scope, self.upload_bytes)
            drop_steering(scope)
            await self.app(scope, _counted(receive, limit), sending)
        except Exception as error:
            if not status:
                await problems.unexpected_response(error)(scope, receive, sending)
            else:
                problems.unexpected_response(error)
                raise
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            self.observe(scope["method"], str(route), status, time.perf_counter() - started)


def drop_steering(scope: Scope) -> None:
    """Take out the headers that would steer Ray Serve."""
    scope["headers"] = [(name, value) for name, value in scope["headers"] if name.lower() not in DROPPED]


def refused(scope: Scope, upload_bytes: int | None = None) -> ASGIApp | None:
    """The answer to a request whose headers are too large, not ASCII, or announce too large a body. Without
    `upload_bytes`, where settings are not read, the size of uploads is left to the application."""
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
    return upload_bytes if upload else JSON_BYTES


def _too_large(limit: int) -> str:
    return f"The body is larger than {limit >> 20} MiB."


def _counted(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def receiving() -> Message:
        nonlocal seen
        message: Message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                raise HTTPException(413, _too_large(limit), headers={"Connection": "close"})
        return message

    return receiving


def strict_json(body: bytes) -> Any:
    """The value of a JSON text (RFC 8259). HTTPException 400 for what is not JSON (NaN among it), 422 for JSON that
    cannot be stored or sent on: numbers beyond a double, lone surrogates, NUL characters, a key given twice."""
    import json

    def no_constant(name: str) -> float:
        raise HTTPException(400, f"The body is not JSON: {name} is no JSON number.")

    def finite(text: str) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise HTTPException(422, "The body holds a number that is too large.")
        return value

    def whole(text: str) -> int:
        if len(text) > 300:
            raise HTTPException(422, "The body holds a number that is too large.")
        return int(text)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise HTTPException(422, "The body gives a key twice in one object.")
        return made

    try:
        text = body.decode("utf-8")
        value = json.loads(
            text, parse_constant=no_constant, parse_float=finite, parse_int=whole, object_pairs_hook=once
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
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            if "\0" in item or any("\ud800" <= character <= "\udfff" for character in item):
                raise HTTPException(422, "The body holds a text with a NUL character or a lone surrogate.")
        elif isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
