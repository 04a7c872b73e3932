"""Jobs that answer many inputs: how far they are, and their results. A key of the role `user` sees its own."""

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse

from soldiom_ray import batches, launch
from soldiom_ray.api.auth import AppSettings, Caller, CurrentCaller, GuardedRoute, needs
from soldiom_ray.db import jobs
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.tables import Job
from soldiom_ray.errors import NotFoundError
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage

router = APIRouter(route_class=GuardedRoute, tags=["inference"])


@router.get("/api/inference/batches/{job_id}", openapi_extra=needs("user"))
def show_batch(job_id: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """How far a batch is: `status`, `progress` from 0 to 1, and once it has completed how many inputs have an error,
    the tokens, and where the `result` is."""
    return batches.as_dict(_batch_of(settings, job_id, caller))


@router.get(
    "/api/inference/batches/{job_id}/result",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": {}}}},
    openapi_extra=needs("user"),
)
def show_result(job_id: str, caller: CurrentCaller, settings: AppSettings) -> Response:
    """The answers as JSON lines, one an input, in their order: `{index, input, output, usage, ...}` or `{index, input,
    error}`. 409 while not all inputs are answered."""
    job = _batch_of(settings, job_id, caller)
    batches.check_finished(job)
    pieces = batches.result_parts(open_storage(settings), str(job.config["folder"]), int(job.config["inputs"]))
    return StreamingResponse(_begun(pieces), media_type="application/jsonl")


@router.delete("/api/inference/batches/{job_id}", status_code=202, openapi_extra=needs("user"))
def cancel_batch(job_id: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """Ask a batch to stop. What was answered is kept: the same inputs, sent again, go on from there. 409 when it has
    ended already."""
    job = _batch_of(settings, job_id, caller)
    launch.cancel_job(settings, job.id, caller.tenant)
    return batches.as_dict(_batch_of(settings, job_id, caller))


def _batch_of(settings: Settings, job_id: str, caller: Caller) -> Job:
    with open_session(settings) as session:
        job = jobs.get(session, job_id, caller.tenant)
    if job.kind != batches.KIND or (job.owner != caller.user and not caller.may("trainer")):
        raise NotFoundError(f"No batch {job_id!r}.", remedy="the answer to POST .../batch names it")
    return job


def _begun(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces, the first of which is there: what is no longer stored is a 404, not a result cut short."""
    first = next(pieces, b"")

    def all_pieces() -> Iterator[bytes]:
        yield first
        yield from pieces

    return all_pieces()
