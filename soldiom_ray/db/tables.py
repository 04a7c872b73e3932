"""The tables. Ids are UUIDv7 texts, times are UTC with a zone, JSON keeps its keys' order."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from soldiom_ray.records import new_id, now
from soldiom_ray.settings import HOME_TENANT

LongText = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


class UtcDateTime(TypeDecorator[datetime]):
    """A time in UTC; it comes back with its zone also from databases that keep none."""

    impl = DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Table(DeclarativeBase):
    """Root of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
    }


class Owned:
    """What a user made: whose it is (see `ownership`), and whether all of the tenant see it."""

    owner: Mapped[str] = mapped_column(String(128), default="")
    shared: Mapped[bool] = mapped_column(Boolean, default=False)


class Job(Owned, Table):
    """One job on the cluster. Its state is what this row says, not Ray's record. `failure` holds the error that ended
    it (`SoldiomError.to_dict`). `account` is charged with it where that is not the owner; `as_admin`: it sees all of
    the tenant, as the admin did who started it."""

    __tablename__ = "training_jobs"
    __table_args__ = (
        UniqueConstraint("tenant", "owner", "idempotency_key"),
        Index(None, "tenant", "status", "id"),
        Index(None, "status", "heartbeat_at"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(64), default=HOME_TENANT)
    account: Mapped[str | None] = mapped_column(String(128))
    as_admin: Mapped[bool] = mapped_column(Boolean, default=False)
    kind: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(128))
    base_model: Mapped[str | None] = mapped_column(String(512))
    training_method: Mapped[str | None] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16), default="pending")
    progress: Mapped[float] = mapped_column(Float(53), default=0.0)
    stage: Mapped[str | None] = mapped_column(String(32))
    message: Mapped[str] = mapped_column(Text, default="")
    metrics: Mapped[dict[str, Any]] = mapped_column(default=dict)
    config: Mapped[dict[str, Any]] = mapped_column(default=dict)
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)
    dataset_id: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None] = mapped_column(Text)
    failure: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    submission_id: Mapped[str | None] = mapped_column(String(128))
    cancel_requested: Mapped[bool] = mapped_column(Boolean, default=False)
    device_seconds: Mapped[float] = mapped_column(Float(53), default=0.0, server_default="0")
    heartbeat_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]


class JobStage(Table):
    """How far one stage of a job is, and what it made."""

    __tablename__ = "job_stages"

    job_id: Mapped[str] = mapped_column(ForeignKey("training_jobs.id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[str] = mapped_column(String(32), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, default=0)
    status: Mapped[str] = mapped_column(String(16), default="pending")
    artifact_id: Mapped[str | None] = mapped_column(String(64))
    reused: Mapped[bool] = mapped_column(Boolean, default=False)
    seconds: Mapped[float | None] = mapped_column(Float(53))
    progress: Mapped[float] = mapped_column(Float(53), default=0.0)
    message: Mapped[str] = mapped_column(Text, default="")
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Dataset(Owned, Table):
    """An artifact that a job made (documents, a dataset or an index), as one user of one tenant has it."""

    __tablename__ = "training_datasets"
    __table_args__ = (UniqueConstraint("tenant", "owner", "artifact_id"), Index(None, "tenant", "stage", "created_at"))

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(64), default=HOME_TENANT)
    name: Mapped[str] = mapped_column(String(128))
    source: Mapped[str] = mapped_column(String(64))
    data_type: Mapped[str] = mapped_column(String(16), default="text")
    stage: Mapped[str] = mapped_column(String(32))
    artifact_id: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    num_samples: Mapped[int] = mapped_column(BigInteger, default=0)
    counts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    parents: Mapped[list[str]] = mapped_column(default=list)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Model(Owned, Table):
    """One version of a model in the registry. Each owner has names and versions of its own."""

    __tablename__ = "models"
    __table_args__ = (
        UniqueConstraint("tenant", "owner", "family", "name", "version"),
        Index(None, "tenant", "created_at"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(64), default=HOME_TENANT)
    family: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(128))
    version: Mapped[int] = mapped_column(Integer)
    base_model: Mapped[str | None] = mapped_column(String(512))
    base_model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id", ondelete="SET NULL"))
    training_job_id: Mapped[str | None] = mapped_column(ForeignKey("training_jobs.id", ondelete="SET NULL"))
    dataset_id: Mapped[str | None] = mapped_column(String(64))
    run_artifact: Mapped[str | None] = mapped_column(String(64), index=True)
    scores_artifact: Mapped[str | None] = mapped_column(String(64))
    specialization: Mapped[str | None] = mapped_column(String(64))
    performance_metrics: Mapped[dict[str, Any]] = mapped_column(default=dict)
    gate: Mapped[dict[str, Any]] = mapped_column(default=dict)
    license: Mapped[str] = mapped_column(Text, default="")
    card: Mapped[str] = mapped_column(LongText, default="")
    lineage: Mapped[dict[str, Any]] = mapped_column(default=dict)
    mlflow_name: Mapped[str | None] = mapped_column(String(256))
    mlflow_version: Mapped[str | None] = mapped_column(String(32))
    deployed: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class UserInput(Owned, Table):
    """An input of a user: `content` is a short text, or the storage key of a file; `owner`, whose key it came with."""

    __tablename__ = "user_inputs"
    __table_args__ = (Index(None, "tenant", "user_id", "id"), Index(None, "sha256"))

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(64), default=HOME_TENANT)
    user_id: Mapped[str] = mapped_column(String(128))
    input_type: Mapped[str] = mapped_column(String(16))
    content: Mapped[str] = mapped_column(LongText)
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Deployment(Table):
    """The endpoint of one model: at most one row per model."""

    __tablename__ = "deployments"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), unique=True)
    status: Mapped[str] = mapped_column(String(16))
    replicas: Mapped[int] = mapped_column(Integer, default=1)
    config: Mapped[dict[str, Any]] = mapped_column(default=dict)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class Answer(Table):
    """What a deployed model answered. `question` (JSON: what was asked) and `output` are sealed with the home's key.
    `seconds` is empty for one of a batch, whose time says nothing of the endpoint."""

    __tablename__ = "answers"
    __table_args__ = (
        Index(None, "tenant", "user_id", "id"),
        Index(None, "model_id", "created_at"),
        Index(None, "created_at"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(64), default=HOME_TENANT)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    owner: Mapped[str] = mapped_column(String(128))
    user_id: Mapped[str] = mapped_column(String(128))
    question: Mapped[str] = mapped_column(LongText)
    output: Mapped[str] = mapped_column(LongText)
    prompt_tokens: Mapped[int] = mapped_column(Integer, default=0)
    completion_tokens: Mapped[int] = mapped_column(Integer, default=0)
    seconds: Mapped[float | None] = mapped_column(Float(53))
    created_at: Mapped[datetime] = mapped_column(default=now)


class Feedback(Table):
    """What a user thinks of an answer, at most once per user. `correction` and `reason` are sealed as the answer is;
    an accepted one has its example as an input of the user (`input_id`)."""

    __tablename__ = "feedback"
    __table_args__ = (
        UniqueConstraint("answer_id", "user_id"),
        Index(None, "tenant", "status", "id"),
        Index(None, "model_id", "id"),
        Index(None, "input_id"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(64), default=HOME_TENANT)
    answer_id: Mapped[str] = mapped_column(ForeignKey("answers.id", ondelete="CASCADE"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    user_id: Mapped[str] = mapped_column(String(128))
    rating: Mapped[str] = mapped_column(String(8))
    correction: Mapped[str] = mapped_column(LongText, default="")
    reason: Mapped[str] = mapped_column(LongText, default="")
    status: Mapped[str] = mapped_column(String(16), default="new")
    reviewer: Mapped[str | None] = mapped_column(String(128))
    reviewed_at: Mapped[datetime | None]
    input_id: Mapped[str | None] = mapped_column(ForeignKey("user_inputs.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(default=now)


class Usage(Table):
    """What one key used of one model for one user within an hour; of what is no model's, `model_id` is empty. `errors`
    are answers that failed, which nobody is charged with: their key is empty."""

    __tablename__ = "usage_hours"
    __table_args__ = (Index(None, "tenant", "hour"), Index(None, "model_id", "hour"))

    hour: Mapped[datetime] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(128), primary_key=True)
    user_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    model_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger, default=0)
    errors: Mapped[int] = mapped_column(BigInteger, default=0)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    completion_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    seconds: Mapped[float] = mapped_column(Float(53), default=0.0)
    device_seconds: Mapped[float] = mapped_column(Float(53), default=0.0)


class BatchCount(Table):
    """What the answers of batches add to a metric of models: "tokens" or "filter", by its labels (JSON, sorted)."""

    __tablename__ = "batch_counts"

    metric: Mapped[str] = mapped_column(String(16), primary_key=True)
    model_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    labels: Mapped[str] = mapped_column(String(255), primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger, default=0)


class Quota(Table):
    """How much of a resource ("tokens", "bytes", "device_minutes") may be used within a calendar "day" or "month" (UTC)
    by a whole tenant (`subject` is empty), a key ("key:ID") or a user ("user:NAME")."""

    __tablename__ = "quotas"

    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    subject: Mapped[str] = mapped_column(String(140), primary_key=True)
    resource: Mapped[str] = mapped_column(String(16), primary_key=True)
    period: Mapped[str] = mapped_column(String(8), primary_key=True)
    amount: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class Watch(Table):
    """A version that took another's place by itself, watched until `ends_at`: "watching", "withdrawing" (it goes back),
    "kept", "withdrawn", or "ended" because somebody else decided. `figures` are those of the last look."""

    __tablename__ = "version_watches"
    __table_args__ = (Index(None, "status", "id"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(64), default=HOME_TENANT)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), unique=True)
    previous_id: Mapped[str | None] = mapped_column(ForeignKey("models.id", ondelete="SET NULL"))
    status: Mapped[str] = mapped_column(String(16), default="watching")
    reason: Mapped[str] = mapped_column(Text, default="")
    figures: Mapped[dict[str, Any]] = mapped_column(default=dict)
    started_at: Mapped[datetime] = mapped_column(default=now)
    ends_at: Mapped[datetime]
    looked_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class Drift(Table):
    """How far the questions to a version were compared with its training set; see `monitor.drift`."""

    __tablename__ = "drift"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    last_answer: Mapped[str] = mapped_column(String(36), default="")
    questions: Mapped[int] = mapped_column(BigInteger, default=0)
    state: Mapped[dict[str, Any]] = mapped_column(default=dict)
    figures: Mapped[dict[str, Any]] = mapped_column(default=dict)
    looked_at: Mapped[datetime | None]
    noticed_at: Mapped[datetime | None]


class Evaluation(Owned, Table):
    """Scores of one run."""

    __tablename__ = "evaluations"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(64), default=HOME_TENANT)
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id", ondelete="SET NULL"))
    run_artifact: Mapped[str] = mapped_column(String(64), index=True)
    scores_artifact: Mapped[str | None] = mapped_column(String(64))
    scores: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=now)


class ApiKey(Table):
    """A bearer key, of which only the SHA-256 is stored: 256 random bits need no slow hash. `owner` is the user that it
    stands for where that is not the key's own id: a key that follows another one."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(64), default=HOME_TENANT)
    name: Mapped[str] = mapped_column(String(128))
    role: Mapped[str] = mapped_column(String(16))
    prefix: Mapped[str] = mapped_column(String(16), unique=True)
    key_hash: Mapped[str] = mapped_column(String(64))
    owner: Mapped[str | None] = mapped_column(String(128))
    created_at: Mapped[datetime] = mapped_column(default=now)
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class AuditRow(Table):
    """One decision. `hash` covers the row and the previous row's hash, so that a change in the trail is detected."""

    __tablename__ = "audit_log"

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    actor: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64))
    object: Mapped[str] = mapped_column(String(256))
    decision: Mapped[str] = mapped_column(String(16))
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class Cursor(Table):
    """From where an interrupted collection resumes."""

    __tablename__ = "collection_cursors"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    value: Mapped[dict[str, Any]] = mapped_column(default=dict)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class CollectedDocument(Table):
    """The origin of one document of a documents artifact and the rule that admitted it; its text is in the artifact."""

    __tablename__ = "collected_documents"

    artifact_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    source: Mapped[str] = mapped_column(String(16))
    url: Mapped[str] = mapped_column(Text)
    path: Mapped[str] = mapped_column(Text)
    group: Mapped[str] = mapped_column(Text)
    version: Mapped[str] = mapped_column(Text)
    commit: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    license: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(String(32))
    framework: Mapped[str] = mapped_column(String(32))
    language: Mapped[str] = mapped_column(String(32))
    rule: Mapped[str] = mapped_column(Text)
    collected_at: Mapped[datetime]


class Lock(Table):
    """A named lock, on databases without advisory locks. See `locks`."""

    __tablename__ = "locks"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)


class IdempotentRequest(Table):
    """The ids that a request with an idempotency key created, so that the same request again creates nothing new."""

    __tablename__ = "idempotent_requests"

    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(128), primary_key=True, default="")
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    made: Mapped[list[str]] = mapped_column(default=list)
    created_at: Mapped[datetime] = mapped_column(default=now)
