"""Documents become a dataset: process each document, split them, drop copies and what overlaps test text, write.

Every order in this stage is by (group, path, id) and every choice by a seeded hash, so the dataset's bytes do not
depend on how many workers made it. Texts wait in samples files, so memory holds one shard of them, and the facts as
columns. A run that was killed continues after the parts that were processed.
"""

import dataclasses
import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

from soldiom_ray.actors import Workers
from soldiom_ray.artifacts import Context, Draft
from soldiom_ray.domains.schema import Prepare, hash_input
from soldiom_ray.errors import InputError, Problem
from soldiom_ray.prepare.card import dataset_card
from soldiom_ray.prepare.decontaminate import evaluation_sets
from soldiom_ray.prepare.deduplication.near_copies import near_copies
from soldiom_ray.prepare.deduplication.words import shingles_of
from soldiom_ray.prepare.document_table import SPLITS, DocumentTable
from soldiom_ray.prepare.filters.language import language_problem
from soldiom_ray.prepare.ngram_overlap import NGRAM_WORDS, NgramSet
from soldiom_ray.prepare.pictures import draw_pictures
from soldiom_ray.prepare.process_documents import (
    HashNgrams,
    MeasureOverlap,
    Part,
    PartRows,
    ProcessPart,
    Shard,
    WriteShard,
    read_facts,
    read_samples,
)
from soldiom_ray.prepare.remedies import remedy_for
from soldiom_ray.prepare.split import Member, assign_splits
from soldiom_ray.prepare.summary import counts_and_details
from soldiom_ray.records import DocumentKind, Drop, Manifest, Split
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STAGE_VERSION = 8
PAIRS_VERSION = 1
"""Of how pairs are made of code; only ids of datasets of such pairs hash it."""

PART_BYTES = 3 << 20
"""Of a compressed documents shard; a part is what one call processes."""

PASSES = 5
"""Over all parts, about: processing, n-grams, overlaps, and twice as many shards as parts."""

SHARD_CHARACTERS = 8 << 20
DROP_ROWS = 50_000
"""Rows of a file of dropped documents."""

SPLIT_RANK = {"test": 0, "validation": 1, "train": 2}
"""Of two copies the one in the split of the lower rank stays, so that copies never weaken the test."""

MAX_SHARED_NGRAMS = 0.5
MAX_SHARED_WORDS = 300
"""A document overlaps a test split when more than this share of its n-grams, or a longer stretch, occurs there."""


def prepare(context: Context, documents: Sequence[Manifest], declared: Prepare) -> Manifest:
    """Make the dataset of these documents, or find it made already."""
    check_declaration(declared)
    parents = sorted({manifest.id for manifest in documents})
    made_from: dict[str, Any] = {"declared": hash_input("prepare", declared), "stage_version": STAGE_VERSION}
    if problem := language_problem():
        made_from["languages_not_detected"] = problem
    if declared.pairs:
        made_from["pairs_version"] = PAIRS_VERSION
    made_from["evaluation_sets"] = evaluations = evaluation_sets(context, declared, made_from, parents)
    draft = context.artifacts.draft("dataset", made_from, parents)
    if done := draft.finished():
        return done
    settings, work = _for_workers(context.settings), f"work/{draft.id}"
    parts = _parts(documents, work)
    with Workers(PASSES) as workers:
        _process_all(context, workers, ProcessPart(settings, declared), parts)
        document_table = DocumentTable(read_facts(context.artifacts.storage, parts))
        try:
            _refuse_empty(document_table, parents)
            context.report(0.6, f"comparing {len(document_table.remaining())} documents")
            how_split = _split(document_table, declared)
            _drop_exact_copies(document_table)
            _drop_near_copies(context, document_table, parts, declared)
            context.report(0.7, "looking for test text in the training split")
            _drop_test_overlaps(context, workers, settings, document_table, parts)
            _drop_contaminated(context, workers, settings, document_table, parts, evaluations)
            _limit_documents(document_table, declared)
            _refuse_empty(document_table, parents, "train")
        except InputError:
            context.artifacts.storage.remove(work)
            raise
        context.report(0.85, "writing")
        _write_splits(context, workers, settings, draft, document_table, parts)
    manifest = _finish(context, draft, document_table, how_split, declared)
    context.artifacts.storage.remove(work)
    return manifest


def check_declaration(declared: Prepare) -> None:
    """Refuse kinds that do not exist, all in one error; the schema itself knows filters and redactions. Refuse the
    filter `language` where languages cannot be detected."""
    known = get_args(DocumentKind)
    problems = []
    for position, name in enumerate(declared.kinds):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f' Did you mean "{close[0]}"?' if close else ""
            problems.append(Problem(f"prepare.kinds[{position}]", f'is "{name}"; known: {", ".join(known)}.{hint}'))
    if problems:
        raise InputError("prepare.kinds names kinds that do not exist.", remedy="use the known ones", problems=problems)
    if "language" in declared.filters and (problem := language_problem()):
        raise InputError(
            f"prepare.filters has language, and {problem}.",
            remedy="install it on every node, or leave the filter out",
        )


def _parts(documents: Sequence[Manifest], work: str) -> list[Part]:
    parts: list[Part] = []
    by_id = {manifest.id: manifest for manifest in documents}
    for _, manifest in sorted(by_id.items()):
        for entry in manifest.files:
            if entry.name.endswith(".parquet") and entry.name.startswith("documents/"):
                count = 1 + entry.size_bytes // PART_BYTES
                for index in range(count):
                    number = len(parts)
                    parts.append(Part(manifest, entry.name, index, count, f"{work}/{number:05d}", number))
    return parts


def _process_all(context: Context, workers: Workers, function: Callable[[Part], int], parts: Sequence[Part]) -> None:
    documents = 0

    def report(done: int = 0) -> None:
        context.report(0.6 * done / len(parts), f"processed {documents} documents")

    for done, count in enumerate(workers.map_in_order(function, parts, report), 1):
        documents += count
        report(done)


def _split(document_table: DocumentTable, declared: Prepare) -> dict[str, Any]:
    """Assign every remaining sample its split, the functions of a document the same; returns how that was done, for
    the manifest."""
    remaining = document_table.remaining()
    columns = [document_table.column(name, remaining) for name in ("group", "time", "own_split")]
    sizes, documents = document_table.sizes[remaining].tolist(), document_table.documents(remaining)
    members: dict[str | int, Member] = {}
    keys: Sequence[str | int] = documents if document_table.functions() else range(len(remaining))
    for key, name, group, time, own_split, size in zip(keys, documents, *columns, sizes, strict=True):
        before = members.get(key, Member("", "", 0, samples=0))
        members[key] = Member(name, group, before.characters + size, time, own_split, before.samples + 1)
    splits, how_split = assign_splits(list(members.values()), declared.split)
    split_of = dict(zip(members, splits, strict=True))
    document_table.set_splits(remaining, [SPLITS.index(split_of[key]) for key in keys])
    return how_split


def _by_rank(document_table: DocumentTable) -> "NDArray[np.int64]":
    """Positions of the remaining documents, int64 [remaining], those first that stay when two are alike."""
    import numpy as np

    remaining = document_table.remaining()
    ranks = np.array([SPLIT_RANK[split] for split in SPLITS])[document_table.splits[remaining]]
    return remaining[np.argsort(ranks, kind="stable")]


def _drop_exact_copies(document_table: DocumentTable) -> None:
    import numpy as np

    order = _by_rank(document_table)
    digests = np.frombuffer(b"".join(document_table.column("digest", order)), dtype=np.dtype("V16"))
    _, firsts, inverse = np.unique(digests, return_index=True, return_inverse=True)
    for position, original in zip(order, order[firsts[inverse]], strict=True):
        if position != original:
            what = "picture" if document_table.image_bytes[position] else "words"
            document_table.drop(
                int(position), "exact_duplicate", f"same {what} as {document_table.name(int(original))}"
            )


def _drop_near_copies(
    context: Context, document_table: DocumentTable, parts: Sequence[Part], declared: Prepare
) -> None:
    """Near copies are dropped when the filter is named, and always when they are in two splits."""
    order = _by_rank(document_table)

    def load_shingles(ranks: set[int]) -> dict[int, Any]:
        rank_of = {int(order[rank]): rank for rank in sorted(ranks)}
        texts = _texts(context, document_table, parts, list(rank_of))
        return {rank_of[position]: shingles_of(text) for position, text in texts}

    signatures = document_table.column("signature", order)
    characters = document_table.characters[order].tolist()
    copies = near_copies(signatures, declared.near_duplicate_threshold, load_shingles, characters)
    for rank, (original_rank, similarity) in copies.items():
        position, original = int(order[rank]), int(order[original_rank])
        crosses_splits = document_table.splits[position] != document_table.splits[original]
        if crosses_splits or "near_duplicate" in declared.filters:
            reason = f"overlaps_{SPLITS[document_table.splits[original]]}" if crosses_splits else "near_duplicate"
            document_table.drop(position, reason, f"{similarity:.2f} like {document_table.name(original)}")


def _drop_test_overlaps(
    context: Context, workers: Workers, settings: Settings, document_table: DocumentTable, parts: Sequence[Part]
) -> None:
    """Drop training and validation documents that hold much of the test text word for word, also when they are no near
    copy as a whole."""
    test = document_table.by_part(document_table.remaining(SPLITS.index("test")))
    rows = [_rows(document_table, parts, part, members) for part, members in test]
    ngrams = NgramSet.union(list(workers.map_in_order(HashNgrams(settings), rows)))
    _drop_overlaps(context, workers, settings, document_table, parts, ngrams, "overlaps_test")


def _drop_contaminated(
    context: Context,
    workers: Workers,
    settings: Settings,
    document_table: DocumentTable,
    parts: Sequence[Part],
    evaluations: Sequence[str],
) -> None:
    """Drop those, too, that hold much of the test text that registered models were scored on."""
    for name in evaluations:
        manifest = context.artifacts.find(name)
        if manifest is not None:
            ngrams = NgramSet.of(row["text"] for row in context.artifacts.rows(manifest, "test/", ["text"]))
            _drop_overlaps(
                context, workers, settings, document_table, parts, ngrams, "overlaps_evaluation", f" of {name}"
            )


def _drop_overlaps(
    context: Context,
    workers: Workers,
    settings: Settings,
    document_table: DocumentTable,
    parts: Sequence[Part],
    ngrams: NgramSet,
    reason: str,
    origin: str = "",
) -> None:
    remaining = document_table.remaining()
    candidates = remaining[document_table.splits[remaining] != SPLITS.index("test")]
    if not len(ngrams) or not len(candidates):
        return
    by_part = document_table.by_part(candidates)
    rows = [_rows(document_table, parts, part, members) for part, members in by_part]
    overlaps_of_parts = workers.map_in_order(MeasureOverlap(settings, ngrams), rows)
    for done, ((_, members), overlaps) in enumerate(zip(by_part, overlaps_of_parts, strict=True)):
        for position, (share, longest) in zip(members, overlaps, strict=True):
            if share > MAX_SHARED_NGRAMS or longest > MAX_SHARED_WORDS:
                value = f"{share:.2f} of its {NGRAM_WORDS}-word runs{origin}, longest {longest} words"
                document_table.drop(int(position), reason, value)
        context.report(0.7 + 0.15 * done / len(rows), "looking for test text in the training split")


def _limit_documents(document_table: DocumentTable, declared: Prepare) -> None:
    """Keep `max_documents`, each split its share, chosen by a seeded hash."""
    remaining = len(document_table.remaining())
    if declared.max_documents is None or remaining <= declared.max_documents:
        return
    for split in range(len(SPLITS)):
        members = document_table.remaining(split)
        quota = round(declared.max_documents * len(members) / remaining) or min(1, len(members))
        hashes = [
            hashlib.sha256(f"{declared.split.seed}:limit:{name}".encode()).digest()
            for name in document_table.column("id", members)
        ]
        for index in sorted(range(len(members)), key=hashes.__getitem__)[quota:]:
            document_table.drop(int(members[index]), "over_limit", f"max_documents {declared.max_documents}")


def _texts(
    context: Context, document_table: DocumentTable, parts: Sequence[Part], positions: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Positions and texts of documents that passed the filters, one samples file in memory at a time."""
    for number, members in document_table.by_part(positions):
        samples = read_samples(context.artifacts.storage, parts[number].work, ["text"])
        texts = samples.column("text").take(document_table.rows[members])
        yield from zip((int(position) for position in members), map(str, texts), strict=True)


def _write_splits(
    context: Context,
    workers: Workers,
    settings: Settings,
    draft: Draft,
    document_table: DocumentTable,
    parts: Sequence[Part],
) -> None:
    """Write the shards of every split."""
    shards = [
        _shard(document_table, parts, split, number, positions)
        for split in SPLITS
        for number, positions in enumerate(_shards(document_table, SPLITS.index(split)))
    ]
    for done, entry in enumerate(workers.map_in_order(WriteShard(settings), shards), 1):
        draft.add_written([entry])
        context.report(0.85 + 0.1 * done / len(shards), "writing")


def _shard(
    document_table: DocumentTable, parts: Sequence[Part], split: Split, number: int, positions: Sequence[int]
) -> Shard:
    """A shard, which reads each samples file that it needs once."""
    import numpy as np

    by_part = list(document_table.by_part(positions))
    order = np.argsort(np.concatenate([members for _, members in by_part]), kind="stable")
    rows = tuple(_rows(document_table, parts, part, members) for part, members in by_part)
    return Shard(f"{split}/{number:05d}.parquet", split, rows, order)


def _rows(document_table: DocumentTable, parts: Sequence[Part], part: int, members: "NDArray[np.int64]") -> PartRows:
    """The rows of a part that hold the samples at these positions."""
    return PartRows(parts[part].work, document_table.rows[members])


def _shards(document_table: DocumentTable, split: int) -> Iterator[list[int]]:
    """Positions of the documents of each shard, of SHARD_CHARACTERS, give or take half. Shards are cut where the id of
    a document decides it (content-defined chunking), so a document more or less changes its own shard only."""
    shard: list[int] = []
    size = 0
    members = document_table.remaining(split)
    for position, name in zip(members.tolist(), document_table.column("id", members), strict=True):
        shard.append(position)
        own_size = int(document_table.sizes[position])
        size += own_size
        may_end = size >= SHARD_CHARACTERS / 2
        chance = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64
        if size >= 1.5 * SHARD_CHARACTERS or (may_end and chance < 2 * own_size / SHARD_CHARACTERS):
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _finish(
    context: Context, draft: Draft, document_table: DocumentTable, how_split: dict[str, Any], declared: Prepare
) -> Manifest:
    """Write the dropped documents, the card and its pictures, and commit the dataset."""
    dropped = document_table.dropped()
    for number, start in enumerate(range(0, len(dropped), DROP_ROWS)):
        rows = list(document_table.drop_rows(dropped[start : start + DROP_ROWS]))
        draft.write_rows(f"dropped/{number:05d}.parquet", rows, Drop)
    members = {split: document_table.remaining(number) for number, split in enumerate(SPLITS)}
    counts, details = counts_and_details(document_table, members, declared)
    details["split"] = how_split
    lengths: dict[str, list[int]] = {
        str(split): document_table.sizes[positions].tolist() for split, positions in members.items()
    }
    for name, picture in draw_pictures(details, lengths).items():
        draft.write(name, picture)
    draft.write("card.md", dataset_card(draft.id, draft.parents, counts, details, lengths, declared).encode())
    context.report(1.0, f"{counts['kept']} samples of {len(document_table)} documents")
    return draft.commit(counts=counts, details=details)


def _refuse_empty(document_table: DocumentTable, parents: Sequence[str], split: Split | None = None) -> None:
    if len(document_table.remaining(SPLITS.index(split) if split else None)):
        return
    if not len(document_table):
        raise InputError(
            f"prepare was given no document: {', '.join(parents) or 'no artifact'} holds none.",
            remedy="collect documents first",
        )
    reasons = [document_table.reason(position) or "held out" for position in range(len(document_table))]
    problems = []
    for reason, count in Counter(reasons).most_common():
        example = reasons.index(reason)
        value = document_table.value(example) or "not in train"
        problems.append(Problem(reason, f"{count} documents, such as {document_table.name(example)} ({value})"))
    raise InputError(
        f"prepare leaves nothing to train on of the {len(document_table)} documents in {', '.join(parents)}.",
        remedy=f"in `prepare`: {remedy_for(problems[0].loc)}",
        problems=problems,
    )


def _for_workers(settings: Settings) -> Settings:
    """The settings without the secrets that workers of this stage have no use for."""
    return dataclasses.replace(settings, github_tokens=(), hf_token=None, database_url=None)
