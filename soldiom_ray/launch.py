"""Submit a recipe to the cluster as a Ray job and record it; imports no torch.

The state of a job is what its row says. Ray is asked only whether a job's driver is gone.
"""

import hashlib
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from soldiom_ray import batches, compute
from soldiom_ray.db import datasets, deployments, jobs, locks, models
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.ownership import check_change
from soldiom_ray.db.tables import Job, Model
from soldiom_ray.domains.names import pin
from soldiom_ray.domains.recipes import as_dict
from soldiom_ray.domains.references import is_local_path
from soldiom_ray.domains.schema import Recipe
from soldiom_ray.domains.secrets import hide_secrets
from soldiom_ray.errors import ConflictError, SoldiomError, UnavailableError, own_error
from soldiom_ray.records import (
    COMMAND_LINE,
    ENDED,
    SEARCH_APPLICATION,
    WATCHER,
    application_name,
    keeper_of,
    new_id,
    now,
)
from soldiom_ray.services import applied
from soldiom_ray.settings import HOME_TENANT, Settings, job_environment, save_secrets
from soldiom_ray.storage import LOGS, log_key, open_storage
from soldiom_ray.tracing import traceparent

SILENT_SECONDS = 60.0
"""A job without a heartbeat for so long is ended even where Ray does not know it."""
START_SECONDS = 20.0
"""A pending job younger than this is not checked: its driver is still starting."""
CANCEL_SECONDS = 30.0
"""How long a cancelled job may take to write its checkpoint before Ray stops it."""
LOG_CHARACTERS = 4_000_000
LOG_HOURS = 48
"""How far back ended jobs are looked at whose logs may not be stored yet."""
PRINTING_SECONDS = 5.0
"""How long a job prints after its row says that it has ended."""
AWAY_SECONDS = 120.0
"""How long following a log outlasts services that do not answer."""

logger = logging.getLogger(__name__)


def launch_job(
    settings: Settings,
    recipe: Recipe,
    *,
    kind: str,
    tenant: str = HOME_TENANT,
    owner: str = "",
    account: str | None = None,
    as_admin: bool = False,
    idempotency_key: str | None = None,
) -> dict[str, Any]:
    """Write the job's row, without the secrets of its sources, and submit it. Returns the job as the API shows it.

    What it makes is its owner's, and it sees what that one sees, or `as_admin` all of the tenant; `account` is charged
    with it where that is another. The same idempotency key of an owner returns the job that it created before
    (ConflictError when the recipe differs). InputError for a base in a folder here that cannot be trained; errors of
    `names.pin`; ConflictError for settings of this shell that are not the home's (`services.applied`). UnavailableError
    when the database or Ray cannot be reached; the row then says `failed`.
    """
    if owner == COMMAND_LINE:
        applied.check_job(settings)
    check_base_folder(recipe)
    save_secrets(settings)
    recipe = hide_secrets(settings, recipe, keeper_of(tenant, owner))
    with open_session(settings) as session:
        recipe = pin(session, recipe, tenant)
        whose: dict[str, Any] = {"owner": owner, "account": account, "as_admin": as_admin}
        job = create_job(session, recipe, kind=kind, tenant=tenant, idempotency_key=idempotency_key, **whose)
        is_new = job.submission_id is None and job.status == "pending"
        job_id = job.id
        if is_new:
            jobs.update(session, job_id, submission_id=job_id)
    if is_new:
        _submit(settings, job_id, recipe.name, kind)
    return show_job(settings, job_id, tenant)


def launch_batch(
    settings: Settings,
    model: Model,
    request: Mapping[str, Any],
    *,
    tenant: str = HOME_TENANT,
    owner: str = "",
    user_id: str = "",
    as_admin: bool = False,
    idempotency_key: str | None = None,
    joins: bool = False,
) -> Job:
    """Store inputs for a deployed model, and submit the job that answers them; its row. `request` holds `inputs`, `raw`
    and `parameters`. Where the owner's last job that asked the same ended before all was answered, this one goes on
    with what is left; with `joins` one that still runs is returned itself. Errors as of `launch_job`."""
    if owner == COMMAND_LINE:
        applied.check_job(settings)
    digest, storage = batches.digest_of(model.id, user_id, request), open_storage(settings)
    if joins:
        reconcile(settings)
    with open_session(settings) as session:
        locks.hold(session, f"batch {hashlib.sha256(f'{tenant} {idempotency_key or digest}'.encode()).hexdigest()}")
        known = jobs.of_key(session, tenant, owner, idempotency_key) if idempotency_key else None
        if known is not None:
            return jobs.check_same_request(known, batches.KIND, known.config | {"request": digest})
        before = batches.newest(session, tenant, owner, digest)
        if joins and before is not None and before.status not in ENDED:
            return before
        folder = batches.folder_to_go_on(before) or new_id()
        batches.write_request(storage, folder, request)
        config = {"model": model.id, "inputs": len(request["inputs"]), "request": digest, "folder": folder}
        config |= {"user_id": user_id}
        job = jobs.create(
            session,
            name=model.name,
            kind=batches.KIND,
            config=config,
            tenant=tenant,
            owner=owner,
            as_admin=as_admin,
            idempotency_key=idempotency_key,
        )
        jobs.update(session, job.id, submission_id=job.id)
        job_id = job.id
    _submit(settings, job_id, model.name, batches.KIND)
    with open_session(settings) as session:
        return jobs.get(session, job_id)


def check_base_folder(recipe: Recipe) -> None:
    """InputError for a training whose base is a folder here that cannot be trained; the job itself checks other bases.

    Another process looks at it, because this one knows no models."""
    train = recipe.train
    if train is None or not is_local_path(train.base_model):
        return
    folder = Path(train.base_model).expanduser()
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        return
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "soldiom_ray.models.base_check"],
        input=json.dumps({"train": train.model_dump(mode="json")}),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    answer = json.loads(process.stdout) if process.stdout else {}  # an unforeseen end is the job's to report
    if "error" in answer:
        raise SoldiomError.from_dict(answer["error"])


def create_job(
    session: Session,
    recipe: Recipe,
    *,
    kind: str,
    tenant: str = HOME_TENANT,
    owner: str = "",
    account: str | None = None,
    as_admin: bool = False,
    idempotency_key: str | None = None,
) -> Job:
    """Write the row of a job that runs this recipe, whose secrets are hidden already; see `db.jobs.create`. BusyError
    where the device minutes of its key or its tenant are used up."""
    job = jobs.create(
        session,
        name=recipe.name,
        kind=kind,
        config=as_dict(recipe),
        tenant=tenant,
        owner=owner,
        account=account,
        as_admin=as_admin,
        base_model=(recipe.train.base_model or None) if recipe.train else None,
        training_method=recipe.train.method if recipe.train else None,
        dataset_id=recipe.dataset,
        idempotency_key=idempotency_key,
    )
    is_new = job.submission_id is None and job.status == "pending"
    if is_new and owner != WATCHER and (refusal := jobs.exhausted_quota(session, job.id)) is not None:
        raise refusal
    return job


def running_job(settings: Settings, recipe: Recipe, kind: str, tenant: str = HOME_TENANT) -> dict[str, Any] | None:
    """The unfinished job of an equal recipe, or None."""
    reconcile(settings)
    recipe = hide_secrets(settings, recipe, tenant)
    with open_session(settings) as session:
        recipe = pin(session, recipe, tenant)
        job = jobs.active(session, tenant, kind, recipe.name, as_dict(recipe))
        return jobs.as_dict(job, jobs.stages(session, job.id)) if job else None


def show_job(settings: Settings, job_id: str, tenant: str | None) -> dict[str, Any]:
    """The job as the API shows it, its stages included."""
    with open_session(settings) as session:
        job = jobs.get(session, job_id, tenant)
        return jobs.as_dict(job, jobs.stages(session, job.id))


def cancel_job(settings: Settings, job_id: str, tenant: str | None) -> dict[str, Any]:
    """Ask a job to stop. A pending job ends at once; a running one writes its checkpoint first.

    ConflictError when it has already ended.
    """
    with open_session(settings) as session:
        job = jobs.request_cancel(session, job_id, tenant)
        pending, submission = job.status == "pending", job.submission_id
    if pending and submission:
        _stop(settings, submission)
        with open_session(settings) as session:
            if jobs.get(session, job_id, tenant).status == "pending":
                jobs.update(session, job_id, status="cancelled", completed_at=now())
    return show_job(settings, job_id, tenant)


def job_logs(settings: Settings, job_id: str, tenant: str | None) -> str:
    """What the job's driver has printed so far: JSON lines (see `logs`) and the output of libraries. Of a job that has
    ended and that Ray does not know any more, what was stored of it (see `store_logs`)."""
    with open_session(settings) as session:
        job = jobs.get(session, job_id, tenant)
        submission, ended = job.submission_id, job.status in ENDED
    if not submission:
        return ""
    try:
        text = str(compute.job_client(settings).get_job_logs(submission))
    except RuntimeError:
        text = ""
    except UnavailableError:
        if not ended:
            raise
        text = ""
    return text or _stored_log(settings, job_id)


def store_logs(settings: Settings, *, unfinished: bool = False) -> None:
    """Store the logs of jobs that have ended lately (with `unfinished`, before the services stop, also of those that
    have not), sealed as everything in storage and shortened: Ray forgets them when it stops."""
    storage = open_storage(settings)
    stored = set(storage.keys(LOGS))
    with open_session(settings) as session:
        ended = [(job.id, job.submission_id, job.completed_at) for job in jobs.ended_since(session, LOG_HOURS)]
        running = [(job.id, job.submission_id) for job in jobs.stale(session, 0)] if unfinished else []
    lately = now() - timedelta(seconds=0 if unfinished else PRINTING_SECONDS)
    missing = [(i, name) for i, name, at in ended if log_key(i) not in stored and at is not None and at < lately]
    wanted = {job_id: submission for job_id, submission in (*missing, *running) if submission}
    if not wanted:
        return
    client = compute.job_client(settings)
    for job_id, submission in wanted.items():
        try:
            text = str(client.get_job_logs(submission))
        except RuntimeError:
            continue  # an earlier session's
        if text:
            storage.write(log_key(job_id), shorten_log(text).encode())


def shorten_log(text: str) -> str:
    """The beginning and the end of a log of more than LOG_CHARACTERS."""
    if len(text) <= LOG_CHARACTERS:
        return text
    begin, end = text[: LOG_CHARACTERS // 4], text[-LOG_CHARACTERS * 3 // 4 :]
    return f"{begin}\n… {len(text) - len(begin) - len(end)} characters are left out …\n{end}"


def _stored_log(settings: Settings, job_id: str) -> str:
    storage = open_storage(settings)
    return storage.read(log_key(job_id)).decode() if storage.exists(log_key(job_id)) else ""


def follow_logs(settings: Settings, job_id: str, tenant: str | None, poll_seconds: float = 1.0) -> Iterator[str]:
    """Parts of the log as they appear, until the job has ended. A lost connection is made again and the log goes on
    where it was: UnavailableError only when nothing has answered for AWAY_SECONDS."""
    read = Retrying(
        retry=retry_if_exception_type((UnavailableError, OSError)),  # Ray's client raises an OSError when it is cut off
        stop=stop_after_delay(AWAY_SECONDS),
        wait=wait_fixed(poll_seconds),
        reraise=True,
    )
    position, ended = 0, False
    while not ended:
        ended = read(show_job, settings, job_id, tenant)["status"] in ENDED
        text = read(job_logs, settings, job_id, tenant)
        if len(text) > position:
            yield text[position:]
            position = len(text)
        if not ended:
            time.sleep(poll_seconds)


def wait_for_job(settings: Settings, job_id: str, poll_seconds: float = 0.5) -> Iterator[dict[str, Any]]:
    """The job again and again, the last time when it has ended. Notices that its driver has died."""
    reconciled = time.monotonic()
    while True:
        job = show_job(settings, job_id, None)
        yield job
        if job["status"] in ENDED:
            return
        if time.monotonic() - reconciled > 5:
            reconcile(settings)
            reconciled = time.monotonic()
        time.sleep(poll_seconds)


def reconcile(settings: Settings) -> None:
    """End the rows of jobs whose processes are gone, and the processes of jobs that were asked to stop and did not."""
    with open_session(settings) as session:
        unfinished = [
            (job.id, job.submission_id, job.status, job.cancel_requested, job.heartbeat_at or job.created_at)
            for job in jobs.stale(session, 0)
        ]
    for job_id, submission, status, cancelling, last_sign in unfinished:
        silent_seconds = (now() - last_sign).total_seconds()
        if silent_seconds < (START_SECONDS if status == "pending" else 5.0):
            continue
        ray_status, exit_code = _ray_status(settings, submission)
        gone = ray_status in ("SUCCEEDED", "FAILED", "STOPPED", "UNKNOWN")
        if not gone and cancelling and silent_seconds > CANCEL_SECONDS and submission:
            _stop(settings, submission)
            gone = True
        if gone and not (ray_status == "UNKNOWN" and silent_seconds < SILENT_SECONDS):
            _end(settings, job_id, cancelling, ray_status, exit_code)


def undeploy(settings: Settings, model_id: str, tenant: str | None) -> None:
    """Stop serving a model. ConflictError when it is not served."""
    with open_session(settings) as session:
        model = models.get(session, model_id, tenant)
        check_change(session, model, f"Model {model.id}")
        if not model.deployed:
            raise ConflictError(f"Model {model.id} is not deployed.", remedy="`soldiom models list` shows what is")
        model_id = model.id
    compute.connect(settings)
    from ray import serve

    if application_name(model_id) in serve.status().applications:
        serve.delete(application_name(model_id))
    with open_session(settings) as session:
        deployments.set_state(session, model_id, "stopped")


def restore_endpoints(settings: Settings) -> int:
    """Restore in the background the endpoints that ran when the services stopped; returns how many are missing."""
    with open_session(settings) as session:
        expected = [application_name(row.model_id) for row in deployments.running(session)]
        if datasets.latest_index(session, None):
            expected.append(SEARCH_APPLICATION)
    missing = set(expected) - compute.running_applications(settings) if expected else set()
    if missing:
        compute.job_client(settings).submit_job(
            entrypoint=f"{_python(settings)} -m soldiom_ray.flow --restore",
            runtime_env={"env_vars": job_environment(settings)},
            metadata={"name": "restore endpoints", "kind": "restore"},
        )
    return len(missing)


def _end(settings: Settings, job_id: str, cancelling: bool, ray_status: str, exit_code: int | None) -> None:
    """End the row of a job whose process is gone, unless the process has done so itself."""
    with open_session(settings) as session:
        if jobs.get(session, job_id).status in ENDED:
            return
        if cancelling:
            jobs.update(session, job_id, status="cancelled", completed_at=now())
        else:
            jobs.fail(session, job_id, _exit_error(job_id, ray_status, exit_code))
    logger.warning("job ended by reconciliation", extra={"data": {"job": job_id, "ray": ray_status}})


def _exit_error(job_id: str, ray_status: str, exit_code: int | None) -> SoldiomError:
    """What the row says of a process that ended without writing why. A shell gives the signal as 128 + its number."""
    ended = f"Ray status: {ray_status.lower()}"
    number = -exit_code if exit_code and exit_code < 0 else exit_code - 128 if exit_code and exit_code > 128 else 0
    memory = ""
    if number in set(signal.Signals):
        ended += f", killed by {signal.Signals(number).name}"
        memory = "free memory if the machine ran out of it; " if number == signal.SIGKILL else ""
    elif exit_code is not None:
        ended += f", exit code {exit_code}"
    return SoldiomError(
        f"The job's process exited unexpectedly ({ended}). What was finished is kept.",
        remedy=f"see `soldiom jobs logs {job_id}` for the cause; {memory}"
        "start the same job again; it goes on where this one stopped",
    )


def _submit(settings: Settings, job_id: str, name: str, kind: str) -> None:
    environment = job_environment(settings) | {"RAY_JOB_STOP_WAIT_TIME_S": str(int(CANCEL_SECONDS))}
    environment |= {"TRACEPARENT": parent} if (parent := traceparent()) else {}
    try:
        compute.job_client(settings).submit_job(
            entrypoint=f"{_python(settings)} -m soldiom_ray.flow {job_id}",
            submission_id=job_id,
            runtime_env={"env_vars": environment},
            metadata={"name": name, "kind": kind},
        )
    except Exception as error:
        refusal = own_error(error) or UnavailableError(
            f"Ray did not accept job {job_id}: {type(error).__name__}.",
            remedy="run `soldiom status`, then `soldiom up`",
        )
        with open_session(settings) as session:
            jobs.fail(session, job_id, refusal)
        raise refusal from error


def _python(settings: Settings) -> str:
    """The Python that runs a job: this one where Ray runs on this machine, else that of the cluster's image."""
    return shlex.quote(sys.executable) if "ray" not in settings.external else "python"


def _ray_status(settings: Settings, submission: str | None) -> tuple[str, int | None]:
    """Ray's status of a job, "UNKNOWN" when Ray has none of it, and the exit code of a driver that has ended."""
    if not submission:
        return "UNKNOWN", None
    try:
        details = compute.job_client(settings).get_job_info(submission)
    except RuntimeError:
        return "UNKNOWN", None
    return str(details.status.value), details.driver_exit_code


def _stop(settings: Settings, submission: str) -> None:
    try:
        compute.job_client(settings).stop_job(submission)
    except RuntimeError:
        logger.info("Ray knows no such job", extra={"data": {"job": submission, "pid": os.getpid()}})
