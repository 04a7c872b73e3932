"""Collect from GitHub and Hugging Face; take what users give."""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from typing import IO, Annotated, Any

from fastapi import APIRouter, Header
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from soldiom_ray.api import work
from soldiom_ray.api.auth import MULTIPART, Caller, Config, GuardedRoute, Who, needs
from soldiom_ray.api.bodies import UserInputBody
from soldiom_ray.api.door import strict_json
from soldiom_ray.api.uploads import check_upload, shown_name
from soldiom_ray.db import inputs
from soldiom_ray.db.engine import session
from soldiom_ray.domains.schema import GithubSource, HuggingfaceSource, Recipe
from soldiom_ray.errors import InputError, Problem
from soldiom_ray.records import new_id
from soldiom_ray.settings import Settings
from soldiom_ray.storage import CHUNK_BYTES, open_storage

router = APIRouter(route_class=GuardedRoute, tags=["collect"])
Idempotency = Annotated[str | None, Header(max_length=255)]

USER_INPUT = {
    "required": True,
    "content": {
        "application/json": {"schema": UserInputBody.model_json_schema()},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": 20},
                    "user_id": {"type": "string", "maxLength": 128},
                    "metadata": {"type": "string", "description": "a JSON object"},
                },
            }
        },
    },
}


@router.post("/api/training/collect/github", status_code=202, openapi_extra=needs("trainer"))
def collect_github(
    body: GithubSource, caller: Who, settings: Config, response: Response, idempotency_key: Idempotency = None
) -> dict[str, Any]:
    """Collect repositories of GitHub, as one job."""
    recipe = Recipe.model_validate({"name": "collect-github", "collect": [body]})
    return work.start(settings, caller, recipe, "collect", idempotency_key, response)


@router.post("/api/training/collect/huggingface", status_code=202, openapi_extra=needs("trainer"))
def collect_huggingface(
    body: HuggingfaceSource, caller: Who, settings: Config, response: Response, idempotency_key: Idempotency = None
) -> dict[str, Any]:
    """Collect models or datasets of the Hugging Face Hub, as one job."""
    recipe = Recipe.model_validate({"name": "collect-huggingface", "collect": [body]})
    return work.start(settings, caller, recipe, "collect", idempotency_key, response)


@router.post(
    "/api/training/collect/user-input",
    status_code=201,
    openapi_extra=needs("user", requestBody=USER_INPUT, **{MULTIPART: True}),
)
async def collect_user_input(request: Request, caller: Who, settings: Config) -> Response:
    """Take a text or a structured value as JSON (answers the input), or files as multipart (answers `items`)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        body = _body(await request.json() if await request.body() else None)
        return JSONResponse(await run_in_threadpool(_keep_value, settings, caller, body), status_code=201)
    async with request.form(max_files=20, max_fields=10, max_part_size=1 << 20) as form:
        items = await run_in_threadpool(_keep_files, settings, caller, form)
    return JSONResponse({"items": items, "next": None}, status_code=201)


def _body(value: Any) -> UserInputBody:
    try:
        return UserInputBody.model_validate(value)
    except ValidationError as error:
        problems = [Problem(".".join(map(str, ("body", *each["loc"]))), each["msg"]) for each in error.errors()]
        raise InputError("The body has mistakes.", problems=problems) from None


def _keep_value(settings: Settings, caller: Caller, body: UserInputBody) -> dict[str, Any]:
    is_text = body.input_type == "text"
    content = body.content if is_text else json.dumps(body.content, ensure_ascii=False, allow_nan=False)
    data = content.encode()
    with session(settings) as opened:
        row = inputs.add(
            opened,
            user_id=body.user_id,
            input_type=body.input_type,
            content=content,
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            metadata=body.metadata,
            tenant=caller.tenant,
        )
        return inputs.as_dict(row)


def _keep_files(settings: Settings, caller: Caller, form: FormData) -> list[dict[str, Any]]:
    """All files or none: they are checked first, and what was stored is removed when a later step fails."""
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if not files:
        raise InputError("No file came.", problems=[Problem("body.file", "is missing")])
    user_id, metadata = _text(form, "user_id") or caller.name, _metadata(_text(form, "metadata"))
    if len(user_id) > 128 or "\0" in user_id:
        raise InputError(
            "The user's id cannot be used.", problems=[Problem("body.user_id", "is longer than 128 characters")]
        )
    checked = [(file, check_upload(file.filename or "", file.file)) for file in files]
    storage, stored, rows = open_storage(settings), [], []
    try:
        for file, extension in checked:
            input_id = new_id()
            key = f"raw/{input_id}.{extension}"
            stored.append(key)
            written = storage.write_stream(key, _chunks(file.file))
            about = metadata | {"filename": shown_name(file.filename or ""), "extension": extension}
            rows.append((input_id, key, written, about))
        with session(settings) as opened:
            return [
                inputs.as_dict(
                    inputs.add(
                        opened,
                        id=input_id,
                        user_id=user_id,
                        input_type="file",
                        content=key,
                        sha256=written.sha256,
                        size_bytes=written.size_bytes,
                        metadata=about,
                        tenant=caller.tenant,
                    )
                )
                for input_id, key, written, about in rows
            ]
    except BaseException:
        for key in stored:
            storage.remove(key)
        raise


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""


def _metadata(text: str) -> dict[str, Any]:
    value = strict_json(text.encode()) if text.strip() else {}
    if not isinstance(value, dict):
        raise InputError("The metadata cannot be used.", problems=[Problem("body.metadata", "is not a JSON object")])
    return value


def _chunks(file: IO[bytes] | tempfile.SpooledTemporaryFile[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(CHUNK_BYTES), b"")
