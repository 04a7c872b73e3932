"""Calls to the other applications on Ray Serve: one per deployed model, one for search."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from starlette.concurrency import run_in_threadpool

from soldiom_ray import compute
from soldiom_ray.errors import (
    BlockedError,
    BusyError,
    ConflictError,
    InputError,
    SoldiomError,
    TooLargeError,
    UnavailableError,
)
from soldiom_ray.records import SEARCH_APPLICATION
from soldiom_ray.tracing import span, with_traceparent

RESPONSE_SECONDS = 600.0
"""Longest wait for a whole response, or for the next chunk of a stream."""

_handles: dict[str, Any] = {}
_failures: Counter[str] = Counter()
logger = logging.getLogger(__name__)


async def call(name: str, method: str, *arguments: Any) -> Any:
    """Call a method of an application and return its result. ConflictError when the application does not run, BusyError
    when its queue is full."""
    with span(f"serve {method}", application=name):
        handle = await _handle(name)
        try:
            async with asyncio.timeout(RESPONSE_SECONDS):
                return await getattr(handle, method).remote(*_with_trace(method, arguments))
        except Exception as error:
            raise _counted(name, _translate(name, error)) from error


async def stream(name: str, method: str, *arguments: Any) -> AsyncIterator[Any]:
    """Call a method of an application and yield its chunks as they come; errors as of `call`."""
    handle = await _handle(name)
    try:
        chunks = getattr(handle, method).options(stream=True).remote(*_with_trace(method, arguments)).__aiter__()
        while True:
            async with asyncio.timeout(RESPONSE_SECONDS):
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield chunk
    except Exception as error:
        raise _counted(name, _translate(name, error)) from error


def _with_trace(method: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a call; a request to a model says to which span it belongs (see `tracing.traced`)."""
    if method not in ("generate", "stream"):
        return arguments
    return (with_traceparent(arguments[0]), *arguments[1:])


def take_failures() -> dict[str, int]:
    """How many calls of each application failed since this was last asked, through no fault of the caller."""
    taken: dict[str, int] = {}
    for name in list(_failures):
        taken[name] = _failures.pop(name)
    return taken


def _counted(name: str, error: Exception) -> Exception:
    """The error, counted unless it is the caller's, or of a full queue."""
    if not isinstance(error, (InputError, BlockedError, TooLargeError, BusyError)):
        _failures[name] += 1
    return error


async def _handle(name: str) -> Any:
    if name not in _handles:
        _handles[name] = await run_in_threadpool(_get_handle, name)
    return _handles[name]


def _get_handle(name: str) -> Any:
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    if not ray.is_initialized():
        raise UnavailableError("Ray is not running.", remedy="run `soldiom up`")
    try:
        return serve.get_app_handle(name)
    except RayServeException as error:
        raise _not_running(name) from error


def _not_running(name: str) -> SoldiomError:
    _handles.pop(name, None)
    if name == SEARCH_APPLICATION:
        return UnavailableError("The search endpoint does not run.", remedy="run `soldiom up`")
    return ConflictError(
        "The model's endpoint does not run.", remedy="deploy it: POST /api/models/{id}/deploy or `soldiom deploy`"
    )


def _translate(name: str, error: Exception) -> Exception:
    """Our error for what a call can meet, else the error itself."""
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

    if isinstance(error, RayActorError):
        _handles.pop(name, None)
    known = compute.serve_error(error, "endpoint", RESPONSE_SECONDS)
    if known is None and isinstance(error, (DeploymentUnavailableError, RayServeException)):
        return _not_running(name)
    return known or error
