"""Calls of functions and their definitions, from every form the field writes them in to OpenAI's."""

import json
from collections.abc import Mapping
from typing import Any

from soldiom_ray.collect.text import SkippedError

_NAMES = ("name", "function_name", "tool_name")
_ARGUMENTS = ("arguments", "parameters", "args", "input", "kwargs")


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
    parsed = parsed_json(written)
    arguments = without_nulls(parsed) if isinstance(parsed, dict) else written
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return call | ({"id": str(entry["id"])} if entry.get("id") else {})


def read_tools(value: Any) -> list[dict[str, Any]]:
    """Definitions of functions, [{type, function: {name, ...}}], from a list or its text. Raises SkippedError:
    damaged_tools, when there are some that cannot be read."""
    parsed = parsed_json(value)
    if parsed in (None, "", [], {}):
        return []
    entries = parsed if isinstance(parsed, list) else [parsed]
    tools = []
    for entry in map(parsed_json, entries):
        function = entry.get("function", entry) if isinstance(entry, dict) else None
        if not isinstance(function, dict) or not function.get("name"):
            raise SkippedError("damaged_tools", f"no definition of a function: {str(entry)[:80]}")
        definition = without_nulls(function)
        if "input_schema" in definition:
            definition["parameters"] = definition.pop("input_schema")
        tools.append({"type": "function", "function": definition})
    return tools


def parsed_json(value: Any) -> Any:
    """A text that is a JSON list or object as that; anything else unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """An object without the fields that are null: Parquet gives every row the fields of all rows."""
    return {
        name: without_nulls(inner) if isinstance(inner, dict) else inner
        for name, inner in value.items()
        if inner is not None
    }
