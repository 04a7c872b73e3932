"""What a piece of work gave, kept in storage: a collection that was killed goes on after it, a later one reuses it.

The key says all that decides the result. The small JSON beside the rows is written last, so half a result does not
count.
"""

import io
import json
from collections import Counter

from soldiom_ray.artifacts import parquet_bytes
from soldiom_ray.collect.tasks import TaskResult
from soldiom_ray.records import Document, Drop
from soldiom_ray.storage import Storage


def keep(storage: Storage, key: str, gathered: TaskResult) -> None:
    """Keep what was gathered under a storage key."""
    told = {
        "outcomes": gathered.outcomes,
        "facts": gathered.facts,
        "drops": [drop.model_dump() for drop in gathered.drops],
    }
    storage.write(f"{key}.parquet", parquet_bytes([document.model_dump() for document in gathered.documents], Document))
    storage.write(f"{key}.json", json.dumps(told).encode())


def read_cached(storage: Storage, key: str) -> TaskResult | None:
    """What was kept, with the fact `reused` counted; None when nothing was."""
    if not storage.exists(f"{key}.json"):
        return None
    import pyarrow.parquet as pq

    told = json.loads(storage.read(f"{key}.json"))
    rows = pq.read_table(io.BytesIO(storage.read(f"{key}.parquet"))).to_pylist()
    documents = [Document.model_validate(row) for row in rows]
    facts = Counter(told["facts"]) + Counter({"reused": 1})
    return TaskResult(
        documents, Counter(told["outcomes"]), facts, [Drop.model_validate(drop) for drop in told["drops"]]
    )
