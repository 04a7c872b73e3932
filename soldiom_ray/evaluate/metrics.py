"""Sums per document, and the metrics that follow from them, for one sample or for many resamples at once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

LOWER_IS_BETTER = {"loss": True, "perplexity": True, "token_accuracy": False}
"""Every metric, and whether a negative difference is an improvement."""

UNITS = {"loss": "nats per token", "perplexity": "exp(loss)", "token_accuracy": "share of next tokens predicted"}


@dataclass(frozen=True, slots=True)
class DocumentSums:
    """Both models' sums over the same `tokens` predicted tokens of one held-out document; losses are in nats, `correct`
    counts tokens that were the likeliest."""

    id: str
    group: str
    tokens: int
    base_loss: float
    base_correct: float
    tuned_loss: float
    tuned_correct: float


def metrics_of(loss: "Numbers", correct: "Numbers", tokens: "Numbers") -> "dict[str, Numbers]":
    """All metrics from sums of any one shape, elementwise: means over tokens, so long documents weigh more."""
    import numpy as np

    mean = loss / tokens
    return {"loss": mean, "perplexity": np.exp(np.minimum(mean, 700.0)), "token_accuracy": correct / tokens}
