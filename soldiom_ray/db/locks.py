"""Names that one transaction at a time holds, over all processes."""

import hashlib

from sqlalchemy import text
from sqlalchemy.orm import Session


def hold(session: Session, name: str) -> None:
    """Wait until no other transaction holds this name (at most 128 characters); it is free again when this one ends.
    Whoever holds several takes them in sorted order."""
    if session.get_bind().dialect.name == "postgresql":
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
    else:
        # MySQL's own named locks outlive the transaction; a row's lock does not.
        session.execute(
            text("INSERT INTO locks (name) VALUES (:name) ON DUPLICATE KEY UPDATE name = :name"), {"name": name}
        )
