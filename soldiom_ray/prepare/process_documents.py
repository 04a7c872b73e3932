"""The work on single documents: policy, clean, filter, redact, fingerprint. One call treats one part of one shard, in
this process or on any node. What passed lies in a work file, what is known of every document in a facts file beside it,
written last; a part whose facts are there is done."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts, parquet_bytes
from soldiom_ray.domains.file_types import SUPPORTED
from soldiom_ray.domains.schema import Prepare
from soldiom_ray.prepare import deduplication
from soldiom_ray.prepare.clean import clean
from soldiom_ray.prepare.filters import Text, detect_language, first_objection, is_code
from soldiom_ray.prepare.ngram_overlap import Windows
from soldiom_ray.prepare.pieces import Pieces
from soldiom_ray.prepare.redaction import redact
from soldiom_ray.records import Manifest, Record, Sample
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, open_storage

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of work: part `index` of `count` of a documents shard. `work` is the storage key of its two files,
    without their endings; `number` is the part's place among all."""

    manifest: Manifest
    name: str
    index: int
    count: int
    work: str
    number: int


class Facts(Record):
    """What is known of a document without its text. `reason` is empty for one that passed; then `row` says where in the
    work file of its `part` its text lies. `redactions` is JSON, or empty for none; `labels` are lines. `own_split` is
    the side that a set's own division tells."""

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


ABOUT_SAMPLE = ("label", "width", "height", "format")
"""What metadata of a document says of its sample too."""

COPIED = ("id", "source", "group", "path", "version", "license", "kind", "language")


@dataclass(frozen=True)
class TreatPart:
    """The function that treats a part; it travels to the workers with what all parts share."""

    settings: Settings
    declared: Prepare

    def __call__(self, part: Part) -> int:
        """Treat a part's documents in order; how many there were."""
        storage = open_storage(self.settings)
        done = _rows_of_facts(storage, part)
        return done if done is not None else _treat(storage, part, self.declared)


def _treat(storage: Storage, part: Part, declared: Prepare) -> int:
    table = _read(storage, part.manifest, part.name)
    start, stop = (table.num_rows * at // part.count for at in (part.index, part.index + 1))
    facts: list[dict[str, Any]] = []
    passed: list[dict[str, Any]] = []
    sets = []
    for row in table.slice(start, stop - start).to_pylist():
        known: dict[str, Any] = {name: row[name] for name in COPIED}
        known |= {"reason": "", "value": "", "time": "", "part": part.number, "row": -1, "characters": 0}
        known |= {"image_bytes": 0, "digest": b"", "signature": b"", "redactions": "", "labels": "", "own_split": ""}
        facts.append(known)
        sample = treat(row, known, declared)
        if sample is not None:
            known["row"] = len(passed)
            words = deduplication.words_of(sample["text"]) if sample["image"] is None else []
            digest = (
                deduplication.content_digest(words) if words else hashlib.sha256(sample["image"] or b"").hexdigest()
            )
            known["digest"] = bytes.fromhex(digest)[:16]
            sets.append(deduplication.shingles(deduplication.hash_words(words)))
            passed.append(sample)
    for known, signature in zip(
        (one for one in facts if not one["reason"]), deduplication.signatures(sets), strict=True
    ):
        known["signature"] = signature
    storage.write(f"{part.work}.parquet", parquet_bytes(passed, Sample))
    storage.write(f"{part.work}.facts.parquet", parquet_bytes(facts, Facts))
    return len(facts)


def treat(row: Mapping[str, Any], known: dict[str, Any], declared: Prepare) -> dict[str, Any] | None:
    """The sample that a document becomes (its split still open), or None; `known` then says why."""
    verdict, objection = _policy(row, declared)
    if objection:
        known["reason"], known["value"] = objection
        return None
    about, image = json.loads(row["metadata"]), row.get("image")
    known["time"], known["own_split"] = str(about.get("time") or ""), str(about.get("split") or "")
    pieces = Pieces.of(row["text"], about).treated(clean)
    text, code = pieces.text(), _is_code(row)
    if objection := _objection(text, code, row, about, declared):
        known["reason"], known["value"] = objection
        return None
    counts: Counter[str] = Counter()

    def without_private(piece: str) -> str:
        redacted, found = redact(piece, declared.redact)
        counts.update(found)
        return redacted

    pieces = pieces.treated(without_private)
    text = pieces.text()
    told = pieces.metadata() | {name: about[name] for name in ABOUT_SAMPLE if about.get(name) is not None}
    if rejected := about.get("rejected"):
        told["rejected"] = without_private(clean(rejected)).strip("\n")
    known["language"] = row["language"] or ("" if code or not text else detect_language(text)[0])
    known["redactions"], known["characters"] = json.dumps(counts) if counts else "", len(text)
    known["image_bytes"], known["labels"] = len(image or b""), _label_lines(told)
    copied = {name: row[name] for name in Sample.model_fields if name in row}
    return copied | {
        "text": text,
        "split": "train",
        "language": known["language"],
        "verdict": verdict,
        "messages": pieces.messages(),
        "metadata": json.dumps(told),
        "image": image,
    }


def _objection(
    text: str, code: bool, row: Mapping[str, Any], about: Mapping[str, Any], declared: Prepare
) -> tuple[str, str] | None:
    """Why a cleaned document is left out, if it is. What filters ask of texts they do not ask of pictures."""
    if row.get("image") is not None:
        return None
    if not text.strip():
        return "empty", "0 characters"
    if rejected := about.get("rejected"):
        if about.get("other_prompt"):
            return "other_prompt", "chosen and rejected answer different conversations"
        if clean(rejected).strip() == clean(about["messages"][-1]["content"]).strip():
            return "rejected_is_chosen", f"the same {len(rejected)} characters"
    return first_objection(Text(text, code, row["path"]), declared.filters)


def _is_code(row: Mapping[str, Any]) -> bool:
    """Data and pages that users gave are no code, whatever their ending: their parsers made text of them."""
    ending = PurePosixPath(row["path"].lower()).suffix
    parsed = row["source"] == "user" and ending in SUPPORTED and ending != ".ipynb"
    return is_code(row["path"]) and not parsed


def _label_lines(told: Mapping[str, Any]) -> str:
    """A sample's labels, one a line."""
    label = told.get("label", "")
    return "\n".join(" ".join(one.split()) for one in (label if isinstance(label, list) else [label]))


@dataclass(frozen=True)
class FindOverlaps:
    """The function that measures how much of some texts stands verbatim among the known windows."""

    settings: Settings
    known: Windows

    def __call__(self, piece: tuple[str, Sequence[int]]) -> list[tuple[float, int]]:
        """For each row of a work file: the share of its windows that are known, the longest stretch in words."""
        work, rows = piece
        texts = read_work(open_storage(self.settings), work).column("text").take(list(rows)).to_pylist()
        return [self.known.shared_with(text) for text in texts]


def read_work(storage: Storage, work: str, columns: Sequence[str] | None = None) -> "pa.Table":
    """A part's work file as a table of samples."""
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(storage.read(f"{work}.parquet")), columns=list(columns) if columns else None)


def read_facts(storage: Storage, parts: Iterable[Part]) -> "pa.Table":
    """The facts of all parts as one table, sorted by group, path and id: the order of everything in this stage."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pq.read_table(io.BytesIO(storage.read(f"{part.work}.facts.parquet"))) for part in parts]
    if not tables:
        return pa.Table.from_pylist([], schema=_facts_schema())
    table = pa.concat_tables(tables)
    return table.sort_by([(name, "ascending") for name in ("group", "path", "id")]).combine_chunks()


def total_redactions(told: Iterable[str]) -> Counter[str]:
    """Redactions by type, over the facts' own words."""
    counts: Counter[str] = Counter()
    for one in told:
        if one:
            counts.update(json.loads(one))
    return counts


def _facts_schema() -> "pa.Schema":
    import pyarrow.parquet as pq

    return pq.read_schema(io.BytesIO(parquet_bytes([], Facts)))


def _rows_of_facts(storage: Storage, part: Part) -> int | None:
    """How many documents a part has that was treated before."""
    import pyarrow.parquet as pq

    key = f"{part.work}.facts.parquet"
    return int(pq.read_metadata(io.BytesIO(storage.read(key))).num_rows) if storage.exists(key) else None


def _policy(row: Mapping[str, Any], declared: Prepare) -> tuple[str, tuple[str, str] | None]:
    """What the licence policy says of a document, and the objection that follows, if any."""
    from soldiom_ray.licenses import verdict

    said, why = verdict(row["license"], declared.license)
    if declared.kinds and row["kind"] not in declared.kinds:
        return said, ("kind", str(row["kind"]))
    return said, None if said == "allowed" or _is_tolerated(said, declared) else (f"license_{said}", why)


def _is_tolerated(said: str, declared: Prepare) -> bool:
    return said == "unknown" and declared.license.allow_unknown


def _read(storage: Storage, manifest: Manifest, name: str) -> "pa.Table":
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(Artifacts(storage).read(manifest, name)))
