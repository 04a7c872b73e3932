"""Choosing held-out text to score, and both models' sums on exactly the same blocks of it.

A block is a run of neighbouring tokens of one document. Its first token is only read, every later one is predicted.
"""

import heapq
import json
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.schema import Evaluate
from soldiom_ray.errors import InputError
from soldiom_ray.evaluate.ask import Question, answer, choose_questions, to_examples
from soldiom_ray.evaluate.measurement import UNIFORM, Measurement, hash_order
from soldiom_ray.evaluate.metrics import DocumentSums
from soldiom_ray.evaluate.score_samples import score_samples
from soldiom_ray.models.adapters import without_adapter
from soldiom_ray.models.task_models import TASK_MODELS
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Measured = tuple[NDArray[np.float64], Sequence[str | None]]
    """A model's sums by block, as of `_score_blocks`, and its answers."""

log = logging.getLogger(__name__)

MAX_BLOCK = 1024
"""Tokens: longer contexts are scored in blocks of this length, which keeps CPU time and memory small."""

ASKING_SHARE = 0.1
"""Of a model's progress; how long answers take depends on their length."""


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring tokens of one held-out document; `loss_mask` says of each whether its prediction counts (in a
    conversation only what the assistant says does). Both arrays are [tokens]."""

    group: str
    document: str
    ids: "NDArray[Any]"
    loss_mask: "NDArray[np.bool_]"

    @property
    def predicted(self) -> int:
        """How many predictions count."""
        return int(self.loss_mask[1:].sum())


def score_run(
    settings: Settings, artifacts: Artifacts, run: Manifest, dataset: Manifest, declared: Evaluate
) -> Iterator[tuple[float, str] | Measurement]:
    """Yield (fraction, message) as progress and the `Measurement` last.

    A generator so that the same code runs in this process and as a Ray task whose progress is followed from here.
    InputError where the dataset holds nothing to score or the two models do not compare.
    """
    from soldiom_ray.models.load import context_length, load_base, load_run

    if not TASK_MODELS[run.details.get("task", "causal_lm")].generates:
        yield from score_samples(settings, artifacts, run, dataset, declared)
        return

    rows = held_out_rows(artifacts, dataset)
    yield 0.02, f"loading the tuned model of {run.id}"
    with load_run(artifacts, settings, run) as (model, tokenizer):
        if (run.details.get("template_gaps") or {}).get("choice") == "leave_out":
            rows = expressible_rows(rows, tokenizer)
        length = _block_length(run, context_length(model))
        blocks = choose_blocks(rows, tokenizer, block_tokens=length, max_tokens=declared.max_tokens, seed=declared.seed)
        questions = choose_questions(
            rows, tokenizer, count=declared.examples, context=context_length(model), seed=declared.seed
        )
        vocabulary, model_vocabulary = _vocabulary(tokenizer), int(model.config.vocab_size)
        tuned = yield from _measure(model, tokenizer, blocks, questions, "tuned model", 0.05, 0.5)
        base: Measured | None = None
        if run.details["method"] != "full":
            with without_adapter(model) as plain:
                base = yield from _measure(plain, tokenizer, blocks, questions, "base model", 0.5, 0.94)
        del model
    base_name = run.details.get("base_model")
    if base is None and base_name and base_name != run.id:  # a model from random weights names itself
        yield 0.5, f"loading the base model {base_name}"
        with load_base(artifacts, settings, base_name) as (model, tokenizer):
            _check_tokenizers(vocabulary, _vocabulary(tokenizer), base_name, run.id)
            _check_context(context_length(model), length, base_name, run.id)
            base = yield from _measure(model, tokenizer, blocks, questions, "base model", 0.52, 0.94)
            del model
    elif base is None:
        base_name, base = UNIFORM, (_uniform_sums(blocks, model_vocabulary), [None] * len(questions))
    documents = _by_document(blocks, base[0], tuned[0])
    yield Measurement(
        documents=documents,
        examples=to_examples(questions, base[1], tuned[1]),
        base=str(base_name),
        tokens=sum(document.tokens for document in documents),
        blocks=len(blocks),
        block_tokens=length,
    )


def held_out_rows(artifacts: Artifacts, dataset: Manifest) -> list[dict[str, Any]]:
    """id, group, text and messages of every held-out sample. InputError when there is none."""
    rows = list(artifacts.rows(dataset, "test/", ["id", "group", "text", "messages"]))
    if not rows:
        raise InputError(
            f"The dataset {dataset.id} holds no test samples, so nothing can be evaluated on it.",
            remedy="prepare it again with `split.test` above 0 or with `split.test_groups`",
        )
    return rows


def expressible_rows(rows: Sequence[dict[str, Any]], tokenizer: Any) -> list[dict[str, Any]]:
    """The held-out samples that a training would not leave out for what the chat template cannot express. InputError
    when there is none."""
    from soldiom_ray.models.template_check import is_expressible

    kept = [row for row in rows if not row["messages"] or is_expressible(tokenizer, json.loads(row["messages"]))]
    if not kept:
        raise InputError(
            f"The chat template can express none of the {len(rows)} test samples as they are.",
            remedy="train with `template_gaps: fold`",
        )
    if len(kept) < len(rows):
        log.warning("test samples were left out as in training", extra={"data": {"left_out": len(rows) - len(kept)}})
    return kept


def choose_blocks(
    rows: Sequence[Mapping[str, Any]], tokenizer: Any, *, block_tokens: int, max_tokens: int, seed: int
) -> list[Block]:
    """At most `max_tokens` predicted tokens, the same for the same inputs.

    Each turn goes to the group with the fewest tokens so far, so that groups get equal shares while they last. Within a
    group every document gives one block before any gives a second; order is by hash, so a block may lie anywhere in its
    document. Only documents whose turn comes are tokenised. InputError when no sample has two tokens.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    sources = {name: _blocks_of_group(name, members, tokenizer, block_tokens, seed) for name, members in groups.items()}
    turns = [(0, name) for name in sorted(sources)]
    chosen: list[Block] = []
    left = max_tokens
    while turns and left > 0:
        so_far, name = heapq.heappop(turns)
        block = next(sources[name], None)
        if block is None:
            continue
        cut = Block(block.group, block.document, block.ids[: left + 1], block.loss_mask[: left + 1])
        if cut.predicted:
            chosen.append(cut)
        left -= len(cut.ids) - 1
        heapq.heappush(turns, (so_far + len(cut.ids) - 1, name))
    if not chosen:
        raise InputError(
            f"None of the {len(rows)} test samples is longer than one token.",
            remedy="prepare the dataset with filters that drop empty documents, such as `min_words`",
        )
    return chosen


def _blocks_of_group(
    group: str, rows: Sequence[Mapping[str, Any]], tokenizer: Any, block_tokens: int, seed: int
) -> Iterator[Block]:
    """A group's blocks in the order in which they are taken."""
    from soldiom_ray.models.chat import encode_samples

    ordered = sorted(rows, key=lambda row: hash_order(seed, row["id"]))
    later: list[list[Block]] = []
    for first in range(0, len(ordered), 16):
        batch = ordered[first : first + 16]
        samples = ((row["text"], json.loads(row.get("messages") or "[]")) for row in batch)
        for row, sample in zip(batch, encode_samples(tokenizer, samples), strict=True):
            spans = [slice(start, start + block_tokens) for start in range(0, len(sample.ids), block_tokens)]
            candidates = [Block(group, row["id"], sample.ids[span], sample.loss_mask[span]) for span in spans]
            blocks = [block for block in candidates if block.predicted]
            keys = {id(block): hash_order(seed, f"{row['id']}:{number}") for number, block in enumerate(blocks)}
            blocks.sort(key=lambda block: keys[id(block)])
            if blocks:
                yield blocks[0]
                later.append(blocks[1:])
    for turn in range(max((len(blocks) for blocks in later), default=0)):
        for blocks in later:
            if turn < len(blocks):
                yield blocks[turn]


def _block_length(run: Manifest, context: int) -> int:
    """Tokens per block: the length that the run was trained with, where it is known, within the model's context."""
    return min(MAX_BLOCK, context, int(run.details.get("sequence_length") or MAX_BLOCK))


def _measure(
    model: Any,
    tokenizer: Any,
    blocks: Sequence[Block],
    questions: Sequence[Question],
    name: str,
    start: float,
    end: float,
) -> Generator[tuple[float, str], None, "tuple[NDArray[np.float64], list[str]]"]:
    """Progress; returns one model's sums and its answers."""
    scored_at = end - ASKING_SHARE * (end - start) if questions else end
    sums = yield from _score_blocks(model, blocks, name, start, scored_at)
    if questions:
        yield scored_at, f"asking the {name}"
    return sums, answer(model, tokenizer, questions)


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
    if not np.isfinite(sums).all():
        raise InputError(
            f"The {name} gives a loss that is not a number on {int((~np.isfinite(sums[:, 0])).sum())}"
            f" of {len(blocks)} blocks.",
            remedy="train again with a lower `learning_rate` or `precision: float32`",
        )
    return sums


def _uniform_sums(blocks: Sequence[Block], vocabulary: int) -> "NDArray[np.float64]":
    """Sums [blocks, 2] as of `_score_blocks`, of a model that holds every token of the vocabulary equally likely."""
    import numpy as np

    predicted = np.array([block.predicted for block in blocks], dtype=np.float64)
    return np.stack([predicted * np.log(vocabulary), predicted / vocabulary], axis=1)


def _by_document(
    blocks: Sequence[Block], base: "NDArray[np.float64]", tuned: "NDArray[np.float64]"
) -> list[DocumentSums]:
    """Sums of blocks [blocks, 2] added for each document."""
    totals: dict[str, list[float]] = {}
    groups: dict[str, str] = {}
    for block, base_sums, tuned_sums in zip(blocks, base, tuned, strict=True):
        groups[block.document] = block.group
        row = (block.predicted, base_sums[0], base_sums[1], tuned_sums[0], tuned_sums[1])
        total = totals.setdefault(block.document, [0.0] * 5)
        for column, value in enumerate(row):
            total[column] += float(value)
    return [
        DocumentSums(name, groups[name], int(values[0]), values[1], values[2], values[3], values[4])
        for name, values in sorted(totals.items())
    ]


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
