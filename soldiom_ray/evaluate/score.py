"""Scoring of causal language models: every model on exactly the same blocks of held-out text, on general text, and
asked the same held-out prompts."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.schema import Evaluate
from soldiom_ray.errors import DamagedError, InputError, NotFoundError
from soldiom_ray.evaluate.ask import (
    MAX_ANSWERS,
    Question,
    answer,
    answer_count,
    answer_limit,
    choose_questions,
    to_examples,
)
from soldiom_ray.evaluate.baselines import answer_baselines
from soldiom_ray.evaluate.blocks import Block, choose_blocks, expressible_rows, general_blocks, held_out_rows
from soldiom_ray.evaluate.programs import with_checks_run
from soldiom_ray.evaluate.red_team import RedTeam, choose_probes, judge_probes
from soldiom_ray.evaluate.score_samples import score_samples
from soldiom_ray.evaluate.slices import facts_of
from soldiom_ray.metrics.measurement import (
    BASE,
    PREVIOUS,
    TUNED,
    UNIFORM,
    AnswerOutcome,
    Event,
    HeldOutSample,
    Measurement,
    NothingToScoreError,
    NotMeasured,
    Outcome,
    PartOutcome,
    TokenOutcome,
)
from soldiom_ray.models.adapters import below_adapter, without_adapter
from soldiom_ray.models.task_models import TASK_MODELS
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_BLOCK = 1024
"""Tokens: longer contexts are scored in blocks of this length, which keeps CPU time and memory small."""

ASKING_SHARE = 0.3
"""Of a model's progress; how long answers take depends on their length."""


@dataclass(frozen=True, slots=True)
class Work:
    """What every model is to do: predict the blocks, then those of general text, then answer the questions and, where
    there is one, the red team."""

    blocks: Sequence[Block]
    general: Sequence[Block]
    questions: Sequence[Question]
    answer_tokens: int
    red_team: RedTeam | None = None

    @property
    def asked(self) -> list[tuple[Sequence[Question], int]]:
        """Lists of questions, each with the tokens that an answer may have."""
        lists: list[tuple[Sequence[Question], int]] = [(self.questions, self.answer_tokens)]
        if self.red_team is not None:
            lists.append(([probe.question for probe in self.red_team.probes], self.red_team.tokens))
        return [each for each in lists if each[0]]


@dataclass(slots=True)
class Results:
    """What one model did: sums [blocks, 2] of both kinds of block, and its answers to questions and red team."""

    sums: "NDArray[np.float64]"
    general: "NDArray[np.float64] | None" = None
    answers: list[str | None] = field(default_factory=list)
    attacked: list[str | None] = field(default_factory=list)


def score_run(
    settings: Settings,
    artifacts: Artifacts,
    run: Manifest,
    dataset: Manifest,
    declared: Evaluate,
    previous: Manifest | None = None,
) -> Iterator[Event]:
    """Yield (fraction, message) as progress and the `Measurement` last; `NotMeasured` where the dataset holds nothing
    to score. `previous` is the run of the version that is to be beaten.

    A generator so that the same code runs in this process and as a Ray task whose progress is followed from here.
    InputError where the two models do not compare.
    """
    score = _score_causal if TASK_MODELS[run.details.get("task", "causal_lm")].generates else score_samples
    try:
        yield from score(settings, artifacts, run, dataset, declared, previous)
    except NothingToScoreError as error:
        yield NotMeasured(f"{error.what} {error.remedy}")


def _score_causal(
    settings: Settings,
    artifacts: Artifacts,
    run: Manifest,
    dataset: Manifest,
    declared: Evaluate,
    previous: Manifest | None,
) -> Iterator[Event]:
    from soldiom_ray.models.load import context_length, load_base, load_run

    rows = held_out_rows(artifacts, dataset)
    ends = [0.5, 0.94] if previous is None else [0.35, 0.65, 0.94]
    results: dict[str, Results] = {}
    missing: dict[str, str] = {}
    base_name = run.details.get("base_model")
    has_base = bool(base_name and base_name != run.id)  # a model from random weights names itself
    has_adapter = run.details["method"] != "full"
    yield 0.02, f"loading the tuned model of {run.id}"
    with load_run(artifacts, settings, run) as (model, tokenizer):
        if (run.details.get("template_gaps") or {}).get("choice") == "leave_out":
            rows = expressible_rows(rows, tokenizer)
        length = _block_length(run, context_length(model))
        work, judged = _choose_work(rows, model, tokenizer, length, declared, with_general=has_base)
        if declared.red_team:
            attacks = choose_probes(artifacts, run, rows, tokenizer, context=context_length(model), seed=declared.seed)
            work = replace(work, red_team=attacks)
        vocabulary, model_vocabulary = _vocabulary(tokenizer), int(model.config.vocab_size)
        if has_adapter:
            asked_at = ends[1] - ASKING_SHARE / 2 * ends[1]
            results[TUNED], results[BASE] = yield from _measure_both(model, tokenizer, work, 0.05, asked_at)
        else:
            results[TUNED] = yield from _measure(model, tokenizer, work, "tuned model", 0.05, ends[0])
        del model
    if has_adapter and work.asked:  # merged, as it is deployed, which is faster and the end of an adapter
        with load_run(artifacts, settings, run) as (model, tokenizer):
            yield from _ask(model, tokenizer, work, results[TUNED], "tuned model", asked_at, ends[1])
            del model
    if BASE not in results and has_base:
        yield ends[0], f"loading the base model {base_name}"
        with load_base(artifacts, settings, str(base_name)) as (model, tokenizer):
            _check_tokenizers(vocabulary, _vocabulary(tokenizer), str(base_name), run.id)
            _check_context(context_length(model), length, str(base_name), run.id)
            results[BASE] = yield from _measure(model, tokenizer, work, "base model", ends[0] + 0.02, ends[1])
            del model
    elif BASE not in results:
        results[BASE] = Results(_uniform_sums(work.blocks, model_vocabulary), None, [None] * len(work.questions))
        base_name = UNIFORM
    if previous is not None:
        yield ends[1], f"loading the version before, of {previous.id}"
        try:
            with load_run(artifacts, settings, previous) as (model, tokenizer):
                if _vocabulary(tokenizer) != vocabulary or context_length(model) < length:
                    missing[PREVIOUS] = "its tokenizer or its context is another, so its numbers do not compare"
                else:
                    name = "version before"
                    results[PREVIOUS] = yield from _measure(model, tokenizer, work, name, ends[1] + 0.02, ends[2])
                del model
        except (NotFoundError, InputError, DamagedError) as error:
            missing[PREVIOUS] = f"it cannot be loaded: {error.what}"
    prompts = [question.prompt for question in work.questions] if judged else []
    trivial = answer_baselines(artifacts, dataset, prompts) if judged else {}
    parts = _parts(rows, work, results, trivial, declared)
    attacked = {system: each.attacked for system, each in results.items() if each.attacked}
    yield Measurement(
        parts=parts,
        examples=to_examples(work.questions, results[BASE].answers, [str(text) for text in results[TUNED].answers]),
        base=str(base_name),
        tokens=sum(block.predicted for block in work.blocks),
        blocks=len(work.blocks),
        block_tokens=length,
        missing=missing,
        red_team=judge_probes(work.red_team, attacked) if work.red_team else None,
    )


def _choose_work(
    rows: Sequence[Mapping[str, Any]],
    model: Any,
    tokenizer: Any,
    length: int,
    declared: Evaluate,
    *,
    with_general: bool,
) -> tuple[Work, bool]:
    """(what the models are to do, whether their answers are judged). Of documents that are no conversations nobody
    knows how they must go on: what is generated from their beginnings is only shown."""
    from soldiom_ray.models.load import context_length

    context = context_length(model)
    blocks = choose_blocks(rows, tokenizer, block_tokens=length, max_tokens=declared.max_tokens, seed=declared.seed)
    most = MAX_ANSWERS if declared.answers is None else max(declared.answers, declared.examples)
    questions = choose_questions(rows, tokenizer, count=most, context=context, seed=declared.seed)
    limit = answer_limit(questions, tokenizer, context)
    judged = bool(questions) and questions[0].has_answer and declared.answers != 0
    count = max(declared.examples, answer_count(declared, questions, tokenizer, limit)) if judged else declared.examples
    general = general_blocks(tokenizer, length) if with_general else []
    return Work(blocks, general, questions[:count], limit), judged and count > 0


def _block_length(run: Manifest, context: int) -> int:
    """Tokens per block: the length that the run was trained with, where it is known, within the model's context."""
    return min(MAX_BLOCK, context, int(run.details.get("sequence_length") or MAX_BLOCK))


def _measure(
    model: Any, tokenizer: Any, work: Work, name: str, start: float, end: float
) -> Generator[tuple[float, str], None, Results]:
    """Progress; returns what one model did. The model is of no use afterwards."""
    asked_at = end - ASKING_SHARE * (end - start) if work.asked else end
    results = yield from _score(model, work, name, start, asked_at)
    if work.asked:
        yield from _ask(model, tokenizer, work, results, name, asked_at, end)
    return results


def _measure_both(
    model: Any, tokenizer: Any, work: Work, start: float, end: float
) -> Generator[tuple[float, str], None, tuple[Results, Results]]:
    """Progress; returns what a model with its adapter did, which is not yet asked, and what it did without, which is.
    The model is of no use afterwards."""
    middle = start + (1 - ASKING_SHARE / 2) / 2 * (end - start)
    tuned = yield from _score(model, work, "tuned model", start, middle)
    asked_at = 2 * middle - start if work.asked else end
    with without_adapter(model) as plain:
        base = yield from _score(plain, work, "base model", middle, asked_at)
    if work.asked:
        yield from _ask(below_adapter(model), tokenizer, work, base, "base model", asked_at, end)
    return tuned, base


def _score(model: Any, work: Work, name: str, start: float, end: float) -> Generator[tuple[float, str], None, Results]:
    """Progress; returns a model's predictions, without answers."""
    sums = yield from _score_blocks(model, [*work.blocks, *work.general], name, start, end)
    return Results(sums[: len(work.blocks)], sums[len(work.blocks) :] if work.general else None)


def _ask(
    model: Any, tokenizer: Any, work: Work, results: Results, name: str, start: float, end: float
) -> Generator[tuple[float, str], None, None]:
    """Progress; the answers become part of the results, in the order of the questions. The model is of no use
    afterwards."""
    answers: dict[int, str] = {}
    total = sum(len(questions) for questions, _ in work.asked)
    yield start, f"asking the {name}"
    for some in answer(model, tokenizer, work.asked):
        answers |= some
        yield start + len(answers) / total * (end - start), f"asking the {name}: {len(answers)} of {total}"
    texts: list[str | None] = [answers[number] for number in range(total)]
    results.answers, results.attacked = texts[: len(work.questions)], texts[len(work.questions) :]


def _score_blocks(
    model: Any, blocks: Sequence[Block], name: str, start: float, end: float
) -> Generator[tuple[float, str], None, "NDArray[np.float64]"]:
    """Progress; returns sums [blocks, 2] in float64, loss in nats and correct predictions, in the order of `blocks`."""
    import numpy as np

    from soldiom_ray.models.score import score_batches

    sums = np.zeros((len(blocks), 2))
    tokens, read = sum(len(block.ids) for block in blocks), 0
    yield start, f"scoring the {name}"
    for batch in score_batches(model, [block.ids for block in blocks], [block.loss_mask for block in blocks]):
        for index, scored in batch.items():
            sums[index] = scored.losses.sum(dtype=np.float64), scored.correct.sum()
            read += len(blocks[index].ids)
        yield start + (end - start) * read / tokens, f"scoring the {name}: {read} of {tokens} tokens"
    return sums


def _uniform_sums(blocks: Sequence[Block], vocabulary: int) -> "NDArray[np.float64]":
    """Sums [blocks, 2] as of `_score_blocks`, of a model that holds every token of the vocabulary equally likely."""
    import numpy as np

    predicted = np.array([block.predicted for block in blocks], dtype=np.float64)
    return np.stack([predicted * np.log(vocabulary), predicted / vocabulary], axis=1)


def _parts(
    rows: Sequence[Mapping[str, Any]],
    work: Work,
    results: Mapping[str, Results],
    trivial: Mapping[str, tuple[str, ...]],
    declared: Evaluate,
) -> tuple[PartOutcome, ...]:
    """The outcomes on held-out tokens, in answers (where there are trivial ones to compare with), and on general
    text."""
    facts = facts_of(rows)
    samples, outcomes = _by_document(work.blocks, {name: each.sums for name, each in results.items()}, facts)
    parts = [PartOutcome("tokens", samples, outcomes)]
    if trivial:
        references = tuple(question.reference for question in work.questions)
        texts = {name: tuple(map(str, each.answers)) for name, each in results.items() if None not in each.answers}
        answered = {
            name: AnswerOutcome(answers, references, declared.answer_schema)
            for name, answers in (texts | dict(trivial)).items()
        }
        answered = with_checks_run(answered, [question.checks for question in work.questions])
        asked = tuple(HeldOutSample(each.document, each.group, facts[each.document]) for each in work.questions)
        parts.append(PartOutcome("answers", asked, answered))
    if work.general:
        sums = {name: each.general for name, each in results.items() if each.general is not None}
        parts.append(PartOutcome("general", *_by_document(work.general, sums, {})))
    return tuple(parts)


def _by_document(
    blocks: Sequence[Block], sums: "Mapping[str, NDArray[np.float64]]", facts: Mapping[str, Mapping[str, str]]
) -> tuple[tuple[HeldOutSample, ...], dict[str, Outcome]]:
    """Sums of blocks [blocks, 2] of each model added for each document, in the order of the documents' names."""
    import numpy as np

    groups = {block.document: block.group for block in blocks}
    places = {name: place for place, name in enumerate(sorted(groups))}
    members = np.array([places[block.document] for block in blocks])
    predicted = np.array([block.predicted for block in blocks], dtype=np.float64)
    tokens = np.bincount(members, weights=predicted).astype(np.float64)
    outcomes: dict[str, Outcome] = {}
    for name, each in sums.items():
        losses, correct = (np.bincount(members, weights=column).astype(np.float64) for column in each.T)
        outcomes[name] = TokenOutcome(tokens, losses, correct)
    samples = tuple(HeldOutSample(name, groups[name], facts.get(name, {})) for name in places)
    return samples, outcomes


def _vocabulary(tokenizer: Any) -> dict[str, int]:
    return dict(tokenizer.get_vocab())


def _check_tokenizers(tuned: Mapping[str, int], base: Mapping[str, int], base_name: str, run: str) -> None:
    if tuned != base:
        different = sum(1 for token, number in tuned.items() if base.get(token) != number)
        raise InputError(
            f"The run {run} and its base model {base_name} do not share a tokenizer"
            f" ({len(tuned)} and {len(base)} tokens, {different} of the run's differ); their losses do not compare.",
            remedy="evaluate the run against the base model it was trained from, with that model's tokenizer",
        )


def _check_context(context: int, length: int, base_name: str, run: str) -> None:
    if context < length:
        raise InputError(
            f"The base model {base_name} takes {context} tokens, the run {run} was scored with {length}.",
            remedy="train with a `sequence_length` that the base model takes",
        )
