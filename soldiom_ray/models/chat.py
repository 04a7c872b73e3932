"""Conversations as text and tokens, the same where a model is trained and where it answers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from soldiom_ray.errors import InputError
from soldiom_ray.models.tokens import BATCH_TEXTS, encode_documents, terminator

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Message = Mapping[str, str]
ANSWERING = "assistant"


@dataclass(frozen=True, slots=True)
class Conversation:
    """Token ids of a whole conversation, and which of them the model is to learn: what the assistant says, and the end
    of each of its turns. Both [tokens]."""

    ids: "npt.NDArray[np.int64]"
    scored: "npt.NDArray[np.bool_]"


def chat_text(tokenizer: Any, messages: Sequence[Message], *, answer_next: bool) -> str:
    """A conversation by the tokenizer's own template, or in plain lines where it has none; with `answer_next` up to
    where the model's next words begin."""
    if getattr(tokenizer, "chat_template", None):
        turns = [dict(message) for message in messages]
        try:
            text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer_next)
        except Exception as error:  # a template raises what it likes: a role it does not know, turns out of order
            raise InputError(
                f"The model's chat template refuses the conversation ({type(error).__name__}):"
                f" its roles are {', '.join(message['role'] for message in messages)[:200]}.",
                remedy="use the roles and the order of turns that the model's card names",
            ) from error
        return text
    end = str(getattr(tokenizer, "eos_token", None) or "")
    lines = [
        f"{message['role'].capitalize()}: {message['content']}{end if message['role'] == ANSWERING else ''}"
        for message in messages
    ]
    return "\n".join([*lines, f"{ANSWERING.capitalize()}:"] if answer_next else lines)


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text that the model goes on from, with its beginning token unless the text holds it."""
    begin = getattr(tokenizer, "bos_token", None)
    ids: list[int] = tokenizer(text, add_special_tokens=not (begin and text.startswith(begin)), verbose=False)[
        "input_ids"
    ]
    return ids


def encode_chat(tokenizer: Any, messages: Sequence[Message]) -> Conversation:
    """The tokens of a conversation. What comes before the assistant's first words is encoded as the server encodes the
    prompt, and every turn for itself after it, so that no token reaches over the border between them.

    A template that changes earlier turns when later ones come (some leave out an answer's reasoning) shows the model
    only its last answer; InputError when even that is not where the template says that it begins.
    """
    import numpy as np

    whole = chat_text(tokenizer, messages, answer_next=False)
    spans = _answers(tokenizer, messages, whole)
    ids: list[int] = []
    scored: list[bool] = []
    done = 0
    for start, end in spans:
        before = encode_prompt(tokenizer, whole[:start]) if not done else _plain(tokenizer, whole[done:start])
        answer = _plain(tokenizer, whole[start:end])
        ids += [*before, *answer]
        scored += [*([False] * len(before)), *([True] * len(answer))]
        done = end
    rest = _plain(tokenizer, whole[done:]) if done else encode_prompt(tokenizer, whole)
    ids += rest
    scored += [False] * len(rest)
    if spans and messages[-1]["role"] == ANSWERING and terminator(tokenizer) not in ids[-3:]:
        ids.append(terminator(tokenizer))
        scored.append(True)
    return Conversation(np.asarray(ids, np.int64), np.asarray(scored, np.bool_))


def _answers(tokenizer: Any, messages: Sequence[Message], whole: str) -> list[tuple[int, int]]:
    """Where the assistant speaks in the whole text, [start, end) in characters."""
    places = [place for place, message in enumerate(messages) if message["role"] == ANSWERING]
    found = [span for place in places if (span := _answer(tokenizer, messages, place, whole))]
    if len(found) == len(places):
        return found
    if places and (last := _answer(tokenizer, messages, places[-1], whole)):
        return [last]
    raise InputError(
        "The model's chat template does not begin its answers where it asks for them, so it cannot be trained on"
        " conversations.",
        remedy="correct chat_template in the model's tokenizer_config.json, or prepare plain texts",
    )


def _answer(tokenizer: Any, messages: Sequence[Message], place: int, whole: str) -> tuple[int, int] | None:
    before = chat_text(tokenizer, messages[:place], answer_next=True)
    until = chat_text(tokenizer, messages[: place + 1], answer_next=False)
    fits = whole.startswith(before) and whole.startswith(until) and len(until) > len(before)
    return (len(before), len(until)) if fits else None


def _plain(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else []
    return ids


def encode_samples(tokenizer: Any, samples: Iterable[tuple[str, Sequence[Message]]]) -> Iterator[Conversation]:
    """Each sample, (text, messages): a conversation where it has messages, else its text, all of it to be learnt."""
    import numpy as np

    waiting = iter(samples)
    while batch := list(islice(waiting, BATCH_TEXTS)):
        texts = encode_documents(tokenizer, [text for text, messages in batch if not messages])
        for _, messages in batch:
            if messages:
                yield encode_chat(tokenizer, messages)
            else:
                ids = next(texts)
                yield Conversation(ids.astype(np.int64), np.ones(len(ids), np.bool_))
