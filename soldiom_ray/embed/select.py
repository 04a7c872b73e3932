"""Which passages enter an index of a limited size: a share that is spread over groups and documents."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

from soldiom_ray.embed.chunk import Passage

PER_DOCUMENT = 4
"""Passages taken of one document before another of its group is opened; parsing is what selection costs."""

READ_TOGETHER = 256
"""Documents read in one go: each shard they lie in is opened once for all of them."""

KINDS_FIRST = ("documentation", "architecture", "training", "dataset", "configuration", "other", "test")


@dataclass(frozen=True, slots=True)
class Listed:
    """A document that may be chosen: the shard and row where it lies, and what the choice looks at."""

    shard: str
    row: int
    id: str
    group: str
    kind: str


Cut = Callable[[Sequence[Listed]], Sequence[Sequence[Passage]]]
"""The passages of each of some documents."""


def choose(listed: Iterable[Listed], cut: Cut, max_passages: int) -> Iterator[tuple[Listed, tuple[int, ...]]]:
    """Documents, each with the numbers of those of its passages that are taken. The choice follows from the documents
    and the limit alone, not from their order; memory holds no text beyond READ_TOGETHER documents."""
    groups: dict[str, list[Listed]] = defaultdict(list)
    for one in listed:
        groups[one.group].append(one)
    left = max_passages
    # Small groups first: what they do not use of their share goes to the larger ones.
    for waiting, group in zip(
        range(len(groups), 0, -1), sorted(groups, key=lambda name: (len(groups[name]), name)), strict=True
    ):
        for one, numbers in _of_group(groups[group], cut, left // waiting):
            left -= len(numbers)
            yield one, numbers


def _of_group(listed: list[Listed], cut: Cut, quota: int) -> Iterator[tuple[Listed, tuple[int, ...]]]:
    """First the most telling few of each document, in an order that alternates between kinds; then, when every document
    is used up, what was passed over."""
    passed_over: list[tuple[Listed, list[int], list[int]]] = []
    for one, passages in _with_passages(_alternating(listed), cut):
        if quota <= 0:
            break
        best = sorted(range(len(passages)), key=lambda number: (passages[number].rank, number))
        telling = sum(passage.rank < 2 for passage in passages)
        take = best[: min(telling or 1, PER_DOCUMENT, quota)]
        quota -= len(take)
        passed_over.append((one, take, best[len(take) :]))
    for one, take, rest in passed_over:
        more = rest[: max(0, quota)]
        quota -= len(more)
        if numbers := sorted((*take, *more)):
            yield one, tuple(numbers)


def _with_passages(ordered: Iterator[Listed], cut: Cut) -> Iterator[tuple[Listed, Sequence[Passage]]]:
    while some := list(islice(ordered, READ_TOGETHER)):
        yield from zip(some, cut(some), strict=True)


def _alternating(listed: list[Listed]) -> Iterator[Listed]:
    """Documents by turns of their kinds, in a hashed order within each."""
    kinds: dict[str, list[Listed]] = defaultdict(list)
    for one in sorted(listed, key=lambda one: hashlib.sha256(one.id.encode()).digest()):
        kinds[one.kind].append(one)
    queues = [kinds[kind] for kind in sorted(kinds, key=KINDS_FIRST.index)]
    for turn in zip_longest(*queues):
        yield from (one for one in turn if one is not None)
