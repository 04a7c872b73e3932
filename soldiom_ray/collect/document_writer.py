"""Writes collected documents into an artifact: without repeats, counted, in shards."""

import hashlib
import json
from collections import Counter
from typing import Any

from soldiom_ray.artifacts import Draft, parquet_bytes
from soldiom_ray.collect.tasks import COLLECTED, TaskResult
from soldiom_ray.records import Document, Drop

SHARD_ROWS = 2000
SHARD_BYTES = 8 << 20
UNAVAILABLE = "unavailable"
"""Suffix of the reasons that another attempt may resolve."""

MAX_VALUES, OTHERS = 2000, "(others)"
"""A table has a group for every row: beyond this many distinct values the rest are counted together."""

UNHASHED = ("collected_at", "image")
"""Fields that the content's hash leaves out: the time, and the picture, whose own hash stands beside it."""

COUNTED = ("license", "kind", "framework", "group", "language")


class DocumentWriter:
    """Takes documents in the order they come; memory holds one shard. `missing` are the ids of drops that
    another attempt may bring, `examples` the first value of each reason for a drop."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.documents = 0
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}
        self.missing: list[str] = []
        self.examples: dict[str, str] = {}
        self._seen: set[bytes] = set()
        self._content = hashlib.sha256()
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._shards = 0
        self._drops: list[dict[str, Any]] = []
        self._drop_shards = 0

    def add(self, result: TaskResult) -> Counter[str]:
        """Write the documents and drops of a task; its outcomes, with documents that were written before counted as
        `repeated`."""
        outcomes = Counter(result.outcomes)
        for document in result.documents:
            if bytes.fromhex(document.id) in self._seen:
                outcomes[COLLECTED] -= 1
                outcomes["repeated"] += 1
            else:
                self._add_document(document)
        for drop in result.drops:
            self._drops.append(drop.model_dump())
            self.examples.setdefault(drop.reason, drop.value)
            if drop.reason.endswith(UNAVAILABLE):
                self.missing.append(drop.id)
        if len(self._drops) >= SHARD_ROWS:
            self._write_drops()
        return +outcomes

    def details(self) -> dict[str, Any]:
        """Documents per licence, kind, framework, group and language; the hash of their content."""
        counts = {f"{name}s": dict(sorted(counter.items())) for name, counter in self.counts.items()}
        return {**counts, "content_sha256": self._content.hexdigest()}

    def close(self) -> None:
        """Write the last shards of documents and drops."""
        self._write()
        if self._drops:
            self._write_drops()

    def _add_document(self, document: Document) -> None:
        self._seen.add(bytes.fromhex(document.id))
        self.documents += 1
        for name, counter in self.counts.items():
            value = str(getattr(document, name)) or "unknown"
            counter[value if value in counter or len(counter) < MAX_VALUES else OTHERS] += 1
        row = document.model_dump()
        self._content.update(json.dumps([value for name, value in row.items() if name not in UNHASHED]).encode())
        self._rows.append(row)
        self._bytes += len(document.text) + len(document.image or b"")
        if len(self._rows) >= SHARD_ROWS or self._bytes >= SHARD_BYTES:
            self._write()

    def _write(self) -> None:
        if self._rows:
            self.draft.write_shared(f"documents/{self._shards:05d}.parquet", parquet_bytes(self._rows, Document))
            self._shards += 1
            self._rows, self._bytes = [], 0

    def _write_drops(self) -> None:
        self.draft.write_shared(f"dropped/{self._drop_shards:05d}.parquet", parquet_bytes(self._drops, Drop))
        self._drop_shards += 1
        self._drops = []
