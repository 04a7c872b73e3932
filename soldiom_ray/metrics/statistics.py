"""What a metric is computed from: rows of statistics, and the value that follows from a sum of rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]


class NotMeasurableError(ValueError):
    """A metric that these samples cannot give; the text says why. It never leaves the evaluation."""


class NotApplicableError(NotMeasurableError):
    """A metric that is not meant for such samples. Nobody is told unless it was asked for by name."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """`rows` are [samples, columns], dense or a scipy.sparse matrix; `value` turns sums of rows, [..., columns],
    into the metric, [...], with NaN where it is not defined."""

    rows: Any
    value: "Callable[[Numbers], Numbers]"


def ratio(sums: "Numbers") -> "Numbers":
    """The first sum over the second."""
    return divided(sums[..., 0], sums[..., 1])


def divided(above: "Numbers", below: "Numbers") -> "Numbers":
    """The quotient, NaN where `below` is 0."""
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below != 0, above / np.where(below != 0, below, 1), np.nan)


def mean_of(values: Any) -> Statistics:
    """The mean over samples of one value each, [samples]."""
    import numpy as np

    values = np.asarray(values, dtype=np.float64)
    return Statistics(np.stack([values, np.ones(len(values))], axis=1), ratio)
