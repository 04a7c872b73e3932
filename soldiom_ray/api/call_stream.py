"""Calls of functions in an answer of ours: whole, with their arguments as values."""

import json
from collections.abc import Iterator, Mapping
from typing import Any


def function_call(name: str, arguments: str) -> dict[str, Any]:
    """A call as answers hold it; arguments that `max_tokens` or a stop text cut stay the text that came."""
    try:
        values = json.loads(arguments)
    except ValueError:
        values = arguments
    return {"type": "function", "function": {"name": name, "arguments": values}}


class CallEvents:
    """An endpoint's parts of calls in, an event for each call out: {"tool_calls": [{"index", "type", "function"}]}."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._arguments: list[str] = []
        self._index = 0

    def add(self, part: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The call that a part ends: the one before the next name."""
        if "name" in part:
            yield from self.end()
            self._name, self._index = part["name"], part["index"]
        else:
            self._arguments.append(part["arguments"])

    def end(self) -> Iterator[dict[str, Any]]:
        """The last call."""
        if self._name is not None:
            call = function_call(self._name, "".join(self._arguments))
            yield {"tool_calls": [{"index": self._index, **call}]}
        self._name, self._arguments = None, []
