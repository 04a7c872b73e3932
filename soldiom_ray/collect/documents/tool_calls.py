"""Calls of functions and their definitions, from every form the field writes them in to OpenAI's."""

import ast
import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from itertools import pairwise
from token import NEWLINE, NL, STRING
from tokenize import TokenError, generate_tokens
from typing import Any

from soldiom_ray.collect.text import SkippedError

_NAMES = ("name", "function_name", "tool_name")
_DECLARATIONS = ("functionDeclarations", "function_declarations")
_ARGUMENTS = ("arguments", "parameters", "args", "input", "kwargs")


MARKS = ("<tool_call>", "<functioncall>", "<tool_response>")
_WRITTEN_CALL = re.compile(
    r"<tool_call>\s*(\{.*?\})\s*</tool_call>|<functioncall>\s*(\{.*\})(?:\s*<\|endoftext\|>)?", re.DOTALL
)
_QUOTED_ARGUMENTS = re.compile(r"""("arguments":\s*)'(\{.*\})'(\s*\})""", re.DOTALL)
_WRITTEN_RESPONSES = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)
_WRITTEN_RESPONSE = re.compile(r"<tool_response>(.*)</tool_response>", re.DOTALL)


def read_calls(value: Any) -> list[dict[str, Any]]:
    """Calls, [{type, function: {name, arguments}, id?}], from one call or a list of them, as JSON or as its text. Empty
    when the value is no call. Arguments are an object where they can be read as one, else as they were written."""
    value = parsed_json(value)
    entries = value if isinstance(value, list) else [value]
    calls = [call for entry in entries if (call := _read_call(parsed_json(entry)))]
    return calls if len(calls) == len(entries) else []


def _read_call(entry: Any) -> dict[str, Any] | None:
    if not isinstance(entry, dict):
        return None
    function = entry.get("function")
    inner = function if isinstance(function, dict) else entry
    name = next((inner[key] for key in _NAMES if isinstance(inner.get(key), str)), None)
    if name is None and isinstance(function, str):
        name = function
    if not name:
        return None
    written: Any = next((inner[key] for key in _ARGUMENTS if inner.get(key) is not None), {})
    parsed = parsed_json(written) if written != "" else {}
    if isinstance(parsed, str) and parsed.lstrip().startswith("{"):
        return None
    arguments = without_nulls(parsed) if isinstance(parsed, dict) else written
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return call | ({"id": str(entry["id"])} if entry.get("id") else {})


def without_calls(text: str) -> tuple[str, list[dict[str, Any]]]:
    """(the words, the calls) of an answer whose calls stand in its text with the marks of Hermes or Glaive; the whole
    text and none where one of them cannot be read."""
    written = [hermes or glaive for hermes, glaive in _WRITTEN_CALL.findall(text)]
    calls = [call for each in written for call in read_calls(_QUOTED_ARGUMENTS.sub(r"\1\2\3", each))]
    if not written or len(calls) < len(written):
        return text, []
    return _WRITTEN_CALL.sub("", text).strip(), calls


def without_response_marks(text: str) -> str:
    """A tool's result without the marks that some put around it."""
    match = _WRITTEN_RESPONSE.fullmatch(text.strip())
    return match[1].strip() if match else text


def results_in(text: str) -> list[str]:
    """The results of tools that a turn of the user consists of, as Qwen's template writes them; [] for other texts."""
    parts = _WRITTEN_RESPONSES.findall(text) if text.startswith("<tool_response>") else []
    return [part.strip() for part in parts] if parts and not _WRITTEN_RESPONSES.sub("", text).strip() else []


def read_tools(value: Any) -> list[dict[str, Any]]:
    """Definitions of functions, [{type, function: {name, ...}}], from a list or its text. Raises SkippedError:
    damaged_tools, when there are some that cannot be read."""
    parsed = parsed_json(value)
    if parsed in (None, "", [], {}):
        return []
    entries = parsed if isinstance(parsed, list) else [parsed]
    tools = []
    for entry in _flat(entries):
        function = entry.get("function", entry) if isinstance(entry, dict) else None
        if not isinstance(function, dict) or not function.get("name"):
            raise SkippedError("damaged_tools", f"no definition of a function: {str(entry)[:80]}")
        definition = without_nulls(function)
        if "input_schema" in definition:
            definition["parameters"] = definition.pop("input_schema")
        tools.append({"type": "function", "function": definition})
    return tools


def _flat(entries: list[Any]) -> Iterator[Any]:
    """The definitions, those included that Gemini's tools hold as a list."""
    for entry in map(parsed_json, entries):
        names = [name for name in _DECLARATIONS if isinstance(entry, dict) and isinstance(entry.get(name), list)]
        yield from entry[names[0]] if names else [entry]


_ARRAY = re.compile(r"\barray\((\[.*?\])(?:,\s*dtype=\w+)?\)", re.DOTALL)
_NEXT_TEXT = re.compile(r"['\"]\s+['\"]")
_NEXT_OBJECT = re.compile(r"\}\s*\n\s*\{")
"""Between the objects of an array as NumPy prints it."""


def parsed_json(value: Any) -> Any:
    """A text that is a list or object of JSON, or of Python as pandas writes cells, as that; all else unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return _python_value(value)
    return value


def _with_commas(text: str) -> str:
    """A list of texts as NumPy prints it, with commas: Python would join its texts to one."""
    if not _NEXT_TEXT.search(text):
        return text
    try:
        tokens = [token for token in generate_tokens(io.StringIO(text).readline) if token.type not in (NL, NEWLINE)]
    except (TokenError, SyntaxError):
        return text
    lines = text.splitlines(keepends=True)
    for token, after in reversed(list(pairwise(tokens))):
        if token.type == after.type == STRING:
            row, column = token.end
            lines[row - 1] = f"{lines[row - 1][:column]},{lines[row - 1][column:]}"
    return "".join(lines)


def _python_value(text: str) -> Any:
    if "'" not in text or text.rstrip()[-1:] not in ("]", "}"):
        return text
    text = _with_commas(text)
    for written in (text, _NEXT_OBJECT.sub("}, {", _ARRAY.sub(r"\1", text))):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                value = ast.literal_eval(written.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, (list, dict)):
            return value
    return text


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """An object without the fields that are null: Parquet gives every row the fields of all rows."""
    return {
        name: without_nulls(inner) if isinstance(inner, dict) else inner
        for name, inner in value.items()
        if inner is not None
    }
