"""Documents become a dataset: treat each document, compare them, divide, keep the test side clean, write, account.

Every order in here is by (group, path, id) and every choice by a seeded hash, so the dataset's bytes do not depend on
how many workers made it. Texts wait in work files below the draft, so memory holds one shard of them and the facts.
"""

import dataclasses
import difflib
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from soldiom_ray.artifacts import Context, Draft
from soldiom_ray.domains.schema import Prepare
from soldiom_ray.errors import InputError, Problem
from soldiom_ray.prepare import dedup
from soldiom_ray.prepare.card import dataset_card
from soldiom_ray.prepare.fan_out import fan_out
from soldiom_ray.prepare.split import Member, divide
from soldiom_ray.prepare.treat import Facts, Part, overlaps_part, read_work, texts_of, total_redactions, treat_part
from soldiom_ray.records import DocumentKind, Drop, Manifest, Sample, Split
from soldiom_ray.settings import Settings

STAGE_VERSION = 1
PART_BYTES = 3 << 20
SHARD_BYTES = 32 << 20
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
KEPT_FIRST = {"test": 0, "validation": 1, "train": 2}
"""Of two copies the one on the side that comes first stays, so that copies never weaken the test."""

MAX_SHARED_WINDOWS = 0.5
MAX_SHARED_WORDS = 300
COMMON_WINDOW = 5
"""A run of words that more test documents than this share is boilerplate (a licence header) and betrays none."""


def prepare(context: Context, documents: Sequence[Manifest], declared: Prepare) -> Manifest:
    """Make the dataset that these documents and this declaration give, or find it made already."""
    check_declaration(declared)
    parents = sorted({manifest.id for manifest in documents})
    made_from = {"declared": declared.model_dump(mode="json"), "stage_version": STAGE_VERSION}
    draft = context.artifacts.draft("dataset", made_from, parents)
    if done := draft.finished():
        return done
    settings = _for_workers(context.settings)
    work = f"{draft.prefix}/work"
    try:
        facts = _treat_all(context, settings, documents, declared, work)
        kept = [one for one in facts if not one.reason]
        _refuse_empty(facts, kept, parents)
        context.report(0.6, f"comparing {len(kept)} documents")
        splits, how = divide([Member(one.id, one.group, one.characters) for one in kept], declared.split)
        side = {id(one): split for one, split in zip(kept, splits, strict=True)}
        _drop_copies(context, kept, side, declared)
        context.report(0.7, "looking for test text in the training side")
        _drop_overlaps(context, settings, kept, side)
        _limit(kept, side, declared)
        _refuse_empty(facts, [one for one in kept if not one.reason and side[id(one)] == "train"], parents)
        chosen = {split: [one for one in kept if not one.reason and side[id(one)] == split] for split in SPLITS}
        context.report(0.85, "writing")
        for split in SPLITS:
            _write_split(context, draft, split, chosen[split])
        return _finish(context, draft, facts, chosen, how, declared)
    finally:
        context.artifacts.storage.remove(work)


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


def _treat_all(
    context: Context, settings: Settings, documents: Sequence[Manifest], declared: Prepare, work: str
) -> list[Facts]:
    parts: list[Part] = []
    for manifest in sorted({manifest.id: manifest for manifest in documents}.values(), key=lambda one: one.id):
        for entry in manifest.files:
            if not entry.name.endswith(".parquet") or not entry.name.startswith("documents/"):
                continue
            count = 1 + entry.size_bytes // PART_BYTES
            for index in range(count):
                parts.append(Part(manifest, entry.name, index, count, f"{work}/{len(parts):05d}.parquet"))
    facts: list[Facts] = []
    results = fan_out(treat_part, [(part, declared) for part in parts], (settings,))
    for done, result in enumerate(results, 1):
        facts += result
        context.report(0.6 * done / len(parts), f"treated {len(facts)} documents")
    return sorted(facts, key=lambda one: one.place)


def _drop_copies(context: Context, kept: list[Facts], side: dict[int, Split], declared: Prepare) -> None:
    """Exact copies always go; near copies when the filter is named, and always when they stand on two sides."""
    order = sorted(kept, key=lambda one: (KEPT_FIRST[side[id(one)]], one.place))
    first: dict[str, Facts] = {}
    for one in order:
        original = first.setdefault(one.digest, one)
        if original is not one:
            one.reason, one.value = "exact_duplicate", f"same words as {original.group}/{original.path}"
    order = [one for one in order if not one.reason]

    def load(positions: set[int]) -> dict[int, Any]:
        at = {id(order[position]): position for position in positions}
        texts = texts_of(context.artifacts.storage, [order[position] for position in sorted(positions)])
        return {at[id(one)]: dedup.shingles(dedup.hash_words(dedup.words_of(text))) for one, text in texts}

    copies = dedup.near_copies([one.signature for one in order], declared.near_duplicate_threshold, load)
    for position, (original_position, similarity) in copies.items():
        one, original = order[position], order[original_position]
        crosses = side[id(one)] != side[id(original)]
        if crosses or "near_duplicate" in declared.filters:
            one.reason = f"overlaps_{side[id(original)]}" if crosses else "near_duplicate"
            one.value = f"{similarity:.2f} like {original.group}/{original.path}"


def _drop_overlaps(context: Context, settings: Settings, kept: list[Facts], side: dict[int, Split]) -> None:
    """Training and validation documents that hold much of the test text word for word go, also when they are no near
    copy as a whole."""
    import numpy as np

    remaining = [one for one in kept if not one.reason]
    test = [one for one in remaining if side[id(one)] == "test"]
    if not test:
        return
    windows = [
        np.unique(dedup.runs(dedup.hash_words(words), dedup.WINDOW_WORDS))
        for _, text in texts_of(context.artifacts.storage, test)
        if len(words := dedup.words_of(text)) >= dedup.WINDOW_WORDS
    ]
    values, counts = np.unique(np.concatenate(windows or [np.empty(0, np.uint64)]), return_counts=True)
    known = values[counts <= COMMON_WINDOW]
    by_work: dict[str, list[Facts]] = {}
    for one in remaining:
        if side[id(one)] != "test":
            by_work.setdefault(one.work, []).append(one)
    calls = [(work, [one.row for one in members], known) for work, members in by_work.items()]
    for done, (members, found) in enumerate(
        zip(by_work.values(), fan_out(overlaps_part, calls, (settings,)), strict=True)
    ):
        for one, (share, longest) in zip(members, found, strict=True):
            if share > MAX_SHARED_WINDOWS or longest > MAX_SHARED_WORDS:
                one.reason = "overlaps_test"
                one.value = f"{share:.2f} of its {dedup.WINDOW_WORDS}-word runs, longest {longest} words"
        context.report(0.7 + 0.15 * done / len(calls), "looking for test text in the training side")


def _limit(kept: list[Facts], side: dict[int, Split], declared: Prepare) -> None:
    """Keep `max_documents`, each side its share, by a seeded hash."""
    remaining = [one for one in kept if not one.reason]
    if declared.max_documents is None or len(remaining) <= declared.max_documents:
        return
    for split in SPLITS:
        members = [one for one in remaining if side[id(one)] == split]
        quota = round(declared.max_documents * len(members) / len(remaining)) or min(1, len(members))
        members.sort(key=lambda one: hashlib.sha256(f"{declared.split.seed}:limit:{one.id}".encode()).digest())
        for one in members[quota:]:
            one.reason, one.value = "over_limit", f"max_documents {declared.max_documents}"


def _write_split(context: Context, draft: Draft, split: Split, members: list[Facts]) -> None:
    """Shards of at most SHARD_BYTES of text, in order. Each work file is read once per shard that needs it."""
    for number, shard in enumerate(_shards(members)):
        rows: dict[int, dict[str, Any]] = {}
        by_work: dict[str, list[Facts]] = {}
        for one in shard:
            by_work.setdefault(one.work, []).append(one)
        for work, some in by_work.items():
            table = read_work(context.artifacts.storage, work).take([one.row for one in some])
            rows |= {id(one): row | {"split": split} for one, row in zip(some, table.to_pylist(), strict=True)}
        draft.write_rows(f"{split}/{number:05d}.parquet", [rows[id(one)] for one in shard], Sample)


def _shards(members: list[Facts]) -> Iterator[list[Facts]]:
    shard: list[Facts] = []
    size = 0
    for one in members:
        if shard and size + one.characters > SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append(one)
        size += one.characters
    if shard:
        yield shard


def _finish(
    context: Context,
    draft: Draft,
    facts: list[Facts],
    chosen: dict[Split, list[Facts]],
    how: dict[str, Any],
    declared: Prepare,
) -> Manifest:
    dropped = [one for one in facts if one.reason]
    fields = Drop.model_fields
    for number, start in enumerate(range(0, len(dropped), 50_000)):
        rows = [{name: getattr(one, name) for name in fields} for one in dropped[start : start + 50_000]]
        draft.write_rows(f"dropped/{number:05d}.parquet", rows, Drop)
    kept = [one for members in chosen.values() for one in members]
    drops = Counter(one.reason for one in dropped)
    redactions = total_redactions(kept)
    counts = {
        "documents": len(facts),
        "kept": len(kept),
        **{split: len(members) for split, members in chosen.items()},
        "dropped": len(dropped),
        **{f"dropped_{reason}": count for reason, count in sorted(drops.items())},
        **{f"redacted_{name}": redactions[name] for name in declared.redact},
    }
    details: dict[str, Any] = {
        "drops": dict(sorted(drops.items())),
        "redactions": {name: redactions[name] for name in declared.redact},
        "licenses": dict(sorted(Counter(one.license for one in kept).items())),
        "groups": _groups(chosen),
        "characters": {split: sum(one.characters for one in members) for split, members in chosen.items()},
        "split": how,
    }
    card = dataset_card(draft.id, draft.parents, counts, details, [one.characters for one in kept], declared)
    draft.write("card.md", card.encode())
    context.report(1.0, f"{len(kept)} samples of {len(facts)} documents")
    return draft.commit(counts=counts, details=details)


def _groups(chosen: dict[Split, list[Facts]]) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for split, members in chosen.items():
        for one in members:
            known = groups.setdefault(
                one.group, {"version": one.version, "license": one.license, "split": split, "samples": 0}
            )
            known["samples"] += 1
            if split not in known["split"].split("+"):
                known["split"] += f"+{split}"
    return dict(sorted(groups.items()))


def _refuse_empty(facts: list[Facts], kept: list[Facts], parents: Sequence[str]) -> None:
    if kept:
        return
    if not facts:
        raise InputError(
            f"prepare was given no document: {', '.join(parents) or 'no artifact'} holds none.",
            remedy="collect documents first",
        )
    examples: dict[str, Facts] = {}
    for one in facts:
        examples.setdefault(one.reason or "held out", one)
    problems = []
    for reason, count in Counter(one.reason or "held out" for one in facts).most_common():
        one = examples[reason]
        value = one.value or "not in train"
        problems.append(Problem(reason, f"{count} documents, such as {one.group}/{one.path} ({value})"))
    raise InputError(
        f"prepare leaves nothing to train on of the {len(facts)} documents in {', '.join(parents)}.",
        remedy=f"loosen what dropped most, {problems[0].loc!r}, in `prepare` (filters, kinds, licences or split)",
        problems=problems,
    )


def _for_workers(settings: Settings) -> Settings:
    """The settings without the secrets that workers of this stage have no use for."""
    return dataclasses.replace(settings, github_tokens=(), hf_token=None, database_url=None)
