"""Cursors of collections: from where an interrupted one resumes."""

from typing import Any

from sqlalchemy.orm import Session

from soldiom_ray.db.tables import Cursor


def get(session: Session, key: str) -> dict[str, Any] | None:
    """The value that was saved under a key, or None."""
    row = session.get(Cursor, key)
    return row.value if row else None


def save(session: Session, key: str, value: dict[str, Any]) -> None:
    """Save a value under a key, replacing the one there."""
    session.merge(Cursor(key=key, value=value))
    session.flush()


def delete(session: Session, key: str) -> None:
    """Remove a key and its value, if they are there."""
    row = session.get(Cursor, key)
    if row is not None:
        session.delete(row)
        session.flush()
