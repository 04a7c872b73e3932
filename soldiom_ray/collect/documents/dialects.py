"""Turns of conversations as other libraries and services write them, brought to fields that `turns` reads: a speaker, a
content, calls."""

from collections.abc import Mapping, Sequence
from typing import Any

_CLASSES = {
    "HumanMessage": "user",
    "AIMessage": "assistant",
    "AIMessageChunk": "assistant",
    "SystemMessage": "system",
    "ToolMessage": "tool",
    "FunctionMessage": "function",
}
"""LangChain's classes of messages."""
_TYPES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "function"}
_NO_CONTENT = ("type", "id", "example", "response_metadata", "usage_metadata", "additional_kwargs", "lc")
"""Fields of LangChain's messages that say nothing about what was said."""

ASKING = ("input", "question", "instruction", "prompt", "query", "q", "user_input", "human_input", "request")
REPLYING = ("output", "answer", "response", "completion", "a", "reply", "bot_response", "model_output")
"""Fields of an exchange, one object with what was asked and what was answered."""

Turn = Mapping[str, Any]


def usual_turns(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with a speaker's field each, where their dialect says it otherwise."""
    return [turn if "role" in turn or "from" in turn else _usual(turn) for turn in turns]


def _usual(turn: Turn) -> Turn:
    kind = turn.get("type")
    if not isinstance(kind, str):
        return turn
    if kind == "constructor" and isinstance(turn.get("kwargs"), Mapping):
        name = str((turn.get("id") or [""])[-1])
        return _of_langchain(turn["kwargs"], _CLASSES.get(name, str(turn["kwargs"].get("role") or name)))
    if isinstance(turn.get("data"), Mapping):
        return _of_langchain(turn["data"], _TYPES.get(str(kind), str(turn["data"].get("role") or kind)))
    if kind == "function_call" and "name" in turn:
        call = {"id": turn.get("call_id"), "name": turn["name"], "arguments": turn.get("arguments")}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind == "function_call_output":
        return {"role": "tool", "content": turn.get("output"), "tool_call_id": turn.get("call_id")}
    if kind in _TYPES and "content" in turn:
        return _of_langchain(turn, _TYPES[kind])
    return turn


def _of_langchain(fields: Turn, role: str) -> Turn:
    message = {name: value for name, value in fields.items() if name not in (*_NO_CONTENT, "role") and value}
    more = fields.get("additional_kwargs") or {}
    calls = {name: more[name] for name in ("tool_calls", "function_call") if more.get(name) and not message.get(name)}
    return {"role": role, "content": fields.get("content"), **message, **calls}


def exchanges(value: Sequence[Turn]) -> list[Turn] | None:
    """[{"input": ..., "output": ...}, ...], or the like, as turns; other fields stay with the answer, to be counted.
    None where an object is no exchange."""
    turns: list[Turn] = []
    for exchange in value:
        by_name = {str(name).strip().lower(): name for name in exchange}
        asked = next((by_name[name] for name in ASKING if name in by_name), None)
        answered = next((by_name[name] for name in REPLYING if name in by_name), None)
        if asked is None or answered is None:
            return None
        others = {name: inner for name, inner in exchange.items() if name not in (asked, answered)}
        turns += [{"role": "user", "content": exchange[asked]}, {"role": "assistant", "content": exchange[answered]}]
        if others := {name: inner for name, inner in others.items() if name not in ("role", "content")}:
            turns[-1] = {**turns[-1], **others}
    return turns
