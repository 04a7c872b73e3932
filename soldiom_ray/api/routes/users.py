"""What is stored of one user: handed out and erased, for admins of the tenant."""

import tempfile
from collections.abc import Iterator
from typing import IO, Any

from fastapi import APIRouter
from starlette.responses import StreamingResponse

from soldiom_ray import users
from soldiom_ray.api.auth import AppSettings, CurrentCaller, GuardedRoute, needs
from soldiom_ray.sealing import CHUNK_BYTES

router = APIRouter(route_class=GuardedRoute, tags=["users"])
ARCHIVE: dict[int | str, dict[str, Any]] = {200: {"content": {"application/zip": {}}}}


@router.get(
    "/api/users/{user_id:path}/export",
    response_class=StreamingResponse,
    responses=ARCHIVE,
    openapi_extra=needs("admin"),
)
def export_user(user_id: str, caller: CurrentCaller, settings: AppSettings) -> StreamingResponse:
    """A ZIP archive of what is stored of a user (`user_id` of inputs, questions and feedback): `user.json` with inputs,
    answers, feedback and the models that learnt from them, and the uploaded files. 404 where nothing is stored."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it was sent
    try:
        users.export_user(settings, caller.tenant, user_id, file)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    headers = {"Content-Disposition": 'attachment; filename="user.zip"', "Cache-Control": "no-store"}
    return StreamingResponse(_chunks(file), media_type="application/zip", headers=headers)


@router.delete("/api/users/{user_id:path}", openapi_extra=needs("admin"))
def erase_user(user_id: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """Erase what is stored of a user: inputs, questions, answers, feedback, uploaded bytes that nobody else uploaded,
    and every documents, dataset, index, tokens and scores artifact that holds one of the user's texts, with its
    vectors. The answer has counts, the `artifacts` that are gone, and the `models` that learnt from them, which
    stay. 409 while jobs of the tenant run: what they are making may hold the user's texts."""
    return users.erase_user(settings, caller.tenant, user_id, actor=caller.key_id)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        yield from iter(lambda: file.read(CHUNK_BYTES), b"")
