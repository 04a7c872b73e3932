"""What is counted per text and what the counts say, for one sample or for many resamples at once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

LOWER_IS_BETTER = {"loss": True, "perplexity": True, "token_accuracy": False}
"""Every metric we know, and which side of zero is an improvement."""

UNITS = {"loss": "nats per token", "perplexity": "exp(loss)", "token_accuracy": "share of next tokens predicted"}


@dataclass(frozen=True, slots=True)
class DocumentSums:
    """What both models did on the same tokens of one held-out document. `loss` sums are in nats."""

    id: str
    group: str
    tokens: int
    base_loss: float
    base_correct: float
    tuned_loss: float
    tuned_correct: float


def metrics_of(loss: "Numbers", correct: "Numbers", tokens: "Numbers") -> "dict[str, Numbers]":
    """All metrics from sums, elementwise: a mean over tokens, so long documents weigh more than short ones."""
    import numpy as np

    mean = loss / tokens
    return {"loss": mean, "perplexity": np.exp(np.minimum(mean, 700.0)), "token_accuracy": correct / tokens}
