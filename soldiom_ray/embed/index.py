"""A dataset becomes an index: passages, their vectors in Parquet shards, and the same in a Chroma collection.

The shards are the truth. A run that was interrupted goes on after the last shard written; a collection that is gone or
short (another Chroma server, a restored backup) is filled again from them without the model.
"""

import hashlib
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from soldiom_ray import vectors
from soldiom_ray.artifacts import Context, Draft
from soldiom_ray.domains.schema import Embed
from soldiom_ray.embed.chunk import Passage
from soldiom_ray.embed.select import chosen_passages
from soldiom_ray.errors import InputError, SoldiomError
from soldiom_ray.models.embedder import Embedder
from soldiom_ray.records import FileEntry, Manifest
from soldiom_ray.settings import Settings

STAGE_VERSION = 3
SHARD_PASSAGES = 512
ABOUT = (
    *("document", "source", "group", "path", "kind", "framework", "language", "license", "url", "version", "split"),
    "symbol",
)
"""Metadata of a passage that can be filtered by, besides its lines."""

Encode = Callable[[list[str]], Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """A passage with what is told of its document."""

    passage: Passage
    about: dict[str, str]

    @property
    def metadata(self) -> dict[str, str | int]:
        """What Chroma keeps beside text and vector."""
        return {**self.about, "start_line": self.passage.start_line, "end_line": self.passage.end_line}


def embed(context: Context, dataset: Manifest, declared: Embed) -> Manifest:
    """Make the index of a dataset, or find it made already and see that its collection is whole."""
    made_from = {"declared": declared.model_dump(mode="json"), "stage_version": STAGE_VERSION}
    draft = context.artifacts.draft("index", made_from, [dataset.id])
    if done := draft.finished():
        _repair(context, done)
        return done
    vectors.open_collection(context.settings, draft.id)  # Chroma that does not answer is told before the work
    context.report(0.0, "cutting passages")
    entries = _entries(context, dataset, declared)
    shards = [entries[start : start + SHARD_PASSAGES] for start in range(0, len(entries), SHARD_PASSAGES)]
    with _embedding(context.settings, declared) as (encode, about_model):
        collection = vectors.open_collection(context.settings, draft.id, about_model)
        for number, shard in enumerate(shards):
            table = _finished_shard(draft, number, shard)
            if table is None:
                table = _table(shard, encode([entry.passage.embedded for entry in shard]))
                draft.write(_shard_name(number), _parquet(table))
            _store(collection, table)
            done_count = min(len(entries), (number + 1) * SHARD_PASSAGES)
            context.report(done_count / len(entries), f"embedded {done_count} of {len(entries)} passages")
    documents = len({entry.about["document"] for entry in entries})
    details = {"collection": draft.id, **about_model, "max_tokens": declared.max_tokens}
    return draft.commit(counts={"passages": len(entries), "documents": documents}, details=details)


def _entries(context: Context, dataset: Manifest, declared: Embed) -> list[Entry]:
    rows = (row for split in sorted(set(declared.splits)) for row in context.artifacts.rows(dataset, f"{split}/"))
    entries = {
        passage.id: Entry(
            passage,
            {name: str(row.get(name) or "") for name in ABOUT} | {"document": row["id"], "symbol": passage.symbol},
        )
        for row, passages in chosen_passages(rows, declared.max_tokens, declared.max_passages)
        for passage in passages
    }
    if not entries:
        splits = {split: dataset.counts.get(split, 0) for split in declared.splits}
        raise InputError(
            f"embed found no passage: embed.splits names {splits} samples of {dataset.id}.",
            remedy="name splits that hold samples: train, validation or test",
        )
    return sorted(
        entries.values(),
        key=lambda one: (one.about["group"], one.about["path"], one.passage.start_line, one.passage.id),
    )


def _repair(context: Context, index: Manifest) -> None:
    """Fill the collection of a finished index when it does not hold all passages."""
    names = ("model", "dimension", "sha256")
    collection = vectors.open_collection(
        context.settings, index.details["collection"], {name: index.details[name] for name in names}
    )
    held, wanted = vectors.count(collection), index.counts["passages"]
    if held == wanted:
        return
    done = 0
    for table in context.artifacts.tables(index, "passages/"):
        _store(collection, table)
        done += table.num_rows
        context.report(done / wanted, f"restored {done} of {wanted} passages")


def _store(collection: Any, table: Any) -> None:
    import numpy as np

    columns = table.to_pydict()
    embedded = np.stack([np.frombuffer(vector, np.float32) for vector in columns["vector"]])
    metadatas = [
        {name: columns[name][at] for name in (*ABOUT, "start_line", "end_line")} for at in range(table.num_rows)
    ]
    vectors.add(collection, columns["id"], embedded, columns["text"], metadatas)


def _table(shard: Sequence[Entry], embedded: Any) -> Any:
    import pyarrow as pa

    rows = [
        {
            "id": entry.passage.id,
            "text": entry.passage.text,
            **entry.metadata,
            "vector": vector.astype("float32").tobytes(),
        }
        for entry, vector in zip(shard, embedded, strict=True)
    ]
    texts = ("id", "text", *ABOUT)
    kinds = [
        *((name, pa.string()) for name in texts),
        ("start_line", pa.int64()),
        ("end_line", pa.int64()),
        ("vector", pa.binary()),
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(kinds))


def _parquet(table: Any) -> bytes:
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _shard_name(number: int) -> str:
    return f"passages/{number:05d}.parquet"


def _finished_shard(draft: Draft, number: int, shard: Sequence[Entry]) -> Any | None:
    """The shard as an earlier, interrupted run left it; None when it is not there or not of these passages."""
    import pyarrow.parquet as pq

    storage, key = draft.artifacts.storage, f"{draft.prefix}/{_shard_name(number)}"
    if not storage.exists(key):
        return None
    data = storage.read(key)
    table = pq.read_table(io.BytesIO(data))
    if table.column("id").to_pylist() != [entry.passage.id for entry in shard]:
        return None
    draft.add([FileEntry(name=_shard_name(number), size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())])
    return table


@contextmanager
def _embedding(settings: Settings, declared: Embed) -> Iterator[tuple[Encode, dict[str, Any]]]:
    """An embedder in a Ray actor that holds the free CPUs of one node when this process is connected to Ray, else in
    this process; and what it is: model, dimension, sha256."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        local = Worker(settings, declared.model, declared.max_tokens)
        yield local.encode, local.about()
        return
    cpus = free_cpus(ray)
    options = {"num_cpus": cpus, "max_restarts": 2, "max_task_retries": 2}
    actor = ray.remote(**options)(Worker).remote(settings, declared.model, declared.max_tokens)
    try:
        yield lambda texts: ray.get(actor.encode.remote(texts)), ray.get(actor.about.remote())
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, SoldiomError) else error) from None
    finally:
        ray.kill(actor)


class Worker:
    """Holds the embedder in the process that computes."""

    def __init__(self, settings: Settings, model: str, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.embedder = Embedder(settings, model)

    def about(self) -> dict[str, Any]:
        """What the vectors of a collection were made with."""
        return {"model": self.embedder.name, "dimension": self.embedder.dimension, "sha256": self.embedder.sha256}

    def encode(self, texts: list[str]) -> Any:
        """[n, dimension]."""
        return self.embedder.encode(texts, max_tokens=self.max_tokens)


def free_cpus(ray: Any) -> int:
    """Free CPUs, no more than the largest node has, at least one: asking for all of a node of which a deployed model
    holds one would wait for ever."""
    largest = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=1.0)
    return max(1, int(min(largest, ray.available_resources().get("CPU", 1.0))))
