"""Which passages of a dataset enter an index: all of them, or a share that is spread over groups and documents."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

from soldiom_ray.embed.chunk import Passage, passages_of

PER_DOCUMENT = 4
"""Passages taken of one document before another of its group is opened; parsing is what selection costs."""

KINDS_FIRST = ("documentation", "architecture", "training", "dataset", "configuration", "other", "test")

Row = Mapping[str, Any]


def chosen_passages(
    rows: Iterable[Row], max_tokens: int, max_passages: int | None
) -> Iterator[tuple[Row, list[Passage]]]:
    """Documents with those of their passages that are taken. The choice follows from the rows and the limits alone."""
    if max_passages is None:
        for row in rows:
            yield row, passages_of(row["id"], row["path"], row["text"], max_tokens)
        return
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["group"]].append(row)
    left = max_passages
    # Small groups first: what they do not use of their share goes to the larger ones.
    for waiting, group in zip(
        range(len(groups), 0, -1), sorted(groups, key=lambda name: (len(groups[name]), name)), strict=True
    ):
        taken = 0
        for row, passages in _of_group(groups[group], max_tokens, left // waiting):
            taken += len(passages)
            yield row, passages
        left -= taken


def _of_group(rows: list[Row], max_tokens: int, quota: int) -> Iterator[tuple[Row, list[Passage]]]:
    """First the most telling few of each document, in an order that alternates between kinds; then, when every document
    is used up, what was passed over."""
    passed_over: list[tuple[Row, list[Passage], list[Passage]]] = []
    chosen: list[tuple[Row, list[Passage]]] = []
    for row in _alternating(rows):
        if quota <= 0:
            break
        best = sorted(
            passages_of(row["id"], row["path"], row["text"], max_tokens), key=lambda one: (one.rank, one.start_line)
        )
        telling = sum(one.rank < 2 for one in best)
        take = best[: min(telling or 1, PER_DOCUMENT, quota)]
        quota -= len(take)
        passed_over.append((row, take, best[len(take) :]))
    for row, take, rest in passed_over:
        more = rest[: max(0, quota)]
        quota -= len(more)
        chosen.append((row, sorted((*take, *more), key=lambda one: (one.start_line, one.id))))
    yield from (one for one in chosen if one[1])


def _alternating(rows: list[Row]) -> Iterator[Row]:
    """Documents by turns of their kinds, in a hashed order within each."""
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: hashlib.sha256(row["id"].encode()).digest()):
        kinds[row["kind"]].append(row)
    queues = [kinds[kind] for kind in sorted(kinds, key=KINDS_FIRST.index)]
    for turn in zip_longest(*queues):
        yield from (row for row in turn if row is not None)
