"""Lists in pages, newest first, of no more rows and bytes than fit into one response."""

import json
from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

Row = TypeVar("Row")

PAGE_BYTES = 4 << 20
FETCHED_ROWS = 20


def newest_first(
    session: Session, query: Select[Row], order: InstrumentedAttribute[Any], cursor: Any, limit: int
) -> tuple[list[Row], str | None]:
    """The rows of a query that come before `cursor` in descending order of a column, and the cursor of the next page;
    None on the last one. At most `limit` rows, and no more than fit into PAGE_BYTES, but at least one."""
    if cursor is not None:
        query = query.where(order < cursor)
    page: list[Row] = []
    size = 0
    # Fetched a few at a time: of rows that are large, no more than a page is ever held.
    query = query.order_by(order.desc()).limit(limit + 1).execution_options(yield_per=FETCHED_ROWS)
    with session.scalars(query) as rows:
        for row in rows:
            size += _size(row)
            if page and (len(page) == limit or size > PAGE_BYTES):
                return page, str(getattr(page[-1], order.key))
            page.append(row)
    return page, None


def _size(row: Any) -> int:
    """Bytes of the texts and JSON values of a row that were loaded."""
    values = (value for name, value in vars(row).items() if name != "_sa_instance_state")
    return sum(len(v) if isinstance(v, str) else len(json.dumps(v)) for v in values if isinstance(v, str | dict | list))
