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

from soldiom_ray.errors import BusyError, InputError, Problem, SoldiomError, format_location, problem_members

MEDIA_TYPE = "application/problem+json"

logger = logging.getLogger(__name__)


def answer(error: SoldiomError) -> Response:
    """The response for one of our errors."""
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="soldiom"'
    if isinstance(error, BusyError):
        headers["Retry-After"] = str(max(1, ceil(error.retry_after_seconds)))
    if error.status >= 500:
        logger.warning("request failed", extra={"data": {"error": type(error).__name__, "what": error.what}})
    return _response(error.to_problem(), headers)


def plain(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """The response for what the protocol itself refuses."""
    return _response(problem_members(status, HTTPStatus(status).phrase, detail), headers)


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
        mistakes = [Problem(_printable(format_location(each["loc"])), str(each["msg"])) for each in details]
        return answer(InputError("The request has mistakes; `errors` names each one.", problems=mistakes))

    def protocol(_: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            return unexpected(error)
        detail = error.detail if isinstance(error.detail, str) else HTTPStatus(error.status_code).phrase
        return plain(error.status_code, detail, error.headers)

    app.add_exception_handler(SoldiomError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, protocol)


def _response(members: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(members, ensure_ascii=True, allow_nan=False).encode()
    return Response(body, status_code=members["status"], headers=dict(headers or {}), media_type=MEDIA_TYPE)


def _printable(location: str) -> str:
    """A location that names fields as the client sent them, without characters that cannot be sent back."""
    return location.encode("ascii", "backslashreplace").decode()[:200]
