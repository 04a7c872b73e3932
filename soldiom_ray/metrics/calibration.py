"""Probabilities that mean what they say: one temperature for all logits (Guo et al. 2017), and from what probability on
a classifier should answer. Both are fitted on samples that no parameter was trained on and no score is taken from."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]
    Mask = NDArray[np.bool_]

COOLEST, HOTTEST = 0.05, 20.0
MIN_SAMPLES = 20
"""With fewer a temperature says more of these samples than of the model."""


def fit_temperature(logits: "Numbers", targets: "Mask", *, multi_label: bool) -> float:
    """The temperature of the least loss: logits and true labels, both [samples, labels].

    The targets are smoothed as Platt (1999) does, by one sample more that is wrong: a model that is right on all of few
    samples would be sure of everything otherwise."""
    import numpy as np
    from scipy.optimize import minimize_scalar

    samples, labels = logits.shape
    wrong = 1 / (samples + 2)
    right = 1 - wrong
    smoothed = np.where(targets, right, wrong if multi_label else wrong / max(1, labels - 1))

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        if multi_label:
            return float((np.logaddexp(0, scaled) - smoothed * scaled).mean())
        normalizer = np.logaddexp.reduce(scaled, axis=1)
        return float((normalizer * smoothed.sum(1) - (smoothed * scaled).sum(1)).mean())

    best = minimize_scalar(loss, bounds=(math.log(COOLEST), math.log(HOTTEST)), method="bounded")
    return math.exp(float(best.x))


def abstention_threshold(confidence: "Numbers", right: "Mask", max_error: float) -> float:
    """The least threshold above which at most `max_error` of the samples are wrong, both [samples]; 1 where there is
    none, so that nothing is answered."""
    import numpy as np

    order = np.argsort(-confidence, kind="stable")
    sure, wrong = confidence[order], ~right[order]
    errors = wrong.cumsum() / np.arange(1, len(order) + 1)
    last_of_equals = np.append(sure[1:] < sure[:-1], True)
    fitting = np.flatnonzero((errors <= max_error) & last_of_equals)
    if not len(fitting):
        return 1.0
    last = int(fitting[-1])
    return float(sure[last + 1]) if last + 1 < len(sure) else 0.0
