"""Which samples train, validate and test. What belongs together (a package, a repository) is in one split, whole."""

import difflib
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from soldiom_ray.domains.schema import SplitRule
from soldiom_ray.errors import InputError
from soldiom_ray.records import Split

LARGEST_SHARE = 0.34
"""A held-out split may not take more than this of all text to keep groups whole; rather documents are held out."""

OVERSHOOT = 1.25
"""A held-out split may hold this many times its share, as long as it is more than one group or document."""

MIN_GROUPS = {"test": 2, "validation": 4}
"""With fewer groups documents are held out instead."""

HELD_OUT: tuple[Split, ...] = ("test", "validation")


@dataclass(frozen=True, slots=True)
class Member:
    """What splitting needs to know of a sample, or of a document with its `samples`. `time` is ISO 8601 in UTC,
    `own_split` what the data set itself assigns; both are empty where that is unknown. A picture counts its bytes as
    characters."""

    id: str
    group: str
    characters: int
    time: str = ""
    own_split: str = ""
    samples: int = 1


class Size(NamedTuple):
    """How much of the whole a group or a document is."""

    characters: int = 0
    samples: int = 0

    def plus(self, other: "Size | Member") -> "Size":
        """Both together."""
        return Size(self.characters + other.characters, self.samples + other.samples)


def assign_splits(members: Sequence[Member], rule: SplitRule) -> tuple[list[Split], dict[str, Any]]:
    """The split of each member, and how it was found (for the manifest). Depends on nothing but the set of members and
    the rule, not on their order. Raises InputError for a test group that does not exist, or when nothing is left to
    train on."""
    if rule.by == "time":
        return _by_time(members, rule)
    assigned = {member.id: split for member in members for split in HELD_OUT if member.own_split == split}
    if assigned:
        return _by_own_split(members, rule, assigned)
    group_sizes: dict[str, Size] = defaultdict(Size)
    for member in members:
        group_sizes[member.group] = group_sizes[member.group].plus(member)
    named = _named_groups(rule.test_groups, group_sizes)
    held_out: dict[str, Split] = {}
    unit: dict[str, str] = {}
    notes: list[str] = []
    shares: tuple[tuple[Split, float], ...] = (("test", rule.test), ("validation", rule.validation))
    for split, share in shares:
        chosen, unit[split], note = _hold_out(
            members, group_sizes, held_out, rule, split, share, set(named) if split == "test" else set()
        )
        held_out |= dict.fromkeys(chosen, split)
        notes += note
    splits: list[Split] = [held_out.get(member.id) or held_out.get(member.group) or "train" for member in members]
    if members and "train" not in splits:
        raise InputError(
            f"The split leaves nothing to train on: all {len(group_sizes)} groups are held out.",
            remedy="name fewer groups in prepare.split.test_groups, or lower prepare.split.test",
        )
    how = {"by": rule.by, "seed": rule.seed, "test_by": unit["test"], "validation_by": unit["validation"]}
    return splits, how | {"notes": notes}


def _hold_out(
    members: Sequence[Member],
    group_sizes: Mapping[str, Size],
    held_out: Mapping[str, Split],
    rule: SplitRule,
    split: Split,
    share: float,
    named: set[str],
) -> tuple[set[str], str, list[str]]:
    """The groups and documents of one held-out split, whether its unit is the group or the document, and notes. `named`
    are groups that belong to it in any case."""
    total = _sum(group_sizes.values())
    target = share * total.characters - sum(group_sizes[group].characters for group in named)
    # What is held out besides named groups fills up their characters; their samples are as they are.
    weigh = _choose_by_characters if named else choose_units
    chosen, unit = set(named), "group"
    notes: list[str] = []
    if rule.by == "document":
        unit = "document" if target > 0 else "group"
    elif target > 0 and not (named and target < share * total.characters / 4):
        free = {group: size for group, size in group_sizes.items() if group not in held_out and group not in named}
        more = weigh(free, target, total, f"{rule.seed}:{split}") if len(free) >= MIN_GROUPS[split] else set()
        if not more and not named:
            unit = "document"
            notes.append(
                f"{split}: single documents are held out, because {len(free)} groups are too few or too large"
                f" to hold out {share:.0%} of the text whole; near copies across the border are dropped"
            )
        chosen |= more
    if unit == "document":
        free = {
            member.id: Size(member.characters, member.samples)
            for member in members
            if member.group not in held_out and member.group not in chosen and member.id not in held_out
        }
        chosen |= weigh(free, target, total, f"{rule.seed}:{split}")
    return chosen, unit, notes


def _by_own_split(
    members: Sequence[Member], rule: SplitRule, assigned: Mapping[str, Split]
) -> tuple[list[Split], dict[str, Any]]:
    """What the data set itself holds out stays held out; a split that it does not have is drawn from the rest."""
    own = set(assigned.values())
    shares: dict[str, Any] = {split: 0.0 if split in own else getattr(rule, split) for split in HELD_OUT}
    rest = [member for member in members if member.id not in assigned]
    splits, how = assign_splits([replace(member, own_split="") for member in rest], rule.model_copy(update=shares))
    drawn = dict(zip((member.id for member in rest), splits, strict=True))
    how |= {f"{split}_by": "the set's own division" for split in own}
    return [drawn.get(member.id) or assigned[member.id] for member in members], how


def _by_time(members: Sequence[Member], rule: SplitRule) -> tuple[list[Split], dict[str, Any]]:
    """The newest groups test, the next newest validate; a group is as new as its newest member. Groups without a time
    train."""
    newest: dict[str, str] = {}
    sizes: dict[str, Size] = defaultdict(Size)
    for member in members:
        newest[member.group] = max(newest.get(member.group, ""), member.time)
        sizes[member.group] = sizes[member.group].plus(member)
    dated = sorted((time, group) for group, time in newest.items() if time)
    if not dated:
        raise InputError(
            "prepare.split.by is 'time', but no document bears a time.",
            remedy="name the column that holds it (columns: {time: NAME} in the source), or split by group",
        )
    total = _sum(sizes.values())
    held_out = _newest_groups([group for _, group in reversed(dated)], sizes, total, rule, 0)
    for split in HELD_OUT:
        chosen = [sizes[group] for group, other in held_out.items() if other == split]
        if not _is_fair(chosen, getattr(rule, split) * total.characters, total):
            held_out = _newest_groups(
                [group for _, group in reversed(dated)], sizes, total, rule, _characters_per_sample(total)
            )
            break
    splits: list[Split] = [held_out.get(member.group, "train") for member in members]
    undated = sum(not time for time in newest.values())
    notes = [f"{undated} groups bear no time and train"] if undated else []
    oldest = {
        split: min(newest[group] for group, other in held_out.items() if other == split) for split in held_out.values()
    }
    notes += [f"{split} begins at {time}" for split, time in sorted(oldest.items())]
    return splits, {"by": "time", "seed": rule.seed, "test_by": "time", "validation_by": "time", "notes": notes}


def _newest_groups(
    groups: Sequence[str], sizes: Mapping[str, Size], total: Size, rule: SplitRule, per_sample: float
) -> dict[str, Split]:
    """The split of each group that is held out of `groups`, which are in order, the newest first. A sample counts as
    `per_sample` characters at least."""
    limits: tuple[tuple[Split, float], ...] = (("test", rule.test), ("validation", rule.test + rule.validation))
    limits = tuple(limit for limit, share in zip(limits, (rule.test, rule.validation), strict=True) if share)
    held_out: dict[str, Split] = {}
    reached = Size()
    for group in groups:
        weight = _weight(reached, per_sample)
        split = next((split for split, limit in limits if weight < limit * total.characters), None)
        if split is None or len(held_out) + 1 >= len(sizes):
            break
        held_out[group] = split
        reached = reached.plus(sizes[group])
    return held_out


def choose_units(sizes: Mapping[str, Size], target: float, total: Size, seed: str) -> set[str]:
    """Units that hold about `target` characters and no more than about the same share of all samples. Where the choice
    by characters takes too many samples (one book and twenty letters), whatever a side has more of counts."""
    chosen = _choose_by_characters(sizes, target, total, seed)
    if _is_fair([sizes[name] for name in chosen], target, total):
        return chosen
    return _choose(sizes, target, total, seed, _characters_per_sample(total))


def _choose_by_characters(sizes: Mapping[str, Size], target: float, total: Size, seed: str) -> set[str]:
    return _choose(sizes, target, total, seed, 0)


def _choose(sizes: Mapping[str, Size], target: float, total: Size, seed: str, per_sample: float) -> set[str]:
    """Units in the order of a seeded hash until about `target` characters are reached, skipping those that would
    overshoot by more than a quarter; else the one unit that comes nearest; always leaving one. Empty when even the
    nearest takes more than LARGEST_SHARE of the total. A sample counts as `per_sample` characters at least."""
    order = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    chosen: set[str] = set()
    reached = Size()

    def with_unit(name: str) -> float:
        return _weight(reached.plus(sizes[name]), per_sample)

    for name in order:
        if _weight(reached, per_sample) >= 0.75 * target or len(chosen) + 1 >= len(sizes):
            break
        if with_unit(name) <= OVERSHOOT * target:
            chosen.add(name)
            reached = reached.plus(sizes[name])
    if _weight(reached, per_sample) < 0.5 * target and len(sizes) - len(chosen) > 1:
        nearest = min((name for name in order if name not in chosen), key=lambda name: abs(with_unit(name) - target))
        if with_unit(nearest) <= LARGEST_SHARE * total.characters:
            chosen.add(nearest)
    return chosen


def _is_fair(chosen: Sequence[Size], target: float, total: Size) -> bool:
    """Whether units of about `target` characters hold about that share of the samples, or exceed it by one unit."""
    samples, share = sum(size.samples for size in chosen), target / max(1, total.characters)
    largest = max((size.samples for size in chosen), default=0)
    exceeds_by_one = samples - largest <= share * total.samples and samples <= max(1, LARGEST_SHARE * total.samples)
    return samples <= OVERSHOOT * share * total.samples or exceeds_by_one


def _weight(size: Size, per_sample: float) -> float:
    return max(size.characters, size.samples * per_sample)


def _characters_per_sample(total: Size) -> float:
    return total.characters / max(1, total.samples)


def _sum(sizes: Iterable[Size]) -> Size:
    return Size(*(sum(values) for values in zip(*sizes, strict=True)))


def _named_groups(names: Sequence[str], sizes: Mapping[str, Size]) -> set[str]:
    by_name = {name: {name} for name in sizes}
    for name in sizes:
        by_name.setdefault(name.rpartition("#")[2], set()).add(name)  # a value of the column that names groups
    unknown = [name for name in names if name not in by_name]
    if unknown:
        close = difflib.get_close_matches(unknown[0], sizes, n=1)
        known = ", ".join(sorted(sizes)[:20]) + (" ..." if len(sizes) > 20 else "")
        raise InputError(
            f"prepare.split.test_groups names {unknown[0]!r}, which no kept document belongs to; known: {known}."
            + (f" Did you mean {close[0]!r}?" if close else ""),
            remedy="name groups of the collected documents",
        )
    return {group for name in names for group in by_name[name]}
