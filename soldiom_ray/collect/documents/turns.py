"""A conversation in any of the field's dialects becomes messages (`domains.messages`). Nothing in it is dropped or
given to another speaker silently: what cannot be kept whole is refused with its reason, and what was left out of a
conversation that is kept is counted in its notes."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soldiom_ray.collect.documents.cell_values import BAD
from soldiom_ray.collect.documents.dialects import exchanges, usual_turns
from soldiom_ray.collect.documents.tool_calls import (
    MARKS,
    parsed_json,
    read_calls,
    read_tools,
    results_in,
    without_calls,
    without_response_marks,
)
from soldiom_ray.collect.documents.transcripts import rendered_turns, without_end
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.messages import ASSISTANT, SYSTEM, TOOL, USER, is_taught

CALL = "call"
"""A turn of the assistant that is a call, as ShareGPT's relatives write it."""

KNOWN_SPEAKERS = {
    **dict.fromkeys(("user", "human", "prompter", "usr"), USER),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "chatbot", "ai", "claude", "llm"), ASSISTANT),
    **dict.fromkeys(("system", "developer"), SYSTEM),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response", "function_response"), TOOL),
    **dict.fromkeys(("tool_result", "function_result"), TOOL),
    **dict.fromkeys(("function_call", "tool_call", "function-call", "tool-call"), CALL),
}
GUESSED_SPEAKERS = {
    **dict.fromkeys(("customer", "client", "patient", "student", "caller", "visitor", "buyer", "guest", "asker"), USER),
    **dict.fromkeys(("instruction", "question", "questioner", "person", "requester", "member"), USER),
    **dict.fromkeys(("agent", "doctor", "physician", "nurse", "support", "teacher", "tutor", "therapist"), ASSISTANT),
    **dict.fromkeys(("counselor", "advisor", "adviser", "helper", "operator", "expert", "representative"), ASSISTANT),
    **dict.fromkeys(("seller", "lawyer", "answer", "answerer", "robot", "response", "virtual_assistant"), ASSISTANT),
    **dict.fromkeys(("q", "input", "prompt", "request", "shopper", "learner", "tourist", "seeker", "apprentice"), USER),
    **dict.fromkeys(("end_user", "inquirer", "reporter", "employee", "pupil", "consumer"), USER),
    **dict.fromkeys(
        ("用户", "usuario", "benutzer", "nutzer", "utilisateur", "utente", "пользователь", "ユーザー"), USER
    ),
    **dict.fromkeys(("a", "output", "completion", "reply", "salesperson", "supporter", "guide", "wizard"), ASSISTANT),
    **dict.fromkeys(("clinician", "concierge", "responder", "machine", "consultant", "librarian"), ASSISTANT),
    **dict.fromkeys(("support_agent", "virtual_agent", "service_agent", "customer_service"), ASSISTANT),
    **dict.fromkeys(("customer_support", "ai_assistant", "help_desk", "helpdesk", "receptionist"), ASSISTANT),
    **dict.fromkeys(("助手", "asistente", "assistent", "assistente", "ассистент", "アシスタント"), ASSISTANT),
}
"""Names that a speaker is likely to have; the mapping shows them as guesses."""

ANSWERERS = frozenset(name for name, role in (KNOWN_SPEAKERS | GUESSED_SPEAKERS).items() if role in (ASSISTANT, CALL))

_DECORATION = re.compile(r"^[<|\[(*#\s]+|[_\s-]?\d{0,2}[>|\])*:\s]*$")
"""What some write around the name of a speaker: "User:", "<|user|>", "human_0"."""

_WRITTEN_ALIKE = {
    name: (role, "" if name == role else ASSISTANT if role == CALL else role) for name, role in KNOWN_SPEAKERS.items()
}
"""Name -> (role, the role that its mapping shows): most turns are written so."""
_PLAIN_SPEAKERS = {name: own for name, own in _WRITTEN_ALIKE.items() if own[0] not in (CALL, TOOL)}
_SPEAKER_FIELDS = ("role", "from", "speaker", "author", "sender")
_CONTENT_FIELDS = ("content", "parts", "value", "text", "message", "utterance", "body")
_KEPT_FIELDS = ("name", "tool_call_id")
_THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")
_WEIGHT_FIELDS = (
    "weight",
    "train",
    "training",
    "loss",
    "loss_mask",
    "train_on_turn",
    "trainable",
    "learn",
    "loss_weight",
)
_MASK_FIELDS = ("masked", "mask")
"""True where a turn is not learnt, as torchtune writes it."""
_BAD_MARKS = ("toxic", "is_toxic", "flagged", "deleted", "is_deleted", "harmful", "spam", "unsafe", "rejected")
_VOTES = ("rating", "thumbs", "feedback", "vote", "liked", "is_correct", "accepted", "helpful")
_OTHER_FIELDS = (*_THOUGHT_FIELDS, "channel", "refusal", "tool_calls", "function_call", "tools", "functions")
_USED_FIELDS = frozenset(
    (*_SPEAKER_FIELDS, *_CONTENT_FIELDS, *_KEPT_FIELDS, *_WEIGHT_FIELDS, *_MASK_FIELDS, *_OTHER_FIELDS)
)
_UNJUDGED_FIELDS = frozenset(("role", "from", "content", "value", "tool_calls", "function_call", *_KEPT_FIELDS))
"""Fields that neither mark an answer as bad nor say what was thought before it: most turns have no others."""
_INNER_LISTS = ("messages", "conversations", "conversation", "turns")
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_KINDLESS_PARTS = ("text", "functionCall", "function_call", "functionResponse", "function_response", "inlineData")
"""Fields that say what a part is where it names no type, as Gemini's."""
_STYLED_PARTS = (
    "plain",
    "bold",
    "italic",
    "underline",
    "code",
    "pre",
    "link",
    "text_link",
    "mention",
    "hashtag",
    "url",
)
"""Parts of texts with links and emphasis, as exports of messengers hold them."""
_THOUGHT_PARTS = ("thinking", "reasoning", "redacted_thinking")


@dataclass
class Conversation:
    """`speakers` are the names that were given another role's name, with it; `notes` count what was left out."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    speakers: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    """Turns of the channel "analysis" (OpenAI's harmony), until their answer comes."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    """The functions that a turn brings, as a rule the first."""
    has_results: bool = False
    """Whether a tool speaks."""


def read_conversation(value: Any, named: Mapping[str, str]) -> Conversation | None:
    """The conversation that a value holds, or None when it holds none. `named` gives roles to speakers by their names
    in lower case. Raises SkippedError: unknown_role, empty_turn, part_not_text, damaged_call, no_answer."""
    if type(value) is list and not named and (plain := _plain_conversation(value)):
        _read_system_as_answering(plain)
        return plain
    turns = turns_in(value)
    if turns is None:
        return None
    conversation = Conversation()
    for number, turn in enumerate(turns, 1):
        _add_turn(conversation, turn, number, len(turns), named)
    conversation.notes += ["thoughts without an answer"] * len(conversation.thoughts)
    _read_system_as_answering(conversation)
    return conversation


def _plain_conversation(turns: Sequence[Any]) -> Conversation | None:
    """The conversation of turns that each say a usual speaker and a text without marks, and nothing else, as most do:
    four times as fast. None for others."""
    messages: list[dict[str, Any]] = []
    speakers: dict[str, str] = {}
    for turn in turns:
        if type(turn) is not dict or len(turn) != 2:
            return None
        written = turn.get("role") or turn.get("from")
        content = turn.get("content") or turn.get("value")
        if not isinstance(written, str) or not isinstance(content, str) or "<" in content:
            return None
        own, text = _PLAIN_SPEAKERS.get(written), content.strip()
        if own is None or not text:
            return None
        if own[1]:
            speakers[written] = own[1]
        messages.append({"role": own[0], "content": text})
    return Conversation(messages, speakers) if messages else None


def _read_system_as_answering(conversation: Conversation) -> None:
    """Where nobody but a system answers, as in dialogues for booking, it is who the model speaks as."""
    messages = conversation.messages
    if not messages or messages[-1]["role"] == ASSISTANT or messages[0]["role"] != USER:
        return
    roles = [message["role"] for message in messages]
    if ASSISTANT in roles or roles[:1] != [USER] or SYSTEM not in roles:
        return
    conversation.speakers["system"] = f"{ASSISTANT} (a guess)"
    for message in conversation.messages:
        if message["role"] == SYSTEM:
            message["role"] = ASSISTANT


def read_messages(value: Any, named: Mapping[str, str]) -> Conversation | None:
    """The conversation in a prompt or an answer, which are texts or lists of texts as often: only of turns that name
    their speakers."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        value = parsed_json(value)
    is_transcript = isinstance(value, str) and rendered_turns(value) is not None
    is_conversation = is_transcript or names_speakers(value) or isinstance(value, dict)
    return read_conversation(value, named) if is_conversation else None


def names_speakers(value: Any) -> bool:
    """Whether a value is a list of turns that each name their speaker."""
    return isinstance(value, list) and all(
        isinstance(turn, dict) and _field(turn, _SPEAKER_FIELDS) is not None for turn in _usual(value)
    )


def _usual(value: Sequence[Any]) -> list[Any]:
    return usual_turns(value) if value and all(isinstance(turn, dict) for turn in value) else list(value)


def require_answer(conversation: Conversation) -> None:
    """Raise SkippedError (no_answer, nothing_taught) for a conversation that nothing can be learnt from."""
    messages = conversation.messages
    if messages and messages[-1]["role"] == ASSISTANT and "weight" not in messages[-1]:
        return
    if not any(map(is_taught, messages)):
        if any(message["role"] == ASSISTANT for message in messages):
            raise SkippedError("nothing_taught", "every answer has weight 0")
        raise SkippedError("no_answer", f"no turn of the assistant among {len(messages)}")
    if messages[-1]["role"] != ASSISTANT:
        conversation.notes.append("conversations whose last turn has no answer")


def turns_in(value: Any) -> list[Mapping[str, Any]] | None:
    """The turns of a value that is a conversation, each with a speaker's and a content field; None for other values."""
    if type(value) is list and value and all(map(_is_usual_turn, value)):  # most are: twice as fast
        return value
    if isinstance(value, str):
        value = rendered_turns(value) or parsed_json(value)
    if isinstance(value, dict):
        return _turns_of_object(value)
    if not isinstance(value, (list, tuple)) or not value:
        return None
    if all(isinstance(turn, str) for turn in value):
        return _alternating(value)
    if len(value) == 1 and isinstance(value[0], list) and names_speakers(value[0]):
        return turns_in(value[0])
    if all(isinstance(turn, (list, tuple)) for turn in value):
        return _turns_of_pairs(value)
    if not all(isinstance(turn, dict) for turn in value):
        return None
    turns = usual_turns(value)
    if _field(turns[0], _SPEAKER_FIELDS) is not None:
        return turns
    return _exchanges(value) or exchanges(value)


def _is_usual_turn(turn: Any) -> bool:
    return type(turn) is dict and (type(turn.get("role")) is str or type(turn.get("from")) is str)


def _turns_of_object(value: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """Of one turn; of {"messages": [...]}; of {"role": [...], "content": [...]}, as Hugging Face writes a sequence of
    records."""
    speakers, contents = _field(value, _SPEAKER_FIELDS), _field(value, _CONTENT_FIELDS)
    if isinstance(speakers, str) and contents is not None:
        return [value]
    if isinstance(speakers, list) and isinstance(contents, list) and len(speakers) == len(contents):
        columns = {name: column for name, column in value.items() if isinstance(column, list)}
        return [dict(zip(columns, row, strict=False)) for row in zip(*columns.values(), strict=False)]
    return next((turns_in(value[name]) for name in _INNER_LISTS if name in value), None)


def _alternating(texts: Sequence[str]) -> list[Mapping[str, Any]] | None:
    """Texts without speakers, as UltraChat writes them: the user begins."""
    if len(texts) < 2:
        return None
    return [{"role": (USER, ASSISTANT)[number % 2], "content": text} for number, text in enumerate(texts)]


def _turns_of_pairs(value: Sequence[Sequence[Any]]) -> list[Mapping[str, Any]] | None:
    """[speaker, text] for each turn, or [question, answer] for each exchange."""
    if not all(len(pair) == 2 and all(isinstance(part, str) or part is None for part in pair) for pair in value):
        return None
    if all(str(pair[0]).strip().lower() in KNOWN_SPEAKERS for pair in value):
        return [{"role": speaker, "content": text} for speaker, text in value]
    return [turn for pair in value for turn in _alternating([text or "" for text in pair]) or ()]


def _exchanges(value: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]] | None:
    """Objects whose fields are the speakers, {"human": ..., "assistant": ...}, in the order of their fields."""
    names = [str(name).strip().lower() for exchange in value for name in exchange]
    roles = {KNOWN_SPEAKERS.get(name) or GUESSED_SPEAKERS.get(name) for name in names}
    if not {USER, ASSISTANT} <= roles or None in roles:
        return None
    return [
        {"role": name, "content": text} for exchange in value for name, text in exchange.items() if text is not None
    ]


def _field(turn: Mapping[str, Any], names: Iterable[str]) -> Any:
    for name in names:
        if (value := turn.get(name)) is not None:
            return value
    return None


def _add_turn(
    conversation: Conversation, turn: Mapping[str, Any], number: int, count: int, named: Mapping[str, str]
) -> None:
    role = _role(conversation, turn, number, named)
    if len(turn) == 2 and role != CALL:  # most turns: three times as fast
        content = turn.get("content") or turn.get("value") or _field(turn, _CONTENT_FIELDS)
        text = content.strip() if type(content) is str else ""
        conversation.has_results |= role == TOOL
        if text[-1:] == ">":
            text = without_end(text)
        if text and (role == SYSTEM or "<" not in text or not any(mark in text for mark in MARKS)):
            conversation.messages.append({"role": role, "content": text})
            return
    message: dict[str, Any] = {"role": ASSISTANT if role == CALL else role, "content": ""}
    if not conversation.tools and ("tools" in turn or "functions" in turn):
        conversation.tools = read_tools(turn.get("tools") or turn.get("functions"))
    content = _field(turn, _CONTENT_FIELDS) or turn.get("refusal")
    results: list[dict[str, Any]] = []
    calls = read_calls(turn["tool_calls"]) if turn.get("tool_calls") else []
    calls += read_calls(turn["function_call"]) if turn.get("function_call") else []
    if role == CALL and (called := read_calls(content)):
        calls += called
    else:
        read = _read_content(content)
        message["content"], results = read.text, read.results
        calls += read.calls
        if role == ASSISTANT and not calls and "<" in read.text:
            message["content"], calls = without_calls(read.text)
        if role == USER and (said := results_in(read.text)):
            conversation.messages += [{"role": TOOL, "content": text} for text in said]
            conversation.has_results = True
            return
        message |= {"reasoning_content": "\n".join(read.thoughts)} if any(read.thoughts) else {}
    is_damaged = role == CALL and not calls and str(content).lstrip().startswith("{")
    if is_damaged or ((turn.get("tool_calls") or turn.get("function_call")) and not calls):
        raise SkippedError("damaged_call", f"turn {number} of {count} has a call that cannot be read")
    if role == TOOL:
        conversation.has_results = True
        message["content"] = without_response_marks(message["content"])
    message |= {"tool_calls": calls} if calls else {}
    message |= {name: turn[name] for name in _KEPT_FIELDS if turn.get(name)}
    if role in (ASSISTANT, CALL) and (conversation.thoughts or not turn.keys() <= _UNJUDGED_FIELDS):
        if _think(conversation, turn, message):
            return
        weights = [turn[name] for name in _WEIGHT_FIELDS if isinstance(turn.get(name), (bool, int, float))]
        is_masked = any(turn.get(name) in (True, 1) for name in _MASK_FIELDS)
        if is_bad := _is_bad(turn):
            conversation.notes.append("answers that are marked as bad in their turn")
        message |= {"weight": 0} if 0 in weights or is_masked or is_bad else {}
    _count_left_fields(conversation, turn)
    conversation.messages += results
    conversation.has_results |= bool(results)
    if results and not message["content"]:
        return
    if not message["content"].strip() and not calls and role != TOOL:
        _refuse_empty(conversation, role, number, count)
        return
    conversation.messages.append(message)


def _is_bad(turn: Mapping[str, Any]) -> bool:
    """Whether an answer is marked as bad where it stands."""
    if any(turn.get(name) in (True, 1, "true", "True") for name in _BAD_MARKS):
        return True
    votes = (turn.get(name) for name in _VOTES if name in turn)
    return any(vote is False or (isinstance(vote, str) and vote.strip().lower() in BAD) for vote in votes)


def _think(conversation: Conversation, turn: Mapping[str, Any], message: dict[str, Any]) -> bool:
    """Give an answer what was thought before it, in a field of its turn or a turn of its own. Whether this turn is one
    of thoughts."""
    if turn.get("channel") == "analysis" and "tool_calls" not in message:
        conversation.thoughts.append(message["content"])
        return True
    written = [turn[name] for name in _THOUGHT_FIELDS if isinstance(turn.get(name), str) and turn[name].strip()]
    if thoughts := conversation.thoughts + written[:1]:
        message.setdefault("reasoning_content", "\n".join(thoughts))
    conversation.thoughts = []
    return False


def _refuse_empty(conversation: Conversation, role: str, number: int, count: int) -> None:
    if role == SYSTEM:
        conversation.notes += [] if conversation.tools else ["empty system turns"]
    elif number == count and role != USER:
        raise SkippedError("no_answer", f"the last of {count} turns is empty")
    else:
        raise SkippedError("empty_turn", f"turn {number} of {count} ({role}) says nothing")


def _role(conversation: Conversation, turn: Mapping[str, Any], number: int, named: Mapping[str, str]) -> str:
    written = turn.get("role") or turn.get("from")
    if not named and type(written) is str and (own := _WRITTEN_ALIKE.get(written)):
        if own[1]:
            conversation.speakers[written] = own[1]
        return own[0]
    written = written or _field(turn, _SPEAKER_FIELDS)
    if isinstance(written, dict):
        written = _field(written, ("role", "name"))
    name = str(written if written is not None else "").strip().lower()
    role = named.get(name) or KNOWN_SPEAKERS.get(name) or GUESSED_SPEAKERS.get(name)
    if role is None:
        plain = _DECORATION.sub("", name).replace(" ", "_").replace("-", "_")
        role = named.get(plain) or KNOWN_SPEAKERS.get(plain) or GUESSED_SPEAKERS.get(plain)
    if role is None:
        what = f"turn {number} is by {str(written)[:60]!r}" if name else f"turn {number} names no speaker"
        raise SkippedError("unknown_role", f"{what}; say who that is: --column user={name or 'NAME'} (or assistant)")
    if name != role:
        is_guess = name not in named and name not in KNOWN_SPEAKERS
        conversation.speakers[name] = f"{ASSISTANT if role == CALL else role}{' (a guess)' if is_guess else ''}"
    return role


def content_text(value: Any) -> str:
    """The text of one content outside of a conversation: a text, parts, a turn of one."""
    if isinstance(value, list) and value and all(isinstance(turn, dict) and "content" in turn for turn in value):
        return "\n".join(content_text(turn["content"]) for turn in value)
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        value = value["content"]
    return _read_content(value).text


@dataclass
class _Content:
    """What a turn says: its text, calls, messages of tools that it brings, and what was thought before."""

    texts: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(text.strip() for text in self.texts if text.strip())


def _read_content(content: Any) -> _Content:
    """A content: a text, or a list of parts."""
    if content is None or isinstance(content, str):
        return _Content([content or ""])
    if isinstance(content, dict) and ("type" in content or "parts" in content):
        content = content["parts"] if isinstance(content.get("parts"), list) else [content]
    if isinstance(content, dict) and len(content) == 1:
        content = next((content[name] for name in _CONTENT_FIELDS if isinstance(content.get(name), str)), content)
    if isinstance(content, str):
        return _Content([content])
    if not isinstance(content, list):
        return _Content([json.dumps(content, ensure_ascii=False, default=str)])
    read = _Content()
    for part in content:
        _add_part(read, part)
    if not any(isinstance(part, dict) and part.get("type") in _TEXT_PARTS for part in content):
        styled = [str(part.get("text") or "") if isinstance(part, dict) else part or "" for part in content]
        if any(isinstance(part, dict) and part.get("type") in _STYLED_PARTS for part in content):
            read.texts = ["".join(styled)]  # a sentence in pieces
    return read


def _add_part(read: _Content, part: Any) -> None:
    if isinstance(part, str) or not part:
        read.texts.append(part or "")
        return
    if not isinstance(part, dict):
        raise SkippedError("part_not_text", f"a part that is {str(part)[:40]}")
    kind = part.get("type") or next((name for name in _KINDLESS_PARTS if name in part), None)
    if kind in (*_TEXT_PARTS, *_STYLED_PARTS):
        read.texts.append(str(_field(part, ("text", "refusal", "content")) or ""))
    elif kind in _THOUGHT_PARTS:
        read.thoughts.append(str(_field(part, ("thinking", "reasoning", "text")) or ""))
    elif kind in ("tool_use", "tool_call", "tool-call"):
        read.calls += read_calls(part)
    elif kind in ("functionCall", "function_call"):
        read.calls += read_calls(part.get(kind) or part)
    elif kind in ("functionResponse", "function_response"):
        response = part[kind].get("response")
        text = response if isinstance(response, str) else json.dumps(response, ensure_ascii=False, default=str)
        read.results.append({"role": TOOL, "content": text, "name": str(part[kind].get("name", ""))})
    elif kind in ("tool_result", "tool-result"):
        text = _read_content(_field(part, ("content", "result", "output"))).text
        read.results.append({"role": TOOL, "content": text, "tool_call_id": str(part.get("tool_use_id", ""))})
    else:
        raise SkippedError("part_not_text", f"a part of type {str(kind)[:40]}")


def _count_left_fields(conversation: Conversation, turn: Mapping[str, Any]) -> None:
    for name, value in turn.items():
        if name in _USED_FIELDS:
            continue
        if name in ("images", "image", "audio", "audios", "videos", "video") and value:
            raise SkippedError("part_not_text", f"a turn with {name}")
        if value not in (None, "", [], {}):
            conversation.notes.append(f"field {name} of turns")
