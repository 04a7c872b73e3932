"""Inputs that a job answers: what is asked and what has been answered so far, in storage below `batches/`, sealed as
everything there. A row of jobs names the folder; it holds no text."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from soldiom_ray.db import jobs
from soldiom_ray.db.tables import Job
from soldiom_ray.errors import ConflictError, NotFoundError
from soldiom_ray.records import ENDED
from soldiom_ray.storage import Storage

KIND = "batch"
"""The kind of such a job, and its only stage's name."""
FOLDER = "batches"
PART = 32
"""Inputs of one part: what is answered together, and what a kill can cost."""
KEPT_DAYS = 30
"""How long questions and answers are kept after they were written."""


def digest_of(model_id: str, user_id: str, request: Mapping[str, Any]) -> str:
    """Tells a request for a user from every other one, without its texts."""
    return hashlib.sha256(json.dumps([model_id, user_id, request], sort_keys=True).encode()).hexdigest()


def write_request(storage: Storage, folder: str, request: Mapping[str, Any]) -> None:
    """Store what is asked: `inputs`, `raw` and `parameters`."""
    storage.write(_request_key(folder), json.dumps(request, ensure_ascii=False).encode())


def read_request(storage: Storage, folder: str) -> dict[str, Any]:
    """What is asked. NotFoundError where it was erased or was too old."""
    try:
        request: dict[str, Any] = json.loads(storage.read(_request_key(folder)))
    except NotFoundError as error:
        raise NotFoundError(
            "The inputs of this batch are no longer stored: they were erased, or kept long enough.",
            remedy="send them again",
        ) from error
    return request


def part_count(inputs: int) -> int:
    """How many parts so many inputs make."""
    return -(-inputs // PART)


def finished_parts(storage: Storage, folder: str) -> set[int]:
    """Numbers of the parts that have been answered."""
    keys = storage.keys(f"{FOLDER}/{folder}/answers")
    return {int(key.rpartition("/")[2].removesuffix(".jsonl")) for key in keys}


def write_part(storage: Storage, folder: str, number: int, lines: Sequence[Mapping[str, Any]]) -> None:
    """Store the answers to a part's inputs."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    storage.write(_part_key(folder, number), text.encode())


def result_parts(storage: Storage, folder: str, inputs: int) -> Iterator[bytes]:
    """The result in pieces of whole JSON lines, one line an input, in their order."""
    for number in range(part_count(inputs)):
        yield storage.read(_part_key(folder, number))


def check_finished(job: Job) -> None:
    """ConflictError for a job whose result is not whole, NotFoundError for one whose texts were erased."""
    if job.result.get("erased"):
        raise NotFoundError(f"What job {job.id} asked was erased with its user.")
    if job.status not in ENDED:
        raise ConflictError(f"Job {job.id} is {job.status}; its result is not there yet.", remedy="ask again later")
    if job.status != "completed":
        raise ConflictError(
            f"Job {job.id} is {job.status}; not all its inputs were answered.",
            remedy="send the same inputs again: those that were answered are not asked again",
        )


def newest(session: Session, tenant: str, owner: str, digest: str) -> Job | None:
    """The newest job of this owner that asked the same."""
    query = select(Job).where(Job.tenant == tenant, Job.owner == owner, Job.kind == KIND).order_by(Job.id.desc())
    return next((job for job in session.scalars(query.limit(200)) if job.config.get("request") == digest), None)


def folder_to_go_on(job: Job | None) -> str | None:
    """The folder of a job that ended before all was answered."""
    if job is None or job.status not in ("failed", "cancelled") or job.result.get("erased"):
        return None
    return str(job.config["folder"])


def of_user(session: Session, tenant: str, user_id: str) -> list[Job]:
    """Jobs that asked for a user, or that the user owns, oldest first."""
    query = select(Job).where(Job.tenant == tenant, Job.kind == KIND).order_by(Job.id)
    return [job for job in session.scalars(query) if user_id in (job.config.get("user_id"), job.owner)]


def erase(session: Session, storage: Storage, rows: Sequence[Job]) -> None:
    """Remove what these jobs asked and were answered; their rows stay, without the user."""
    for job in rows:
        storage.remove(f"{FOLDER}/{job.config['folder']}")
        job.config = {name: value for name, value in job.config.items() if name != "user_id"}
        job.result = {"erased": True}
    session.flush()


def as_dict(job: Job) -> dict[str, Any]:
    """The job as its caller sees it, without its configuration."""
    names = ("id", "status", "progress", "message")
    shown: dict[str, Any] = {name: getattr(job, name) for name in names}
    shown |= {"model": job.config["model"], "inputs": job.config["inputs"]}
    shown |= {name: job.result[name] for name in ("errors", "usage", "notices") if name in job.result}
    for name in ("created_at", "started_at", "completed_at"):
        moment = getattr(job, name)
        shown[name] = moment.isoformat() if moment else None
    if (error := jobs.failure(job)) is not None:
        shown |= {"error": job.error, "problem": error.to_problem()}
    address = f"/api/inference/batches/{job.id}"
    return shown | {"url": address, "result": f"{address}/result" if job.status == "completed" else None}


def _request_key(folder: str) -> str:
    return f"{FOLDER}/{folder}/request.json"


def _part_key(folder: str, number: int) -> str:
    return f"{FOLDER}/{folder}/answers/{number:06d}.jsonl"
