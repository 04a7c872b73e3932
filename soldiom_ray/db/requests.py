"""Requests that may come twice: the same idempotency key gives what the first one made."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from soldiom_ray.db.tables import IdempotentRequest
from soldiom_ray.errors import ConflictError


def find(session: Session, tenant: str, key: str, fingerprint: str) -> list[str] | None:
    """The ids that the request with this key made, or None when it is new. ConflictError when it was another one."""
    row = session.get(IdempotentRequest, (tenant, key))
    if row is None:
        return None
    if row.fingerprint != fingerprint:
        raise ConflictError(
            "This idempotency key was used for another request.", remedy="use a new key for a new request"
        )
    return row.made


def record(session: Session, tenant: str, key: str, fingerprint: str, made: Sequence[str]) -> None:
    """Note what a request made. Its key must be held (`locks.hold`) since it was looked for."""
    session.add(IdempotentRequest(tenant=tenant, key=key, fingerprint=fingerprint, made=list(made)))
    session.flush()
