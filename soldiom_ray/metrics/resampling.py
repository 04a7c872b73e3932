"""Everything that is drawn or tested: bootstrap resamples, their intervals and p-values, McNemar's test, Holm's
correction, and the size that a held-out side would need.

Units are drawn with replacement (Efron 1979), the same for every system, so what makes a unit hard for all cancels in
a difference (paired, as in Koehn 2004).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soldiom_ray.metrics.statistics import Statistics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

MAX_DRAWN_CELLS = 4_000_000
"""Cells of the matrix of draws, and of sums, held in memory at a time (32 MB)."""

POWER = 0.8
"""The chance with which a difference as large as the measured one would be shown on `needed_units`."""


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927) of which so many were counted, at least one."""
    from scipy import stats

    low, high = stats.binomtest(successes, count).proportion_ci(method="wilson")
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Interval:
    """A value or a difference, in the metric's unit: on all samples, and its interval from the resamples."""

    mean: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"[{self.low:+.4f}, {self.high:+.4f}]"


def resample(
    statistics: Sequence[Statistics], members: "NDArray[np.int64]", *, resamples: int, seed: int
) -> "list[tuple[float, Numbers]]":
    """Of each: (value on all samples, values on the resamples [resamples]). `members` gives each sample's unit, 0
    up."""
    import numpy as np
    from scipy import sparse

    units = int(members.max()) + 1
    shape = (units, len(members))
    indicator = sparse.csr_matrix((np.ones(len(members)), (members, np.arange(len(members)))), shape=shape)
    by_unit = [indicator @ each.rows for each in statistics]
    values: list[list[Any]] = [[] for _ in statistics]
    for counts in _draws(units, resamples, seed, max(rows.shape[1] for rows in by_unit)):
        for each, sums, collected in zip(statistics, _products(counts, by_unit), values, strict=True):
            collected.append(each.value(sums))
    everything = _products(np.ones((1, units)), by_unit)
    return [
        (float(each.value(sums)[0]), np.concatenate(collected))
        for each, sums, collected in zip(statistics, everything, values, strict=True)
    ]


def _products(counts: "Numbers", matrices: Sequence[Any]) -> "list[Numbers]":
    """`counts` times each matrix. All dense ones are one product: many narrow ones cost ten times as much."""
    import numpy as np
    from scipy import sparse

    dense = [matrix for matrix in matrices if not sparse.issparse(matrix)]
    ends = np.cumsum([matrix.shape[1] for matrix in dense])
    parts = iter(np.split(counts @ np.concatenate(dense, axis=1), ends[:-1], axis=1) if dense else ())
    columns = np.ascontiguousarray(counts.T) if len(dense) < len(matrices) else None
    return [(matrix.T @ columns).T if sparse.issparse(matrix) else next(parts) for matrix in matrices]


def _draws(units: int, resamples: int, seed: int, widest: int) -> "Iterator[Numbers]":
    """How often each unit is drawn, [resamples at a time, units]."""
    import numpy as np

    random = np.random.default_rng(seed)
    rows_at_once = max(1, MAX_DRAWN_CELLS // max(units, widest))
    for start in range(0, resamples, rows_at_once):
        size = min(rows_at_once, resamples - start)
        drawn = random.integers(0, units, (size, units), dtype=np.int32)
        drawn += np.arange(size, dtype=np.int32)[:, None] * np.int32(units)
        yield np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)


def interval_of(mean: float, values: "Numbers", *, units: int, confidence: float) -> Interval:
    """The percentile interval, its percentiles moved outwards as Student's t and n/(n-1) ask for few units: the
    expanded percentiles of Hesterberg 2015, without which intervals of small samples are too narrow."""
    import numpy as np

    if units < 2:
        return Interval(mean, mean, mean)
    from scipy import stats

    tail = stats.norm.cdf(math.sqrt(units / (units - 1)) * stats.t.ppf((1 - confidence) / 2, units - 1))
    low, high = np.quantile(values[~np.isnan(values)], [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def bootstrap_p(values: "Numbers", *, units: int, margin: float = 0.0) -> float:
    """Two-sided p-value of "the difference is `margin`": the confidence at which `interval_of` would just end there."""
    import numpy as np

    if units < 2:
        return 1.0
    from scipy import stats

    values = values[~np.isnan(values)]
    beyond = [(np.count_nonzero(side) + 0.5) / (len(values) + 1) for side in (values <= margin, values >= margin)]
    point = stats.norm.ppf(min(*beyond, 0.5)) / math.sqrt(units / (units - 1))
    return float(min(1.0, 2 * stats.t.cdf(point, units - 1)))


def mcnemar_p(hits: "NDArray[np.bool_]", other: "NDArray[np.bool_]") -> float:
    """Two-sided p-value that both are right equally often, exact (McNemar 1947): of the samples on which only one is
    right, either is as likely."""
    from scipy import stats

    only_first, only_second = int((hits & ~other).sum()), int((other & ~hits).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for how many they are (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def needed_units(interval: Interval, *, units: int, confidence: float, margin: float = 0.0) -> int | None:
    """How many units would show a difference as large as the measured one with a chance of `POWER`; None where there is
    no difference to show."""
    from statistics import NormalDist

    normal = NormalDist()
    width, distance = (interval.high - interval.low) / 2, abs(interval.mean - margin)
    if distance <= 0 or width <= 0:
        return None
    sure = normal.inv_cdf((1 + confidence) / 2)
    needed = units * (width / sure * (sure + normal.inv_cdf(POWER)) / distance) ** 2
    return math.ceil(min(needed, 1e12))
