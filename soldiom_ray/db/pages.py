"""Lists in pages, newest first."""

from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

Row = TypeVar("Row")


def newest_first(
    session: Session, query: Select[Row], order: InstrumentedAttribute[Any], cursor: Any, limit: int
) -> tuple[list[Row], str | None]:
    """The rows of a query that come before `cursor` in descending order of a column, at most `limit`, and the cursor of
    the next page; None on the last one."""
    if cursor is not None:
        query = query.where(order < cursor)
    rows = list(session.scalars(query.order_by(order.desc()).limit(limit + 1)))
    return rows[:limit], str(getattr(rows[limit - 1], order.key)) if len(rows) > limit else None
