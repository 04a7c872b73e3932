"""The metrics by name: what each measures, of which kind of result, and which way is better.
`metrics/computations.py` says how each is computed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Part = Literal["tokens", "labels", "answers", "general", "verdicts"]
"""What a metric is computed from: predictions of every held-out token; predicted labels; generated answers; predictions
of the tokens of general text, which is not of the dataset; what a judge says of pairs of answers."""

MetricName = Literal[
    "loss", "perplexity", "token_accuracy",
    "accuracy", "macro_f1", "micro_f1", "auroc", "average_precision", "calibration_error", "coverage", "answered_error",
    "exact_match", "token_f1", "rouge_l", "chrf", "bleu", "json_validity", "citation_precision",
    "pass_at_1", "pass_at_k",
    "general_loss", "judge_win_rate",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as people see it. `library` computes its statistics of each sample; "" where that is a sum of ours."""

    title: str
    parts: tuple[Part, ...]
    lower_is_better: bool
    unit: str
    library: str = ""


METRICS: Mapping[MetricName, Metric] = {
    "loss": Metric("loss", ("tokens", "labels"), True, "nats per token or sample"),
    "perplexity": Metric("perplexity", ("tokens",), True, "exp(loss)"),
    "token_accuracy": Metric("next-token accuracy", ("tokens",), False, "share of next tokens predicted"),
    "accuracy": Metric("accuracy", ("labels",), False, "share of samples whose labels are all right"),
    "macro_f1": Metric("macro F1", ("labels",), False, "mean over the labels that occur"),
    "micro_f1": Metric("micro F1", ("labels",), False, "over all decisions; several labels per sample"),
    "auroc": Metric("AUROC", ("labels",), False, "mean over labels, each against the rest"),
    "average_precision": Metric("average precision", ("labels",), False, "mean over labels, each against the rest"),
    "calibration_error": Metric("calibration error", ("labels",), True, "confidence off the share right, 15 bins"),
    "coverage": Metric("coverage", ("labels",), False, "share of samples answered; the others are abstained from"),
    "answered_error": Metric("error of answers", ("labels",), True, "share wrong of the samples answered"),
    "exact_match": Metric("exact match", ("answers",), False, "share of answers equal to the author's, normalised"),
    "token_f1": Metric("token F1", ("answers",), False, "words shared with the author's answer (SQuAD)"),
    "rouge_l": Metric("ROUGE-L", ("answers",), False, "longest common subsequence of words, F1", "rouge-score"),
    "chrf": Metric("chrF", ("answers",), False, "shared character sequences, 0 to 100", "sacrebleu"),
    "bleu": Metric("BLEU", ("answers",), False, "shared word sequences, 0 to 100", "sacrebleu"),
    "json_validity": Metric("valid JSON", ("answers",), False, "share of answers that obey the schema", "jsonschema"),
    "citation_precision": Metric(
        "citation precision", ("answers",), False, "share of the passages cited as [n] that the author cites, too"
    ),
    "pass_at_1": Metric("pass@1", ("answers",), False, "share of programs that pass their task's checks"),
    "pass_at_k": Metric("pass@k", ("answers",), False, "share of tasks that one of k drawn programs passes"),
    "general_loss": Metric("loss on general text", ("general",), True, "nats per token; what tuning forgot"),
    "judge_win_rate": Metric(
        "judge's win rate", ("verdicts",), False, "share of answers that a judge prefers to the base's; a tie is a half"
    ),
}
"""In the order in which they are shown."""


def title_of(name: str) -> str:
    """What people call a metric; its own name where it is none of ours."""
    metric = METRICS.get(name)  # type: ignore[call-overload]
    return metric.title if metric else name


def in_order(names: Iterable[str]) -> list[str]:
    """Metrics in the order in which they are shown; unknown ones, of other versions, last."""
    known = list(METRICS)
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))
