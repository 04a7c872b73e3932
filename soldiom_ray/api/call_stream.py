"""Calls in an answer that arrives in pieces: each is sent whole once it is complete, and the words around it as they
come."""

from collections.abc import Iterator
from typing import Any

from soldiom_ray.domains.messages import calls_in

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class CallStream:
    """Pieces of an answer in, events out: {"text": ...} or {"tool_calls": [{"index", "type", "function"}]}."""

    def __init__(self) -> None:
        self._held = ""
        self._calls = 0

    def add(self, piece: str) -> Iterator[dict[str, Any]]:
        """The events that a piece completes."""
        self._held += piece
        while True:
            before, mark, rest = self._held.partition(_OPEN)
            if not mark:
                keep = _length_of_beginning(self._held)
                before, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
                yield from _text(before)
                return
            yield from _text(before)
            self._held = _OPEN + rest
            inner, close, after = rest.partition(_CLOSE)
            if not close:
                return
            written, self._held = f"{_OPEN}{inner}{_CLOSE}", after
            yield from self._call(written)

    def end(self) -> Iterator[dict[str, Any]]:
        """What was held back and is no call after all."""
        held, self._held = self._held, ""
        yield from _text(held)

    def _call(self, written: str) -> Iterator[dict[str, Any]]:
        calls = calls_in(written)
        if not calls:
            yield from _text(written)
            return
        yield {"tool_calls": [{"index": self._calls + number, **call} for number, call in enumerate(calls)]}
        self._calls += len(calls)


def _length_of_beginning(text: str) -> int:
    """How many of the last characters may be the beginning of a call."""
    longest = min(len(text), len(_OPEN) - 1)
    return next((length for length in range(longest, 0, -1) if _OPEN.startswith(text[-length:])), 0)


def _text(text: str) -> Iterator[dict[str, Any]]:
    if text:
        yield {"text": text}
