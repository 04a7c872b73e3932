"""Which passages enter an index of limited size: a selection that is spread over groups and documents."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

from soldiom_ray.embed.chunk import Passage

PER_DOCUMENT = 4
"""Passages taken of a document before the next one of its group is cut: cutting is what selection costs."""

DOCUMENT_BATCH = 256
"""Documents cut at a time: a shard is opened once for all of them."""

KIND_ORDER = ("documentation", "architecture", "training", "dataset", "configuration", "other", "test")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that may be chosen: its shard and row, and what the choice depends on."""

    shard: str
    row: int
    id: str
    group: str
    kind: str


Cut = Callable[[Sequence[Candidate]], Sequence[Sequence[Passage]]]
"""Documents -> the passages of each."""


def choose_passages(
    candidates: Iterable[Candidate], cut: Cut, max_passages: int
) -> Iterator[tuple[Candidate, tuple[int, ...]]]:
    """Documents, each with the numbers of the passages that are taken of it. The choice depends on the documents and
    the limit, not on their order; memory holds the texts of at most DOCUMENT_BATCH documents."""
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[candidate.group].append(candidate)
    left = max_passages
    # Small groups first: what they do not use of their share goes to the larger ones.
    for groups_left, group in zip(
        range(len(groups), 0, -1), sorted(groups, key=lambda name: (len(groups[name]), name)), strict=True
    ):
        for candidate, numbers in _choose_of_group(groups[group], cut, left // groups_left):
            left -= len(numbers)
            yield candidate, numbers


def _choose_of_group(candidates: list[Candidate], cut: Cut, quota: int) -> Iterator[tuple[Candidate, tuple[int, ...]]]:
    """First the few most informative passages of each document, in an order that alternates between kinds; when all
    documents have had their turn, the passages that were left."""
    taken: list[tuple[Candidate, list[int], list[int]]] = []
    for candidate, passages in _with_passages(_alternating(candidates), cut):
        if quota <= 0:
            break
        best = sorted(range(len(passages)), key=lambda number: (passages[number].rank, number))
        informative = sum(passage.rank < 2 for passage in passages)
        first = best[: min(informative or 1, PER_DOCUMENT, quota)]
        quota -= len(first)
        taken.append((candidate, first, best[len(first) :]))
    for candidate, first, rest in taken:
        more = rest[: max(0, quota)]
        quota -= len(more)
        if numbers := sorted((*first, *more)):
            yield candidate, tuple(numbers)


def _with_passages(ordered: Iterator[Candidate], cut: Cut) -> Iterator[tuple[Candidate, Sequence[Passage]]]:
    while batch := list(islice(ordered, DOCUMENT_BATCH)):
        yield from zip(batch, cut(batch), strict=True)


def _alternating(candidates: list[Candidate]) -> Iterator[Candidate]:
    """Documents of each kind in turn, in a hashed order within a kind."""
    kinds: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in sorted(candidates, key=lambda candidate: hashlib.sha256(candidate.id.encode()).digest()):
        kinds[candidate.kind].append(candidate)
    queues = [kinds[kind] for kind in sorted(kinds, key=KIND_ORDER.index)]
    for turn in zip_longest(*queues):
        yield from (candidate for candidate in turn if candidate is not None)
