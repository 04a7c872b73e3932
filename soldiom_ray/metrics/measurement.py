"""The result of scoring, whatever the task: for each part of the measurement, what every system did on the same
samples; and the baselines that stand in for a base model."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from soldiom_ray.domains.metrics import Part
from soldiom_ray.errors import InputError
from soldiom_ray.examples import Example

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

TUNED, BASE, PREVIOUS = "tuned", "base", "previous"
"""Systems that are models; every other system is a trivial baseline, named by what it does."""

UNIFORM = "uniform"
"""Baseline of a model trained from random weights, which has no base: every token is equally likely."""

PRIOR = "label frequencies"
"""Baseline of a classification, whose base model does not know the labels: their frequencies in the training split."""


UNCALIBRATED = "not calibrated"
"""The tuned model with its probabilities as they come, beside those that it is served with."""


@dataclass(frozen=True, slots=True)
class TokenOutcome:
    """Sums over the predicted tokens of each sample, [samples]: losses are in nats, `correct` counts tokens that
    were the likeliest."""

    tokens: "Numbers"
    losses: "Numbers"
    correct: "Numbers"

    def subset(self, places: "NDArray[np.int64]") -> "TokenOutcome":
        """The outcome on some of the samples."""
        return TokenOutcome(self.tokens[places], self.losses[places], self.correct[places])


@dataclass(frozen=True, slots=True)
class LabelOutcome:
    """Probabilities and true labels, [samples, classes], and losses [samples] in nats. Classes that training never saw
    are among `classes`, with probability 0."""

    classes: tuple[str, ...]
    targets: "NDArray[np.bool_]"
    probabilities: "Numbers"
    losses: "Numbers"
    multi_label: bool = False
    threshold: float | None = None
    """Samples whose likeliest label has at most this probability are not answered; None: all are."""

    def subset(self, places: "NDArray[np.int64]") -> "LabelOutcome":
        """The outcome on some of the samples."""
        return replace(
            self,
            targets=self.targets[places],
            probabilities=self.probabilities[places],
            losses=self.losses[places],
        )

    @property
    def predicted(self) -> "NDArray[np.bool_]":
        """The labels that are decided for, [samples, classes]."""
        import numpy as np

        if self.multi_label:
            return self.probabilities > 0.5
        likeliest = self.probabilities.argmax(1)[:, None]
        decided: NDArray[np.bool_] = np.arange(len(self.classes))[None, :] == likeliest
        return decided


@dataclass(frozen=True, slots=True)
class AnswerOutcome:
    """Generated answers beside what the authors wrote. `schema` is the JSON schema that answers should obey; `passed`
    says of answers that are programs whether they pass their task's checks, None where there are none that the author's
    own program passes; `solved` the same of several drawn programs, of which one is enough."""

    texts: tuple[str, ...]
    references: tuple[str, ...]
    schema: Mapping[str, Any] | None = None
    passed: tuple[bool | None, ...] = ()
    solved: tuple[bool | None, ...] = ()

    def subset(self, places: "NDArray[np.int64]") -> "AnswerOutcome":
        """The outcome on some of the samples."""
        texts, references = tuple(self.texts[i] for i in places), tuple(self.references[i] for i in places)
        passed, solved = (tuple(of[i] for i in places) if of else () for of in (self.passed, self.solved))
        return replace(self, texts=texts, references=references, passed=passed, solved=solved)


@dataclass(frozen=True, slots=True)
class VerdictOutcome:
    """What a judge says of each pair of answers, [samples]: 1 where the tuned model's is better, 0 where the base's is,
    a half for a tie."""

    wins: "Numbers"

    def subset(self, places: "NDArray[np.int64]") -> "VerdictOutcome":
        """The outcome on some of the samples."""
        return VerdictOutcome(self.wins[places])


Outcome: TypeAlias = TokenOutcome | LabelOutcome | AnswerOutcome | VerdictOutcome


@dataclass(frozen=True, slots=True)
class HeldOutSample:
    """What the comparison needs to know of a sample: `facts` are what slices are made by, such as its language."""

    id: str
    group: str
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartOutcome:
    """The outcomes of all systems, by name, on the same samples."""

    part: Part
    samples: tuple[HeldOutSample, ...]
    outcomes: Mapping[str, Outcome]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured, the held-out side first. `examples` are all prompts that were answered. `base` names the
    base model or what stands in for it, `tokens` are predicted tokens of all documents, `block_tokens` the longest
    that were scored together. `missing` says why a metric or a system could not be measured."""

    parts: tuple[PartOutcome, ...]
    examples: list[Example]
    base: str
    tokens: int
    blocks: int
    block_tokens: int
    seconds: float = 0.0
    calibration: Mapping[str, Any] | None = None
    """What was fitted on the validation side, and what it did there."""
    missing: Mapping[str, str] = field(default_factory=dict)
    judge: Mapping[str, Any] | None = None
    """Who compared the answers, how often it decided, and how far it agrees with people."""
    red_team: Mapping[str, Any] | None = None
    """How often attacks succeeded on each model, with their answers."""
    reused: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """{scores or answers: {there, of}}: how many of all samples' were there from an earlier evaluation."""

    @property
    def main(self) -> PartOutcome:
        """The part that every held-out sample is in."""
        return self.parts[0]


@dataclass(frozen=True, slots=True)
class DocumentSums:
    """Both models' sums over the same `tokens` predicted tokens (of labels: samples) of one held-out document."""

    id: str
    group: str
    tokens: int
    base_loss: float
    base_correct: float
    tuned_loss: float
    tuned_correct: float


def document_sums(part: PartOutcome) -> Iterator[DocumentSums]:
    """The sums per document of a part of tokens or labels."""
    tokens, base, base_correct = _sums(part.outcomes[BASE])
    _, tuned, tuned_correct = _sums(part.outcomes[TUNED])
    columns = (column.tolist() for column in (tokens, base, base_correct, tuned, tuned_correct))
    for sample, (count, *values) in zip(part.samples, zip(*columns, strict=True), strict=True):
        yield DocumentSums(sample.id, sample.group, int(count), *values)


def _sums(outcome: Outcome) -> "tuple[Numbers, Numbers, Numbers]":
    import numpy as np

    if isinstance(outcome, LabelOutcome):
        correct = (outcome.predicted == outcome.targets).all(1).astype(np.float64)
        return np.ones(len(correct)), outcome.losses, correct
    if isinstance(outcome, TokenOutcome):
        return outcome.tokens, outcome.losses, outcome.correct
    raise TypeError(f"{type(outcome).__name__} has no sums")


class NothingToScoreError(InputError):
    """The dataset holds no sample that the task can score. The evaluation then says "not measured" with this reason."""


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """The result of scoring where nothing could be scored."""

    reason: str


def hash_order(seed: int, name: str) -> bytes:
    """Sort key by SHA-256: an order that nothing but the seed and the names decide."""
    return hashlib.sha256(f"{seed}:{name}".encode(errors="surrogatepass")).digest()
