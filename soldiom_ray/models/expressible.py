"""What a chat template cannot express is folded into what it can: tools into the system turn, calls into the
assistant's words, results into a user's turn, a system turn into the user's, turns of one speaker into one. The marks
are those of the Hermes and Qwen families."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from soldiom_ray.domains.messages import ASSISTANT, SYSTEM, TOOL, USER, Message, calls_as_json, is_taught, tools_of

_TOOLS = (
    "You may call these functions. To call one, answer with <tool_call>, a line of JSON with its name and arguments,"
    " and </tool_call>.\n<tools>\n{}\n</tools>"
)
_MARKS = ("first-turn-7c1e", "second-turn-90b2")

Turns = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class TemplateAbilities:
    """What a chat template writes without leaving it out or refusing it."""

    tools: bool
    calls: bool
    results: bool
    system: bool
    repeated_users: bool
    repeated_answers: bool
    reasoning: bool


_ABILITIES: dict[str, TemplateAbilities] = {}
"""By template: rendering it costs as much as encoding a short conversation."""


def abilities_of(tokenizer: Any) -> TemplateAbilities:
    """The abilities of a tokenizer's chat template; of one without a template, which gets plain lines."""
    template = str(getattr(tokenizer, "chat_template", None) or "")
    if template not in _ABILITIES:
        first, second = _MARKS
        user, repeated = {"role": USER, "content": first}, {"role": USER, "content": second}
        answers = [user, {"role": ASSISTANT, "content": first}, {"role": ASSISTANT, "content": second}]
        # A template that refuses even a user's turn refuses the conversations too, and is told so with their turns.
        is_judged = bool(template) and _writes(tokenizer, [user], first)
        _ABILITIES[template] = TemplateAbilities(
            tools="tools" in template,
            calls="tool_calls" in template,
            results="tool" in template,
            system=not is_judged or _writes(tokenizer, [{"role": SYSTEM, "content": second}, user], first, second),
            repeated_users=not is_judged or _writes(tokenizer, [user, repeated], first, second),
            repeated_answers=not is_judged or _writes(tokenizer, answers, first, second),
            reasoning="reasoning_content" in template,
        )
    return _ABILITIES[template]


def _writes(tokenizer: Any, turns: Turns, *texts: str) -> bool:
    try:
        written = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # a template raises what it likes
        return False
    return all(text in written for text in texts)


def template_gaps(tokenizer: Any, messages: Sequence[Message]) -> list[str]:
    """What of a conversation a tokenizer's chat template cannot express."""
    able = abilities_of(tokenizer)
    roles = [message["role"] for message in messages]
    gaps = {
        "tools": not able.tools and bool(tools_of(messages)),
        "calls": not able.calls and any(message.get("tool_calls") for message in messages),
        "results": not able.results and TOOL in roles,
        "system turns": not able.system and SYSTEM in roles,
        "repeated user turns": not able.repeated_users and _repeats(roles, USER),
        "reasoning": not able.reasoning and any(message.get("reasoning_content") for message in messages),
        "repeated answers": not able.repeated_answers and _repeats(roles, ASSISTANT),
    }
    return [name for name, is_gap in gaps.items() if is_gap]


def folded(tokenizer: Any, messages: Sequence[Message]) -> Turns:
    """The conversation with all gaps folded into what the template can express; folding it again changes nothing."""
    able = abilities_of(tokenizer)
    turns: Turns = list(messages)  # type: ignore[arg-type]  # none is changed in place
    if not able.reasoning:
        turns = [_with_reasoning_as_text(turn) for turn in turns]
    if not able.calls:
        turns = [_with_calls_as_text(turn) for turn in turns]
    if not able.results:
        turns = [_with_result_as_user(turn) for turn in turns]
    if not able.tools and (tools := tools_of(turns)):
        turns = _with_tools_in_system(turns, tools)
    if not able.system:
        turns = _with_system_in_user(turns)
    if not able.repeated_users:
        turns = _joined_turns(turns, USER)
    return turns if able.repeated_answers else _joined_turns(turns, ASSISTANT)


def as_template_takes(messages: Sequence[Message]) -> tuple[Turns, list[Any] | None]:
    """(messages, tools) for a template, without what only a training reads."""
    return [{name: value for name, value in m.items() if name not in ("tools", "weight")} for m in messages], (
        tools_of(messages) or None
    )


def _repeats(roles: Sequence[str], role: str) -> bool:
    return any(first == second == role for first, second in pairwise(roles))


def _with_reasoning_as_text(turn: dict[str, Any]) -> dict[str, Any]:
    """The reasoning before the answer, as models write it that are trained to reason."""
    if turn["role"] != ASSISTANT or not turn.get("reasoning_content"):
        return turn
    text = f"<think>\n{turn['reasoning_content']}\n</think>\n\n{turn.get('content') or ''}"
    return {name: value for name, value in turn.items() if name != "reasoning_content"} | {"content": text.rstrip()}


def _with_calls_as_text(turn: dict[str, Any]) -> dict[str, Any]:
    if not turn.get("tool_calls"):
        return turn
    words = [turn["content"]] if turn.get("content") else []
    text = "\n".join([*words, *(f"<tool_call>\n{call}\n</tool_call>" for call in calls_as_json(turn))])
    return {name: value for name, value in turn.items() if name != "tool_calls"} | {"content": text}


def _with_result_as_user(turn: dict[str, Any]) -> dict[str, Any]:
    if turn["role"] != TOOL:
        return turn
    return _with_tools({"role": USER, "content": f"<tool_response>\n{turn['content']}\n</tool_response>"}, turn)


def _with_tools_in_system(turns: Turns, tools: list[Any]) -> Turns:
    definitions = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    text = _TOOLS.format(definitions)
    turns = [{name: value for name, value in turn.items() if name != "tools"} for turn in turns]
    if turns and turns[0]["role"] == SYSTEM:
        return [turns[0] | {"content": f"{turns[0]['content']}\n\n{text}"}, *turns[1:]]
    return [{"role": SYSTEM, "content": text}, *turns]


def _with_system_in_user(turns: Turns) -> Turns:
    """Every system's text at the beginning of the user's turn after it, or as a user's turn where none follows."""
    moved: Turns = []
    for turn in turns:
        before = moved[-1] if moved else None
        if before is not None and before["role"] == SYSTEM:
            joined = turn | {"content": f"{before['content']}\n\n{turn['content']}"}
            moved[-1:] = [_with_tools(joined, before)] if turn["role"] in (USER, SYSTEM) else [_as_user(before), turn]
        else:
            moved.append(turn)
    return [_as_user(turn) if turn["role"] == SYSTEM else turn for turn in moved]


def _as_user(turn: dict[str, Any]) -> dict[str, Any]:
    return turn | {"role": USER}


def _joined_turns(turns: Turns, role: str) -> Turns:
    """Neighboring turns of a role as one, unless only one of them is taught."""
    joined: Turns = []
    for turn in turns:
        before = joined[-1] if joined else None
        if before and before["role"] == turn["role"] == role and is_taught(before) == is_taught(turn):
            texts = [text for text in (before.get("content"), turn.get("content")) if text]
            calls = [*(before.get("tool_calls") or ()), *(turn.get("tool_calls") or ())]
            joined[-1] = before | {"content": "\n\n".join(texts)} | ({"tool_calls": calls} if calls else {})
        else:
            joined.append(turn)
    return joined


def _with_tools(turn: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A turn that takes the place of another, which may carry the conversation's tools."""
    return turn | ({"tools": other["tools"]} if other.get("tools") else {})
