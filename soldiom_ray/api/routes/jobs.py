"""Training jobs: plan, start, list, show, stop, logs, curves."""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response

from soldiom_ray import launch
from soldiom_ray.api import planner, submit
from soldiom_ray.api.auth import AppSettings, CurrentCaller, GuardedRoute, needs
from soldiom_ray.api.bodies import TrainingBody
from soldiom_ray.api.events import event, respond
from soldiom_ray.artifacts import Artifacts
from soldiom_ray.db import jobs
from soldiom_ray.db.engine import open_session
from soldiom_ray.errors import BusyError
from soldiom_ray.examples import examples_as_dicts, read_examples
from soldiom_ray.records import JobStatus
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage

router = APIRouter(route_class=GuardedRoute, tags=["jobs"])
Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=64)]

FOLLOWERS = 16
"""How many logs may be followed at once: each one occupies a thread, of a pool of its own."""

_follower_limits: list[anyio.CapacityLimiter] = []


@router.post("/api/training/jobs", status_code=202, openapi_extra=needs("trainer"))
def create_job(
    body: TrainingBody,
    caller: CurrentCaller,
    settings: AppSettings,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> dict[str, Any]:
    """Train on a dataset, or run a whole recipe. The same `Idempotency-Key` gives the same job."""
    kind = "train" if body.dataset_id is not None else "workflow"
    return submit.start(settings, caller, submit.training_recipe(body), kind, idempotency_key, response, body)


@router.post("/api/training/plan", openapi_extra=needs("trainer"))
async def plan_training(body: TrainingBody, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """What a training needs before it is started: memory, time, strategy, whether it fits, what is cut. The body is
    that of the training; of a recipe that makes its own dataset the plan says nothing of samples and time."""
    request = await run_in_threadpool(submit.plan_request, settings, caller, body)
    return await planner.make_plan(settings, request)


@router.get("/api/training/jobs", openapi_extra=needs("viewer"))
def list_jobs(
    caller: CurrentCaller,
    settings: AppSettings,
    status: JobStatus | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Jobs, newest first."""
    with open_session(settings) as session:
        rows, next_cursor = jobs.list_jobs(session, caller.tenant, status, cursor, limit)
        return {"items": [jobs.as_dict(row) for row in rows], "next": next_cursor}


@router.get("/api/training/jobs/{job_id}", openapi_extra=needs("viewer"))
def show_job(job_id: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """One job with its stages."""
    return launch.show_job(settings, job_id, caller.tenant)


@router.delete("/api/training/jobs/{job_id}", status_code=202, openapi_extra=needs("trainer"))
def cancel_job(job_id: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """Ask a job to stop: it keeps its last checkpoint and ends as `cancelled`. 409 when it has ended already."""
    return launch.cancel_job(settings, job_id, caller.tenant)


@router.get("/api/training/jobs/{job_id}/logs", response_class=PlainTextResponse, openapi_extra=needs("viewer"))
async def show_logs(job_id: str, caller: CurrentCaller, settings: AppSettings, follow: bool = False) -> Response:
    """The job's log: JSON lines and what libraries printed, of a long one its beginning and end; with `follow`, all of
    it as server-sent events until the job ends."""
    if not follow:
        text = await anyio.to_thread.run_sync(launch.job_logs, settings, job_id, caller.tenant)
        return PlainTextResponse(_without_folders(launch.shorten_log(text), settings))
    await anyio.to_thread.run_sync(launch.show_job, settings, job_id, caller.tenant)
    if not _follower_limits:
        _follower_limits.append(anyio.CapacityLimiter(FOLLOWERS))
    if _follower_limits[0].available_tokens < 1:
        raise BusyError(f"{FOLLOWERS} logs are being followed already.", retry_after_seconds=10)
    lines = _whole_lines(launch.follow_logs(settings, job_id, caller.tenant))
    return respond(_follow((_without_folders(text, settings) for text in lines), _follower_limits[0]))


def _without_folders(text: str, settings: Settings) -> str:
    """A log with names in place of the folders in which this server and its Python lie."""
    folders = {str(settings.home): "$SOLDIOM_HOME", sys.prefix: "$PYTHON", sys.base_prefix: "$PYTHON"}
    folders[str(Path(launch.__file__).parents[1])] = "$SOLDIOM"
    for folder in sorted(folders, key=len, reverse=True):
        text = text.replace(folder, folders[folder])
    return text


def _whole_lines(chunks: Iterator[str]) -> Iterator[str]:
    """The same text in chunks that end with a line's end, but for the last."""
    rest = ""
    for chunk in chunks:
        whole, end, rest = (rest + chunk).rpartition("\n")
        if end:
            yield whole + end
    if rest:
        yield rest


async def _follow(chunks: Iterator[str], limiter: anyio.CapacityLimiter) -> AsyncIterator[bytes]:
    def next_chunk() -> str | None:
        return next(chunks, None)

    while (text := await anyio.to_thread.run_sync(next_chunk, limiter=limiter, abandon_on_cancel=True)) is not None:
        yield event({"text": text})


@router.get("/api/training/jobs/{job_id}/metrics", openapi_extra=needs("viewer"))
def show_metrics(job_id: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """The scores of the job, its examples (held-out prompts answered before and after: `[{prompt, reference, base,
    tuned, …}]`), and the curves of its training: `[{step, tokens, validation_loss, …}]`."""
    with open_session(settings) as session:
        job = jobs.get(session, job_id, caller.tenant)
        stages = {row.stage: row for row in jobs.stages(session, job_id)}
        training, scoring = stages.get("train"), stages.get("evaluate")
        curves = training.details.get("curves", []) if training else []
        run, metrics = training.artifact_id if training else None, job.metrics
        scores = scoring.artifact_id if scoring else None
    artifacts = Artifacts(open_storage(settings))
    examples = examples_as_dicts(read_examples(artifacts, scores))
    if run:
        manifest = artifacts.find(run)
        if manifest is not None and any(entry.name == "curves.json" for entry in manifest.files):
            curves = json.loads(artifacts.read(manifest, "curves.json"))
    return {"id": job_id, "metrics": metrics, "examples": examples, "curves": curves}
