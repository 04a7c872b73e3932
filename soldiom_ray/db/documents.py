"""Collected documents: where each came from, under which licence, by which rule."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from soldiom_ray.db.tables import CollectedDocument

BATCH_ROWS = 2000
COLUMNS = tuple(column.key for column in CollectedDocument.__table__.columns if column.key != "artifact_id")


def record(session: Session, artifact: str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Record the documents of an artifact (rows with at least COLUMNS), all or none; returns how many. An artifact
    never changes, so one whose documents are recorded already costs one query."""
    existing = select(CollectedDocument.id).where(CollectedDocument.artifact_id == artifact).limit(1)
    if session.scalar(existing) is not None:
        return 0
    count, remaining = 0, iter(rows)
    while batch := list(islice(remaining, BATCH_ROWS)):
        values = [{name: row[name] for name in COLUMNS} | {"artifact_id": artifact} for row in batch]
        session.execute(insert(CollectedDocument), values)
        count += len(batch)
    return count


def list_documents(
    session: Session,
    artifact: str,
    *,
    sha256: str | None = None,
    license: str | None = None,  # noqa: A002 - the column's name
    kind: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> tuple[list[CollectedDocument], str | None]:
    """A page of an artifact's documents in the order of their ids, and the cursor of the next page."""
    query = select(CollectedDocument).where(CollectedDocument.artifact_id == artifact)
    for column, value in (("sha256", sha256), ("license", license), ("kind", kind)):
        if value is not None:
            query = query.where(getattr(CollectedDocument, column) == value)
    if cursor:
        query = query.where(CollectedDocument.id > cursor)
    rows = list(session.scalars(query.order_by(CollectedDocument.id).limit(limit + 1)))
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def as_dict(row: CollectedDocument) -> dict[str, Any]:
    """The document as the API shows it: everything but its text."""
    return {name: getattr(row, name) for name in COLUMNS} | {"collected_at": row.collected_at.isoformat()}
