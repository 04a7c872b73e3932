"""The work on one part of an index: cut documents into passages, embed them, write both, and return their postings.

One call makes one part, in this process or on any node. `passages/<number>.parquet` is written last; a part that has
it, made with the same weights, is done.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts, table_bytes
from soldiom_ray.domains.schema import Embed
from soldiom_ray.embed.chunk import Passage, passages_of
from soldiom_ray.embed.lexical import METADATA_COLUMNS, Postings, array_bytes, postings_of
from soldiom_ray.embed.select import Candidate, choose_passages
from soldiom_ray.records import FileEntry, Manifest
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, open_storage

if TYPE_CHECKING:
    import pyarrow as pa

PART_BYTES = 48 << 10
"""Of a compressed shard of a dataset: some 570 passages of code, which take one core five seconds."""

PART_PASSAGES = 512
COLUMNS = ("id", "sha256", "text", "metadata", "path")
WEIGHTS = b"weights_sha256"

SYMBOL_WEIGHT = 3
"""How often the terms of a passage's symbol count (fields by repetition: Robertson, Zaragoza, Taylor 2004). The MRR of
500 queries in mode `lexical` is 0.50, and 0.46 where they count once."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PartSpec:
    """What part `number` is made of: slice `index` of `count` of a shard with all its passages, or the `chosen` rows of
    the shard, each with the numbers of the passages that are taken of it."""

    number: int
    shard: str
    index: int = 0
    count: int = 1
    chosen: tuple[tuple[int, tuple[int, ...]], ...] | None = None


@dataclass(frozen=True, slots=True)
class IndexPart:
    """A part that was made. `metadata` is a table of METADATA_COLUMNS; `model` describes the model of its vectors."""

    number: int
    files: tuple[FileEntry, ...]
    documents: int
    metadata: "pa.Table"
    postings: Postings
    model: dict[str, Any]


def plan_parts(artifacts: Artifacts, dataset: Manifest, declared: Embed) -> list[PartSpec]:
    """The parts of an index, in the order of its passages: splits by name, then in the order of the dataset. They
    depend on the dataset and the declaration alone."""
    shards = [
        entry
        for split in sorted(set(declared.splits))
        for entry in sorted(dataset.files, key=lambda entry: entry.name)
        if entry.name.startswith(f"{split}/") and entry.name.endswith(".parquet")
    ]
    if declared.max_passages is None:
        slices = [
            (entry.name, index, count)
            for entry in shards
            for count in [1 + entry.size_bytes // PART_BYTES]
            for index in range(count)
        ]
        return [PartSpec(number, *shard_slice) for number, shard_slice in enumerate(slices)]
    taken: dict[str, dict[int, tuple[int, ...]]] = {entry.name: {} for entry in shards}
    candidates = (candidate for entry in shards for candidate in _candidates(artifacts, dataset, entry.name))
    cut = _cutter(artifacts, dataset, declared.max_tokens)
    for candidate, numbers in choose_passages(candidates, cut, declared.max_passages):
        taken[candidate.shard][candidate.row] = numbers
    chunks = [(shard, chunk) for shard, rows in taken.items() for chunk in _chunks(rows)]
    return [PartSpec(number, shard, chosen=chunk) for number, (shard, chunk) in enumerate(chunks)]


def _candidates(artifacts: Artifacts, dataset: Manifest, shard: str) -> Iterator[Candidate]:
    (table,) = artifacts.tables(dataset, shard, ("id", "group", "kind"))
    for row, values in enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True)):
        yield Candidate(shard, row, *values)


def _cutter(
    artifacts: Artifacts, dataset: Manifest, max_tokens: int
) -> Callable[[Sequence[Candidate]], list[list[Passage]]]:
    def cut(candidates: Sequence[Candidate]) -> list[list[Passage]]:
        passages: dict[Candidate, list[Passage]] = {}
        ordered = sorted(candidates, key=lambda candidate: (candidate.shard, candidate.row))
        for shard, group in groupby(ordered, lambda candidate: candidate.shard):
            (table,) = artifacts.tables(dataset, shard, COLUMNS)
            members = list(group)
            rows = table.take([candidate.row for candidate in members]).to_pylist()
            passages |= {candidate: _passages(row, max_tokens) for candidate, row in zip(members, rows, strict=True)}
        return [passages[candidate] for candidate in candidates]

    return cut


def _chunks(rows: dict[int, tuple[int, ...]]) -> Iterator[tuple[tuple[int, tuple[int, ...]], ...]]:
    chunk: list[tuple[int, tuple[int, ...]]] = []
    for row in sorted(rows):
        if chunk and sum(len(numbers) for _, numbers in chunk) + len(rows[row]) > PART_PASSAGES:
            yield tuple(chunk)
            chunk = []
        chunk.append((row, rows[row]))
    if chunk:
        yield tuple(chunk)


@dataclass(frozen=True)
class EmbedPart:
    """The function that makes a part below `prefix`; it travels to the workers with what all parts share."""

    settings: Settings
    dataset: Manifest
    declared: Embed
    prefix: str

    def __call__(self, spec: PartSpec) -> IndexPart:
        """Make one part, or find that an earlier, interrupted run made it with the same weights."""
        storage = open_storage(self.settings)
        embedder = _embedder(self.settings, self.declared.model)
        weights = embedder.sha256.encode()
        names = passages_name(spec.number), vectors_name(spec.number)
        table = _finished(storage, f"{self.prefix}/{names[0]}", weights)
        if table is None:
            table, texts = self._cut(storage, spec)
            vectors = embedder.encode(texts, max_tokens=self.declared.max_tokens)
            storage.write(f"{self.prefix}/{names[1]}", array_bytes(vectors))
            storage.write(f"{self.prefix}/{names[0]}", table_bytes(table.replace_schema_metadata({WEIGHTS: weights})))
        return IndexPart(
            number=spec.number,
            files=tuple(_entry(storage, self.prefix, name) for name in names),
            documents=len(set(table.column("document").to_pylist())),
            metadata=table.select(METADATA_COLUMNS).replace_schema_metadata(None),
            postings=postings_of(indexed_texts(table)),
            model={"model": embedder.name, "dimension": embedder.dimension, "sha256": embedder.sha256},
        )

    def _cut(self, storage: Storage, spec: PartSpec) -> tuple["pa.Table", list[str]]:
        """The table of a part, and the texts to embed."""
        import pyarrow as pa

        (shard,) = Artifacts(storage).tables(self.dataset, spec.shard)
        rows = _slice(shard, spec.index, spec.count) if spec.chosen is None else _chosen(shard, spec.chosen)
        passages = [
            (row, passage)
            for row, numbers in rows
            for number, passage in enumerate(_passages(row, self.declared.max_tokens))
            if numbers is None or number in numbers
        ]
        lines = ("page", "start_line", "end_line")
        schema = pa.schema(
            [(name, pa.string()) for name in ("id", "text", *METADATA_COLUMNS)] + [(name, pa.int32()) for name in lines]
        )
        table = pa.Table.from_pylist([_columns(row, passage) for row, passage in passages], schema=schema)
        return table, [passage.embedded for _, passage in passages]


def indexed_texts(table: "pa.Table") -> list[str]:
    """The texts that lexical search indexes for the passages of a part: symbol, path and text of each."""
    columns = [table.column(name).to_pylist() for name in (*SYMBOL_WEIGHT * ("symbol",), "path", "text")]
    return [" ".join(fields) for fields in zip(*columns, strict=True)]


def passages_name(part: int) -> str:
    """File of a part's passages: texts and metadata."""
    return f"passages/{part:05d}.parquet"


def vectors_name(part: int) -> str:
    """File of a part's vectors, float32 [passages, dimension]."""
    return f"vectors/{part:05d}.npy"


def _passages(row: Row, max_tokens: int) -> list[Passage]:
    """The passages of a document. The hash is part of the seed of their ids, because two texts may share a document's
    id."""
    starts = json.loads(row["metadata"] or "{}").get("page_starts") or ()
    return passages_of(f"{row['id']}\0{row['sha256']}", row["path"], row["text"], max_tokens, starts)


def _slice(shard: "pa.Table", index: int, count: int) -> Iterator[tuple[Row, None]]:
    """The documents of slice `index` of `count` slices with about equally many characters; each document is in one."""
    import numpy as np
    import pyarrow.compute as pc

    ends = np.cumsum(pc.utf8_length(shard.column("text")).to_numpy())
    total = int(ends[-1]) if len(ends) else 0
    inner = [int(np.searchsorted(ends, total * cut // count, "right")) for cut in range(1, count)]
    first, last = [0, *inner, len(shard)][index : index + 2]
    for row in shard.slice(first, last - first).to_pylist():
        yield row, None


def _chosen(
    shard: "pa.Table", chosen: tuple[tuple[int, tuple[int, ...]], ...]
) -> Iterator[tuple[Row, tuple[int, ...]]]:
    rows = shard.take([row for row, _ in chosen]).to_pylist()
    yield from zip(rows, (numbers for _, numbers in chosen), strict=True)


def _columns(row: Row, passage: Passage) -> Row:
    return {
        **{name: str(row.get(name) or "") for name in METADATA_COLUMNS},
        "document": row["id"],
        "symbol": passage.symbol,
        "id": passage.id,
        "text": passage.text,
        "page": passage.page,
        "start_line": passage.start_line,
        "end_line": passage.end_line,
    }


@cache
def _embedder(settings: Settings, model: str) -> Any:
    """The embedder that a process uses for all its parts."""
    from soldiom_ray.models.embedder import Embedder

    return Embedder(settings, model)


def _finished(storage: Storage, key: str, weights: bytes) -> "pa.Table | None":
    import pyarrow.parquet as pq

    if not storage.exists(key):
        return None
    table = pq.read_table(io.BytesIO(storage.read(key)))
    return table if (table.schema.metadata or {}).get(WEIGHTS) == weights else None


def _entry(storage: Storage, prefix: str, name: str) -> FileEntry:
    data = storage.read(f"{prefix}/{name}")
    return FileEntry(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
