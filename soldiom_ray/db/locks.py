"""Named locks that one transaction at a time holds, over all processes."""

import hashlib

from sqlalchemy import text
from sqlalchemy.orm import Session


def hold(session: Session, name: str) -> None:
    """Hold a lock (its name at most 128 characters long) until this transaction ends, after waiting for the one that
    holds it. Take several locks in sorted order."""
    if session.get_bind().dialect.name == "postgresql":
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
    else:
        # MySQL's own named locks outlive the transaction; the lock on a row does not.
        session.execute(
            text("INSERT INTO locks (name) VALUES (:name) ON DUPLICATE KEY UPDATE name = :name"), {"name": name}
        )


def of_content(key: str) -> str:
    """The lock of stored bytes by their key, one of 4096, by the start of the hash: rows of locks are never removed."""
    return f"content/{key.rpartition('/')[2][:3]}"
