"""Collect from GitHub, Hugging Face, files, databases and HTTP endpoints; accept inputs of users."""

import hashlib
import json
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from soldiom_ray.api import submit
from soldiom_ray.api.auth import MULTIPART, AppSettings, Caller, CurrentCaller, GuardedRoute, needs
from soldiom_ray.api.bodies import SharingBody, UserInputBody, check_metadata
from soldiom_ray.api.middleware import strict_json
from soldiom_ray.api.routes.jobs import Cursor, Limit
from soldiom_ray.api.upload_store import check_quota, fingerprint, read_upload, remove_unreferenced, store_uploads
from soldiom_ray.api.uploads import check_upload, display_name
from soldiom_ray.db import inputs, locks, ownership, requests, usage
from soldiom_ray.db.engine import open_session
from soldiom_ray.domains.schema import Recipe
from soldiom_ray.domains.sources import DatabaseSource, FilesSource, GithubSource, HuggingfaceSource, UrlSource
from soldiom_ray.errors import DeniedError, InputError, Problem
from soldiom_ray.records import new_id
from soldiom_ray.sealing import seal_text
from soldiom_ray.settings import Settings

router = APIRouter(route_class=GuardedRoute, tags=["collect"])
Idempotency = Annotated[str | None, Header(max_length=255)]
UserId = Annotated[str | None, Query(max_length=128)]

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
    body: GithubSource,
    caller: CurrentCaller,
    settings: AppSettings,
    response: Response,
    idempotency_key: Idempotency = None,
) -> dict[str, Any]:
    """Collect repositories of GitHub, as one job."""
    recipe = Recipe.model_validate({"name": "collect-github", "collect": [body]})
    return submit.start(settings, caller, recipe, "collect", idempotency_key, response)


@router.post("/api/training/collect/huggingface", status_code=202, openapi_extra=needs("trainer"))
def collect_huggingface(
    body: HuggingfaceSource,
    caller: CurrentCaller,
    settings: AppSettings,
    response: Response,
    idempotency_key: Idempotency = None,
) -> dict[str, Any]:
    """Collect models or datasets of the Hugging Face Hub, as one job."""
    recipe = Recipe.model_validate({"name": "collect-huggingface", "collect": [body]})
    return submit.start(settings, caller, recipe, "collect", idempotency_key, response)


@router.post("/api/training/collect/files", status_code=202, openapi_extra=needs("trainer"))
def collect_files(
    body: FilesSource,
    caller: CurrentCaller,
    settings: AppSettings,
    response: Response,
    idempotency_key: Idempotency = None,
) -> dict[str, Any]:
    """Collect user inputs that were uploaded before (`inputs`: their ids), as one job."""
    recipe = Recipe.model_validate({"name": "collect-files", "collect": [body]})
    return submit.start(settings, caller, recipe, "collect", idempotency_key, response)


@router.post("/api/training/collect/database", status_code=202, openapi_extra=needs("trainer"))
def collect_database(
    body: DatabaseSource,
    caller: CurrentCaller,
    settings: AppSettings,
    response: Response,
    idempotency_key: Idempotency = None,
) -> dict[str, Any]:
    """Collect rows of a live PostgreSQL, MySQL or MariaDB without changing it, as one job. The password in `url` is
    stored for the job alone and never shown. `private` is for admins of the tenant "default"."""
    recipe = Recipe.model_validate({"name": "collect-database", "collect": [body]})
    return submit.start(settings, caller, recipe, "collect", idempotency_key, response)


@router.post("/api/training/collect/url", status_code=202, openapi_extra=needs("trainer"))
def collect_url(
    body: UrlSource,
    caller: CurrentCaller,
    settings: AppSettings,
    response: Response,
    idempotency_key: Idempotency = None,
) -> dict[str, Any]:
    """Collect what an HTTP endpoint returns, page by page, as one job. Values of `headers` are stored for the job alone
    and never shown. `private` is for admins of the tenant "default"."""
    recipe = Recipe.model_validate({"name": "collect-url", "collect": [body]})
    return submit.start(settings, caller, recipe, "collect", idempotency_key, response)


@router.post(
    "/api/training/collect/user-input",
    status_code=201,
    openapi_extra=needs("user", requestBody=USER_INPUT, **{MULTIPART: True}),
)
async def collect_user_input(
    request: Request, caller: CurrentCaller, settings: AppSettings, idempotency_key: Idempotency = None
) -> Response:
    """Store a text or a structured value (JSON; the response is the input) or files (multipart; the response has
    `items`). A repeated `Idempotency-Key` returns what the first request made."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "multipart/form-data":
        body = _body(await request.json() if await request.body() else None)
        row = await run_in_threadpool(_store_value, settings, caller, body, idempotency_key)
        return JSONResponse(row, status_code=201)
    if not idempotency_key:  # a repeated request takes no room
        await run_in_threadpool(_check_announced, settings, caller, request.headers.get("content-length", "0"))
    async with request.form(max_files=20, max_fields=10, max_part_size=1 << 20) as form:
        items = await run_in_threadpool(_store_files, settings, caller, form, idempotency_key)
    return JSONResponse({"items": items, "next": None}, status_code=201)


@router.get("/api/training/collect/user-input", openapi_extra=needs("user"))
def list_user_inputs(
    caller: CurrentCaller, settings: AppSettings, user_id: UserId = None, cursor: Cursor = None, limit: Limit = 50
) -> dict[str, Any]:
    """Inputs, newest first, without their content: the caller's, and with the role `trainer` those that are shared."""
    owner = None if caller.may("trainer") else caller.user
    with open_session(settings) as session:
        rows, next_cursor = inputs.list_inputs(session, caller.tenant, user_id, cursor, limit, owner)
        return {"items": [inputs.as_dict(row) for row in rows], "next": next_cursor}


@router.post("/api/training/collect/user-input/{input_id}/share", openapi_extra=needs("user"))
def share_user_input(
    input_id: str, caller: CurrentCaller, settings: AppSettings, body: SharingBody | None = None
) -> dict[str, Any]:
    """Let the tenant's trainers see the input and collect it, or, with `{"shared": false}`, its owner and admins
    alone."""
    with open_session(settings) as session:
        row = inputs.get(session, input_id, caller.tenant)
        ownership.share(session, row, f"User input {row.id}", shared=(body or SharingBody()).shared)
        return inputs.as_dict(row)


@router.delete("/api/training/collect/user-input/{input_id}", status_code=204, openapi_extra=needs("user"))
def delete_user_input(input_id: str, caller: CurrentCaller, settings: AppSettings) -> None:
    """Delete an input of one's own (with the role `trainer` also one of the tenant's), and a file's bytes when no other
    input has the same, and no document of another source. Documents that were made of it remain."""
    with open_session(settings) as session:
        if not caller.may("trainer") and inputs.get(session, input_id, caller.tenant).owner != caller.user:
            raise DeniedError(
                f"User input {input_id} is not yours, and the key's role is {caller.role}.",
                remedy="ask its owner, or somebody with the role trainer",
            )
        row = inputs.remove(session, input_id, caller.tenant)
    if row.input_type == "file":
        remove_unreferenced(settings, [row.content])


def _body(value: Any) -> UserInputBody:
    try:
        return UserInputBody.model_validate(value)
    except ValidationError as error:
        problems = [Problem(".".join(map(str, ("body", *detail["loc"]))), detail["msg"]) for detail in error.errors()]
        raise InputError("The body has mistakes.", problems=problems) from None


def _store_value(
    settings: Settings, caller: Caller, body: UserInputBody, idempotency_key: str | None
) -> dict[str, Any]:
    is_text = body.input_type == "text"
    content = body.content if is_text else json.dumps(body.content, ensure_ascii=False, allow_nan=False)
    data = content.encode()
    sha256, tenant, owner = hashlib.sha256(data).hexdigest(), caller.tenant, caller.user
    request_hash = fingerprint("value", body.user_id, body.input_type, sha256, body.metadata)
    with open_session(settings) as session:
        locks.hold(session, f"uploads/{tenant}")
        if idempotency_key and (previous := requests.find(session, tenant, owner, idempotency_key, request_hash)):
            return inputs.as_dict(inputs.get(session, previous[0], tenant))
        check_quota(session, settings, tenant, len(data) + len(json.dumps(body.metadata)))
        input_id = new_id()
        row = inputs.add(
            session,
            id=input_id,
            user_id=body.user_id,
            input_type=body.input_type,
            content=seal_text(content, f"user_inputs/{input_id}", settings.encryption_keys),
            sha256=sha256,
            size_bytes=len(data),
            metadata=body.metadata,
            tenant=tenant,
            owner=owner,
        )
        if idempotency_key:
            requests.record(session, tenant, owner, idempotency_key, request_hash, [row.id])
        usage.add(session, tenant=tenant, owner=owner, user_id=body.user_id, requests=1, bytes=len(data))
        return inputs.as_dict(row)


def _store_files(
    settings: Settings, caller: Caller, form: FormData, idempotency_key: str | None
) -> list[dict[str, Any]]:
    """Store all files or none: they are checked before anything is stored."""
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if not files:
        raise InputError("The request has no file.", problems=[Problem("body.file", "is missing")])
    user_id, metadata = _text(form, "user_id") or caller.name, _metadata(_text(form, "metadata"))
    if len(user_id) > 128 or "\0" in user_id:
        raise InputError(
            "The user's id cannot be used.", problems=[Problem("body.user_id", "is longer than 128 characters")]
        )
    checked = [(file, check_upload(file.filename or "", file.file)) for file in files]
    uploads = [
        read_upload(file.file, metadata | {"filename": display_name(file.filename or ""), "extension": extension})
        for file, extension in checked
    ]
    return store_uploads(settings, caller.tenant, user_id, uploads, idempotency_key, owner=caller.user)


def _check_announced(settings: Settings, caller: Caller, content_length: str) -> None:
    """Refuse an upload for which the tenant has no room before any of it is read."""
    with open_session(settings) as session:
        check_quota(session, settings, caller.tenant, int(content_length))


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""


def _metadata(text: str) -> dict[str, Any]:
    value = strict_json(text.encode()) if text.strip() else {}
    if not isinstance(value, dict):
        raise InputError("The metadata cannot be used.", problems=[Problem("body.metadata", "is not a JSON object")])
    check_metadata(value)
    return value
