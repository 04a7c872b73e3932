"""Scores of models that read a sample as a whole: classification, and sequence to sequence.

A classification is measured against trivial baselines, first of all the labels' frequencies in the training split;
sequence to sequence against its base model, or a guess where there is none.
"""

import json
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.schema import Evaluate
from soldiom_ray.errors import DamagedError, InputError, NotFoundError
from soldiom_ray.evaluate.ask import ANSWER_TOKENS, MAX_ANSWERS, Question, spread, to_examples
from soldiom_ray.evaluate.baselines import LINEAR, answer_baselines
from soldiom_ray.evaluate.score_labels import (
    Measuring,
    Results,
    is_multi_label,
    joined,
    linear,
    measure_labels,
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
    Event,
    HeldOutSample,
    Measurement,
    NothingToScoreError,
    Outcome,
    PartOutcome,
    TokenOutcome,
    hash_order,
)
from soldiom_ray.metrics.statistics import NotMeasurableError
from soldiom_ray.models.adapters import without_adapter
from soldiom_ray.models.labels import IGNORE_INDEX, labels_of
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

BATCH = 32


def score_samples(
    settings: Settings,
    artifacts: Artifacts,
    run: Manifest,
    dataset: Manifest,
    declared: Evaluate,
    previous: Manifest | None = None,
) -> Iterator[Event]:
    """As `score.score_run`: progress, and the `Measurement` last."""
    from soldiom_ray.models.load import load_run

    rows = _test_samples(artifacts, dataset, run, declared)
    pairs = run.details["task"] == "seq2seq_lm"
    asked = list(islice(spread(rows, declared.seed), _answer_count(declared) if pairs else declared.examples))
    fitted_on = [] if pairs else validation_samples(artifacts, dataset, run, declared)

    def measure(model: Any, processor: Any, name: str, start: float, end: float) -> Measuring:
        if pairs:
            return _measure(model, processor, rows, asked, run, name, start, end)
        return measure_labels(model, processor, rows, fitted_on, asked, run, declared, name, start, end)

    missing: dict[str, str] = {}
    if declared.red_team:
        missing["red team"] = f"attacks are written for models of text, not for the task {run.details['task']}"
    base, results = yield from _tuned_and_base(settings, artifacts, run, dataset, rows, asked, measure, previous)
    if previous is not None:
        yield 0.65, f"loading the version before, of {previous.id}"
        try:
            with load_run(artifacts, settings, previous) as (model, processor):
                before = yield from measure(model, processor, "version before", 0.67, 0.94)
                del model
            if before.names == results[TUNED].names:
                results[PREVIOUS] = before
            else:
                missing[PREVIOUS] = "its labels are others, so its numbers do not compare"
        except (NotFoundError, InputError, DamagedError) as error:
            missing[PREVIOUS] = f"it cannot be loaded: {error.what}"
    facts = facts_of(rows)
    samples = tuple(HeldOutSample(row["id"], row["group"], facts[row["id"]]) for row in rows)
    outcomes = {system: each.outcome for system, each in results.items()}
    if (uncalibrated := results[TUNED].uncalibrated) is not None:
        outcomes[UNCALIBRATED] = uncalibrated
    elif not pairs:
        missing["calibration"] = f"the validation split has {len(fitted_on)} labelled samples, {MIN_SAMPLES} are needed"
    if run.details["task"] == "text_classification":
        try:
            outcomes[LINEAR] = linear(artifacts, dataset, rows, results[TUNED])
        except NotMeasurableError as error:
            missing[LINEAR] = str(error)
    parts = [PartOutcome("tokens" if pairs else "labels", samples, outcomes)]
    if pairs and asked and declared.answers != 0:
        trivial = answer_baselines(artifacts, dataset, [row["question"] for row in asked])
        parts.append(_answers_part(asked, facts, results, trivial, declared))
    tuned = outcomes[TUNED]
    tokens = tuned.tokens.sum() if isinstance(tuned, TokenOutcome) else len(rows)
    yield Measurement(
        parts=tuple(parts),
        examples=to_examples([_question(row) for row in asked], results[BASE].answers, _texts(results[TUNED])),
        base=base,
        tokens=int(tokens),
        blocks=len(rows),
        block_tokens=int(run.details["sequence_length"]),
        calibration=results[TUNED].calibration,
        missing=missing,
    )


def _tuned_and_base(
    settings: Settings,
    artifacts: Artifacts,
    run: Manifest,
    dataset: Manifest,
    rows: Sequence[dict[str, Any]],
    asked: Sequence[dict[str, Any]],
    measure: "Callable[[Any, Any, str, float, float], Measuring]",
    previous: Manifest | None,
) -> Generator[tuple[float, str], None, tuple[str, dict[str, Results]]]:
    """Progress; returns the name of the base, or of what stands in for it, and what it and the tuned model did."""
    from soldiom_ray.models.load import load_base, load_run

    pairs = run.details["task"] == "seq2seq_lm"
    results: dict[str, Results] = {}
    end = 0.5 if previous is None else 0.35
    yield 0.02, f"loading the tuned model of {run.id}"
    with load_run(artifacts, settings, run) as (model, processor):
        results[TUNED] = yield from measure(model, processor, "tuned model", 0.05, end)
        vocabulary = int(getattr(model.config, "vocab_size", 0))
        if pairs and run.details["method"] != "full":
            with without_adapter(model) as plain:
                results[BASE] = yield from measure(plain, processor, "base model", end, 0.65)
        del model
    name = run.details.get("base_model")
    if not pairs:
        results[BASE] = prior(artifacts, dataset, rows, asked, results[TUNED])
        name = PRIOR
    elif BASE not in results and name and name != run.id:
        yield end, f"loading the base model {name}"
        with load_base(artifacts, settings, name, auto_class=run.details["auto_class"]) as (model, processor):
            results[BASE] = yield from measure(model, processor, "base model", end + 0.02, 0.65)
            del model
    elif BASE not in results:
        name, results[BASE] = UNIFORM, _uniform(results[TUNED].outcome, vocabulary, len(asked))
    return str(name), results


def _answer_count(declared: Evaluate) -> int:
    count = declared.answers
    if count is None:
        count = min(MAX_ANSWERS, declared.max_tokens // 10 // ANSWER_TOKENS)
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


def _measure(
    model: Any,
    processor: Any,
    rows: Sequence[dict[str, Any]],
    asked: Sequence[dict[str, Any]],
    run: Manifest,
    name: str,
    start: float,
    end: float,
) -> Generator[tuple[float, str], None, Results]:
    """Progress; returns what one model of pairs did. Samples of about one length are read together."""
    import numpy as np
    import torch

    length = int(run.details["sequence_length"])
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["text"] or ""))
    scored: dict[int, npt.NDArray[np.float64]] = {}
    with torch.no_grad():
        for first in range(0, len(order), BATCH):
            indices = order[first : first + BATCH]
            values = _score_pairs(model, processor, [rows[index] for index in indices], length).double().numpy()
            scored |= dict(zip(indices, values, strict=True))
            yield start + (end - start) * len(scored) / len(rows), f"{name}: {len(scored)} of {len(rows)} samples"
        answers: list[str | None] = []
        for first in range(0, len(asked), BATCH):
            answers += _generated(model, processor, asked[first : first + BATCH], length)
            yield end, f"{name}: {len(answers)} of {len(asked)} answers"
    return Results(TokenOutcome(*np.stack([scored[index] for index in range(len(rows))]).T), answers)


def _score_pairs(model: Any, processor: Any, rows: Sequence[dict[str, Any]], length: int) -> "torch.Tensor":
    """Tokens, their loss and how many are right, [rows, 3]."""
    import torch
    from torch.nn import functional

    from soldiom_ray.models.tokens import encode_documents

    targets = encode_documents(processor, [row["target"] for row in rows])
    labels, _ = _padded(targets, length, IGNORE_INDEX, keep_last=False)
    inputs = _encoded_sources(processor, rows, length) | {"labels": labels}
    logits = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()}).logits.float().cpu()
    losses = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE_INDEX, reduction="none")
    loss_mask = labels != IGNORE_INDEX
    right = (logits.argmax(-1) == labels) & loss_mask
    return torch.stack([loss_mask.sum(1), losses.sum(1), right.sum(1)], dim=1)


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


def _generated(model: Any, processor: Any, rows: Sequence[dict[str, Any]], length: int) -> list[str]:
    """What the model writes for each row, greedily."""
    encoded = _encoded_sources(processor, rows, length)
    inputs = {name: tensor.to(model.device) for name, tensor in encoded.items()}
    written = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False, num_beams=1)
    texts: list[str] = processor.batch_decode(written, skip_special_tokens=True)
    return texts
