"""Results of tasks, cached in storage: a collection that was killed goes on after them, a later one reuses them.

The key names all that decides the result. The small JSON beside the rows is written last, so half a result does not
count.
"""

import io
import json
from collections import Counter

from soldiom_ray.artifacts import parquet_bytes
from soldiom_ray.collect.tasks import TaskResult
from soldiom_ray.records import Document, Drop
from soldiom_ray.storage import Storage


def write_cached(storage: Storage, key: str, result: TaskResult) -> None:
    """Cache a result under a storage key."""
    summary = {
        "outcomes": result.outcomes,
        "facts": result.facts,
        "drops": [drop.model_dump() for drop in result.drops],
    }
    storage.write(f"{key}.parquet", parquet_bytes([document.model_dump() for document in result.documents], Document))
    storage.write(f"{key}.json", json.dumps(summary).encode())


def read_cached(storage: Storage, key: str) -> TaskResult | None:
    """The cached result, with the fact `reused` counted; None when there is none."""
    if not storage.exists(f"{key}.json"):
        return None
    import pyarrow.parquet as pq

    summary = json.loads(storage.read(f"{key}.json"))
    rows = pq.read_table(io.BytesIO(storage.read(f"{key}.parquet"))).to_pylist()
    documents = [Document.model_validate(row) for row in rows]
    facts = Counter(summary["facts"]) + Counter({"reused": 1})
    return TaskResult(
        documents, Counter(summary["outcomes"]), facts, [Drop.model_validate(drop) for drop in summary["drops"]]
    )
