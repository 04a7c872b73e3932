"""Conversations as chat services export them: OpenAI's tree of messages, requests with their responses, rows that are
turns, and the messages of a channel."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import isfinite
from operator import itemgetter
from typing import Any

from soldiom_ray.collect.documents.cell_values import as_number, whole_number
from soldiom_ray.collect.documents.formed import FormedRecord, Record

_HIDDEN = ("user_editable_context", "model_editable_context", "thoughts", "reasoning_recap", "system_error")
"""Kinds of content in ChatGPT's export that nobody said in the conversation."""
NO_REQUEST = (
    "an answer without the request that it answers; put the request's messages beside it, by custom_id for OpenAI's "
    "batches: {messages: [...], choices: [...]}"
)
_CONVERSATION_IDS = ("conversation_id", "thread_id", "session_id", "dialogue_id", "dialog_id", "chat_id", "conv_id")
_SPEAKERS = ("role", "speaker", "from", "sender", "author")
_TEXTS = ("content", "text", "message", "utterance", "value", "body")
_ORDERS = ("turn", "turn_id", "turn_number", "position", "index", "timestamp", "time", "created_at", "ts")


def chatgpt(record: Record) -> FormedRecord | None:
    """A conversation of ChatGPT's `conversations.json`: the branch that was read last. Answers that were generated
    again are counted."""
    mapping = record["mapping"]
    if not isinstance(mapping, Mapping) or not all(isinstance(node, Mapping) for node in mapping.values()):
        return None
    formed = FormedRecord(record, form="ChatGPT's export").without("mapping", "current_node")
    branch = _branch(mapping, record.get("current_node"))
    formed["messages"] = [turn for node in branch if (turn := _turn(mapping[node].get("message"), formed.notes))]
    left = [node for node in mapping if node not in branch and _said(mapping[node].get("message"))]
    formed.notes += ["turns of branches that were left"] * len(left)
    if formed.get("conversation_id") == formed.get("id"):
        formed.without("id")
    return formed


def _branch(mapping: Mapping[str, Any], last: Any) -> list[str]:
    """The nodes from the root to the last one that was read, or to the end of each node's last child."""
    if last not in mapping:
        last = next((name for name, node in mapping.items() if node.get("parent") not in mapping), None)
        while last in mapping and mapping[last].get("children"):
            last = mapping[last]["children"][-1]
    branch: list[str] = []
    while last in mapping and last not in branch:
        branch.append(last)
        last = mapping[last].get("parent")
    return branch[::-1]


def _said(message: Any) -> bool:
    content = message.get("content") if isinstance(message, Mapping) else None
    return isinstance(content, Mapping) and bool(content.get("text") or any(content.get("parts") or ()))


def _turn(message: Any, notes: list[str]) -> dict[str, Any] | None:
    """A turn; None for what nobody said, which is counted where it holds words."""
    if not _said(message):
        return None
    content, about = message["content"], message.get("metadata") or {}
    kind = str(content.get("content_type") or "text")
    role = (message.get("author") or {}).get("role", "")
    if kind in _HIDDEN or about.get("is_visually_hidden_from_conversation"):
        notes.append(f"hidden messages ({kind})")
        return None
    recipient = message.get("recipient") or "all"
    if role == "assistant" and recipient != "all":
        written = content.get("text") or "\n".join(map(str, content.get("parts") or ()))
        return {"role": role, "content": None, "tool_calls": [{"name": recipient, "arguments": written}]}
    parts = content.get("parts") or [content["text"]]
    if any(isinstance(part, Mapping) for part in parts):
        parts = [
            part if isinstance(part, str) else {"type": part.get("content_type", "object"), **part} for part in parts
        ]
    return {"role": role, "content": parts}


def exchange(record: Record) -> FormedRecord | None:
    """A request and its response in OpenAI's form: `messages` beside `choices`, `request` and `response`, or the lines
    of a batch."""
    request = record.get("request") or record.get("body") or record
    response = record.get("response") or record
    request, response = (_json(value) for value in (request, response))
    if not isinstance(request, Mapping) or not isinstance(response, Mapping):
        return None
    response = response["body"] if isinstance(response.get("body"), Mapping) else response
    messages, choices = request.get("messages"), response.get("choices") or []
    if messages is None and isinstance(choices, list) and choices and isinstance(choices[0].get("message"), Mapping):
        formed = FormedRecord(record, form="responses without their requests")
        formed.refused = ("no_question", NO_REQUEST)
        return formed
    if not isinstance(messages, list) or not isinstance(choices, list):
        return None
    answers = [choice["message"] for choice in choices[:1] if isinstance(choice["message"], Mapping)]
    formed = FormedRecord(record, form="requests and their responses")
    formed.without("messages", "choices", "request", "response", "body")
    formed["messages"] = [*messages, *answers]
    if request.get("tools"):
        formed["tools"] = request["tools"]
    formed.notes = ["further choices of a response"] * (len(choices) - len(answers))
    return formed


def choices_alone(record: Record) -> FormedRecord | None:
    """The choices of a response of OpenAI's without anything that was asked; None for those of a question."""
    choices = record["choices"]
    first = choices[0] if isinstance(choices, list) and choices else None
    if "messages" in record or not isinstance(first, Mapping) or not isinstance(first.get("message"), Mapping):
        return None
    formed = FormedRecord(record, form="responses without their requests")
    formed.refused = ("no_question", NO_REQUEST)
    return formed


def response(record: Record) -> FormedRecord | None:
    """A response of Anthropic's alone."""
    if record["type"] != "message" or record["role"] != "assistant" or not isinstance(record["content"], list):
        return None
    formed = FormedRecord(record, form="responses without their requests")
    formed.refused = ("no_question", NO_REQUEST)
    return formed


def _json(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def cohere(record: Record) -> FormedRecord | None:
    """Cohere's chat: a history, a message, and the answer to it as `text` or `response`."""
    answer = record.get("text") or record.get("response")
    if not isinstance(record["chat_history"], list) or not isinstance(answer, str):
        return None
    formed = FormedRecord(record, form="Cohere's chat").without("chat_history", "message", "text", "response")
    last = [{"role": "user", "message": record["message"]}, {"role": "chatbot", "message": answer}]
    formed["messages"] = [*record["chat_history"], *last]
    return formed


def slack(records: list[Any]) -> list[Any]:
    """The messages of a day of a Slack channel as one conversation; other records unchanged."""
    if not all(isinstance(record, Mapping) and record.get("type") == "message" for record in records):
        return records
    said = [record for record in records if {"user", "text", "ts"} <= record.keys() and not record.get("subtype")]
    if len(said) < 2:
        return records
    times = [as_number(record["ts"]) for record in said]
    if None in times:
        return records
    formed = FormedRecord({}, form="Slack's export")
    ordered = [record for _, record in sorted(zip(times, said, strict=True), key=itemgetter(0))]
    formed["messages"] = [{"role": str(record["user"]), "content": record["text"]} for record in ordered]
    formed.notes = ["messages that nobody said"] * (len(records) - len(said))
    return [formed]


def with_rows_joined(records: list[Any]) -> list[Any]:
    """Rows that are turns, with the name of their conversation, as conversations; other records unchanged."""
    first = records[0] if records and isinstance(records[0], Mapping) else {}
    key, speaker, text, order = _columns_of_turns(tuple(first))
    if key is None or speaker is None or text is None or len(records) < 2:
        return records
    if not all(isinstance(record, Mapping) and record.get(key) not in (None, "") for record in records):
        return records
    if not all(isinstance(record.get(name), str) for record in records for name in (speaker, text)):
        return records
    conversations: dict[str, list[Record]] = {}
    for record in records:
        conversations.setdefault(str(record[key]), []).append(record)
    if len(conversations) == len(records):
        return records
    return [_joined(rows, key, speaker, text, order) for rows in conversations.values()]


@lru_cache(maxsize=1024)
def _columns_of_turns(names: tuple[Any, ...]) -> list[Any]:
    """The columns of a conversation's id, who speaks, what is said, and in which order; None for those that lack."""
    by_name = {str(name).strip().lower().replace(" ", "_"): name for name in names}
    wanted = (_CONVERSATION_IDS, _SPEAKERS, _TEXTS, _ORDERS)
    return [next((by_name[name] for name in usual if name in by_name), None) for usual in wanted]


def _joined(rows: Sequence[Record], key: str, speaker: str, text: str, order: str | None) -> FormedRecord:
    """One conversation of its rows; columns with the same value in all of them stay beside it."""
    places = [] if order is None else _places([row.get(order) for row in rows])
    if places:
        rows = [row for _, row in sorted(zip(places, rows, strict=True), key=itemgetter(0))]
    shared = {name: value for name, value in rows[0].items() if all(row.get(name) == value for row in rows)}
    formed = FormedRecord(shared, form="rows that are turns").without(speaker, text, order or "")
    formed["messages"] = [{"role": row[speaker], "content": row[text]} for row in rows]
    formed["conversation_id"] = str(rows[0][key])
    if key != "conversation_id":
        formed.without(key)
    other = {name for row in rows for name in row if name not in (*formed, speaker, text, order, key)}
    formed.notes = [f"column {name}" for name in sorted(map(str, other))]
    if order is not None and not places:
        formed.notes.append(f"conversations in the order of their rows, since {order} is missing or mixed")
    return formed


def _places(written: Sequence[Any]) -> Sequence[Any]:
    """What the turns of a conversation are sorted by: numbers, or texts such as times. Empty where they are mixed or
    some lack: the rows' own order is the best that is known then."""
    if not all(isinstance(place, (str, int, float)) and str(place).strip() for place in written):
        return []
    whole = [whole_number(str(place)) for place in written]
    if None not in whole:
        return whole
    numbers = [number for place in written if (number := as_number(place)) is not None and isfinite(number)]
    if len(numbers) == len(written):
        return numbers
    return written if not numbers and all(isinstance(place, str) for place in written) else []
