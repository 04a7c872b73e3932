"""Examples for people: a few held-out samples, asked the way the model was trained, of both models."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any, TypeVar

from soldiom_ray.domains.messages import ASSISTANT, Message
from soldiom_ray.evaluate.measurement import hash_order
from soldiom_ray.examples import Example
from soldiom_ray.models.chat import chat_text, encode_prompt

Row = TypeVar("Row", bound=Mapping[str, Any])
ANSWER_TOKENS = 96
MAX_PROMPT_TOKENS = 512
CONTINUED_TOKENS = 64
"""Tokens of a document's beginning that models of plain text continue, at most."""
BEGINNING_CHARACTERS = 4000
"""More of a long document need not be tokenised for an example."""


@dataclass(frozen=True, slots=True)
class Question:
    """A sample that is asked: `prompt` is what people see of it, `text` what the models read, `reference` what its
    author wrote."""

    group: str
    document: str
    prompt: str
    text: str
    reference: str


def choose_questions(
    rows: Sequence[Mapping[str, Any]], tokenizer: Any, *, count: int, context: int, seed: int
) -> list[Question]:
    """At most `count` questions that fit into a model's context, the same for the same inputs, of as many groups as
    possible.

    Conversations end before the assistant's last turn; where no sample is one, documents end after their beginning."""
    if not count:
        return []
    answered = [row for row in rows if _is_answered(_messages(row))]
    if answered:
        questions = (_conversation(row, tokenizer, context) for row in spread(answered, seed))
    else:
        questions = (_beginning(row, tokenizer, context) for row in spread(rows, seed))
    return list(islice((question for question in questions if question), count))


def answer(model: Any, tokenizer: Any, questions: Sequence[Question]) -> list[str]:
    """A model's greedy answers, in order."""
    from soldiom_ray.models.generate import Generator
    from soldiom_ray.models.load import context_length

    if not questions:
        return []
    tokens = answer_tokens(context_length(model))
    generated = Generator(model, tokenizer).generate([question.text for question in questions], max_new_tokens=tokens)
    return [each.text for each in generated]


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
    if len(encode_prompt(tokenizer, text)) > min(MAX_PROMPT_TOKENS, context - answer_tokens(context)):
        return None
    turns = [message for message in before if message["role"] != "system"]
    lines = [f"{message['role']}: {message['content']}" for message in turns]
    prompt = turns[0]["content"] if len(turns) == 1 else "\n".join(lines)
    return Question(row["group"], row["id"], prompt, text, last["content"])


def _beginning(row: Mapping[str, Any], tokenizer: Any, context: int) -> Question | None:
    """A document's first words, and as much of what follows them as an answer may be long; None when the document is
    too short."""
    ids = encode_prompt(tokenizer, row["text"][:BEGINNING_CHARACTERS])
    length = min(CONTINUED_TOKENS, context // 2, len(ids) // 2)
    text = tokenizer.decode(ids[:length], skip_special_tokens=True)
    words = text.rstrip().rsplit(maxsplit=1)
    prompt = words[0] if len(words) > 1 else text
    if len(prompt.strip()) < 2:
        return None
    rest = tokenizer.decode(ids[: length + answer_tokens(context)], skip_special_tokens=True)[len(prompt) :]
    return Question(row["group"], row["id"], prompt, prompt, rest)
