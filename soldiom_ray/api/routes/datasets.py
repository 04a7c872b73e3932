"""Documents, datasets and indexes; search in an index."""

from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from starlette.concurrency import run_in_threadpool

from soldiom_ray.api import endpoints
from soldiom_ray.api.auth import AppSettings, Caller, CurrentCaller, GuardedRoute, needs
from soldiom_ray.api.bodies import SearchBody, SharingBody
from soldiom_ray.api.pages import preview_items
from soldiom_ray.api.routes.jobs import Cursor, Limit
from soldiom_ray.artifacts import Artifacts
from soldiom_ray.db import datasets, documents, ownership
from soldiom_ray.db.engine import open_session
from soldiom_ray.deletion import delete_dataset
from soldiom_ray.errors import InputError, NotFoundError, Problem
from soldiom_ray.records import SEARCH_APPLICATION, DocumentKind, Manifest, Split
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage

router = APIRouter(route_class=GuardedRoute, tags=["datasets"])
PICTURE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}


@router.get("/api/datasets", openapi_extra=needs("viewer"))
def list_datasets(
    caller: CurrentCaller,
    settings: AppSettings,
    stage: Literal["documents", "dataset", "index"] | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Collected documents, prepared datasets and indexes, newest first."""
    with open_session(settings) as session:
        rows, next_cursor = datasets.list_datasets(session, caller.tenant, stage, cursor, limit)
        return {"items": [datasets.as_dict(row) for row in rows], "next": next_cursor}


@router.get("/api/datasets/{dataset_id}", openapi_extra=needs("viewer"))
def show_dataset(dataset_id: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """One dataset, by its id or its artifact's id, with its card."""
    with open_session(settings) as session:
        dataset = datasets.as_dict(datasets.get(session, dataset_id, caller.tenant))
    artifacts = Artifacts(open_storage(settings))
    manifest = artifacts.find(dataset["artifact_id"])
    has_card = manifest is not None and any(entry.name == "card.md" for entry in manifest.files)
    card = artifacts.read(manifest, "card.md").decode() if manifest is not None and has_card else None
    return dataset | {"details": manifest.details if manifest else {}, "card": card}


@router.post("/api/datasets/{dataset_id}/share", openapi_extra=needs("trainer"))
def share_dataset(
    dataset_id: str, caller: CurrentCaller, settings: AppSettings, body: SharingBody | None = None
) -> dict[str, Any]:
    """Let all of the tenant see documents, a dataset or an index, train on it and search it, or, with
    `{"shared": false}`, its owner and admins alone."""
    with open_session(settings) as session:
        row = datasets.get(session, dataset_id, caller.tenant)
        ownership.share(session, row, f"Dataset {row.id}", shared=(body or SharingBody()).shared)
        return datasets.as_dict(row)


@router.delete("/api/datasets/{dataset_id}", status_code=204, openapi_extra=needs("trainer"))
def remove_dataset(dataset_id: str, caller: CurrentCaller, settings: AppSettings) -> None:
    """Delete documents, a dataset or an index; 409 while a model, another dataset or a job uses it. Raw bytes that
    nothing refers to any more go with the next `soldiom gc`."""
    delete_dataset(settings, dataset_id, caller.tenant, caller.key_id)


@router.get("/api/datasets/{dataset_id}/documents", openapi_extra=needs("viewer"))
def list_documents(
    dataset_id: str,
    caller: CurrentCaller,
    settings: AppSettings,
    sha256: Annotated[str | None, Query(max_length=64)] = None,
    license: Annotated[str | None, Query(max_length=500)] = None,  # noqa: A002 - the column's name
    kind: DocumentKind | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Origin, license and admitting rule of each collected document, without its text."""
    with open_session(settings) as session:
        artifact = datasets.get(session, dataset_id, caller.tenant).artifact_id
        rows, next_cursor = documents.list_documents(
            session, artifact, sha256=sha256, license=license, kind=kind, cursor=cursor, limit=limit
        )
        return {"items": [documents.as_dict(row) for row in rows], "next": next_cursor}


@router.get("/api/datasets/{dataset_id}/preview", openapi_extra=needs("viewer"))
def preview(
    dataset_id: str,
    caller: CurrentCaller,
    settings: AppSettings,
    split: Split = "train",
    limit: Annotated[int, Query(ge=1, le=100)] = 5,
) -> dict[str, Any]:
    """The first samples of a split, with texts (long ones cut short) and pictures (as `data:` URLs). Collected
    documents have no splits: the first of all."""
    manifest, artifacts = _artifact(settings, dataset_id, caller)
    folder = f"{split}/" if manifest.kind == "dataset" else "documents/"
    return {"items": preview_items(artifacts.preview(manifest, folder, limit)), "next": None}


@router.get("/api/datasets/{dataset_id}/dropped", openapi_extra=needs("viewer"))
def list_dropped(
    dataset_id: str,
    caller: CurrentCaller,
    settings: AppSettings,
    reason: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Documents left out of the dataset, each with the reason and the value that decided."""
    manifest, artifacts = _artifact(settings, dataset_id, caller)
    matches = (row for row in artifacts.rows(manifest, "dropped/") if reason in (None, row["reason"]))
    return {"items": preview_items(islice(matches, limit)), "next": None}


@router.get(
    "/api/datasets/{dataset_id}/pictures/{name}",
    response_class=Response,
    responses=PICTURE,
    openapi_extra=needs("viewer"),
)
def show_picture(dataset_id: str, name: str, caller: CurrentCaller, settings: AppSettings) -> Response:
    """A picture of the card (PNG)."""
    manifest, artifacts = _artifact(settings, dataset_id, caller)
    if not name.endswith(".png") or all(entry.name != name for entry in manifest.files):
        raise NotFoundError(f"The dataset has no picture {name!r}.", remedy="its card names those it has")
    return Response(artifacts.read(manifest, name), media_type="image/png")


@router.post("/api/search", openapi_extra=needs("user"))
async def search(body: SearchBody, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """The passages that match a query best, by meaning, by words or both: `{id, text, score, metadata}`."""
    index, artifact = await run_in_threadpool(find_index, settings, body.index, caller)
    items = await endpoints.call(SEARCH_APPLICATION, "search", body.query, body.k, artifact, body.filters, body.mode)
    return {"items": items, "next": None, "index": index}


def _artifact(settings: Settings, dataset_id: str, caller: Caller) -> tuple[Manifest, Artifacts]:
    with open_session(settings) as session:
        artifact = datasets.get(session, dataset_id, caller.tenant).artifact_id
    artifacts = Artifacts(open_storage(settings))
    return artifacts.get(artifact), artifacts


def find_index(settings: Settings, index: str | None, caller: Caller) -> tuple[str, str]:
    """The id of an index (unset: the newest that the caller sees), and the id of its artifact."""
    with open_session(settings) as session:
        row = datasets.get(session, index, caller.tenant) if index else datasets.latest_index(session, caller.tenant)
        if row is None:
            raise NotFoundError("There is no index yet.", remedy="run a recipe with `embed:`")
        if row.stage != "index":
            raise InputError("The dataset is not an index.", problems=[Problem("body.index", f"names {row.stage}")])
    return row.id, row.artifact_id
