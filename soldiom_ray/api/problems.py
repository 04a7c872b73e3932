"""Errors become RFC 9457 problem+json. What a client sent is never sent back, what broke inside is never told."""

import json
import logging
import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from math import ceil
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from soldiom_ray.errors import BusyError, SoldiomError

MEDIA_TYPE = "application/problem+json"

logger = logging.getLogger(__name__)


def content(error: SoldiomError) -> dict[str, Any]:
    """The members of the problem for one of our errors."""
    shown = _members(error.status, error.title, error.what)
    if error.problems:
        shown["errors"] = [{"loc": each.loc, "msg": each.msg} for each in error.problems]
    if error.remedy:
        shown["remedy"] = error.remedy
    return shown


def answer(error: SoldiomError) -> Response:
    """The response for one of our errors."""
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="soldiom"'
    if isinstance(error, BusyError):
        headers["Retry-After"] = str(max(1, ceil(error.retry_after_seconds)))
    if error.status >= 500:
        logger.warning("request failed", extra={"data": {"error": type(error).__name__, "what": error.what}})
    return _response(content(error), headers)


def plain(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """The response for what the protocol itself refuses."""
    return _response(_members(status, HTTPStatus(status).phrase, detail), headers)


def unexpected(error: BaseException) -> Response:
    """The response for a mistake of ours. The log gets its type and places, not its text: that may hold a user's."""
    places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-6:]]
    logger.error("unexpected error", extra={"data": {"type": type(error).__name__, "places": places}})
    return plain(500, "The request could not be answered because of a fault on the server.")


def handle(app: FastAPI) -> None:
    """Install the handlers."""

    def ours(_: Request, error: Exception) -> Response:
        return answer(error) if isinstance(error, SoldiomError) else unexpected(error)

    def invalid(_: Request, error: Exception) -> Response:
        details: Sequence[Any] = error.errors() if isinstance(error, RequestValidationError) else ()
        members = _members(422, "Invalid input", "The request has mistakes; `errors` names each one.")
        members["errors"] = [{"loc": _spell(detail["loc"]), "msg": str(detail["msg"])} for detail in details]
        return _response(members)

    def protocol(_: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            return unexpected(error)
        detail = error.detail if isinstance(error.detail, str) else HTTPStatus(error.status_code).phrase
        return plain(error.status_code, detail, error.headers)

    app.add_exception_handler(SoldiomError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, protocol)


def _members(status: int, title: str, detail: str) -> dict[str, Any]:
    kind = f"urn:soldiom:problem:{title.lower().replace(' ', '-')}"
    return {"type": kind, "title": title, "status": status, "detail": detail}


def _response(members: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(members, ensure_ascii=True, allow_nan=False).encode()
    return Response(body, status_code=members["status"], headers=dict(headers or {}), media_type=MEDIA_TYPE)


def _spell(location: Sequence[Any]) -> str:
    """`("body", "collect", 0, "path")` as `body.collect[0].path`, without characters that cannot be sent."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text.encode("ascii", "backslashreplace").decode()[:200]
