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


def respond(events: AsyncIterator[bytes]) -> StreamingResponse:
    """Send events as they come. An error becomes a last event named `error`, because the status is sent already."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_with_error_event(events), media_type="text/event-stream", headers=headers)


async def _with_error_event(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for message in events:
            yield message
    except SoldiomError as error:
        yield event(error.to_problem(), "error")
    except Exception as error:
        problems.unexpected_response(error)
        yield event(SoldiomError(problems.UNEXPECTED).to_problem(), "error")
