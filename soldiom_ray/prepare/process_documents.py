"""The work on single documents: license policy, clean, filter, redact, fingerprint. One call processes one part of one
shard, in this process or on any node. The samples of a part are written to a samples file, what is known of every
document to a facts file beside it, last; a part whose facts exist is done."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts, parquet_bytes, store_shared, table_bytes
from soldiom_ray.domains.file_types import SUPPORTED
from soldiom_ray.domains.schema import Prepare
from soldiom_ray.prepare.clean import clean
from soldiom_ray.prepare.deduplication.minhash import signatures
from soldiom_ray.prepare.deduplication.words import content_digest, hash_words, shingles, words_of
from soldiom_ray.prepare.docstrings import CODE_BEGIN, CODE_END, NoFunctionsError, function_pairs, is_python
from soldiom_ray.prepare.filters import first_refusal
from soldiom_ray.prepare.filters.filter_text import FilterText, is_code
from soldiom_ray.prepare.filters.language import detect_language
from soldiom_ray.prepare.ngram_overlap import NgramSet, ngrams_of
from soldiom_ray.prepare.pieces import Pieces
from soldiom_ray.records import FileEntry, Manifest, Record, Sample, Split
from soldiom_ray.redaction import redact
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, open_storage

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Part:
    """Part `index` of `count` of a documents shard, and part `number` of the whole stage. `work` is the storage key of
    its two files, without their endings."""

    manifest: Manifest
    shard: str
    index: int
    count: int
    work: str
    number: int


@dataclass(frozen=True, slots=True)
class PartRows:
    """Rows, int64 [rows], of the samples file of a part; `work` as that of `Part`."""

    work: str
    rows: "NDArray[np.int64]"


class DocumentFacts(Record):
    """What is known of a document without its text. `reason` is empty for one that passed; then `row` is the row of its
    sample in the samples file of `part`. `digest` is 16 bytes of a digest of its words or its picture, `signature` its
    MinHash signature. `redactions` is JSON, or empty for none; `labels` are lines. `own_split` is the split that the
    data set itself assigns. `document` is the id of the document that a function is part of, empty for a document."""

    id: str
    source: str
    group: str
    path: str
    version: str
    license: str
    kind: str
    language: str
    reason: str
    value: str
    time: str
    part: int
    row: int
    characters: int
    image_bytes: int
    digest: bytes
    signature: bytes
    redactions: str
    labels: str
    own_split: str
    document: str


SAMPLE_METADATA = ("label", "width", "height", "format")
"""Metadata of a document that its sample has too."""

COPIED = ("id", "source", "group", "path", "version", "license", "kind", "language")


@dataclass(frozen=True)
class ProcessPart:
    """The function that processes a part; it travels to the workers with what all parts share."""

    settings: Settings
    declared: Prepare

    def __call__(self, part: Part) -> int:
        """Process a part's documents in order; returns how many there are."""
        storage = open_storage(self.settings)
        done = _count_facts(storage, part)
        return done if done is not None else _process_part(storage, part, self.declared)


def _process_part(storage: Storage, part: Part, declared: Prepare) -> int:
    shard = _read_shard(storage, part)
    start, stop = (shard.num_rows * index // part.count for index in (part.index, part.index + 1))
    all_facts: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    shingle_sets = []
    documents = shard.slice(start, stop - start).to_pylist()
    make = _document_samples if declared.pairs is None else _function_samples
    for facts, sample in (each for document in documents for each in make(document, part, declared)):
        all_facts.append(facts)
        if sample is not None:
            facts["row"] = len(samples)
            words = words_of(sample["text"]) if sample["image"] is None else []
            facts["digest"] = _digest(sample, facts, words)
            shingle_sets.append(shingles(hash_words(words)))
            samples.append(sample)
    passed = (facts for facts in all_facts if not facts["reason"])
    for facts, signature in zip(passed, signatures(shingle_sets), strict=True):
        facts["signature"] = signature
    storage.write(f"{part.work}.parquet", parquet_bytes(samples, Sample))
    storage.write(f"{part.work}.facts.parquet", parquet_bytes(all_facts, DocumentFacts))
    return len(all_facts)


def _digest(sample: Mapping[str, Any], facts: Mapping[str, Any], words: Sequence[str]) -> bytes:
    """What makes two samples exact copies, 16 bytes: the words of a text, those of the code alone where a function is
    asked about, the bytes of a picture."""
    if facts["document"]:
        words = words_of(sample["text"].partition(CODE_BEGIN)[2].rpartition(CODE_END)[0])
    digest = content_digest(words) if words else hashlib.sha256(sample["image"] or b"").hexdigest()
    return bytes.fromhex(digest)[:16]


FactsAndSample = tuple[dict[str, Any], dict[str, Any] | None]


def _document_samples(document: Mapping[str, Any], part: Part, declared: Prepare) -> Iterator[FactsAndSample]:
    """A document's facts, and its sample unless it is refused."""
    facts = _initial_facts(document, part)
    yield facts, process_document(document, facts, declared)


def _function_samples(document: Mapping[str, Any], part: Part, declared: Prepare) -> Iterator[FactsAndSample]:
    """The same for every function of a document, which is asked about; only the facts of a document that is refused
    as a whole."""
    facts = _initial_facts(document, part)
    _, refusal = _apply_policy(document, declared)
    text = clean(document["text"])
    if not refusal and not is_python(document["path"], document["language"], text):
        refusal = ("not_python", document["language"] or document["path"])
    if not refusal and document["kind"] == "test":
        refusal = ("test", "a test module")
    refusal = refusal or _refusal(text, _is_code(document), document, {}, declared)
    try:
        pairs = [] if refusal else function_pairs(text)
    except NoFunctionsError as error:
        refusal = (error.reason, error.value)
    if refusal:
        facts["reason"], facts["value"] = refusal
        yield facts, None
        return
    for pair in pairs:
        name = hashlib.sha256(f"{document['id']}\0{pair.name}".encode()).hexdigest()[:24]
        metadata = json.loads(document["metadata"]) | {"messages": pair.messages()}
        row = {
            **document,
            "id": name,
            "language": "python",
            "path": f"{document['path']}::{pair.name}",
            "metadata": json.dumps(metadata),
        }
        facts = _initial_facts(row, part) | {"document": document["id"], "reason": pair.reason, "value": pair.value}
        yield facts, None if pair.reason else process_document(row, facts, declared)


def _initial_facts(document: Mapping[str, Any], part: Part) -> dict[str, Any]:
    facts: dict[str, Any] = {name: document[name] for name in COPIED}
    facts |= {"reason": "", "value": "", "time": "", "part": part.number, "row": -1, "characters": 0}
    facts |= {"image_bytes": 0, "digest": b"", "signature": b"", "redactions": "", "labels": "", "own_split": ""}
    facts["document"] = ""
    return facts


def process_document(document: Mapping[str, Any], facts: dict[str, Any], declared: Prepare) -> dict[str, Any] | None:
    """The sample that a document becomes (its split is decided later), or None when it is refused; `facts` is filled in
    either way."""
    verdict, refusal = _apply_policy(document, declared)
    if refusal:
        facts["reason"], facts["value"] = refusal
        return None
    metadata, image = json.loads(document["metadata"]), document.get("image")
    facts["time"], facts["own_split"] = str(metadata.get("time") or ""), str(metadata.get("split") or "")
    pieces = Pieces.of(document["text"], metadata).mapped(clean)
    text, code = pieces.text(), bool(facts["document"]) or _is_code(document)
    if refusal := _refusal(text, code, document, metadata, declared):
        facts["reason"], facts["value"] = refusal
        return None
    redactions: Counter[str] = Counter()

    def redacted(piece: str) -> str:
        public, counts = redact(piece, declared.redact)
        redactions.update(counts)
        return public

    pieces = pieces.mapped(redacted)
    text = pieces.text()
    if declared.max_characters and len(text) > declared.max_characters:
        facts["reason"], facts["value"] = "too_long", f"{len(text)} characters"
        return None
    sample_metadata = pieces.metadata() | {
        name: metadata[name] for name in SAMPLE_METADATA if metadata.get(name) is not None
    }
    if rejected := metadata.get("rejected"):
        sample_metadata["rejected"] = redacted(clean(rejected)).strip("\n")
    if checks := metadata.get("checks"):
        sample_metadata["checks"] = redacted(checks)
    facts["language"] = document["language"] or ("" if code or not text else detect_language(text)[0])
    facts["redactions"], facts["characters"] = json.dumps(redactions) if redactions else "", len(text)
    facts["image_bytes"], facts["labels"] = len(image or b""), _label_lines(sample_metadata)
    copied = {name: document[name] for name in Sample.model_fields if name in document}
    return copied | {
        "text": text,
        "split": "train",
        "language": facts["language"],
        "verdict": verdict,
        "messages": pieces.messages(),
        "metadata": json.dumps(sample_metadata),
        "image": image,
    }


def _refusal(
    text: str, code: bool, document: Mapping[str, Any], metadata: Mapping[str, Any], declared: Prepare
) -> tuple[str, str] | None:
    """Reason and value for which a cleaned document is refused, if it is. Pictures are not filtered."""
    if document.get("image") is not None:
        return None
    if not text.strip():
        return "empty", "0 characters"
    if rejected := metadata.get("rejected"):
        if metadata.get("other_prompt"):
            return "other_prompt", "chosen and rejected answer different conversations"
        if clean(rejected).strip() == clean(metadata["messages"][-1]["content"]).strip():
            return "rejected_is_chosen", f"the same {len(rejected)} characters"
    return first_refusal(FilterText(text, code, document["path"]), declared.filters)


def _is_code(document: Mapping[str, Any]) -> bool:
    """Files of data and pages that users gave are not code, whatever their ending: their parsers made text of them."""
    ending = PurePosixPath(document["path"].lower()).suffix
    is_parsed = document["source"] == "user" and ending in SUPPORTED and ending != ".ipynb"
    return is_code(document["path"]) and not is_parsed


def _label_lines(metadata: Mapping[str, Any]) -> str:
    """A sample's labels, each on its own line."""
    label = metadata.get("label", "")
    return "\n".join(" ".join(name.split()) for name in (label if isinstance(label, list) else [label]))


@dataclass(frozen=True)
class MeasureOverlap:
    """The function that measures how much of a part's texts occurs verbatim in a set of n-grams."""

    settings: Settings
    ngrams: NgramSet

    def __call__(self, rows: PartRows) -> list[tuple[float, int]]:
        """For each row: the share of its n-grams that are in the set, the longest stretch in words."""
        return [self.ngrams.overlap(text) for text in texts_of(open_storage(self.settings), rows)]


@dataclass(frozen=True)
class HashNgrams:
    """The function that hashes the n-grams of a part's texts."""

    settings: Settings

    def __call__(self, rows: PartRows) -> "NDArray[np.uint64]":
        """The n-grams of every row, one text after the other."""
        import numpy as np

        return np.concatenate([ngrams_of(text) for text in texts_of(open_storage(self.settings), rows)])


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard of a dataset's split, as it is to be written: rows of each part, and `order`, int64 [rows of the shard],
    their places one part after the other."""

    name: str
    split: Split
    parts: tuple[PartRows, ...]
    order: "NDArray[np.int64]"


@dataclass(frozen=True)
class WriteShard:
    """The function that writes a shard, which is stored once for all versions of a dataset that hold it."""

    settings: Settings

    def __call__(self, shard: Shard) -> FileEntry:
        import pyarrow as pa

        storage = open_storage(self.settings)
        tables = [read_samples(storage, rows.work).take(rows.rows) for rows in shard.parts]
        # Parts without pictures have no column for them.
        table = pa.concat_tables(tables, promote_options="default").take(shard.order)
        if "image" in table.column_names and table.column("image").null_count == len(table):
            table = table.drop_columns("image")
        column = table.schema.get_field_index("split")
        table = table.set_column(column, "split", pa.array([shard.split] * len(table), pa.string()))
        return store_shared(storage, "dataset", shard.name, table_bytes(table))


def texts_of(storage: Storage, rows: PartRows) -> list[str]:
    """The texts of rows of a samples file."""
    texts: list[str] = read_samples(storage, rows.work, ["text"]).column("text").take(rows.rows).to_pylist()
    return texts


def read_samples(storage: Storage, work: str, columns: Sequence[str] | None = None) -> "pa.Table":
    """A part's samples file."""
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(storage.read(f"{work}.parquet")), columns=list(columns) if columns else None)


def read_facts(storage: Storage, parts: Iterable[Part]) -> "pa.Table":
    """The facts of all parts as one table, sorted by group, path and id: the order of everything in this stage."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pq.read_table(io.BytesIO(storage.read(f"{part.work}.facts.parquet"))) for part in parts]
    if not tables:
        return pa.Table.from_pylist([], schema=_facts_schema())
    # A run that an earlier version began has no column `document`.
    table = pa.concat_tables(tables, promote_options="default")
    return table.sort_by([(name, "ascending") for name in ("group", "path", "id")]).combine_chunks()


def _facts_schema() -> "pa.Schema":
    import pyarrow.parquet as pq

    return pq.read_schema(io.BytesIO(parquet_bytes([], DocumentFacts)))


def _count_facts(storage: Storage, part: Part) -> int | None:
    """How many documents a part has that an earlier run processed; None when it did not."""
    import pyarrow.parquet as pq

    key = f"{part.work}.facts.parquet"
    return int(pq.read_metadata(io.BytesIO(storage.read(key))).num_rows) if storage.exists(key) else None


def _apply_policy(document: Mapping[str, Any], declared: Prepare) -> tuple[str, tuple[str, str] | None]:
    """The verdict of the license policy on a document, and the refusal that follows, if any."""
    from soldiom_ray.licenses import verdict

    answer, why = verdict(document["license"], declared.license)
    if declared.kinds and document["kind"] not in declared.kinds:
        return answer, ("kind", str(document["kind"]))
    is_tolerated = answer == "unknown" and declared.license.allow_unknown
    return answer, None if answer == "allowed" or is_tolerated else (f"license_{answer}", why)


def _read_shard(storage: Storage, part: Part) -> "pa.Table":
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(Artifacts(storage).read(part.manifest, part.shard)))
