"""Conversations as text and tokens, the same where a model is trained and where it answers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from soldiom_ray.domains.builtin_models import TEXT_MODELS
from soldiom_ray.domains.messages import ASSISTANT, Message, is_taught
from soldiom_ray.errors import InputError
from soldiom_ray.models.expressible import as_template_takes, folded
from soldiom_ray.models.infill import InfillText, infill_ids, infill_tokens
from soldiom_ray.models.tokens import BATCH_TEXTS, encode_documents, terminator
from soldiom_ray.records import PromptFormat

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Conversation:
    """Token ids of a whole conversation, and which of them count in the loss: what the assistant says, except in turns
    of weight 0, and the end of each of its turns. Both [tokens]."""

    ids: "npt.NDArray[np.int64]"
    loss_mask: "npt.NDArray[np.bool_]"


def chat_text(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    """A conversation by the tokenizer's chat template, or in plain lines where it has none; with
    `add_generation_prompt` up to where the assistant's next turn begins. What the template cannot express is folded.

    InputError when the template refuses the conversation."""
    turns, tools = as_template_takes(folded(tokenizer, messages))
    if getattr(tokenizer, "chat_template", None):
        try:
            text: str = tokenizer.apply_chat_template(
                turns, tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # a template raises what it likes: a role it does not know, turns out of order
            raise _refusal(tokenizer, turns, error) from error
        return text
    end = str(getattr(tokenizer, "eos_token", None) or "")
    lines = [
        f"{message['role'].capitalize()}: {message['content']}{end if message['role'] == ASSISTANT else ''}"
        for message in turns
    ]
    return "\n".join([*lines, f"{ASSISTANT.capitalize()}:"] if add_generation_prompt else lines)


def _refusal(tokenizer: Any, turns: Sequence[Message], error: Exception) -> InputError:
    """The error of a conversation that a chat template refuses: which turn, and what can be done."""
    number = _refused_turn(tokenizer, turns)
    roles = [turn["role"] for turn in turns]
    role = roles[number - 1] if number else ASSISTANT
    remedy = _REMEDIES.get(role, "use the roles that the template knows, in the order that the model's card names")
    if role == ASSISTANT and number > 1:
        remedy = "let user and assistant alternate, or choose a base whose template takes other orders"
    reason = str(error).splitlines()[0][:200] if str(error) else ""
    if any(turn.get("content") and str(turn["content"]) in reason for turn in turns):
        reason = ""  # it repeats what a user wrote
    return InputError(
        f"The model's chat template refuses turn {max(1, number)} ({role}) of a conversation"
        f" ({', '.join(roles[:8]) or 'which begins with it'}): {type(error).__name__}{f': {reason}' if reason else ''}",
        remedy=remedy,
    )


_REMEDIES = {
    "system": "leave system turns out (their text can begin the first user turn), or choose a base whose chat template"
    " takes them",
    ASSISTANT: "begin conversations with a user turn, or choose a base whose chat template takes other orders",
    "user": "let user and assistant alternate, or choose a base whose chat template takes other orders",
}


def _refused_turn(tokenizer: Any, turns: Sequence[Message]) -> int:
    """The number of the turn, from 1, from which on every longer beginning of the conversation is refused."""
    for count in range(len(turns) - 1, 0, -1):
        try:
            tokenizer.apply_chat_template(turns[:count], tokenize=False, add_generation_prompt=False)
        except Exception:  # noqa: S112
            continue
        return count + 1
    return min(1, len(turns))


def prompt_format_of_base(name: str, tokenizer: Any) -> PromptFormat:
    """How a base model is asked: by its chat template where it has one that it was trained with."""
    return "chat" if getattr(tokenizer, "chat_template", None) and name not in TEXT_MODELS else "text"


def prompt_format_of_run(details: Mapping[str, Any]) -> PromptFormat:
    """How a run's samples were written; runs made before that was recorded continue texts."""
    return "chat" if details.get("prompt_format") == "chat" else "text"


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a prompt, with the tokenizer's beginning token unless the text begins with it."""
    begin = getattr(tokenizer, "bos_token", None)
    ids: list[int] = tokenizer(text, add_special_tokens=not (begin and text.startswith(begin)), verbose=False)[
        "input_ids"
    ]
    return ids


def encode_chat(tokenizer: Any, messages: Sequence[Message]) -> Conversation:
    """The tokens of a conversation. What comes before the assistant's first words is encoded as the server encodes the
    prompt, and every turn after it on its own, so that no token reaches over the border between them.

    A template that changes earlier turns when later ones come (some leave out an answer's reasoning) shows the model
    only its last answer; InputError when even that is not where the template says that it begins.
    """
    import numpy as np

    messages = folded(tokenizer, messages)
    text = chat_text(tokenizer, messages, add_generation_prompt=False)
    spans = _assistant_spans(tokenizer, messages, text)
    ids: list[int] = []
    loss_mask: list[bool] = []
    encoded_to = 0
    for start, end in spans:
        before = text[encoded_to:start]
        prompt = _encode_fragment(tokenizer, before) if encoded_to else encode_prompt(tokenizer, before)
        answer = _encode_fragment(tokenizer, text[start:end])
        ids += [*prompt, *answer]
        loss_mask += [*([False] * len(prompt)), *([True] * len(answer))]
        encoded_to = end
    rest = _encode_fragment(tokenizer, text[encoded_to:]) if encoded_to else encode_prompt(tokenizer, text)
    ids += rest
    loss_mask += [False] * len(rest)
    if spans and is_taught(messages[-1]) and terminator(tokenizer) not in ids[-3:]:
        ids.append(terminator(tokenizer))
        loss_mask.append(True)
    return Conversation(np.asarray(ids, np.int64), np.asarray(loss_mask, np.bool_))


def _assistant_spans(tokenizer: Any, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
    """Where the assistant says what is taught in the text of a conversation, [start, end) in characters."""
    turns = [number for number, message in enumerate(messages) if is_taught(message)]
    spans = [span for turn in turns if (span := _assistant_span(tokenizer, messages, turn, text))]
    if len(spans) == len(turns):
        return spans
    if turns and (last := _assistant_span(tokenizer, messages, turns[-1], text)):
        return [last]
    raise InputError(
        "The model's chat template does not begin its answers where it asks for them, so it cannot be trained on"
        " conversations.",
        remedy="correct chat_template in the model's tokenizer_config.json, or prepare plain texts",
    )


def _assistant_span(tokenizer: Any, messages: Sequence[Message], turn: int, text: str) -> tuple[int, int] | None:
    """The span of one turn; None where the text of the messages up to it is no beginning of the whole text."""
    before = chat_text(tokenizer, messages[:turn], add_generation_prompt=True)
    until = chat_text(tokenizer, messages[: turn + 1], add_generation_prompt=False)
    is_prefix = text.startswith(before) and text.startswith(until) and len(until) > len(before)
    return (len(before), len(until)) if is_prefix else None


def _encode_fragment(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a part of a text, without special tokens that the tokenizer would add."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else []
    return ids


def encode_samples(tokenizer: Any, samples: Iterable[tuple[str, Sequence[Message]]]) -> Iterator[Conversation]:
    """Each sample, (text, messages), as tokens: its conversation where it has messages, else its text, whose tokens all
    count in the loss; a text whose middle is to be filled in with the tokenizer's tokens for that, if it has some."""
    import numpy as np

    remaining = iter(samples)
    while batch := list(islice(remaining, BATCH_TEXTS)):
        holes = any(isinstance(text, InfillText) for text, _ in batch)
        infill = infill_tokens(tokenizer) if holes else None
        plain = [text for text, messages in batch if not messages and not (infill and isinstance(text, InfillText))]
        texts = encode_documents(tokenizer, plain)
        for text, messages in batch:
            if messages:
                yield encode_chat(tokenizer, messages)
            elif infill and isinstance(text, InfillText):
                filled = np.asarray(infill_ids(tokenizer, text, infill), np.int64)
                yield Conversation(filled, np.ones(len(filled), np.bool_))
            else:
                ids = next(texts)
                yield Conversation(ids.astype(np.int64), np.ones(len(ids), np.bool_))
