"""Scores of models that read a sample as a whole: classification, and sequence to sequence.

A classification is measured against trivial baselines, first of all the labels' frequencies in the training split;
sequence to sequence against its base model, or a guess where there is none.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.schema import Evaluate
from soldiom_ray.evaluate.ask import (
    ANSWER_TOKENS,
    MAX_ANSWERS,
    SHOWN_TOKENS,
    Question,
    answer_limit,
    spread,
    to_examples,
)
from soldiom_ray.evaluate.baselines import LINEAR, answer_baselines
from soldiom_ray.evaluate.loaded import LoadedModels
from soldiom_ray.evaluate.parts import (
    ANSWERS_EACH,
    TOKENS_EACH,
    Part,
    Payload,
    computed_by,
    cut_into_parts,
    digest,
    fingerprints,
)
from soldiom_ray.evaluate.score_labels import (
    Results,
    is_multi_label,
    joined,
    label_results,
    linear,
    logits_of,
    prior,
    validation_samples,
)
from soldiom_ray.evaluate.slices import facts_of
from soldiom_ray.metrics.calibration import MIN_SAMPLES
from soldiom_ray.metrics.measurement import (
    BASE,
    PREVIOUS,
    PRIOR,
    TUNED,
    UNCALIBRATED,
    UNIFORM,
    AnswerOutcome,
    HeldOutSample,
    Measurement,
    NothingToScoreError,
    Outcome,
    PartOutcome,
    TokenOutcome,
    hash_order,
)
from soldiom_ray.metrics.statistics import NotMeasurableError
from soldiom_ray.models.labels import IGNORE_INDEX, labels_of
from soldiom_ray.records import Manifest

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

BATCH = 32


@dataclass(frozen=True, slots=True)
class SamplesPlan:
    """What all workers need to know. `rows` are scored, the first `asked` of a list by hash are answered, in at most
    `answer_tokens`, or shown, and classifiers are calibrated on `fitted_on`."""

    run: Manifest
    dataset: Manifest
    declared: Evaluate
    base: str | None
    rows: Sequence[dict[str, Any]]
    asked: Sequence[dict[str, Any]]
    fitted_on: Sequence[dict[str, Any]]
    vocabulary: int
    answer_tokens: int = 0
    parts: tuple[Part, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def pairs(self) -> bool:
        """Whether it is sequence to sequence, else a classification."""
        return bool(self.run.details["task"] == "seq2seq_lm")

    def check(self, system: str, model: Any, processor: Any) -> None:
        """As of `parts.Plan`: every model reads the samples with a tokenizer of its own."""

    def compute(self, models: LoadedModels, part: Part) -> Payload:
        """As of `parts.Plan`: of labels the logits; of pairs tokens, loss and how many are right, or the answer."""
        length = int(self.run.details["sequence_length"])
        if not self.pairs:
            samples = [*self.rows, *self.fitted_on]
            return logits_of(models, part.system, [samples[place] for place in part.places], length)
        values: list[Any] = []
        with models.reading(part.system) as (model, processor):
            rows = [(self.asked if part.work == "answers" else self.rows)[place] for place in part.places]
            for first in range(0, len(rows), BATCH):
                batch = rows[first : first + BATCH]
                if part.work == "answers":
                    values += _generated(model, processor, batch, length, self.answer_tokens)
                else:
                    values += _score_pairs(model, processor, batch, length).tolist()
        return {"values": values}

    def measurement(
        self, artifacts: Artifacts, payloads: Mapping[Part, Payload], missing: Mapping[str, str]
    ) -> Measurement:
        """As of `parts.Plan`."""
        lacking = {**self.missing, **missing}
        systems = [each for each in dict.fromkeys(part.system for part in self.parts) if each not in lacking]
        results = {system: self._results(payloads, system) for system in systems}
        tuned = results[TUNED]
        if not self.pairs:
            results[BASE] = prior(artifacts, self.dataset, self.rows, self.asked, tuned)
        elif self.base is None:
            results[BASE] = _uniform(tuned.outcome, self.vocabulary, len(self.asked))
        if PREVIOUS in results and results[PREVIOUS].names != tuned.names:
            del results[PREVIOUS]
            lacking[PREVIOUS] = "its labels are others, so its numbers do not compare"
        outcomes = {system: each.outcome for system, each in results.items()}
        lacking |= self._add_of_labels(artifacts, outcomes, tuned)
        facts = facts_of(self.rows)
        samples = tuple(HeldOutSample(row["id"], row["group"], facts[row["id"]]) for row in self.rows)
        parts = [PartOutcome("tokens" if self.pairs else "labels", samples, outcomes)]
        if self.pairs and self.asked and self.declared.answers != 0:
            trivial = answer_baselines(artifacts, self.dataset, [row["question"] for row in self.asked])
            parts.append(_answers_part(self.asked, facts, results, trivial, self.declared))
        tokens = tuned.outcome.tokens.sum() if isinstance(tuned.outcome, TokenOutcome) else len(self.rows)
        return Measurement(
            parts=tuple(parts),
            examples=to_examples([_question(row) for row in self.asked], results[BASE].answers, _texts(tuned)),
            base=self.base or (UNIFORM if self.pairs else PRIOR),
            tokens=int(tokens),
            blocks=len(self.rows),
            block_tokens=int(self.run.details["sequence_length"]),
            calibration=tuned.calibration,
            missing=lacking,
        )

    def _add_of_labels(self, artifacts: Artifacts, outcomes: dict[str, Outcome], tuned: Results) -> dict[str, str]:
        """Outcomes that only classifications have; returns why some are not there."""
        if self.pairs:
            return {}
        missing: dict[str, str] = {}
        if strange := _never_trained(self.rows, tuned.names):
            missing["labels that training never saw"] = strange
        if tuned.uncalibrated is not None:
            outcomes[UNCALIBRATED] = tuned.uncalibrated
        else:
            count = len(self.fitted_on)
            missing["calibration"] = f"the validation split has {count} labelled samples, {MIN_SAMPLES} are needed"
        if self.run.details["task"] == "text_classification":
            try:
                outcomes[LINEAR] = linear(artifacts, self.dataset, self.rows, tuned)
            except NotMeasurableError as error:
                missing[LINEAR] = str(error)
        return missing

    def _results(self, payloads: Mapping[Part, Payload], system: str) -> Results:
        """What a system did, put together from its parts."""
        import numpy as np

        mine = [(part, payload) for part, payload in payloads.items() if part.system == system]
        values = {
            work: {
                place: value
                for part, payload in mine
                if part.work == work
                for place, value in zip(part.places, payload["values"], strict=True)
            }
            for work in ("scores", "answers")
        }
        scores = np.array([values["scores"][place] for place in range(len(values["scores"]))], dtype=np.float64)
        if self.pairs:
            return Results(TokenOutcome(*scores.T), [values["answers"][place] for place in range(len(self.asked))])
        names, multi_label = mine[0][1]["names"], bool(mine[0][1]["multi_label"])
        return label_results(scores, names, multi_label, self.rows, self.fitted_on, self.asked, self.declared)


def plan_samples(models: LoadedModels, dataset: Manifest, declared: Evaluate) -> SamplesPlan:
    """Choose what is scored. NothingToScoreError where the dataset holds nothing that the task can score."""
    artifacts, run = models.artifacts, models.run
    rows = _test_samples(artifacts, dataset, run, declared)
    pairs = run.details["task"] == "seq2seq_lm"
    asked = list(islice(spread(rows, declared.seed), _answer_count(declared) if pairs else declared.examples))
    fitted_on = [] if pairs else validation_samples(artifacts, dataset, run, declared)
    with models.reading(TUNED) as (model, processor):
        how, vocabulary = computed_by(model, processor), int(getattr(model.config, "vocab_size", 0))
        limit = answer_limit([row["target"] for row in asked], processor, ANSWER_TOKENS) if pairs else 0
    name = run.details.get("base_model")
    base = str(name) if pairs and name and name != run.id else None
    prints, missing = fingerprints(models, base)
    if declared.red_team:
        missing["red team"] = f"attacks are written for models of text, not for the task {run.details['task']}"
    plan = SamplesPlan(run, dataset, declared, base, rows, asked, fitted_on, vocabulary, limit, missing=missing)
    parts = [part for system, each in prints.items() for part in _cut(plan, system, each, how)]
    return replace(plan, parts=tuple(parts))


def _cut(plan: SamplesPlan, system: str, fingerprint: Any, how: Mapping[str, Any]) -> list[Part]:
    """A system's parts; samples of about one length come into one. A picture costs as much as a short text."""
    samples = [*plan.rows, *plan.fitted_on]
    lengths = [len(sample["text"] or "") for sample in samples]
    decided_by = {"model": fingerprint, "how": how, "length": plan.run.details["sequence_length"]}
    most = TOKENS_EACH if plan.pairs else 4 * TOKENS_EACH
    order = sorted(range(len(samples)), key=lengths.__getitem__)
    parts = list(
        cut_into_parts(
            system,
            "scores",
            order,
            lambda place: 64 + lengths[place] / 4,
            most,
            decided_by,
            lambda place: _described(samples[place]),
        )
    )
    if plan.pairs:
        asked, limit = plan.asked, plan.answer_tokens
        parts += cut_into_parts(
            system,
            "answers",
            range(len(asked)),
            lambda place: 4.0 * limit,
            ANSWERS_EACH * 4.0 * limit,
            decided_by | {"limit": limit},
            lambda place: _described(asked[place]),
        )
    return parts


def _never_trained(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Which labels no model can predict, and of how many samples; "" without any."""
    counts = Counter(label for row in rows for label in row["labels"] if label not in names)
    if not counts:
        return ""
    shown = ", ".join(f"{label!r} ({count})" for label, count in counts.most_common(5))
    more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
    remedy = "prepare the data so that the training side has each label"
    return f"{shown}{more}: {counts.total()} of {len(rows)} samples count as wrong; {remedy}"


def _described(sample: Mapping[str, Any]) -> str:
    """All of a sample that decides what a model makes of it."""
    image = hashlib.sha256(sample["image"]).hexdigest() if sample.get("image") else ""
    return digest([sample["text"], sample.get("target"), image])


def _answer_count(declared: Evaluate) -> int:
    count = declared.answers
    if count is None:
        count = min(MAX_ANSWERS, declared.max_tokens // 10 // SHOWN_TOKENS)
    return max(count, declared.examples)


def _texts(results: Results) -> list[str]:
    return [str(text) for text in results.answers]


def _answers_part(
    asked: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Mapping[str, str]],
    results: Mapping[str, Results],
    trivial: Mapping[str, tuple[str, ...]],
    declared: Evaluate,
) -> PartOutcome:
    references = tuple(row["target"] for row in asked)
    texts = {system: tuple(_texts(each)) for system, each in results.items() if None not in each.answers}
    outcomes = {
        system: AnswerOutcome(answers, references, declared.answer_schema)
        for system, answers in (texts | dict(trivial)).items()
    }
    samples = tuple(HeldOutSample(row["id"], row["group"], facts[row["id"]]) for row in asked)
    return PartOutcome("answers", samples, outcomes)


def _test_samples(artifacts: Artifacts, dataset: Manifest, run: Manifest, declared: Evaluate) -> list[dict[str, Any]]:
    """Held-out samples that the task can score, at most `max_tokens` of them, in an order by hash."""
    from soldiom_ray.models.sequence_pairs import source_and_target

    pairs, multi_label = run.details["task"] == "seq2seq_lm", is_multi_label(run)
    samples = []
    for row in artifacts.rows(dataset, "test/"):
        common = {name: row[name] for name in ("id", "group", "language", "source")}
        if pairs:
            if pair := source_and_target(json.loads(row["messages"] or "[]")):
                samples.append({"question": pair[0], "target": pair[1], "text": pair[0]} | common)
        elif (labels := labels_of(row["metadata"])) or multi_label:
            samples.append({"text": row["text"], "image": row.get("image"), "labels": labels} | common)
    if not samples:
        raise NothingToScoreError(
            f"The dataset {dataset.id} holds no test samples that the task {run.details['task']} can score.",
            remedy="prepare it again with `split.test` above 0",
        )
    samples.sort(key=lambda row: hash_order(declared.seed, row["id"]))
    return samples[: declared.max_tokens]


def _score_pairs(model: Any, processor: Any, rows: Sequence[dict[str, Any]], length: int) -> "torch.Tensor":
    """Tokens, their loss and how many are right, [rows, 3]."""
    import torch
    from torch.nn import functional

    from soldiom_ray.models.tokens import encode_documents

    targets = encode_documents(processor, [row["target"] for row in rows])
    labels, _ = _padded(targets, length, IGNORE_INDEX, keep_last=False)
    inputs = _encoded_sources(processor, rows, length) | {"labels": labels}
    with torch.no_grad():
        logits = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()}).logits.float().cpu()
    losses = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE_INDEX, reduction="none")
    loss_mask = labels != IGNORE_INDEX
    right = (logits.argmax(-1) == labels) & loss_mask
    return torch.stack([loss_mask.sum(1), losses.sum(1), right.sum(1)], dim=1).double()


def _encoded_sources(processor: Any, rows: Sequence[dict[str, Any]], length: int) -> "dict[str, torch.Tensor]":
    from soldiom_ray.models.tokens import encode_documents

    ids, mask = _padded(
        encode_documents(processor, [row["question"] for row in rows]), length, int(processor.pad_token_id or 0)
    )
    return {"input_ids": ids, "attention_mask": mask}


def _padded(
    encoded: "Iterable[npt.NDArray[Any]]", length: int, pad: int, *, keep_last: bool = True
) -> "tuple[torch.Tensor, torch.Tensor]":
    """(ids, mask), both [texts, longest] in int64, cut as training cuts them."""
    import torch

    from soldiom_ray.models.tokens import truncate

    rows = [torch.from_numpy(truncate(ids, length, keep_last=keep_last).astype("int64")) for ids in encoded]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def _uniform(tuned: Outcome, vocabulary: int, asked: int) -> Results:
    """The guess that holds every token equally likely."""
    if not isinstance(tuned, TokenOutcome):
        raise TypeError(f"{type(tuned).__name__} has no tokens")
    outcome = TokenOutcome(tuned.tokens, tuned.tokens * math.log(vocabulary), tuned.tokens / vocabulary)
    return Results(outcome, [None] * asked)


def _question(row: Mapping[str, Any]) -> Question:
    """A sample as an example shows it: a picture by its text, or by its id."""
    prompt = row["text"] or f"picture {row['id']}"
    reference = row["target"] if "target" in row else joined(row["labels"])
    return Question(row["group"], row["id"], prompt, prompt, reference)


def _generated(model: Any, processor: Any, rows: Sequence[dict[str, Any]], length: int, limit: int) -> list[str]:
    """What the model writes for each row, greedily."""
    encoded = _encoded_sources(processor, rows, length)
    inputs = {name: tensor.to(model.device) for name, tensor in encoded.items()}
    written = model.generate(**inputs, max_new_tokens=limit, do_sample=False, num_beams=1)
    texts: list[str] = processor.batch_decode(written, skip_special_tokens=True)
    return texts
