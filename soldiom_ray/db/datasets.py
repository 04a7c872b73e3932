"""Documents, datasets and indexes that jobs made, as one tenant sees them."""

from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from soldiom_ray.db.ownership import belongs_to, own_first
from soldiom_ray.db.pages import newest_first
from soldiom_ray.db.tables import Dataset
from soldiom_ray.errors import NotFoundError
from soldiom_ray.records import Manifest
from soldiom_ray.settings import HOME_TENANT


def record(
    session: Session,
    manifest: Manifest,
    *,
    name: str,
    source: str,
    stage: str,
    data_type: str = "text",
    tenant: str = HOME_TENANT,
    owner: str = "",
) -> Dataset:
    """Record an artifact ("documents", "dataset" or "index") under a name as its owner's; one that the owner has
    already gets its row updated."""
    its = belongs_to(owner)
    row = _by_artifact(session, manifest.id, tenant, its["owner"])
    if row is None:
        row = Dataset(tenant=tenant, artifact_id=manifest.id, name=name, source=source, stage=stage, **its)
        try:
            with session.begin_nested():
                session.add(row)
        except IntegrityError:
            row = _by_artifact(session, manifest.id, tenant, its["owner"])
            if row is None:
                raise
    row.name, row.source, row.stage, row.data_type = name, source, stage, data_type
    row.size_bytes = sum(entry.size_bytes for entry in manifest.files)
    row.num_samples = _sample_count(manifest.counts)
    row.counts, row.parents = dict(manifest.counts), list(manifest.parents)
    session.flush()
    return row


def get(session: Session, id_or_artifact: str, tenant: str | None = None) -> Dataset:
    """The dataset by its id or its artifact's id; NotFoundError when there is none or it is another tenant's or
    user's."""
    query = select(Dataset).where(or_(Dataset.id == id_or_artifact, Dataset.artifact_id == id_or_artifact))
    if tenant is not None:
        query = query.where(Dataset.tenant == tenant)
    row = session.scalars(query.order_by(*own_first(session, Dataset), Dataset.id).limit(1)).one_or_none()
    if row is None:
        raise NotFoundError(f"No dataset {id_or_artifact!r}.", remedy="list them with `soldiom dataset list`")
    return row


def list_datasets(
    session: Session, tenant: str | None, stage: str | None = None, cursor: str | None = None, limit: int = 50
) -> tuple[list[Dataset], str | None]:
    """A page, newest first, and the cursor of the next page."""
    query = select(Dataset)
    if tenant is not None:
        query = query.where(Dataset.tenant == tenant)
    if stage:
        query = query.where(Dataset.stage == stage)
    return newest_first(session, query, Dataset.id, cursor or None, limit)


def latest_index(session: Session, tenant: str | None) -> Dataset | None:
    """The newest index."""
    return next(iter(list_datasets(session, tenant, stage="index", limit=1)[0]), None)


def as_dict(row: Dataset) -> dict[str, Any]:
    """The dataset as the API and the CLI show it."""
    names = (
        "id",
        "name",
        "source",
        "data_type",
        "stage",
        "artifact_id",
        "size_bytes",
        "num_samples",
        "counts",
        "parents",
        "owner",
        "shared",
    )
    return {name: getattr(row, name) for name in names} | {"created_at": row.created_at.isoformat()}


def _by_artifact(session: Session, artifact: str, tenant: str, owner: str) -> Dataset | None:
    query = select(Dataset).where(Dataset.artifact_id == artifact, Dataset.tenant == tenant, Dataset.owner == owner)
    return session.scalars(query).one_or_none()


def _sample_count(counts: dict[str, int]) -> int:
    for name in ("samples", "kept", "passages", "documents"):
        if name in counts:
            return counts[name]
    return sum(counts.get(name, 0) for name in ("train", "validation", "test"))
