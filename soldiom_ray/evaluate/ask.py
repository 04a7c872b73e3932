"""Held-out samples, asked the way the model was trained: every model answers the same prompts, greedily."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeVar

from soldiom_ray.domains.messages import ASSISTANT, Message
from soldiom_ray.domains.schema import Evaluate
from soldiom_ray.examples import Example
from soldiom_ray.metrics.measurement import hash_order
from soldiom_ray.models.chat import chat_text, encode_prompt
from soldiom_ray.models.infill import InfillText, infill_prompt, infill_tokens, sample_text

if TYPE_CHECKING:
    from soldiom_ray.models.generate import Generator

Row = TypeVar("Row", bound=Mapping[str, Any])
ANSWER_TOKENS = 1024
"""Of an answer at most, where the author's are so long."""
SHOWN_TOKENS = 96
"""Of what is only shown: how a document goes on, and what a model says to an attack."""
SHORTEST_LIMIT = 16
MAX_ANSWERS = 200
"""Questions at most where none are asked for by number."""
QUESTIONS = "questions"
"""Names, among what is missing, those that cannot be asked."""
CONTINUED_TOKENS = 64
"""Tokens of a document's beginning that models of plain text continue, at most."""
BEGINNING_CHARACTERS = 4000
"""More of a long document need not be tokenised for an example."""


@dataclass(frozen=True, slots=True)
class Question:
    """A sample that is asked: `prompt` is what people see of it, `text` what the models read, `reference` what its
    author wrote, which is an answer where `has_answer`, else how the text went on; `checks`, if any, are what a program
    that answers has to pass."""

    group: str
    document: str
    prompt: str
    text: str
    reference: str
    has_answer: bool = True
    checks: str = ""


def choose_questions(
    rows: Sequence[Mapping[str, Any]], tokenizer: Any, *, count: int, context: int, seed: int
) -> tuple[list[Question], int]:
    """(at most `count` questions that fit into a model's context, the same for the same inputs, of as many groups as
    possible; how many conversations were too long on the way there).

    Conversations end before the assistant's last turn; where no sample is one, documents end after their beginning, or
    lack the middle that is to be filled in."""
    questions: list[Question] = []
    too_long = 0
    answered = [row for row in rows if _is_answered(_messages(row))]
    for row in spread(answered or rows, seed) if count else ():
        if answered:
            question = _conversation(row, tokenizer, context)
            too_long += question is None
        else:
            question = _without_middle(row, tokenizer, context) or _beginning(row, tokenizer, context)
        if question:
            questions.append(question)
        if len(questions) == count:
            break
    return questions, too_long


def answers_of(
    generator: "Generator",
    questions: Sequence[Question],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    seed: int | None = None,
) -> list[str]:
    """A model's answers, greedy unless a temperature is given, as it gives them when it is deployed. Nothing else
    generates text for an evaluation of causal language models."""
    texts = [question.text for question in questions]
    generated = generator.generate(texts, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    return [each.text for each in generated]


def answer_limit(references: Sequence[str], tokenizer: Any, most: int) -> int:
    """Tokens of an answer at most: half as many again as nine of ten authors needed, but no more than `most`."""
    from soldiom_ray.models.tokens import encode_texts

    lengths = sorted(len(ids) for ids in encode_texts(tokenizer, references))
    usual = lengths[(9 * len(lengths) - 1) // 10] if lengths else 0
    return min(most, max(SHORTEST_LIMIT, usual * 3 // 2))


def answer_count(declared: Evaluate, questions: Sequence[Question], tokenizer: Any, limit: int) -> int:
    """How many questions are answered to be judged, with answers of at most `limit` tokens. Reading a prompt costs
    as much as scoring it: prompts and answers together are a fifth of what is scored."""
    if declared.answers is not None:
        return declared.answers
    if not questions:
        return 0
    some = questions[:50]
    prompt_tokens = sum(len(encode_prompt(tokenizer, question.text)) for question in some) / len(some)
    return min(MAX_ANSWERS, max(declared.examples, int(declared.max_tokens / 5 / (prompt_tokens + limit))))


def to_examples(questions: Sequence[Question], base: Sequence[str | None], tuned: Sequence[str]) -> list[Example]:
    """Questions with both models' answers; None where there is no base model that answers."""
    return [
        Example(
            group=question.group,
            document=question.document,
            prompt=question.prompt,
            reference=question.reference,
            base=before,
            tuned=after,
        )
        for question, before, after in zip(questions, base, tuned, strict=True)
    ]


def answer_tokens(context: int) -> int:
    """Tokens of an answer at most, for a model's context."""
    return max(1, min(ANSWER_TOKENS, context // 3))


def shown_tokens(context: int) -> int:
    """Tokens at most of what is only shown, for a model's context."""
    return max(1, min(SHOWN_TOKENS, context // 3))


def spread(rows: Sequence[Row], seed: int) -> Iterator[Row]:
    """Rows by hash, one of every group in turn."""
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: hash_order(seed, row["id"])):
        groups.setdefault(row["group"], []).append(row)
    for turn in zip_longest(*groups.values()):
        yield from (row for row in turn if row is not None)


def _messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = json.loads(row.get("messages") or "[]")
    return messages


def _is_answered(messages: Sequence[Message]) -> bool:
    return len(messages) > 1 and messages[-1]["role"] == ASSISTANT and bool(messages[-1]["content"].strip())


def _conversation(row: Mapping[str, Any], tokenizer: Any, context: int) -> Question | None:
    """A conversation up to its last answer, by the chat template; None when it is too long."""
    *before, last = _messages(row)
    text = chat_text(tokenizer, before, add_generation_prompt=True)
    if len(encode_prompt(tokenizer, text)) > context - answer_tokens(context):
        return None
    turns = [message for message in before if message["role"] != "system"]
    lines = [f"{message['role']}: {message['content']}" for message in turns]
    prompt = turns[0]["content"] if len(turns) == 1 else "\n".join(lines)
    checks = json.loads(row.get("metadata") or "{}").get("checks") or ""
    return Question(row["group"], row["id"], prompt, text, last["content"], checks=checks)


def _without_middle(row: Mapping[str, Any], tokenizer: Any, context: int) -> Question | None:
    """A text without its middle; None where it has none, the tokenizer has no tokens for it, or it is too long."""
    text, tokens = sample_text(row), infill_tokens(tokenizer)
    if not isinstance(text, InfillText) or tokens is None:
        return None
    prompt = infill_prompt(text, tokens)
    if len(encode_prompt(tokenizer, prompt)) > context - answer_tokens(context):
        return None
    prefix, middle, suffix = text.parts
    return Question(row["group"], row["id"], f"{prefix}[...]{suffix}", prompt, middle)


def _beginning(row: Mapping[str, Any], tokenizer: Any, context: int) -> Question | None:
    """A document's first words, and as much of what follows them as an answer may be long; None when the document is
    too short."""
    begun = text_beginning(row["text"], tokenizer, context, context)
    if begun is None:
        return None
    prompt, rest = begun
    return Question(row["group"], row["id"], prompt, prompt, rest, has_answer=False)


def text_beginning(text: str, tokenizer: Any, context: int, room: int) -> tuple[str, str] | None:
    """(the first words of a text, of at most `room` tokens; how it goes on, as long as an answer may be); None when the
    text is too short."""
    ids = encode_prompt(tokenizer, text[:BEGINNING_CHARACTERS])
    length = min(CONTINUED_TOKENS, context // 2, room, len(ids) // 2)
    beginning = tokenizer.decode(ids[: max(0, length)], skip_special_tokens=True)
    words = beginning.rstrip().rsplit(maxsplit=1)
    prompt = words[0] if len(words) > 1 else beginning
    if len(prompt.strip()) < 2:
        return None
    return prompt, tokenizer.decode(ids[: length + shown_tokens(context)], skip_special_tokens=True)[len(prompt) :]
