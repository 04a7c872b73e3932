"""A dataset becomes an index: passages with their vectors in parts, an inverted index, and a Chroma collection.

Storage is authoritative. A run that was interrupted continues after the parts that were made; a collection that is gone
or incomplete (another Chroma server, a restored backup) is filled again from them without the model.
"""

import dataclasses
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from soldiom_ray import vectors
from soldiom_ray.actors import map_in_order
from soldiom_ray.artifacts import Context, Draft
from soldiom_ray.domains.schema import Embed
from soldiom_ray.embed.encrypted_view import CHROMA_COLUMNS, row_ids, views_of
from soldiom_ray.embed.lexical import SegmentWriter
from soldiom_ray.embed.parts import EmbedPart, IndexPart, PartSpec, passages_name, plan_parts, vectors_name
from soldiom_ray.errors import InputError, UnavailableError
from soldiom_ray.records import Manifest

if TYPE_CHECKING:
    import pyarrow as pa

STAGE_VERSION = 4


def embed(context: Context, dataset: Manifest, declared: Embed) -> Manifest:
    """Make the index of a dataset, or find it made already and complete its collection."""
    made_from = {"declared": declared.model_dump(mode="json"), "stage_version": STAGE_VERSION}
    draft = context.artifacts.draft("index", made_from, [dataset.id])
    if done := draft.finished():
        repair(context, done)
        return done
    vectors.check_available(context.settings)  # an unavailable Chroma is reported before the work
    context.report(0.0, "cutting passages")
    specs = plan_parts(context.artifacts, dataset, declared)
    settings = dataclasses.replace(context.settings, github_tokens=(), database_url=None)
    totals, collection = _Totals(draft), None
    for part in _embed_parts(context, EmbedPart(settings, dataset, declared, draft.prefix), specs, totals):
        totals.add(part)
        collection = collection or _collection(context, draft.id, part.model)
        data = context.artifacts.storage.read(f"{draft.prefix}/{vectors_name(part.number)}")
        _store(context, collection, draft.id, part.number, part.metadata, data)
    if not totals.passages:
        named = ", ".join(f"{side} ({dataset.counts.get(side, 0)} samples)" for side in declared.splits)
        held = [side for side in Embed().splits if dataset.counts.get(side, 0)]
        raise InputError(
            f"embed found no passage of {dataset.id} in embed.splits: {named}.",
            remedy=f"name sides that hold samples: {', '.join(held)}" if held else "prepare documents with words",
        )
    totals.segments.close()
    _check_complete(collection, draft.id, totals.passages)
    details = {**totals.model, "max_tokens": declared.max_tokens, "parts": len(specs), "sides": totals.sides}
    return draft.commit(counts={"passages": totals.passages, "documents": totals.documents}, details=details)


class _Totals:
    """Counts, segments and model of the parts made so far."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.segments = SegmentWriter(draft)
        self.passages = self.documents = 0
        self.sides: dict[str, int] = {}
        self.model: dict[str, Any] = {}

    def add(self, part: IndexPart) -> None:
        """Count a part."""
        self.draft.add_written(part.files)
        self.segments.add(part.number, part.postings, part.metadata)
        self.passages += len(part.metadata)
        self.documents += part.documents
        for side in part.metadata.column("split").to_pylist():
            self.sides[side] = self.sides.get(side, 0) + 1
        self.model = part.model


def _embed_parts(context: Context, function: EmbedPart, specs: list[PartSpec], totals: _Totals) -> Iterator[IndexPart]:
    done = 0

    def report() -> None:
        context.report(done / len(specs), f"embedded {totals.passages} passages, {done} of {len(specs)} parts")

    for part in map_in_order(function, specs, report):
        yield part
        done += 1
        report()


def repair(context: Context, index: Manifest) -> None:
    """Fill the collection of a finished index when it does not hold all passages."""
    import pyarrow.parquet as pq

    collection = _collection(context, index.id, index.details)
    expected = index.counts["passages"]
    if vectors.count(collection) == expected:
        return
    done = 0
    for number in range(index.details["parts"]):
        passages, data = (context.artifacts.read(index, name(number)) for name in (passages_name, vectors_name))
        metadata = pq.read_table(io.BytesIO(passages), columns=list(CHROMA_COLUMNS))
        _store(context, collection, index.id, number, metadata, data)
        done += len(metadata)
        context.report(done / expected, f"restored {done} of {expected} passages")
    _check_complete(collection, index.id, expected)
    for earlier in views_of(index.id, context.settings.encryption_keys)[1:]:
        vectors.delete_collection(context.settings, earlier.collection)


def _collection(context: Context, index: str, model: dict[str, Any]) -> Any:
    """The collection of an index, emptied when it holds vectors of other weights. Its metadata leave out the model's
    name, which may be a path."""
    metadata = {name: model[name] for name in ("dimension", "sha256")}
    name = views_of(index, context.settings.encryption_keys)[0].collection
    return vectors.open_collection(context.settings, name, metadata)


def _store(context: Context, collection: Any, index: str, part: int, metadata: "pa.Table", data: bytes) -> None:
    """Add the rows of a part that the collection lacks; `data` is the part's file of vectors."""
    import numpy as np

    view = views_of(index, context.settings.encryption_keys)[0]
    embeddings = np.load(io.BytesIO(data), allow_pickle=False)
    ids = row_ids([(part, row) for row in range(len(metadata))])
    rows = [view.metadata(row) for row in metadata.select(CHROMA_COLUMNS).to_pylist()]
    vectors.add(collection, ids, view.vectors(embeddings), rows)


def _check_complete(collection: Any, index: str, expected: int) -> None:
    count = vectors.count(collection)
    if count != expected:
        raise UnavailableError(
            f"Chroma holds {count} of the {expected} passages of {index}: its collection was changed meanwhile.",
            remedy="run the `embed` stage again; it adds what is missing",
        )
