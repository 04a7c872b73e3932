"""Messages of a conversation, as OpenAI writes them and chat templates read them: `role`, `content`, and where there
are some `tool_calls`, `tool_call_id`, `name`, `reasoning_content`, `weight` (0: not taught). The first message of a
conversation carries its `tools`."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

USER, ASSISTANT, SYSTEM, TOOL = "user", "assistant", "system", "tool"
ROLES = (SYSTEM, USER, ASSISTANT, TOOL)
WRITTEN_FIELDS = ("tool_calls", "tools", "reasoning_content")
"""Fields of a message besides `content` whose strings were written by somebody: they are cleaned and redacted."""


Message = Mapping[str, Any]


def spoken(message: Message) -> str:
    """What a message says, calls included: its content, then each call as a line of JSON."""
    content = str(message.get("content") or "")
    if not message.get("tool_calls"):
        return content
    calls = calls_as_json(message)
    return "\n".join([content, *calls] if content else calls)


def calls_as_json(message: Message) -> list[str]:
    """Each call of a message as a line of JSON: its name and arguments."""
    return [json.dumps(call.get("function", call), ensure_ascii=False) for call in message.get("tool_calls") or ()]


class Turn(Protocol):
    """A message as a record of a request."""

    @property
    def content(self) -> str | None: ...
    @property
    def tool_calls(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def tool_call_id(self) -> str: ...
    @property
    def name(self) -> str: ...


def length_of_conversation(messages: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()) -> int:
    """The characters that a template may write of these messages: what is said, and calls and tools as JSON."""
    parts: list[Any] = [list(tools)] if tools else []
    for message in messages:
        parts.extend(part for part in (list(message.tool_calls), list(getattr(message, "tools", ()))) if part)
    said = sum(len(each.content or "") + len(each.tool_call_id) + len(each.name) for each in messages)
    return said + sum(len(json.dumps(part, ensure_ascii=False)) for part in parts)


def labelled_text(messages: Sequence[Message]) -> str:
    """The conversation as one text, each turn after its role."""
    # Two fields are its role and its content; asked of millions of messages.
    return "\n\n".join([f"{each['role']}: {each['content'] if len(each) == 2 else spoken(each)}" for each in messages])


def tools_of(messages: Sequence[Message]) -> list[Any]:
    """The tools that a conversation may call."""
    return next((list(message["tools"]) for message in messages if message.get("tools")), [])


def with_parsed_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call whose arguments are an object, as chat templates take them; OpenAI's clients send them as text."""
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return dict(call)
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return dict(call)
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else dict(call)


def is_taught(message: Message) -> bool:
    """Whether a model learns to say this message."""
    return bool(message["role"] == ASSISTANT and message.get("weight", 1) != 0)


def mapped_strings(value: Any, function: Callable[[str], str]) -> Any:
    """A JSON value with every string in it changed by `function`, names of fields left alone. A number becomes a string
    where the function changes its digits."""
    if isinstance(value, str):
        return function(value)
    if isinstance(value, Mapping):
        return {name: mapped_strings(inner, function) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [mapped_strings(inner, function) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool):
        changed = function(str(value))
        return value if changed == str(value) else changed
    return value
