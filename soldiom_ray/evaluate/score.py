"""Scoring of causal language models: every model on exactly the same blocks of held-out text, on general text, and
asked the same held-out prompts."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.schema import Evaluate
from soldiom_ray.errors import InputError
from soldiom_ray.evaluate.ask import (
    MAX_ANSWERS,
    QUESTIONS,
    Question,
    answer_count,
    answer_limit,
    answer_tokens,
    answers_of,
    choose_questions,
    shown_tokens,
    to_examples,
)
from soldiom_ray.evaluate.baselines import answer_baselines
from soldiom_ray.evaluate.blocks import Block, choose_blocks, expressible_rows, general_blocks, held_out_rows
from soldiom_ray.evaluate.loaded import LoadedModels, SystemMissingError
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
from soldiom_ray.evaluate.programs import with_checks_run
from soldiom_ray.evaluate.red_team import RedTeam, choose_probes, judge_probes
from soldiom_ray.evaluate.slices import facts_of
from soldiom_ray.metrics.measurement import (
    BASE,
    PREVIOUS,
    TUNED,
    UNIFORM,
    AnswerOutcome,
    HeldOutSample,
    Measurement,
    Outcome,
    PartOutcome,
    TokenOutcome,
)
from soldiom_ray.models.load import context_length
from soldiom_ray.models.score import token_losses
from soldiom_ray.records import Manifest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TRY_TEMPERATURE = 0.8
"""At which several programs for one task are drawn: that of Chen et al. 2021 for many tries."""
MAX_BLOCK = 1024
"""Tokens: longer contexts are scored in blocks of this length, which keeps CPU time and memory small."""


@dataclass(frozen=True, slots=True)
class Work:
    """What every model is to do: predict the blocks, then those of general text, then answer the questions and, where
    there is one, the red team."""

    blocks: Sequence[Block]
    general: Sequence[Block]
    questions: Sequence[Question]
    answer_tokens: int
    red_team: RedTeam | None = None
    tries: int = 1

    @property
    def all_blocks(self) -> list[Block]:
        """Held-out blocks, then those of general text."""
        return [*self.blocks, *self.general]

    @property
    def questions_and_probes(self) -> list[tuple[Question, int]]:
        """Held-out questions, then attacks, each with the tokens that an answer may have."""
        asked = [(question, self.answer_tokens) for question in self.questions]
        if self.red_team is not None:
            asked += [(probe.question, self.red_team.tokens) for probe in self.red_team.probes]
        return asked

    @property
    def tasks(self) -> list[int]:
        """The places of the questions that are tried several times: those whose answers are programs."""
        return [place for place, question in enumerate(self.questions) if question.checks and self.tries > 1]


@dataclass(slots=True)
class Results:
    """What one model did: sums [blocks, 2] of both kinds of block, its answers to questions and red team, and its
    tries [tries, questions]."""

    sums: "NDArray[np.float64]"
    general: "NDArray[np.float64] | None" = None
    answers: list[str | None] = field(default_factory=list)
    attacked: list[str | None] = field(default_factory=list)
    tries: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CausalPlan:
    """What all workers need to know. `vocabulary` is the run's, `facts` are those of the samples by their ids;
    `judged` is whether the answers are judged, else they are only shown."""

    run: Manifest
    dataset: Manifest
    declared: Evaluate
    base: str | None
    work: Work
    judged: bool
    length: int
    vocabulary: Mapping[str, int]
    model_vocabulary: int
    facts: Mapping[str, Mapping[str, str]]
    parts: tuple[Part, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    def check(self, system: str, model: Any, processor: Any) -> None:
        """As of `parts.Plan`: base and previous version need the run's tokenizer, and its context."""
        if system == BASE:
            _check_tokenizers(self.vocabulary, _vocabulary(processor), str(self.base), self.run.id)
            _check_context(context_length(model), self.length, str(self.base), self.run.id)
        elif system == PREVIOUS and (_vocabulary(processor) != self.vocabulary or context_length(model) < self.length):
            raise SystemMissingError("its tokenizer or its context is another, so its numbers do not compare")

    def compute(self, models: LoadedModels, part: Part) -> Payload:
        """As of `parts.Plan`: summed loss in nats and correct predictions of each block, or the text of each answer."""
        from soldiom_ray.models.generate import Generator

        if part.work == "tries":
            generator = models.taken_over(part.system, Generator.taking_over)
            number, tasks = part.places[0] // len(self.work.tasks), [self.work.questions[n] for n in self.work.tasks]
            limit, seed = self.work.answer_tokens, self.declared.seed + number
            return {"values": answers_of(generator, tasks, limit, temperature=TRY_TEMPERATURE, seed=seed)}
        if part.work == "answers":
            generator = models.taken_over(part.system, Generator.taking_over)
            asked = [self.work.questions_and_probes[place] for place in part.places]
            limits = {limit for _, limit in asked}
            return {"values": answers_of(generator, [question for question, _ in asked], max(limits))}
        blocks = [self.work.all_blocks[place] for place in part.places]
        with models.reading(part.system) as (model, _):
            scored = token_losses(model, [block.ids for block in blocks], [block.loss_mask for block in blocks])
        return {"values": [[float(each.losses.sum(dtype="float64")), int(each.correct.sum())] for each in scored]}

    def measurement(
        self, artifacts: Artifacts, payloads: Mapping[Part, Payload], missing: Mapping[str, str]
    ) -> Measurement:
        """As of `parts.Plan`."""
        work, declared = self.work, self.declared
        results = {
            system: _results(work, payloads, system)
            for system in dict.fromkeys(part.system for part in self.parts)
            if system not in missing
        }
        if self.base is None:
            sums = _uniform_sums(work.blocks, self.model_vocabulary)
            results[BASE] = Results(sums, None, [None] * len(work.questions))
        prompts = [question.prompt for question in work.questions] if self.judged else []
        trivial = answer_baselines(artifacts, self.dataset, prompts) if self.judged else {}
        attacked = {system: each.attacked for system, each in results.items() if each.attacked}
        return Measurement(
            parts=_parts(self.facts, work, results, trivial, declared),
            examples=to_examples(work.questions, results[BASE].answers, [str(text) for text in results[TUNED].answers]),
            base=UNIFORM if self.base is None else self.base,
            tokens=sum(block.predicted for block in work.blocks),
            blocks=len(work.blocks),
            block_tokens=self.length,
            missing={**self.missing, **missing},
            red_team=judge_probes(work.red_team, attacked) if work.red_team else None,
        )


def plan_causal(models: LoadedModels, dataset: Manifest, declared: Evaluate) -> CausalPlan:
    """Choose what is scored. NothingToScoreError where the dataset holds nothing."""
    artifacts, run = models.artifacts, models.run
    rows = held_out_rows(artifacts, dataset)
    name = run.details.get("base_model")
    base = str(name) if name and name != run.id else None  # a model from random weights names itself
    with models.reading(TUNED) as (model, tokenizer):
        if (run.details.get("template_gaps") or {}).get("choice") == "leave_out":
            rows = expressible_rows(rows, tokenizer)
        length = _block_length(run, context_length(model))
        work, judged, unasked = _choose_work(rows, model, tokenizer, length, declared, with_general=base is not None)
        if declared.red_team:
            attacks = choose_probes(artifacts, run, rows, tokenizer, context=context_length(model), seed=declared.seed)
            work = replace(work, red_team=attacks)
        vocabulary, size = _vocabulary(tokenizer), int(model.config.vocab_size)
        how = computed_by(model, tokenizer)
    chosen = {block.document for block in work.blocks} | {question.document for question in work.questions}
    facts = {sample: values for sample, values in facts_of(rows).items() if sample in chosen}
    plan = CausalPlan(run, dataset, declared, base, work, judged, length, vocabulary, size, facts)
    prints, missing = fingerprints(models, base)
    return replace(
        plan,
        parts=_cut(work, prints, how, has_adapter=models.has_adapter, seed=declared.seed),
        missing=missing | unasked,
    )


def _cut(
    work: Work, fingerprints: Mapping[str, Any], how: Mapping[str, Any], *, has_adapter: bool, seed: int
) -> tuple[Part, ...]:
    """The parts in the order in which the fewest models are loaded: to answer is the end of a loaded model, so an
    adapter's base, which is the tuned model without it, is asked before the tuned model is loaded again."""
    scores = {system: tuple(_score_parts(work, system, each, how)) for system, each in fingerprints.items()}
    answers = {
        system: (*_answer_parts(work, system, each, how), *_try_parts(work, system, each, how, seed))
        for system, each in fingerprints.items()
    }
    together = [TUNED, BASE] if has_adapter and BASE in fingerprints else []
    apart = [system for system in fingerprints if system not in together]
    parts = [part for system in together for part in scores[system]]
    parts += [part for system in reversed(together) for part in answers[system]]
    return (*parts, *(part for system in apart for part in (*scores[system], *answers[system])))


def _score_parts(work: Work, system: str, fingerprint: Any, how: Mapping[str, Any]) -> Iterator[Part]:
    """Blocks of about one length come into one part, so that its batches need little filling up."""
    blocks = work.all_blocks
    return cut_into_parts(
        system,
        "scores",
        sorted(range(len(blocks)), key=lambda place: -len(blocks[place].ids)),
        lambda place: len(blocks[place].ids),
        TOKENS_EACH,
        {"model": fingerprint, "how": how},
        lambda place: digest([blocks[place].ids.tolist(), blocks[place].loss_mask.tolist()]),
    )


def _answer_parts(work: Work, system: str, fingerprint: Any, how: Mapping[str, Any]) -> Iterator[Part]:
    """Of each list of questions the shortest first; an answer counts as several times as many tokens that are read."""
    asked = work.questions_and_probes
    for limit in dict.fromkeys(limit for _, limit in asked):
        ordered = [place for place, each in enumerate(asked) if each[1] == limit]
        ordered.sort(key=lambda place: len(asked[place][0].text))
        effort = 4.0 * limit
        yield from cut_into_parts(
            system,
            "answers",
            ordered,
            lambda place, effort=effort: effort,  # type: ignore[misc]
            ANSWERS_EACH * effort,
            {"model": fingerprint, "how": how, "limit": limit},
            lambda place: asked[place][0].text,
        )


def _try_parts(work: Work, system: str, fingerprint: Any, how: Mapping[str, Any], seed: int) -> Iterator[Part]:
    """One part for each try, whose seed is its own."""
    tasks, limit = work.tasks, work.answer_tokens
    for number in range(work.tries if tasks else 0):
        drawn = {"limit": limit, "temperature": TRY_TEMPERATURE, "seed": seed + number}
        yield from cut_into_parts(
            system,
            "tries",
            range(number * len(tasks), (number + 1) * len(tasks)),
            lambda place: 4.0 * limit,
            math.inf,
            {"model": fingerprint, "how": how, **drawn},
            lambda place: work.questions[tasks[place % len(tasks)]].text,
        )


def _results(work: Work, payloads: Mapping[Part, Payload], system: str) -> Results:
    """What a system did, put together from its parts."""
    import numpy as np

    sums = np.zeros((len(work.all_blocks), 2))
    texts: list[str | None] = [None] * len(work.questions_and_probes)
    tasks = work.tasks
    tries = [[""] * len(work.questions) for _ in range(work.tries if tasks else 0)]
    for part, payload in payloads.items():
        if part.system != system:
            continue
        for place, value in zip(part.places, payload["values"], strict=True):
            if part.work == "scores":
                sums[place] = value
            elif part.work == "answers":
                texts[place] = value
            else:
                tries[place // len(tasks)][tasks[place % len(tasks)]] = value
    count, questions = len(work.blocks), len(work.questions)
    return Results(sums[:count], sums[count:] if work.general else None, texts[:questions], texts[questions:], tries)


def _choose_work(
    rows: Sequence[Mapping[str, Any]],
    model: Any,
    tokenizer: Any,
    length: int,
    declared: Evaluate,
    *,
    with_general: bool,
) -> tuple[Work, bool, dict[str, str]]:
    """(what the models are to do, whether their answers are judged, which questions cannot be asked and why). Of
    documents that are no conversations nobody knows how they must go on: what is generated from their beginnings is
    only shown."""
    context = context_length(model)
    blocks = choose_blocks(rows, tokenizer, block_tokens=length, max_tokens=declared.max_tokens, seed=declared.seed)
    most = MAX_ANSWERS if declared.answers is None else max(declared.answers, declared.examples)
    questions, too_long = choose_questions(rows, tokenizer, count=most, context=context, seed=declared.seed)
    has_answers = bool(questions) and questions[0].has_answer
    longest = answer_tokens(context) if has_answers else shown_tokens(context)
    limit = answer_limit([question.reference for question in questions], tokenizer, longest)
    judged = has_answers and declared.answers != 0
    count = max(declared.examples, answer_count(declared, questions, tokenizer, limit)) if judged else declared.examples
    general = general_blocks(tokenizer, length) if with_general else []
    work = Work(blocks, general, questions[:count], limit, tries=declared.tries if judged else 1)
    missing = {}
    if too_long:
        missing[QUESTIONS] = (
            f"{too_long} of {too_long + len(questions)} leave no room for an answer of {answer_tokens(context)} tokens"
            f" in the model's context of {context}, and are not asked"
        )
    return work, judged and count > 0, missing


def _block_length(run: Manifest, context: int) -> int:
    """Tokens per block: the length that the run was trained with, where it is known, within the model's context."""
    return min(MAX_BLOCK, context, int(run.details.get("sequence_length") or MAX_BLOCK))


def _uniform_sums(blocks: Sequence[Block], vocabulary: int) -> "NDArray[np.float64]":
    """Sums [blocks, 2] as of a model's own, of a model that holds every token of the vocabulary equally likely."""
    import numpy as np

    predicted = np.array([block.predicted for block in blocks], dtype=np.float64)
    return np.stack([predicted * np.log(vocabulary), predicted / vocabulary], axis=1)


def _parts(
    facts: Mapping[str, Mapping[str, str]],
    work: Work,
    results: Mapping[str, Results],
    trivial: Mapping[str, tuple[str, ...]],
    declared: Evaluate,
) -> tuple[PartOutcome, ...]:
    """The outcomes on held-out tokens, in answers (where there are trivial ones to compare with), and on general
    text."""
    samples, outcomes = _by_document(work.blocks, {name: each.sums for name, each in results.items()}, facts)
    parts = [PartOutcome("tokens", samples, outcomes)]
    if trivial:
        references = tuple(question.reference for question in work.questions)
        texts = {name: tuple(map(str, each.answers)) for name, each in results.items() if None not in each.answers}
        answered = {
            name: AnswerOutcome(answers, references, declared.answer_schema)
            for name, answers in (texts | dict(trivial)).items()
        }
        tries = {name: each.tries for name, each in results.items() if each.tries}
        answered = with_checks_run(answered, [question.checks for question in work.questions], tries)
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
