"""The metrics as functions of sums: every sample gives a row of statistics, and a metric's value follows from the
sum of the rows. So a value on all samples, on a slice or on thousands of resamples is one product of a matrix and
one formula."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soldiom_ray.domains.metrics import MetricName
from soldiom_ray.metrics import answers, labels
from soldiom_ray.metrics.measurement import TokenOutcome, VerdictOutcome
from soldiom_ray.metrics.statistics import Statistics, mean_of, ratio

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Computation:
    """How a metric is computed from an outcome of its part. `hits` says that a sample is right or wrong as a whole, so
    that McNemar's test fits."""

    statistics: Callable[[Any], Statistics]
    hits: bool = False


def loss(outcome: Any) -> Statistics:
    """Nats per token (of labels: per sample): long documents weigh more."""
    import numpy as np

    counts = outcome.tokens if isinstance(outcome, TokenOutcome) else np.ones(len(outcome.losses))
    return Statistics(np.stack([outcome.losses, counts], axis=1), ratio)


def perplexity(outcome: TokenOutcome) -> Statistics:
    """exp(loss)."""
    import numpy as np

    def value(sums: "Numbers") -> "Numbers":
        return np.exp(np.minimum(ratio(sums), 700.0))

    return Statistics(loss(outcome).rows, value)


def token_accuracy(outcome: TokenOutcome) -> Statistics:
    """The share of tokens that were the likeliest."""
    import numpy as np

    return Statistics(np.stack([outcome.correct, outcome.tokens], axis=1), ratio)


def judge_win_rate(outcome: VerdictOutcome) -> Statistics:
    """The share of pairs that a judge decides for the tuned model, a tie as a half."""
    return mean_of(outcome.wins)


COMPUTATIONS: Mapping[MetricName, Computation] = {
    "loss": Computation(loss),
    "perplexity": Computation(perplexity),
    "token_accuracy": Computation(token_accuracy),
    "accuracy": Computation(labels.accuracy, hits=True),
    "macro_f1": Computation(labels.macro_f1),
    "micro_f1": Computation(labels.micro_f1),
    "auroc": Computation(labels.auroc),
    "average_precision": Computation(labels.average_precision),
    "calibration_error": Computation(labels.calibration_error),
    "coverage": Computation(labels.coverage),
    "answered_error": Computation(labels.answered_error),
    "exact_match": Computation(answers.exact_match, hits=True),
    "token_f1": Computation(answers.token_f1),
    "rouge_l": Computation(answers.rouge_l),
    "chrf": Computation(answers.chrf),
    "bleu": Computation(answers.bleu),
    "json_validity": Computation(answers.json_validity, hits=True),
    "citation_precision": Computation(answers.citation_precision),
    "pass_at_1": Computation(answers.pass_at_1, hits=True),
    "pass_at_k": Computation(answers.pass_at_k, hits=True),
    "general_loss": Computation(loss),
    "judge_win_rate": Computation(judge_win_rate),
}
"""How each metric of `domains.metrics.METRICS` is computed."""
