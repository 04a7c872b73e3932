"""Inputs of users: texts, files, structured values."""

from typing import Any

from sqlalchemy import Text, cast, func, select
from sqlalchemy.orm import Session, defer

from soldiom_ray.db.ownership import EVERYTHING, belongs_to, check_change
from soldiom_ray.db.pages import newest_first
from soldiom_ray.db.tables import CollectedDocument, UserInput
from soldiom_ray.errors import NotFoundError
from soldiom_ray.settings import HOME_TENANT


def add(
    session: Session,
    *,
    user_id: str,
    input_type: str,
    content: str,
    sha256: str,
    size_bytes: int,
    metadata: dict[str, Any] | None = None,
    tenant: str = HOME_TENANT,
    owner: str = "",
    shared: bool | None = None,
    id: str | None = None,  # noqa: A002 - the column's name
) -> UserInput:
    """Add one input. `content` is the text or structured value itself, or the storage key of a file. `shared` unset: as
    of its owner (`ownership.belongs_to`)."""
    its = belongs_to(owner) | ({} if shared is None else {"shared": shared})
    row = UserInput(
        tenant=tenant,
        **its,
        user_id=user_id,
        input_type=input_type,
        content=content,
        metadata_=metadata or {},
        sha256=sha256,
        size_bytes=size_bytes,
    )
    if id is not None:
        row.id = id
    session.add(row)
    session.flush()
    return row


def get(session: Session, input_id: str, tenant: str | None = None) -> UserInput:
    """The input; NotFoundError when there is none or it is another tenant's or user's."""
    query = select(UserInput).where(UserInput.id == input_id)
    if tenant is not None:
        query = query.where(UserInput.tenant == tenant)
    row = session.scalars(query).one_or_none()
    if row is None:
        raise NotFoundError(f"No user input {input_id!r}.")
    return row


def list_inputs(
    session: Session,
    tenant: str | None,
    user_id: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
    owner: str | None = None,
) -> tuple[list[UserInput], str | None]:
    """A page, newest first, and the cursor of the next page; of one key where `owner` is given. Contents are not
    read."""
    query = select(UserInput).options(defer(UserInput.content, raiseload=True))
    if tenant is not None:
        query = query.where(UserInput.tenant == tenant)
    if user_id is not None:
        query = query.where(UserInput.user_id == user_id)
    if owner is not None:
        query = query.where(UserInput.owner == owner)
    return newest_first(session, query, UserInput.id, cursor or None, limit)


def remove(session: Session, input_id: str, tenant: str | None) -> UserInput:
    """Remove one input and return its row; NotFoundError when there is none or it is another tenant's."""
    row = get(session, input_id, tenant)
    check_change(session, row, f"User input {row.id}")
    session.delete(row)
    session.flush()
    return row


def is_referenced(session: Session, key: str) -> bool:
    """Whether an input of any tenant refers to the object under this storage key, or a document that was not made of an
    input."""
    sha256 = key.rpartition("/")[2]
    uploaded = select(UserInput.id).where(UserInput.sha256 == sha256, UserInput.content == key)
    elsewhere = CollectedDocument.sha256 == sha256, CollectedDocument.url.not_like("input:%")
    queries = (uploaded, select(CollectedDocument.id).where(*elsewhere))
    found = (session.scalars(query.limit(1).execution_options(**EVERYTHING)) for query in queries)
    return any(each.first() is not None for each in found)


def kept_bytes(session: Session, tenant: str) -> int:
    """The size of all inputs of a tenant, metadata included. Each upload of a file counts, though equal bytes are
    stored once."""
    sizes = UserInput.size_bytes + func.length(cast(UserInput.metadata_, Text))
    total = select(func.sum(sizes)).where(UserInput.tenant == tenant)
    return int(session.scalar(total.execution_options(**EVERYTHING)) or 0)


def as_dict(row: UserInput) -> dict[str, Any]:
    """The input as the API shows it: everything but the content."""
    return {
        "id": row.id,
        "user_id": row.user_id,
        "input_type": row.input_type,
        "metadata": row.metadata_,
        "sha256": row.sha256,
        "size_bytes": row.size_bytes,
        "shared": row.shared,
        "created_at": row.created_at.isoformat(),
    }
