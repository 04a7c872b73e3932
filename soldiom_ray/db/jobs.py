"""Jobs and their stages. A job that has ended keeps its status, whatever is written later."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from soldiom_ray.db import quotas, usage
from soldiom_ray.db.ownership import belongs_to, check_change
from soldiom_ray.db.pages import newest_first
from soldiom_ray.db.tables import Job, JobStage
from soldiom_ray.errors import BusyError, ConflictError, NotFoundError, SoldiomError
from soldiom_ray.records import ENDED, now
from soldiom_ray.settings import HOME_TENANT


def create(
    session: Session,
    *,
    name: str,
    kind: str,
    config: dict[str, Any],
    tenant: str = HOME_TENANT,
    owner: str = "",
    account: str | None = None,
    as_admin: bool = False,
    base_model: str | None = None,
    training_method: str | None = None,
    dataset_id: str | None = None,
    idempotency_key: str | None = None,
) -> Job:
    """Create a pending job, or return the one that this idempotency key of its owner created before (ConflictError when
    that request was another). A new job has no `submission_id`; launching under the job's own id makes a second launch
    impossible.
    """
    if idempotency_key and (existing := of_key(session, tenant, owner, idempotency_key)):
        return check_same_request(existing, kind, config)
    job = Job(
        name=name,
        kind=kind,
        config=config,
        tenant=tenant,
        owner=owner,
        shared=belongs_to(owner)["shared"],
        account=account if account != owner else None,
        as_admin=as_admin,
        base_model=base_model,
        training_method=training_method,
        dataset_id=dataset_id,
        idempotency_key=idempotency_key or None,
    )
    try:
        with session.begin_nested():
            session.add(job)
    except IntegrityError:
        rival = of_key(session, tenant, owner, idempotency_key or "")
        if rival is None:
            raise
        return check_same_request(rival, kind, config)
    return job


def of_key(session: Session, tenant: str, owner: str, key: str) -> Job | None:
    """The job that this idempotency key of its owner created."""
    query = select(Job).where(Job.tenant == tenant, Job.owner == owner, Job.idempotency_key == key)
    return session.scalars(query).one_or_none()


def check_same_request(job: Job, kind: str, config: dict[str, Any]) -> Job:
    """The job, where the request that its key came with again is that of the first time; else ConflictError."""
    if job.kind != kind or job.config != config:
        raise ConflictError(
            f"This idempotency key was used for job {job.id} with another request.",
            remedy="use a new key for a new request",
        )
    return job


def get(session: Session, job_id: str, tenant: str | None = None) -> Job:
    """The job; NotFoundError when there is none or it is another tenant's or user's."""
    query = select(Job).where(Job.id == job_id)
    if tenant is not None:
        query = query.where(Job.tenant == tenant)
    job = session.scalars(query).one_or_none()
    if job is None:
        raise NotFoundError(f"No job {job_id!r}.", remedy="list jobs with GET /api/training/jobs")
    return job


def list_jobs(
    session: Session, tenant: str | None, status: str | None = None, cursor: str | None = None, limit: int = 50
) -> tuple[list[Job], str | None]:
    """A page of jobs, newest first, and the cursor of the next page."""
    query = select(Job)
    if tenant is not None:
        query = query.where(Job.tenant == tenant)
    if status:
        query = query.where(Job.status == status)
    return newest_first(session, query, Job.id, cursor or None, limit)


def update(session: Session, job_id: str, **values: Any) -> Job:
    """Change columns. `started_at` and `completed_at` follow the status. A job that has ended keeps its status, error
    and progress: those values are ignored; see the job returned."""
    job = _locked(session, job_id)
    status = values.get("status")
    if job.status in ENDED and status is not None and status != job.status:
        values = {name: value for name, value in values.items() if name not in _OUTCOME}
        status = None
    for name, value in values.items():
        if name not in Job.__table__.columns:
            raise TypeError(f"jobs have no column {name!r}")
        setattr(job, name, value)
    if status == "running":
        job.started_at = job.started_at or now()
        job.heartbeat_at = now()
    if status in ENDED:
        job.completed_at = job.completed_at or now()
    if status == "completed":
        job.progress = 1.0
    session.flush()
    return job


_OUTCOME = ("status", "error", "failure", "progress")


def fail(session: Session, job_id: str, error: SoldiomError) -> Job:
    """End a job with what ended it: its text in `error`, the whole in `failure`."""
    result = {"exit_code": error.exit_code}
    return update(session, job_id, status="failed", error=str(error), failure=error.to_dict(), result=result)


def failure(job: Job) -> SoldiomError | None:
    """What ended a failed job. A row of an earlier version has only its text."""
    if job.failure:
        return SoldiomError.from_dict(job.failure)
    return SoldiomError(job.error) if job.error else None


def set_stage(session: Session, job_id: str, stage: str, **values: Any) -> JobStage:
    """Change or create the record of one stage of a job."""
    row = session.get(JobStage, (job_id, stage))
    if row is None:
        row = JobStage(job_id=job_id, stage=stage)
        session.add(row)
    for name, value in values.items():
        if name not in JobStage.__table__.columns:
            raise TypeError(f"stages have no column {name!r}")
        setattr(row, name, value)
    session.flush()
    return row


def stages(session: Session, job_id: str) -> list[JobStage]:
    """The stages of a job in their order."""
    return list(
        session.scalars(select(JobStage).where(JobStage.job_id == job_id).order_by(JobStage.position, JobStage.stage))
    )


def active(
    session: Session, tenant: str | None, kind: str, name: str, config: dict[str, Any] | None = None
) -> Job | None:
    """The newest pending or running job of this kind and name (and, when given, this configuration)."""
    query = select(Job).where(Job.kind == kind, Job.name == name, Job.status.in_(("pending", "running")))
    if tenant is not None:
        query = query.where(Job.tenant == tenant)
    candidates = session.scalars(query.order_by(Job.id.desc()))
    return next((job for job in candidates if config is None or job.config == config), None)


def unfinished(session: Session, tenant: str | None, since: datetime) -> list[str]:
    """Ids of a tenant's jobs, or of everybody's, that have not ended, or that ended since, oldest first."""
    query = select(Job.id).where(or_(Job.status.not_in(ENDED), Job.completed_at >= since))
    if tenant is not None:
        query = query.where(Job.tenant == tenant)
    return list(session.scalars(query.order_by(Job.id)))


def refuse_during(session: Session, tenant: str | None, since: datetime, *, why: str, remedy: str) -> None:
    """ConflictError, which says why, while there are `unfinished` jobs."""
    if running := unfinished(session, tenant, since):
        raise ConflictError(
            f"{len(running)} jobs run, {running[0]} among them; {why}.",
            remedy=f"{remedy}; `soldiom jobs cancel` stops one",
        )


def has_artifact(session: Session, artifact: str, tenant: str | None) -> bool:
    """Whether a job of this tenant made or reused this artifact."""
    query = select(Job.id).join(JobStage, JobStage.job_id == Job.id).where(JobStage.artifact_id == artifact)
    if tenant is not None:
        query = query.where(Job.tenant == tenant)
    return session.scalars(query.limit(1)).first() is not None


def maker_of(session: Session, artifact: str, stage: str, tenant: str | None) -> Job | None:
    """The first job whose stage made this artifact, or reused it where the maker is gone."""
    query = select(Job).join(JobStage, JobStage.job_id == Job.id)
    query = query.where(JobStage.artifact_id == artifact, JobStage.stage == stage)
    if tenant is not None:
        query = query.where(Job.tenant == tenant)
    return session.scalars(query.order_by(JobStage.reused, Job.id).limit(1)).first()


def runs(session: Session, tenant: str, limit: int = 200) -> list[str]:
    """Ids of the newest runs that jobs of this tenant made or reused."""
    query = select(JobStage.artifact_id).join(Job, JobStage.job_id == Job.id)
    query = query.where(Job.tenant == tenant, JobStage.stage == "train", JobStage.artifact_id.is_not(None))
    return [str(run) for run in session.scalars(query.order_by(Job.id.desc()).limit(limit))]


def record_heartbeat(session: Session, job_id: str, progress: float, stage: str | None, message: str) -> bool:
    """Record that a job is alive, and its progress. True: it has to stop (cancelled, declared dead, or removed)."""
    job = session.scalars(select(Job).where(Job.id == job_id).with_for_update()).one_or_none()
    if job is None or job.status in ("cancelled", "failed"):
        return True
    if job.status != "completed":
        job.progress = min(max(progress, 0.0), 1.0)
        job.stage, job.message, job.heartbeat_at = stage, message, now()
    session.flush()
    return job.cancel_requested


def add_device_seconds(session: Session, job_id: str, seconds: float) -> None:
    """Add to what a job has used, whose row is locked already; nothing where it is gone."""
    job = session.get(Job, job_id)
    if job is not None and seconds > 0:
        job.device_seconds += seconds
        session.flush()
        usage.add(session, tenant=job.tenant, owner=job.account or job.owner, device_seconds=seconds)


def exhausted_quota(session: Session, job_id: str) -> BusyError | None:
    """Why a running job has to stop: the device minutes of its key or its tenant are used up."""
    job = session.get(Job, job_id)
    if job is None:
        return None
    try:
        quotas.check(session, job.tenant, ("device_minutes",), key_id=job.account or job.owner)
    except BusyError as refusal:
        return refusal
    return None


def request_cancel(session: Session, job_id: str, tenant: str | None) -> Job:
    """Ask a job to stop. ConflictError when it has ended already, DeniedError for one that another user shares."""
    check_change(session, get(session, job_id, tenant), f"Job {job_id}")
    job = _locked(session, job_id)
    if job.status in ENDED:
        raise ConflictError(f"Job {job_id} has already ended: it is {job.status}.")
    job.cancel_requested = True
    session.flush()
    return job


def stale(session: Session, older_than_seconds: float) -> list[Job]:
    """Unfinished jobs whose last sign of life is older than this: running ones, and pending ones that never began."""
    last_sign = func.coalesce(Job.heartbeat_at, Job.started_at, Job.created_at)
    limit = now() - timedelta(seconds=older_than_seconds)
    return list(
        session.scalars(select(Job).where(Job.status.in_(("pending", "running")), last_sign < limit).order_by(Job.id))
    )


def ended_since(session: Session, hours: float) -> list[Job]:
    """The jobs that ended within the last hours."""
    return list(session.scalars(select(Job).where(Job.completed_at > now() - timedelta(hours=hours)).order_by(Job.id)))


def as_dict(job: Job, stages: list[JobStage] | None = None) -> dict[str, Any]:
    """The job as the API and the CLI show it; times are ISO 8601 in UTC. What ended a failed one is there as a text
    (`error`) and as a problem of RFC 9457 (`problem`)."""
    shown: dict[str, Any] = {
        name: getattr(job, name)
        for name in ("id", "name", "kind", "base_model", "training_method", "status", "progress", "stage", "message")
    }
    shown |= {
        name: getattr(job, name)
        for name in ("dataset_id", "metrics", "config", "result", "cancel_requested", "owner", "shared")
    }
    shown["device_seconds"] = round(job.device_seconds, 3)
    for name in ("created_at", "started_at", "completed_at"):
        time = getattr(job, name)
        shown[name] = time.isoformat() if time else None
    if (error := failure(job)) is not None:
        shown |= {"error": job.error, "problem": error.to_problem()}
    if stages is not None:
        names = ("stage", "status", "artifact_id", "reused", "seconds", "progress", "message", "details")
        shown["stages"] = [{name: getattr(row, name) for name in names} for row in stages]
    return shown


def _locked(session: Session, job_id: str) -> Job:
    query = select(Job).where(Job.id == job_id).with_for_update().execution_options(populate_existing=True)
    job = session.scalars(query).one_or_none()
    if job is None:
        raise NotFoundError(f"No job {job_id!r}.", remedy="list jobs with GET /api/training/jobs")
    return job
