"""The difference between two models on the same documents, and how sure it is: a paired bootstrap.

Documents are drawn with replacement (Efron 1979; paired, as in Koehn 2004), each with both models' sums, so what makes
a document hard for both cancels. Tokens are no unit: neighbours within a document are not independent. Documents of
one group are not quite independent either, so the interval over whole groups is given beside it where there are two
groups or more; with few groups that one is rough, and the report says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from soldiom_ray.evaluate.metrics import DocumentSums, metrics_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

MAX_DRAWN_CELLS = 4_000_000
"""Cells of the matrix of draws held in memory at a time (32 MB)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Tuned minus base, in the metric's unit: the value on all documents, and the percentile interval of the
    resamples."""

    mean: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"[{self.low:+.4f}, {self.high:+.4f}]"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both models' metrics, their differences, and the same for each group. `difference` resamples documents,
    `over_groups` whole groups; that is empty with one group."""

    base: dict[str, float]
    tuned: dict[str, float]
    difference: dict[str, Interval]
    over_groups: dict[str, Interval]
    documents: int
    groups: list[dict[str, Any]] = field(default_factory=list)


def compare(documents: Sequence[DocumentSums], *, resamples: int, confidence: float, seed: int) -> Comparison:
    """Compare two models from their sums per document (at least one document)."""
    import numpy as np

    sums = _matrix(documents)
    names = np.array([document.group for document in documents])
    groups, members = np.unique(names, return_inverse=True)
    by_group = np.zeros((len(groups), sums.shape[1]))
    np.add.at(by_group, members, sums)
    base, tuned, _ = _differences(sums.sum(axis=0)[None, :])
    over_groups = (
        paired_bootstrap(by_group, resamples=resamples, confidence=confidence, seed=seed) if len(groups) > 1 else {}
    )
    return Comparison(
        base={name: float(value[0]) for name, value in base.items()},
        tuned={name: float(value[0]) for name, value in tuned.items()},
        difference=paired_bootstrap(sums, resamples=resamples, confidence=confidence, seed=seed),
        over_groups=over_groups,
        documents=len(documents),
        groups=_per_group(groups.tolist(), by_group, np.bincount(members).tolist()),
    )


def paired_bootstrap(sums: "Numbers", *, resamples: int, confidence: float, seed: int) -> dict[str, Interval]:
    """Percentile intervals of tuned minus base for every metric.

    `sums` is [units, 5] in float64: tokens, base loss, base correct, tuned loss, tuned correct. Rows are drawn.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    units = len(sums)
    chance = np.full(units, 1.0 / units)
    rows_at_once = max(1, MAX_DRAWN_CELLS // units)
    drawn = np.concatenate(
        [
            random.multinomial(units, chance, size=min(rows_at_once, resamples - start)).astype(np.float64) @ sums
            for start in range(0, resamples, rows_at_once)
        ]
    )
    tail = 100 * (1 - confidence) / 2
    _, _, resampled = _differences(drawn)
    _, _, whole = _differences(sums.sum(axis=0)[None, :])
    intervals = {}
    for name, values in resampled.items():
        low, high = np.percentile(values, [tail, 100 - tail])
        intervals[name] = Interval(float(whole[name][0]), float(low), float(high))
    return intervals


def _matrix(documents: Sequence[DocumentSums]) -> "Numbers":
    """The documents' sums as `paired_bootstrap` takes them, [documents, 5]."""
    import numpy as np

    rows = [(d.tokens, d.base_loss, d.base_correct, d.tuned_loss, d.tuned_correct) for d in documents]
    return np.array(rows, dtype=np.float64)


def _differences(sums: "Numbers") -> "tuple[dict[str, Numbers], dict[str, Numbers], dict[str, Numbers]]":
    """(base, tuned, tuned minus base) by metric, each [rows], from sums [rows, 5]."""
    tokens, base_loss, base_correct, tuned_loss, tuned_correct = sums.T
    base = metrics_of(base_loss, base_correct, tokens)
    tuned = metrics_of(tuned_loss, tuned_correct, tokens)
    return base, tuned, {name: tuned[name] - base[name] for name in base}


def _per_group(names: list[str], sums: "Numbers", documents: list[int]) -> list[dict[str, Any]]:
    base, tuned, difference = _differences(sums)
    return [
        {
            "group": name,
            "documents": documents[row],
            "tokens": int(sums[row, 0]),
            "base": {metric: float(values[row]) for metric, values in base.items()},
            "tuned": {metric: float(values[row]) for metric, values in tuned.items()},
            "difference": {metric: float(values[row]) for metric, values in difference.items()},
        }
        for row, name in enumerate(names)
    ]
