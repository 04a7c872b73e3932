"""Calls that an assistant writes as Python, `[weather(city="Rome", days=2)]`, with the functions in the system's turn,
as ToolACE and the Berkeley leaderboard have them: they become calls and definitions like all others."""

import ast
import json
import re
from typing import Any

from soldiom_ray.collect.documents.tool_calls import read_tools
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.messages import ASSISTANT, SYSTEM, TOOL

_NAME = re.compile(r"\s*([A-Za-z_][\w .:/-]*?)\s*\(")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_WORDS = {"true": True, "false": False, "null": None}
_FORMAT = re.compile(r"[^\n]*\[\s*func\w*\([^\n]*\n?|Should you decide to return the function call\(s\)\.?\s*")
"""What says how calls are written: they are written as the model's template does."""

Messages = list[dict[str, Any]]


def read_written_calls(messages: Messages, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give messages the calls that stand in their contents, where functions are known or results follow. The
    definitions of functions: those given, or those taken out of the system's turn."""
    system = messages[0] if messages and messages[0]["role"] == SYSTEM else None
    written = _definitions(system["content"]) if system is not None and not tools else None
    if not tools and written is None and not any(message["role"] == TOOL for message in messages):
        return tools
    calls = [_calls_in(message) for message in messages]
    if written is not None and system is not None and (any(calls) or _FORMAT.search(system["content"])):
        found, start, end = written
        before = system["content"][:start].rstrip()
        system["content"] = _FORMAT.sub("", f"{before}\n{system['content'][end:].lstrip('. ')}").strip()
        tools = found
    for message, called in zip(messages, calls, strict=True):
        if called:
            message |= {"content": "", "tool_calls": called}
    if system is not None and not system["content"]:
        messages.pop(0)
    return tools


def _calls_in(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    if message["role"] != ASSISTANT or not content.startswith("[") or not content.endswith(")]"):
        return []
    return [] if message.get("tool_calls") else written_calls(content)


def written_calls(text: str) -> list[dict[str, Any]]:
    """The calls of a text that is a list of nothing else, else none."""
    calls, position = [], 1
    while position < len(text):
        name = _NAME.match(text, position)
        end = _end_of_arguments(text, name.end()) if name else -1
        arguments = _arguments(text[name.end() : end]) if name and end >= 0 else None
        if name is None or arguments is None:
            return []
        calls.append({"type": "function", "function": {"name": name[1], "arguments": arguments}})
        after = text[end + 1 :].lstrip()[:1]
        position = text.index(after, end + 1) + 1 if after in (",", "]") and after else len(text) + 1
    return calls if position == len(text) else []


def _end_of_arguments(text: str, start: int) -> int:
    """The place of the bracket that closes what begins before `start`; -1 without one."""
    open_brackets, quote, position = [")"], "", start
    while position < len(text):
        sign = text[position]
        if quote:
            position += sign == "\\"
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in _CLOSING:
            open_brackets.append(_CLOSING[sign])
        elif sign == open_brackets[-1]:
            open_brackets.pop()
            if not open_brackets:
                return position
        position += 1
    return -1


def _arguments(text: str) -> dict[str, Any] | None:
    try:
        call = ast.parse(f"f({text.strip()})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return None
        return {str(each.arg): _value(each.value) for each in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class _Words(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(_WORDS[node.id]) if node.id in _WORDS else node


def _value(node: ast.expr) -> Any:
    value = ast.literal_eval(_Words().visit(node))
    json.dumps(value)
    return value


def _definitions(text: str) -> tuple[list[dict[str, Any]], int, int] | None:
    """(the definitions of functions that a text holds as JSON, where they begin and end)."""
    start = text.find("[{")
    try:
        value, end = json.JSONDecoder().raw_decode(text, start) if start >= 0 else (None, 0)
        tools = read_tools(value) if isinstance(value, list) else []
    except (ValueError, RecursionError, SkippedError):
        return None
    are_described = all({"parameters", "description"} & tool["function"].keys() for tool in tools)
    return (tools, start, end) if tools and are_described else None
