"""A dataset becomes an index: passages with their vectors in parts, an inverted index, and a Chroma collection.

What lies in storage is the truth. A run that was interrupted goes on after the parts that were made; a collection that
is gone or short (another Chroma server, a restored backup) is filled again from them without the model.
"""

import dataclasses
import io
from typing import TYPE_CHECKING, Any

from soldiom_ray import vectors
from soldiom_ray.actors import map_in_order
from soldiom_ray.artifacts import Context, Draft
from soldiom_ray.domains.schema import Embed
from soldiom_ray.embed.encrypted_view import SHOWN, View, row_ids
from soldiom_ray.embed.lexical import SegmentWriter
from soldiom_ray.embed.parts import EmbedPart, Part, Piece, passages_name, plan, vectors_name
from soldiom_ray.errors import InputError, UnavailableError
from soldiom_ray.records import Manifest

if TYPE_CHECKING:
    import pyarrow as pa

STAGE_VERSION = 4


def embed(context: Context, dataset: Manifest, declared: Embed) -> Manifest:
    """Make the index of a dataset, or find it made already and see that its collection is whole."""
    made_from = {"declared": declared.model_dump(mode="json"), "stage_version": STAGE_VERSION}
    draft = context.artifacts.draft("index", made_from, [dataset.id])
    if done := draft.finished():
        _repair(context, done)
        return done
    vectors.check_answers(context.settings)  # Chroma that does not answer is told before the work
    context.report(0.0, "cutting passages")
    pieces = plan(context.artifacts, dataset, declared)
    settings = dataclasses.replace(context.settings, github_tokens=(), database_url=None)
    made, collection = _Made(draft), None
    for part in _made_parts(context, EmbedPart(settings, dataset, declared, draft.prefix), pieces, made):
        made.take(part)
        collection = collection or _collection(context, draft.id, part.model)
        data = context.artifacts.storage.read(f"{draft.prefix}/{vectors_name(part.number)}")
        _store(context, collection, draft.id, part.number, part.about, data)
    if not made.passages:
        splits = {split: dataset.counts.get(split, 0) for split in declared.splits}
        raise InputError(
            f"embed found no passage: embed.splits names {splits} samples of {dataset.id}.",
            remedy="name splits that hold samples: train, validation or test",
        )
    made.segments.close()
    _check_whole(collection, draft.id, made.passages)
    details = {**made.model, "max_tokens": declared.max_tokens, "parts": len(pieces)}
    return draft.commit(counts={"passages": made.passages, "documents": made.documents}, details=details)


class _Made:
    """What the parts so far add up to."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.segments = SegmentWriter(draft)
        self.passages = self.documents = 0
        self.model: dict[str, Any] = {}

    def take(self, part: Part) -> None:
        """Count a part in."""
        self.draft.add_written(part.files)
        self.segments.add(part.number, part.postings, part.about)
        self.passages += len(part.about)
        self.documents += part.documents
        self.model = part.model


def _made_parts(context: Context, function: EmbedPart, pieces: list[Piece], made: _Made) -> Any:
    done = 0

    def tick() -> None:
        context.report(done / len(pieces), f"embedded {made.passages} passages, {done} of {len(pieces)} parts")

    for part in map_in_order(function, pieces, tick):
        yield part
        done += 1
        tick()


def _repair(context: Context, index: Manifest) -> None:
    """Fill the collection of a finished index when it does not hold all passages."""
    import pyarrow.parquet as pq

    collection = _collection(context, index.id, index.details)
    held, wanted = vectors.count(collection), index.counts["passages"]
    if held == wanted:
        return
    done = 0
    for number in range(index.details["parts"]):
        about, data = (context.artifacts.read(index, name(number)) for name in (passages_name, vectors_name))
        table = pq.read_table(io.BytesIO(about), columns=list(SHOWN))
        _store(context, collection, index.id, number, table, data)
        done += len(table)
        context.report(done / wanted, f"restored {done} of {wanted} passages")
    _check_whole(collection, index.id, wanted)


def _collection(context: Context, index: str, model: dict[str, Any]) -> Any:
    """The collection of an index, empty when it held vectors of other weights. It does not tell the model's name, which
    may be a path."""
    told = {name: model[name] for name in ("dimension", "sha256")}
    name = View(index, context.settings.encryption_key).collection
    return vectors.open_collection(context.settings, name, told)


def _store(context: Context, collection: Any, index: str, part: int, about: "pa.Table", data: bytes) -> None:
    """Add what the collection lacks of a part; `data` is its file of vectors."""
    import numpy as np

    view = View(index, context.settings.encryption_key)
    embedded = np.load(io.BytesIO(data), allow_pickle=False)
    ids = row_ids([(part, row) for row in range(len(about))])
    vectors.add(collection, ids, view.vectors(embedded), [view.values(row) for row in about.select(SHOWN).to_pylist()])


def _check_whole(collection: Any, index: str, wanted: int) -> None:
    held = vectors.count(collection)
    if held != wanted:
        raise UnavailableError(
            f"Chroma holds {held} of the {wanted} passages of {index}: its collection was changed meanwhile.",
            remedy="run the `embed` stage again; it adds what is missing",
        )
