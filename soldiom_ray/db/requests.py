"""Requests with an idempotency key: the same request again gets the result of the first one."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from soldiom_ray.db.tables import IdempotentRequest
from soldiom_ray.errors import ConflictError


def find(session: Session, tenant: str, owner: str, key: str, fingerprint: str) -> list[str] | None:
    """The ids that the request of this owner with this key created, or None when the key is new. ConflictError when the
    key was used for another request."""
    row = session.get(IdempotentRequest, (tenant, owner, key))
    if row is None:
        return None
    if row.fingerprint != fingerprint:
        raise ConflictError(
            "This idempotency key was used for another request.", remedy="use a new key for a new request"
        )
    return row.made


def record(session: Session, tenant: str, owner: str, key: str, fingerprint: str, ids: Sequence[str]) -> None:
    """Record what a request created. The caller has held a lock on its key (`locks.hold`) since before `find`."""
    session.add(IdempotentRequest(tenant=tenant, owner=owner, key=key, fingerprint=fingerprint, made=list(ids)))
    session.flush()
