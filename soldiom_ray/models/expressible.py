"""What a chat template cannot express is folded into what it can: tools into the system turn, calls into the
assistant's words, results into a user's turn. The marks are those of the Hermes and Qwen families."""

import json
from collections.abc import Sequence
from typing import Any

from soldiom_ray.domains.messages import SYSTEM, TOOL, USER, Message, calls_as_json, tools_of

_TOOLS = (
    "You may call these functions. To call one, answer with <tool_call>, a line of JSON with its name and arguments,"
    " and </tool_call>.\n<tools>\n{}\n</tools>"
)

_MARK = "system-turn-7c1e"
_KEEPS_SYSTEM: dict[str, bool] = {}
"""By template: rendering it costs as much as encoding a short conversation."""


def expressed(template: str, messages: Sequence[Message]) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """(messages, tools) as a template takes them; the tools are None where they were folded or there are none."""
    turns = [{name: value for name, value in m.items() if name not in ("tools", "weight")} for m in messages]
    tools = tools_of(messages)
    if "tool_calls" not in template:
        turns = [_with_calls_as_text(turn) for turn in turns]
    if "tool" not in template:
        turns = [_with_result_as_user(turn) for turn in turns]
    if tools and "tools" not in template:
        return _with_tools_in_system(turns, tools), None
    return turns, tools or None


def keeps_system(tokenizer: Any) -> bool:
    """Whether a tokenizer's chat template writes a system turn, or refuses it aloud; some leave it out silently."""
    template = str(tokenizer.chat_template)
    if template not in _KEEPS_SYSTEM:
        turns = [{"role": SYSTEM, "content": _MARK}, {"role": USER, "content": "?"}]
        try:
            _KEEPS_SYSTEM[template] = _MARK in tokenizer.apply_chat_template(turns, tokenize=False)
        except Exception:  # a template raises what it likes; so it will, with the roles named, for the conversation
            _KEEPS_SYSTEM[template] = True
    return _KEEPS_SYSTEM[template]


def with_system_in_user(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The turns with the system's text at the beginning of the user's first."""
    if len(turns) < 2 or turns[0]["role"] != SYSTEM or turns[1]["role"] != USER:
        return list(turns)
    return [turns[1] | {"content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}, *turns[2:]]


def folded(template: str, messages: Sequence[Message]) -> list[str]:
    """What of a conversation a template cannot express: tools, calls, results."""
    parts = {
        "tools": bool(tools_of(messages)) and "tools" not in template,
        "calls": any(message.get("tool_calls") for message in messages) and "tool_calls" not in template,
        "results": any(message["role"] == TOOL for message in messages) and "tool" not in template,
    }
    return [name for name, is_folded in parts.items() if is_folded]


def _with_calls_as_text(turn: dict[str, Any]) -> dict[str, Any]:
    if not turn.get("tool_calls"):
        return turn
    words = [turn["content"]] if turn["content"] else []
    text = "\n".join([*words, *(f"<tool_call>\n{call}\n</tool_call>" for call in calls_as_json(turn))])
    return {name: value for name, value in turn.items() if name != "tool_calls"} | {"content": text}


def _with_result_as_user(turn: dict[str, Any]) -> dict[str, Any]:
    if turn["role"] != TOOL:
        return turn
    return {"role": USER, "content": f"<tool_response>\n{turn['content']}\n</tool_response>"}


def _with_tools_in_system(turns: list[dict[str, Any]], tools: list[Any]) -> list[dict[str, Any]]:
    definitions = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    text = _TOOLS.format(definitions)
    if turns and turns[0]["role"] == SYSTEM:
        return [turns[0] | {"content": f"{turns[0]['content']}\n\n{text}"}, *turns[1:]]
    return [{"role": SYSTEM, "content": text}, *turns]
