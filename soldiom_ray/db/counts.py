"""Counts in rows to which many processes add at once, and what batches add to the metrics of models."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.orm import Session

from soldiom_ray.db.tables import BatchCount, Table


def add(session: Session, table: type[Table], keys: Mapping[str, Any], counts: Mapping[str, float]) -> None:
    """Add to columns of the row with this primary key, which is made where there is none; other counts begin at 0. The
    row is locked until the transaction ends."""
    values = {**{column.name: 0 for column in table.__table__.columns if not column.primary_key}, **counts}
    if session.get_bind().dialect.name == "postgresql":
        insert = postgresql.insert(table).values(**keys, **values)
        sums = {name: getattr(table, name) + insert.excluded[name] for name in counts}
        session.execute(insert.on_conflict_do_update(index_elements=list(keys), set_=sums))
    else:
        rows = mysql.insert(table).values(**keys, **values)
        sums = {name: getattr(table, name) + rows.inserted[name] for name in counts}
        session.execute(rows.on_duplicate_key_update(sums))


def count_batch(
    session: Session, model_id: str, decisions: Iterable[Mapping[str, Any]], tokens: Mapping[str, int]
) -> None:
    """Add what content filters decided on answers of a batch, and their tokens, by kind."""
    found = Counter(_key({name: str(each[name]) for name in ("category", "side", "action")}) for each in decisions)
    added = [("filter", labels, count) for labels, count in found.items()]
    added += [("tokens", _key({"kind": kind}), count) for kind, count in tokens.items()]
    for metric, labels, count in sorted(added):  # in one order, so that two batches never wait for each other
        add(session, BatchCount, {"metric": metric, "model_id": model_id, "labels": labels}, {"count": count})


def of_batches(session: Session) -> dict[str, list[tuple[dict[str, str], int]]]:
    """Metric -> its labels, the model among them, and their counts."""
    found: dict[str, list[tuple[dict[str, str], int]]] = {}
    for row in session.scalars(select(BatchCount).order_by(BatchCount.model_id, BatchCount.labels)):
        found.setdefault(row.metric, []).append(({"model": row.model_id, **json.loads(row.labels)}, row.count))
    return found


def _key(labels: Mapping[str, str]) -> str:
    return json.dumps(labels, sort_keys=True)
