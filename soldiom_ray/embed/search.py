"""Search in one index: by meaning (vectors in Chroma), by words (the inverted index), or both, fused by their ranks."""

import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from soldiom_ray import vectors
from soldiom_ray.artifacts import Artifacts
from soldiom_ray.embed.encrypted_view import SHOWN, View, place_of, row_ids
from soldiom_ray.embed.lexical import ABOUT, LexicalIndex, Place
from soldiom_ray.embed.parts import passages_name
from soldiom_ray.errors import InputError
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

Mode = Literal["hybrid", "dense", "lexical"]

FUSION_K = 60
"""Reciprocal rank fusion: a passage counts 1 / (60 + its rank) in each list (Cormack, Clarke, Buettcher 2009)."""

FEWEST_FUSED = 100
PARTS_HELD = 64
"""Texts of parts that were shown last, some 200 kB each."""

Hits = list[tuple[Place, float]]


class Searcher:
    """An opened index. Its methods may be called from several threads."""

    def __init__(self, settings: Settings, artifacts: Artifacts, index: Manifest) -> None:
        if "parts" not in index.details:
            raise InputError(f"{index.id} was made by an earlier version.", remedy="run the `embed` stage again")
        self.settings = settings
        self.artifacts = artifacts
        self.index = index
        self.model = str(index.details["model"])
        self._view = View(index.id, settings.encryption_key)
        self._words = LexicalIndex(artifacts, index)
        self._texts = lru_cache(PARTS_HELD)(self._read_texts)

    def dense(self, embedded: Any, most: int, filters: Mapping[str, str]) -> Hits:
        """The passages nearest in meaning to a question's vector, with cosine similarities."""
        collection = vectors.find_collection(self.settings, self._view.collection)
        turned = self._view.vectors(embedded[None, :])[0]
        if filters.keys() <= set(SHOWN):
            found = vectors.search(collection, turned, most, equal=self._view.values(filters))
        elif ids := row_ids(self._words.places(filters)):
            # With `where` beside the ids Chroma takes 0.66 s for what the ids alone take 0.02 s for.
            found = vectors.search(collection, turned, most, ids=ids)
        else:
            found = []
        return [(place_of(one), score) for one, score in found]

    def lexical(self, query: str, most: int, filters: Mapping[str, str]) -> Hits:
        """The passages that share the most telling words with a question, with BM25 scores."""
        return self._words.search(query, most, filters)

    def show(self, found: Sequence[tuple[Place, float]]) -> list[dict[str, Any]]:
        """Passages as {id, text, score, metadata}."""
        return [self._row(place) | {"score": round(score, 6)} for place, score in found]

    def _row(self, place: Place) -> dict[str, Any]:
        part, row = place
        shown: dict[str, Any] = self._texts(part).slice(row, 1).to_pylist()[0]
        return {"id": shown.pop("id"), "text": shown.pop("text"), "metadata": shown}

    def _read_texts(self, part: int) -> "pa.Table":
        import pyarrow.parquet as pq

        return pq.read_table(io.BytesIO(self.artifacts.read(self.index, passages_name(part))))


def fused(lists: Sequence[Hits], k: int) -> Hits:
    """The k best of several lists by reciprocal rank fusion, with the sums as scores."""
    scores: dict[Place, float] = {}
    for found in lists:
        for rank, (place, _) in enumerate(found, 1):
            scores[place] = scores.get(place, 0.0) + 1 / (FUSION_K + rank)
    return sorted(scores.items(), key=lambda hit: (-hit[1], hit[0]))[:k]


def fused_depth(k: int) -> int:
    """How much of each list is fused when k passages are wanted."""
    return min(vectors.MOST_RESULTS, max(FEWEST_FUSED, 4 * k))


def check_question(mode: str, k: int, filters: Mapping[str, Any]) -> None:
    """InputError for a mode, a number of passages or a filter that there is not."""
    if mode not in get_args(Mode):
        raise InputError(f"mode is {mode[:40]!r}; known: {', '.join(get_args(Mode))}.", remedy="use one of them")
    if not 1 <= k <= vectors.MOST_RESULTS:
        raise InputError(f"k is {k}; it must be from 1 to {vectors.MOST_RESULTS}.", remedy="ask for fewer passages")
    for name, value in filters.items():
        if name not in ABOUT or not isinstance(value, str):
            raise InputError(
                f"filters: {name!r} cannot be filtered by; known: {', '.join(ABOUT)}, each a text.",
                remedy="use one of them",
            )
