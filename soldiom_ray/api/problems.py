"""Errors as responses with RFC 9457 problem+json, which never contain what the client sent or an internal detail of an
unforeseen exception."""

import json
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from math import ceil
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from soldiom_ray.domains.mistakes import unknown_member
from soldiom_ray.errors import (
    BlockedError,
    BusyError,
    InputError,
    Problem,
    SoldiomError,
    format_location,
    problem_members,
    problem_urn,
)

MEDIA_TYPE = "application/problem+json"
OPENAI_PREFIX = "/v1/"
CONTENT_FILTER = "content_filter"
"""OpenAI's name, in a `code` and as a `finish_reason`, for what a content filter has blocked."""
RETRY_SECONDS = 5
"""When to try again after a 503: services that died are restarted within seconds."""
UNEXPECTED = "The request could not be answered because of a fault on the server."

OPERATOR_REMEDY = "whoever runs the server: `soldiom status` shows what is wrong, `soldiom up` starts it again"

logger = logging.getLogger(__name__)


def problem_response(error: SoldiomError, *, is_known: bool = True) -> Response:
    """The response for one of our errors. Whoever is not known yet learns of a fault that there is one, and not which
    address or path has it."""
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="soldiom"'
    if isinstance(error, BusyError):
        headers["Retry-After"] = str(max(1, ceil(error.retry_after_seconds)))
    if error.status == 503:
        headers["Retry-After"] = str(RETRY_SECONDS)
    if error.status >= 500:
        logger.warning("request failed", extra={"data": {"error": type(error).__name__, "what": error.what}})
    if not is_known and error.status >= 500:
        error = type(error)("A service that every call needs does not answer.", remedy=OPERATOR_REMEDY)
    return _response(error.to_problem(), headers)


def empty_response(status: int, headers: Mapping[str, str]) -> Response:
    """A response without a body."""
    return Response(status_code=status, headers=dict(headers))


def protocol_response(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """The response for a request that is refused by the rules of HTTP."""
    return _response(problem_members(status, HTTPStatus(status).phrase, detail), headers)


def unexpected_response(error: BaseException) -> Response:
    """The response for an exception that nobody foresaw. Its type and places are logged; its message, which may
    hold a user's text, is not."""
    places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-6:]]
    logger.error("unexpected error", extra={"data": {"type": type(error).__name__, "places": places}})
    return protocol_response(500, UNEXPECTED)


def with_openai_error(members: Mapping[str, Any]) -> dict[str, Any]:
    """A problem that OpenAI's clients read too: RFC 9457 lets a problem have members of its own."""
    mistakes = members.get("errors") or []
    detail = "; ".join([str(members["detail"]), *(f"{each['loc']}: {each['msg']}" for each in mistakes)])
    kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(members["status"])
    kind = kind or ("server_error" if members["status"] >= 500 else "invalid_request_error")
    place = str(mistakes[0]["loc"]).removeprefix("body.") if mistakes else None
    code = str(members["type"]).rpartition(":")[2]
    code = CONTENT_FILTER if code == problem_urn(BlockedError.title).rpartition(":")[2] else code
    return {**members, "error": {"message": detail, "type": kind, "param": place, "code": code}}


def install_handlers(app: FastAPI) -> None:
    """Let the application answer every exception with a problem."""

    def own(request: Request, error: Exception) -> Response:
        if not isinstance(error, SoldiomError):
            return unexpected_response(error)
        return problem_response(error, is_known=hasattr(request.state, "caller"))

    def invalid(request: Request, error: Exception) -> Response:
        details: Sequence[Any] = error.errors() if isinstance(error, RequestValidationError) else ()
        problems = [_mistake(request, detail) for detail in details]
        return problem_response(InputError("The request has mistakes; `errors` names each one.", problems=problems))

    def protocol(_: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            return unexpected_response(error)
        detail = error.detail if isinstance(error.detail, str) else HTTPStatus(error.status_code).phrase
        return protocol_response(error.status_code, detail, error.headers)

    app.add_exception_handler(SoldiomError, _by_protocol(own))
    app.add_exception_handler(RequestValidationError, _by_protocol(invalid))
    app.add_exception_handler(HTTPException, _by_protocol(protocol))


def _by_protocol(handle: Callable[[Request, Exception], Response]) -> Callable[[Request, Exception], Response]:
    """The handler, whose responses have OpenAI's `error` too where OpenAI's protocol is spoken."""

    def handled(request: Request, error: Exception) -> Response:
        response = handle(request, error)
        if not request.url.path.startswith(OPENAI_PREFIX):
            return response
        headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return _response(with_openai_error(json.loads(bytes(response.body))), headers)

    return handled


def _response(members: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(members, ensure_ascii=True, allow_nan=False).encode()
    return Response(body, status_code=members["status"], headers=dict(headers or {}), media_type=MEDIA_TYPE)


def _mistake(request: Request, detail: Mapping[str, Any]) -> Problem:
    """One mistake at its field. Of an unknown member, those that are known are listed."""
    place, message = detail["loc"], str(detail["msg"]).removeprefix("Value error, ")
    body = getattr(request.scope.get("route"), "body_field", None)
    if detail["type"] == "extra_forbidden" and body is not None and place[:1] == ("body",):
        message = unknown_member(body.field_info.annotation, place[1:]) or message
    return Problem(_printable(format_location(place)), message)


def _printable(location: str) -> str:
    """A location that names fields as the client sent them, without characters that cannot be sent back."""
    return location.encode("ascii", "backslashreplace").decode()[:200]
