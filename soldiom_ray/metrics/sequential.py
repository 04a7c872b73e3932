"""Has a share risen? Judged after every observation, without spending more than the stated error on all looks together.

Observations since the change are a betting game against "the share is at most what it was before, plus a margin": the
evidence is what a stake of 1 would have become, a likelihood ratio averaged over the shares beyond that bound. While
the statement holds, the evidence is a supermartingale, so it ever reaches 1/error with a chance of at most `error`
(Ville 1939; Howard et al. 2021). It depends on the counts alone: whoever counts again, comes to the same.
"""

import math
from dataclasses import dataclass

GRID = 64
"""Shares beyond the bound over which the evidence is averaged, evenly spaced."""


@dataclass(frozen=True, slots=True)
class Count:
    """How many of so many trials had an event."""

    events: int
    trials: int

    @property
    def share(self) -> float | None:
        """None without trials."""
        return self.events / self.trials if self.trials else None


@dataclass(frozen=True, slots=True)
class Rise:
    """What a comparison found: the largest share that is no rise, and the evidence against it beside what it takes."""

    bound: float
    evidence: float
    needed: float

    @property
    def shown(self) -> bool:
        """Whether a rise is shown."""
        return self.evidence >= self.needed


def rise(before: Count, since: Count, *, margin: float, error: float) -> Rise:
    """Whether the share since is more than `margin` above the one before. A rise is found where there is none with a
    chance of at most `error`, however often one looks: half of it is spent on the share before, which is known from a
    sample only, half on the evidence since."""
    bound = min(1.0, upper_bound(before, error / 2) + margin)
    return Rise(bound, evidence(since, bound), 2 / error)


def upper_bound(count: Count, error: float) -> float:
    """What a share is at most, but for a chance of `error` (Chernoff 1952); 1 without trials."""
    share, nats = count.share, math.log(1 / error)
    if share is None:
        return 1.0
    low, high = share, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if count.trials * _divergence(share, middle) > nats else (middle, high)
    return high


def evidence(count: Count, bound: float) -> float:
    """The evidence that a share is above `bound`; 1 says nothing, less speaks for the bound."""
    if bound >= 1:
        return 0.0
    others = count.trials - count.events
    steps = [bound + (1 - bound) * (place + 0.5) / GRID for place in range(GRID)]
    ratios = [
        count.events * math.log(share / bound) + others * math.log((1 - share) / (1 - bound)) if bound else math.inf
        for share in steps
    ]
    largest = max(ratios)
    if largest > 600 or largest == math.inf:
        return math.inf
    return sum(math.exp(ratio) for ratio in ratios) / GRID


def _divergence(share: float, other: float) -> float:
    """Kullback and Leibler's, of two coins."""
    terms = ((share, other), (1 - share, 1 - other))
    return sum(p * math.log(p / q) if q else math.inf for p, q in terms if p)
