"""The work on single documents: policy, clean, filter, redact, fingerprint. One call treats one part of one shard, in
this process or on any node, and leaves what passed in a work file; what it returns is small."""

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts, parquet_bytes
from soldiom_ray.domains.schema import Prepare
from soldiom_ray.prepare import dedup
from soldiom_ray.prepare.clean import clean
from soldiom_ray.prepare.filters import Text, detect_language, first_objection, is_code
from soldiom_ray.prepare.redact import redact
from soldiom_ray.records import Manifest, Sample
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, open_storage

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of work: part `index` of `count` of a documents shard, and the key of the work file it makes."""

    manifest: Manifest
    name: str
    index: int
    count: int
    work: str


@dataclass(slots=True)
class Facts:
    """What is known of a document without its text. `reason` is empty for one that passed; then `work` and `row` say
    where its text lies."""

    id: str
    source: str
    group: str
    path: str
    version: str
    license: str
    reason: str = ""
    value: str = ""
    work: str = ""
    row: int = -1
    characters: int = 0
    digest: str = ""
    signature: bytes = b""
    redactions: dict[str, int] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, str, str]:
        """Where it stands in every order of this stage."""
        return self.group, self.path, self.id


def treat_part(settings: Settings, part: Part, declared: Prepare) -> list[Facts]:
    """Treat a part's documents in order."""
    storage = open_storage(settings)
    table = _read(storage, part.manifest, part.name)
    start, stop = (table.num_rows * at // part.count for at in (part.index, part.index + 1))
    facts: list[Facts] = []
    passed: list[dict[str, Any]] = []
    sets = []
    for row in table.slice(start, stop - start).to_pylist():
        known = Facts(row["id"], row["source"], row["group"], row["path"], row["version"], row["license"])
        facts.append(known)
        sample = treat(row, known, declared)
        if sample is not None:
            known.work, known.row = part.work, len(passed)
            words = dedup.words_of(sample["text"])
            known.digest = dedup.content_digest(words)
            sets.append(dedup.shingles(dedup.hash_words(words)))
            passed.append(sample)
    for known, signature in zip((one for one in facts if not one.reason), dedup.signatures(sets), strict=True):
        known.signature = signature
    if passed:
        storage.write(part.work, parquet_bytes(passed, Sample))
    return facts


def treat(row: Mapping[str, Any], known: Facts, declared: Prepare) -> dict[str, Any] | None:
    """The sample that a document becomes (its split still open), or None; `known` then says why."""
    if objection := _policy_objection(row, declared):
        known.reason, known.value = objection
        return None
    text = clean(row["text"])
    code = is_code(row["path"])
    objection = first_objection(Text(text, code), declared.filters) if text else ("empty", "0 characters")
    if objection:
        known.reason, known.value = objection
        return None
    text, counts = redact(text, declared.redact)
    known.redactions, known.characters = dict(counts), len(text)
    language = row["language"] or ("" if code else detect_language(text)[0])
    copied = {name: row[name] for name in Sample.model_fields if name in row}
    return copied | {"text": text, "split": "train", "language": language}


def overlaps_part(settings: Settings, work: str, rows: list[int], known: Any) -> list[tuple[float, int]]:
    """For each row of a work file: how much of it stands verbatim among the known windows."""
    texts = read_work(open_storage(settings), work).column("text").take(rows).to_pylist()
    return [dedup.shared_windows(dedup.hash_words(dedup.words_of(text)), known) for text in texts]


def read_work(storage: Storage, work: str) -> "pa.Table":
    """A work file as a table of samples."""
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(storage.read(work)))


def texts_of(storage: Storage, wanted: list[Facts]) -> Iterator[tuple[Facts, str]]:
    """The texts of documents that passed, one work file in memory at a time."""
    by_work: dict[str, list[Facts]] = {}
    for one in wanted:
        by_work.setdefault(one.work, []).append(one)
    for work, members in by_work.items():
        texts = read_work(storage, work).column("text").take([one.row for one in members]).to_pylist()
        yield from zip(members, texts, strict=True)


def total_redactions(kept: list[Facts]) -> Counter[str]:
    """Redactions by type."""
    counts: Counter[str] = Counter()
    for one in kept:
        counts.update(one.redactions)
    return counts


def _policy_objection(row: Mapping[str, Any], declared: Prepare) -> tuple[str, str] | None:
    from soldiom_ray.licenses import policy

    if declared.kinds and row["kind"] not in declared.kinds:
        return "kind", str(row["kind"])
    verdict = policy(row["license"], declared.licences.use)
    if verdict == "denied":
        return "license_denied", str(row["license"])
    if verdict == "unknown" and not declared.licences.allow_unknown:
        return "license_unknown", str(row["license"]) or "none found"
    return None


def _read(storage: Storage, manifest: Manifest, name: str) -> "pa.Table":
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(Artifacts(storage).read(manifest, name)))
