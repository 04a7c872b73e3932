"""Search in one index: by meaning (vectors in Chroma), by words (the inverted index), or both, fused by their ranks."""

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_args

from soldiom_ray import vectors
from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.door_defaults import Mode
from soldiom_ray.embed.encrypted_view import CHROMA_COLUMNS, EncryptedView, location_of, row_ids, views_of
from soldiom_ray.embed.lexical import METADATA_COLUMNS, LexicalIndex, PassageLocation
from soldiom_ray.embed.parts import passages_name
from soldiom_ray.errors import InputError, NotFoundError
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

FUSION_K = 60
"""Reciprocal rank fusion: a passage counts 1 / (60 + its rank) in each list (Cormack, Clarke, Buettcher 2009)."""

MIN_FUSED = 100
CACHED_PARTS = 64
"""Parts whose texts stay in memory after a search, some 200 kB each."""

Hits = list[tuple[PassageLocation, float]]
"""Passages and their scores, best first."""


class Searcher:
    """An opened index. Its methods may be called from several threads."""

    def __init__(self, settings: Settings, artifacts: Artifacts, index: Manifest) -> None:
        if "parts" not in index.details:
            raise InputError(f"{index.id} was made by an earlier version.", remedy="run the `embed` stage again")
        self.settings = settings
        self.artifacts = artifacts
        self.index = index
        self.model = str(index.details["model"])
        self._views = views_of(index.id, settings.encryption_keys)
        self._lexical = LexicalIndex(artifacts, index)
        self._texts = lru_cache(CACHED_PARTS)(self._read_texts)

    def dense(self, embedding: Any, limit: int, filters: Mapping[str, str]) -> Hits:
        """The passages nearest in meaning to a query, with cosine similarities. `embedding` is float32 [dimension]."""
        collection, view = self._collection()
        rotated = view.vectors(embedding[None, :])[0]
        if filters.keys() <= set(CHROMA_COLUMNS):
            hits = vectors.search(collection, rotated, limit, metadata=view.metadata(filters))
        elif ids := row_ids(self._lexical.locations(filters)):
            # With `where` beside the ids Chroma takes 0.66 s for what the ids alone take 0.02 s for.
            hits = vectors.search(collection, rotated, limit, ids=ids)
        else:
            hits = []
        return [(location_of(row_id), score) for row_id, score in hits]

    def _collection(self) -> tuple[Any, EncryptedView]:
        """The index in Chroma: under the newest key, or under an earlier one until `embed` has run again."""
        for view in self._views[:-1]:
            with suppress(NotFoundError):
                return vectors.find_collection(self.settings, view.collection), view
        return vectors.find_collection(self.settings, self._views[-1].collection), self._views[-1]

    def lexical(self, query: str, limit: int, filters: Mapping[str, str]) -> Hits:
        """The passages that match the terms of a query best, with BM25 scores."""
        return self._lexical.search(query, limit, filters)

    def results(self, hits: Sequence[tuple[PassageLocation, float]]) -> list[dict[str, Any]]:
        """Passages as {id, text, score, metadata}."""
        return [self._row(location) | {"score": round(score, 6)} for location, score in hits]

    def _row(self, location: PassageLocation) -> dict[str, Any]:
        part, row = location
        passage: dict[str, Any] = self._texts(part).slice(row, 1).to_pylist()[0]
        return {"id": passage.pop("id"), "text": passage.pop("text"), "metadata": passage}

    def _read_texts(self, part: int) -> "pa.Table":
        import pyarrow.parquet as pq

        return pq.read_table(io.BytesIO(self.artifacts.read(self.index, passages_name(part))))


def fuse(lists: Sequence[Hits], k: int) -> Hits:
    """The k best of several lists by reciprocal rank fusion, with the sums as scores."""
    scores: dict[PassageLocation, float] = {}
    for hits in lists:
        for rank, (location, _) in enumerate(hits, 1):
            scores[location] = scores.get(location, 0.0) + 1 / (FUSION_K + rank)
    return sorted(scores.items(), key=lambda hit: (-hit[1], hit[0]))[:k]


def fusion_depth(k: int) -> int:
    """How many hits of each list are fused for k results."""
    return min(vectors.MAX_RESULTS, max(MIN_FUSED, 4 * k))


def check_query(mode: str, k: int, filters: Mapping[str, Any]) -> None:
    """InputError for an unknown mode or filter, or a number of passages out of range."""
    if mode not in get_args(Mode):
        raise InputError(f"mode is {mode[:40]!r}; known: {', '.join(get_args(Mode))}.", remedy="use one of them")
    if not 1 <= k <= vectors.MAX_RESULTS:
        raise InputError(f"k is {k}; it must be from 1 to {vectors.MAX_RESULTS}.", remedy="ask for fewer passages")
    for name, value in filters.items():
        if name not in METADATA_COLUMNS or not isinstance(value, str):
            raise InputError(
                f"filters: {name!r} cannot be filtered by; known: {', '.join(METADATA_COLUMNS)}, each a text.",
                remedy="use one of them",
            )
