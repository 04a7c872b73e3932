"""The audit trail. Rows are numbered without gaps and chained by SHA-256, so that a change, a removal or a reordering
inside the trail is detected; one that was cut at its end, emptied or rewritten as a whole, by the anchor outside the
database (see `anchor`). What is cut off an anchored trail stays missing: rows that follow do not move the anchor."""

import hashlib
import json
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from soldiom_ray.db import locks
from soldiom_ray.db.anchor import Anchor, read_anchor
from soldiom_ray.db.engine import AUDIT_HEAD
from soldiom_ray.db.pages import newest_first
from soldiom_ray.db.tables import AuditRow
from soldiom_ray.records import now
from soldiom_ray.settings import HOME_TENANT

AUDIT_LOCK = "audit"
GENESIS_HASH = "0" * 64


def append(
    session: Session,
    actor: str,
    action: str,
    object: str,  # noqa: A002 - the column's name
    decision: str,
    details: dict[str, Any] | None = None,
    tenant: str = HOME_TENANT,
) -> AuditRow:
    """Add one row; `decision` is "allow" or "deny". Writers wait for one another until their transactions end."""
    locks.hold(session, AUDIT_LOCK)
    last = session.scalars(select(AuditRow).order_by(AuditRow.seq.desc()).limit(1).with_for_update()).one_or_none()
    row = AuditRow(
        seq=last.seq + 1 if last else 1,
        at=now(),
        tenant=tenant,
        actor=actor[:128],
        action=action[:64],
        object=object[:256],
        decision=decision,
        details=details or {},
        previous_hash=last.hash if last else GENESIS_HASH,
    )
    row.hash = _hash(row)
    session.add(row)
    session.flush()
    anchor = _anchor(session)
    if anchor is None or _anchored(session, anchor):
        session.info[AUDIT_HEAD] = Anchor(row.seq, row.hash)
    return row


def verify(session: Session) -> int | None:
    """The number of the first row that is not as it was written, or None when the trail is intact."""
    anchor = _anchor(session)  # read first: rows may be added meanwhile, none may go
    previous, expected = GENESIS_HASH, 1
    for row in session.scalars(select(AuditRow).order_by(AuditRow.seq).execution_options(yield_per=1000)):
        if row.seq != expected or row.previous_hash != previous or row.hash != _hash(row):
            return expected if row.seq != expected else row.seq
        previous, expected = row.hash, expected + 1
    if anchor is None or _anchored(session, anchor):
        return None
    return min(anchor.seq, expected)


def list_rows(
    session: Session, tenant: str | None, cursor: str | None = None, limit: int = 50
) -> tuple[list[AuditRow], str | None]:
    """A page, newest first, and the cursor of the next page."""
    query = select(AuditRow)
    if tenant is not None:
        query = query.where(AuditRow.tenant == tenant)
    number = (int(cursor) if cursor.isdecimal() and len(cursor) < 19 else 0) if cursor else None
    return newest_first(session, query, AuditRow.seq, number, limit)


def as_dict(row: AuditRow) -> dict[str, Any]:
    """The row as the API shows it."""
    names = ("seq", "tenant", "actor", "action", "object", "decision", "details", "previous_hash", "hash")
    return {name: getattr(row, name) for name in names} | {"at": row.at.isoformat()}


def _anchor(session: Session) -> Anchor | None:
    settings = session.info.get("settings")
    return read_anchor(settings) if settings is not None else None


def _anchored(session: Session, anchor: Anchor) -> bool:
    """Whether the trail holds the anchor's row."""
    stored = session.scalar(select(AuditRow.hash).where(AuditRow.seq == anchor.seq))
    return stored == anchor.hash


def _hash(row: AuditRow) -> str:
    parts = [row.seq, row.at.isoformat(), row.tenant, row.actor, row.action, row.object, row.decision, row.details]
    canonical = json.dumps([*parts, row.previous_hash], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
