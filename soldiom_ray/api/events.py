"""Server-sent events."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.responses import StreamingResponse

from soldiom_ray.api import problems
from soldiom_ray.errors import SoldiomError

DONE = b"data: [DONE]\n\n"


def event(data: Mapping[str, Any], name: str = "") -> bytes:
    """One event whose data is one line of JSON."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=True, allow_nan=False)}\n\n".encode()


def respond(events: AsyncIterator[bytes], *, openai: bool = False) -> StreamingResponse:
    """Send events as they come. An error becomes a last event named `error`, because the status is sent already; with
    `openai` one without a name that has OpenAI's `error`."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_with_error_event(events, openai), media_type="text/event-stream", headers=headers)


async def _with_error_event(events: AsyncIterator[bytes], openai: bool) -> AsyncIterator[bytes]:
    try:
        async for message in events:
            yield message
    except SoldiomError as error:
        yield _error_event(error, openai)
    except Exception as error:
        problems.unexpected_response(error)
        yield _error_event(SoldiomError(problems.UNEXPECTED), openai)


def _error_event(error: SoldiomError, openai: bool) -> bytes:
    members = error.to_problem()
    return event(problems.with_openai_error(members)) if openai else event(members, "error")
