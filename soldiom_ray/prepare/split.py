"""Which samples train, validate and test. What belongs together (a package, a repository) goes to one side whole."""

import difflib
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from soldiom_ray.domains.schema import SplitRule
from soldiom_ray.errors import InputError
from soldiom_ray.records import Split

LARGEST_SHARE = 0.34
"""A held-out side may not take more than this of all text to keep groups whole; rather documents are held out."""

GROUPS_FOR_VALIDATION = 4
HELD: tuple[Split, ...] = ("test", "validation")


@dataclass(frozen=True, slots=True)
class Member:
    """What splitting needs to know of a sample. `time` is ISO 8601 in UTC, `side` what the set's own division says;
    both are empty where that is not known. A picture counts its bytes as characters."""

    id: str
    group: str
    characters: int
    time: str = ""
    side: str = ""


def divide(members: Sequence[Member], rule: SplitRule) -> tuple[list[Split], dict[str, Any]]:
    """The split of each member, and how it came about (for the manifest). Depends on nothing but the set of members and
    the rule, not on their order. Raises InputError for a test group that does not exist, or when nothing is left to
    train on."""
    if rule.by == "time":
        return _by_time(members, rule)
    own = {member.id: side for member in members for side in HELD if member.side == side}
    if own:
        return _by_own_division(members, rule, own)
    total = sum(member.characters for member in members)
    sizes: dict[str, int] = defaultdict(int)
    for member in members:
        sizes[member.group] += member.characters
    named = _named_groups(rule.test_groups, sizes)
    notes: list[str] = []
    held: dict[str, Split] = {}
    sides: tuple[tuple[Split, float], ...] = (("test", rule.test), ("validation", rule.validation))
    by: dict[str, str] = {}
    for side, share in sides:
        chosen = set(named) if side == "test" else set()
        wanted = share * total - sum(sizes[group] for group in chosen)
        free_groups = {group: size for group, size in sizes.items() if group not in held and group not in chosen}
        by[side] = "group"
        if rule.by != "document" and wanted > 0 and not (chosen and wanted < share * total / 4):
            needed = 2 if side == "test" else GROUPS_FOR_VALIDATION
            more = choose(free_groups, wanted, total, f"{rule.seed}:{side}") if len(free_groups) >= needed else set()
            if not more and not chosen:
                by[side] = "document"
                notes.append(
                    f"{side}: single documents are held out, because {len(free_groups)} groups are too few or too large"
                    f" to hold out {share:.0%} of the text whole; near copies across the border are dropped"
                )
            chosen |= more
        elif rule.by == "document" and wanted > 0:
            by[side] = "document"
        if by[side] == "document":
            free = {
                m.id: m.characters
                for m in members
                if m.group not in held and m.group not in chosen and m.id not in held
            }
            chosen |= choose(free, wanted, total, f"{rule.seed}:{side}")
        held |= dict.fromkeys(chosen, side)
    splits: list[Split] = [held.get(member.id) or held.get(member.group) or "train" for member in members]
    if members and "train" not in splits:
        raise InputError(
            f"The split leaves nothing to train on: all {len(sizes)} groups are held out.",
            remedy="name fewer groups in prepare.split.test_groups, or lower prepare.split.test",
        )
    return splits, {
        "by": rule.by,
        "seed": rule.seed,
        "test_by": by["test"],
        "validation_by": by["validation"],
        "notes": notes,
    }


def _by_own_division(
    members: Sequence[Member], rule: SplitRule, own: Mapping[str, Split]
) -> tuple[list[Split], dict[str, Any]]:
    """What a set's own division holds out stays so; a side that it does not name is drawn from the rest."""
    named = set(own.values())
    shares: dict[str, Any] = {side: 0.0 if side in named else getattr(rule, side) for side in HELD}
    rest = [member for member in members if member.id not in own]
    left = rule.model_copy(update=shares)
    splits, told = divide([replace(member, side="") for member in rest], left)
    drawn = dict(zip((member.id for member in rest), splits, strict=True))
    told |= {f"{side}_by": "the set's own division" for side in named}
    return [drawn.get(member.id) or own[member.id] for member in members], told


def _by_time(members: Sequence[Member], rule: SplitRule) -> tuple[list[Split], dict[str, Any]]:
    """The newest groups test, the next newest validate; a group is as new as its newest member. What bears no time
    trains."""
    newest: dict[str, str] = {}
    sizes: dict[str, int] = defaultdict(int)
    for member in members:
        newest[member.group] = max(newest.get(member.group, ""), member.time)
        sizes[member.group] += member.characters
    dated = sorted((time, group) for group, time in newest.items() if time)
    if not dated:
        raise InputError(
            "prepare.split.by is 'time', but no document bears a time.",
            remedy="name the column that holds it (columns: {time: NAME} in the source), or split by group",
        )
    total, reached = sum(sizes.values()), 0
    held: dict[str, Split] = {}
    borders: tuple[tuple[Split, float], ...] = (("test", rule.test), ("validation", rule.test + rule.validation))
    borders = tuple(border for border, share in zip(borders, (rule.test, rule.validation), strict=True) if share)
    for _, group in reversed(dated):
        side = next((side for side, share in borders if reached < share * total), None)
        if side is None or len(held) + 1 >= len(newest):
            break
        held[group] = side
        reached += sizes[group]
    splits: list[Split] = [held.get(member.group, "train") for member in members]
    undated = sum(not time for time in newest.values())
    notes = [f"{undated} groups bear no time and train"] if undated else []
    first = {side: min(newest[group] for group, other in held.items() if other == side) for side in held.values()}
    notes += [f"{side} begins at {time}" for side, time in sorted(first.items())]
    told = {"by": "time", "seed": rule.seed, "test_by": "time", "validation_by": "time", "notes": notes}
    return splits, told


def choose(sizes: Mapping[str, int], wanted: float, total: int, seed: str) -> set[str]:
    """Units in the order of a seeded hash until about `wanted` characters are reached, skipping those that would
    overshoot by more than a quarter; else the one unit that comes nearest; always leaving one. Empty when even the
    nearest takes more than LARGEST_SHARE of the total."""
    order = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    chosen: set[str] = set()
    reached = 0
    for name in order:
        if reached >= 0.75 * wanted or len(chosen) + 1 >= len(sizes):
            break
        if reached + sizes[name] <= 1.25 * wanted:
            chosen.add(name)
            reached += sizes[name]
    if reached < 0.5 * wanted and len(sizes) - len(chosen) > 1:
        nearest = min(
            (name for name in order if name not in chosen), key=lambda name: abs(reached + sizes[name] - wanted)
        )
        if reached + sizes[nearest] <= LARGEST_SHARE * total:
            chosen.add(nearest)
    return chosen


def _named_groups(names: Sequence[str], sizes: Mapping[str, int]) -> set[str]:
    unknown = [name for name in names if name not in sizes]
    if unknown:
        close = difflib.get_close_matches(unknown[0], sizes, n=1)
        known = ", ".join(sorted(sizes)[:20]) + (" ..." if len(sizes) > 20 else "")
        raise InputError(
            f"prepare.split.test_groups names {unknown[0]!r}, which no kept document belongs to; known: {known}."
            + (f" Did you mean {close[0]!r}?" if close else ""),
            remedy="name groups of the collected documents",
        )
    return set(names)
