"""Documents become a dataset: treat each document, compare them, divide, keep the test side clean, write, account.

Every order in here is by (group, path, id) and every choice by a seeded hash, so the dataset's bytes do not depend on
how many workers made it. Texts wait in work files, so memory holds one shard of them, and the facts as
columns. A run that was killed goes on after the parts that were treated.
"""

import dataclasses
import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

from soldiom_ray.actors import map_in_order
from soldiom_ray.artifacts import Context, Draft, table_bytes
from soldiom_ray.domains.schema import Prepare, hash_input
from soldiom_ray.errors import InputError, Problem
from soldiom_ray.prepare import deduplication
from soldiom_ray.prepare.card import dataset_card
from soldiom_ray.prepare.decontaminate import evaluation_sets
from soldiom_ray.prepare.document_table import Ledger
from soldiom_ray.prepare.ngram_overlap import WINDOW_WORDS, Windows
from soldiom_ray.prepare.pictures import draw
from soldiom_ray.prepare.process_documents import FindOverlaps, Part, TreatPart, read_facts, read_work, total_redactions
from soldiom_ray.prepare.split import Member, divide
from soldiom_ray.records import DocumentKind, Drop, Manifest, Split
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STAGE_VERSION = 5
PART_BYTES = 3 << 20
SHARD_CHARACTERS = 8 << 20
DROP_ROWS = 50_000
MOST_GROUPS = 2000
"""Groups that the manifest names, the largest: a table has one for every row."""

MOST_LABELS, LONGEST_LABEL = 200, 60
"""Labels that the manifest counts, the most frequent: not every column of this name holds classes, and a text is none.
"""

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
KEPT_FIRST = {"test": 0, "validation": 1, "train": 2}
"""Of two copies the one on the side that comes first stays, so that copies never weaken the test."""

MAX_SHARED_WINDOWS = 0.5
MAX_SHARED_WORDS = 300


def prepare(context: Context, documents: Sequence[Manifest], declared: Prepare) -> Manifest:
    """Make the dataset that these documents and this declaration give, or find it made already."""
    check_declaration(declared)
    parents = sorted({manifest.id for manifest in documents})
    made_from: dict[str, Any] = {"declared": hash_input("prepare", declared), "stage_version": STAGE_VERSION}
    made_from["evaluation_sets"] = evaluations = evaluation_sets(context, declared, made_from, parents)
    draft = context.artifacts.draft("dataset", made_from, parents)
    if done := draft.finished():
        return done
    settings, work = _for_workers(context.settings), f"work/{draft.id}"
    parts = _parts(documents, work)
    _treat_all(context, TreatPart(settings, declared), parts)
    ledger = Ledger(read_facts(context.artifacts.storage, parts))
    try:
        _refuse_empty(ledger, parents)
        context.report(0.6, f"comparing {len(ledger.kept())} documents")
        how = _divide(ledger, declared)
        _drop_exact_copies(ledger)
        _drop_near_copies(context, ledger, parts, declared)
        context.report(0.7, "looking for test text in the training side")
        _drop_overlaps(context, settings, ledger, parts)
        _drop_contaminated(context, settings, ledger, parts, evaluations)
        _limit(ledger, declared)
        _refuse_empty(ledger, parents, "train")
    except InputError:
        context.artifacts.storage.remove(work)
        raise
    context.report(0.85, "writing")
    for split in SPLITS:
        _write_split(context, draft, split, ledger, parts)
    manifest = _finish(context, draft, ledger, how, declared)
    context.artifacts.storage.remove(work)
    return manifest


def check_declaration(declared: Prepare) -> None:
    """Refuse kinds that do not exist, all in one error; the schema itself knows filters and redactions."""
    known = get_args(DocumentKind)
    problems = []
    for position, name in enumerate(declared.kinds):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f' Did you mean "{close[0]}"?' if close else ""
            problems.append(Problem(f"prepare.kinds[{position}]", f'is "{name}"; known: {", ".join(known)}.{hint}'))
    if problems:
        raise InputError("prepare.kinds names kinds that do not exist.", remedy="use the known ones", problems=problems)


def _parts(documents: Sequence[Manifest], work: str) -> list[Part]:
    parts: list[Part] = []
    for manifest in sorted({manifest.id: manifest for manifest in documents}.values(), key=lambda one: one.id):
        for entry in manifest.files:
            if entry.name.endswith(".parquet") and entry.name.startswith("documents/"):
                count = 1 + entry.size_bytes // PART_BYTES
                for index in range(count):
                    number = len(parts)
                    parts.append(Part(manifest, entry.name, index, count, f"{work}/{number:05d}", number))
    return parts


def _treat_all(context: Context, function: Callable[[Part], int], parts: Sequence[Part]) -> None:
    treated = 0

    def tick(done: int = 0) -> None:
        context.report(0.6 * done / len(parts), f"treated {treated} documents")

    for done, count in enumerate(map_in_order(function, parts, tick), 1):
        treated += count
        tick(done)


def _divide(ledger: Ledger, declared: Prepare) -> dict[str, Any]:
    """Give every kept document its side; how that came about."""
    kept = ledger.kept()
    columns = [ledger.column(name, kept) for name in ("id", "group", "time", "own_split")]
    members = [
        Member(name, group, size, time, side)
        for name, group, time, side, size in zip(*columns, ledger.sizes[kept].tolist(), strict=True)
    ]
    splits, how = divide(members, declared.split)
    ledger.set_sides(kept, [SPLITS.index(split) for split in splits])
    return how


def _order(ledger: Ledger) -> "NDArray[np.int64]":
    """Kept documents, those first that stay when two are alike."""
    import numpy as np

    kept = ledger.kept()
    first = np.array([KEPT_FIRST[split] for split in SPLITS])[ledger.sides[kept]]
    return kept[np.argsort(first, kind="stable")]


def _drop_exact_copies(ledger: Ledger) -> None:
    import numpy as np

    order = _order(ledger)
    digests = np.frombuffer(b"".join(ledger.column("digest", order)), dtype=np.dtype("V16"))
    _, firsts, inverse = np.unique(digests, return_index=True, return_inverse=True)
    for position, original in zip(order, order[firsts[inverse]], strict=True):
        if position != original:
            what = "picture" if ledger.image_bytes[position] else "words"
            ledger.drop(int(position), "exact_duplicate", f"same {what} as {ledger.name(int(original))}")


def _drop_near_copies(context: Context, ledger: Ledger, parts: Sequence[Part], declared: Prepare) -> None:
    """Near copies go when the filter is named, and always when they stand on two sides."""
    order = _order(ledger)

    def load(positions: set[int]) -> dict[int, Any]:
        wanted = sorted(positions)
        texts = _texts(context, ledger, parts, [int(order[position]) for position in wanted])
        at = {int(order[position]): position for position in wanted}
        return {
            at[one]: deduplication.shingles(deduplication.hash_words(deduplication.words_of(text)))
            for one, text in texts
        }

    signatures = ledger.column("signature", order)
    characters = ledger.characters[order].tolist()
    copies = deduplication.near_copies(signatures, declared.near_duplicate_threshold, load, characters)
    for position, (original_position, similarity) in copies.items():
        one, original = int(order[position]), int(order[original_position])
        crosses = ledger.sides[one] != ledger.sides[original]
        if crosses or "near_duplicate" in declared.filters:
            reason = f"overlaps_{SPLITS[ledger.sides[original]]}" if crosses else "near_duplicate"
            ledger.drop(one, reason, f"{similarity:.2f} like {ledger.name(original)}")


def _drop_overlaps(context: Context, settings: Settings, ledger: Ledger, parts: Sequence[Part]) -> None:
    """Training and validation documents that hold much of the test text word for word go, also when they are no near
    copy as a whole."""
    test = ledger.kept(SPLITS.index("test"))
    windows = Windows.of(text for _, text in _texts(context, ledger, parts, test.tolist()))
    _drop_holders(context, settings, ledger, parts, windows, "overlaps_test")


def _drop_contaminated(
    context: Context, settings: Settings, ledger: Ledger, parts: Sequence[Part], evaluations: Sequence[str]
) -> None:
    """So do those that hold much of what registered models were scored on."""
    for name in evaluations:
        manifest = context.artifacts.find(name)
        if manifest is not None:
            windows = Windows.of(row["text"] for row in context.artifacts.rows(manifest, "test/", ["text"]))
            _drop_holders(context, settings, ledger, parts, windows, "overlaps_evaluation", f" of {name}")


def _drop_holders(
    context: Context,
    settings: Settings,
    ledger: Ledger,
    parts: Sequence[Part],
    windows: Windows,
    reason: str,
    of: str = "",
) -> None:
    others = [int(one) for one in ledger.kept() if SPLITS[ledger.sides[one]] != "test"]
    if not len(windows) or not others:
        return
    by_part = ledger.by_part(others)
    pieces = [(parts[number].work, ledger.rows[members].tolist()) for number, members in by_part]
    found = map_in_order(FindOverlaps(settings, windows), pieces)
    for done, ((_, members), overlaps) in enumerate(zip(by_part, found, strict=True)):
        for one, (share, longest) in zip(members, overlaps, strict=True):
            if share > MAX_SHARED_WINDOWS or longest > MAX_SHARED_WORDS:
                value = f"{share:.2f} of its {WINDOW_WORDS}-word runs{of}, longest {longest} words"
                ledger.drop(int(one), reason, value)
        context.report(0.7 + 0.15 * done / len(pieces), "looking for test text in the training side")


def _limit(ledger: Ledger, declared: Prepare) -> None:
    """Keep `max_documents`, each side its share, by a seeded hash."""
    remaining = len(ledger.kept())
    if declared.max_documents is None or remaining <= declared.max_documents:
        return
    for side in range(len(SPLITS)):
        members = ledger.kept(side)
        quota = round(declared.max_documents * len(members) / remaining) or min(1, len(members))
        hashes = [
            hashlib.sha256(f"{declared.split.seed}:limit:{one}".encode()).digest()
            for one in ledger.column("id", members)
        ]
        for place in sorted(range(len(members)), key=hashes.__getitem__)[quota:]:
            ledger.drop(int(members[place]), "over_limit", f"max_documents {declared.max_documents}")


def _texts(
    context: Context, ledger: Ledger, parts: Sequence[Part], positions: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """The texts of documents that passed, one work file in memory at a time."""
    for number, members in ledger.by_part(positions):
        table = read_work(context.artifacts.storage, parts[number].work, ["text"])
        texts = table.column("text").take(ledger.rows[members])
        yield from zip((int(one) for one in members), map(str, texts), strict=True)


def _write_split(context: Context, draft: Draft, split: Split, ledger: Ledger, parts: Sequence[Part]) -> None:
    """Shards in order, each kept once for all versions of a dataset that hold it. Each work file is read once per shard
    that needs it."""
    import numpy as np
    import pyarrow as pa

    for number, shard in enumerate(_shards(ledger, SPLITS.index(split))):
        tables, places = [], []
        for part, members in ledger.by_part(shard):
            tables.append(read_work(context.artifacts.storage, parts[part].work).take(ledger.rows[members]))
            places.append(members)
        # Parts without pictures have no column for them.
        table = pa.concat_tables(tables, promote_options="default")
        table = table.take(np.argsort(np.concatenate(places), kind="stable"))
        if "image" in table.column_names and table.column("image").null_count == len(table):
            table = table.drop_columns("image")
        column = table.schema.get_field_index("split")
        table = table.set_column(column, "split", pa.array([split] * len(table), pa.string()))
        draft.share(f"{split}/{number:05d}.parquet", table_bytes(table))


def _shards(ledger: Ledger, side: int) -> Iterator[list[int]]:
    """Documents of a side, cut where the id of one says so: a document more or less changes the shard it is in and
    leaves the others as they were (content-defined chunking), which all are of SHARD_CHARACTERS, give or take half."""
    shard: list[int] = []
    size = 0
    members = ledger.kept(side)
    for one, name in zip(members.tolist(), ledger.column("id", members), strict=True):
        shard.append(one)
        own_size = int(ledger.sizes[one])
        size += own_size
        may_end = size >= SHARD_CHARACTERS / 2
        chance = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64
        if size >= 1.5 * SHARD_CHARACTERS or (may_end and chance < 2 * own_size / SHARD_CHARACTERS):
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _finish(context: Context, draft: Draft, ledger: Ledger, how: dict[str, Any], declared: Prepare) -> Manifest:
    dropped = ledger.dropped()
    for number, start in enumerate(range(0, len(dropped), DROP_ROWS)):
        draft.write_rows(
            f"dropped/{number:05d}.parquet", list(ledger.drops_as_rows(dropped[start : start + DROP_ROWS])), Drop
        )
    kept = ledger.kept()
    drops = Counter(ledger.reason(int(one)) for one in dropped)
    redactions = total_redactions(ledger.column("redactions", kept))
    chosen = {split: ledger.kept(side) for side, split in enumerate(SPLITS)}
    counts = {
        "documents": len(ledger),
        "kept": len(kept),
        **{split: len(members) for split, members in chosen.items()},
        "dropped": len(dropped),
        **{f"dropped_{reason}": count for reason, count in sorted(drops.items())},
        **{f"redacted_{name}": redactions[name] for name in declared.redact},
        **({"pictures": pictures} if (pictures := int((ledger.image_bytes[kept] > 0).sum())) else {}),
    }
    details: dict[str, Any] = {
        "drops": dict(sorted(drops.items())),
        "redactions": {name: redactions[name] for name in declared.redact},
        **{
            f"{name}s": dict(sorted(Counter(one or "unknown" for one in ledger.column(name, kept)).items()))
            for name in ("license", "kind", "language")
        },
        "labels": _labels(ledger, chosen),
        "groups": _groups(ledger, chosen),
        "characters": {split: int(ledger.characters[members].sum()) for split, members in chosen.items()},
        "split": how,
    }
    lengths: dict[str, list[int]] = {str(split): ledger.sizes[members].tolist() for split, members in chosen.items()}
    for name, picture in draw(details, lengths).items():
        draft.write(name, picture)
    draft.write("card.md", dataset_card(draft.id, draft.parents, counts, details, lengths, declared).encode())
    context.report(1.0, f"{len(kept)} samples of {len(ledger)} documents")
    return draft.commit(counts=counts, details=details)


def _labels(ledger: Ledger, chosen: "dict[Split, NDArray[np.int64]]") -> dict[str, dict[str, int]]:
    """Samples per label and split, the most frequent first; empty where samples have none."""
    counts: dict[str, dict[str, int]] = {}
    for split, members in chosen.items():
        found = Counter(label for lines in ledger.column("labels", members) for label in lines.split("\n"))
        for label, count in found.items():
            if 0 < len(label) <= LONGEST_LABEL:
                counts.setdefault(label, {})[split] = count
    most = sorted(counts, key=lambda label: (-sum(counts[label].values()), label))[:MOST_LABELS]
    return {label: counts[label] for label in most}


def _groups(ledger: Ledger, chosen: "dict[Split, NDArray[np.int64]]") -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for split, members in chosen.items():
        columns = [ledger.column(name, members) for name in ("group", "version", "license")]
        for group, version, license_ in zip(*columns, strict=True):
            known = groups.setdefault(group, {"version": version, "license": license_, "split": split, "samples": 0})
            known["samples"] += 1
            if split not in known["split"].split("+"):
                known["split"] += f"+{split}"
    largest = sorted(groups, key=lambda name: (-groups[name]["samples"], name))[:MOST_GROUPS]
    return {name: groups[name] for name in sorted(largest)}


def _refuse_empty(ledger: Ledger, parents: Sequence[str], split: Split | None = None) -> None:
    if len(ledger.kept(SPLITS.index(split) if split else None)):
        return
    if not len(ledger):
        raise InputError(
            f"prepare was given no document: {', '.join(parents) or 'no artifact'} holds none.",
            remedy="collect documents first",
        )
    reasons = [ledger.reason(one) or "held out" for one in range(len(ledger))]
    problems = []
    for reason, count in Counter(reasons).most_common():
        example = reasons.index(reason)
        value = ledger.value(example) or "not in train"
        problems.append(Problem(reason, f"{count} documents, such as {ledger.name(example)} ({value})"))
    raise InputError(
        f"prepare leaves nothing to train on of the {len(ledger)} documents in {', '.join(parents)}.",
        remedy=f"loosen what dropped most, {problems[0].loc!r}, in `prepare` (filters, kinds, license or split)",
        problems=problems,
    )


def _for_workers(settings: Settings) -> Settings:
    """The settings without the secrets that workers of this stage have no use for."""
    return dataclasses.replace(settings, github_tokens=(), hf_token=None, database_url=None)
