"""Where interrupted collections go on."""

from typing import Any

from sqlalchemy.orm import Session

from soldiom_ray.db.tables import Cursor


def get(session: Session, key: str) -> dict[str, Any] | None:
    """What was kept under this key."""
    row = session.get(Cursor, key)
    return row.value if row else None


def put(session: Session, key: str, value: dict[str, Any]) -> None:
    """Keep a value under this key."""
    session.merge(Cursor(key=key, value=value))
    session.flush()


def remove(session: Session, key: str) -> None:
    """Forget this key."""
    row = session.get(Cursor, key)
    if row is not None:
        session.delete(row)
        session.flush()
