"""Heartbeats of a parser whose file takes long for good reason: OCR after each page, speech after each piece.

Within the sandbox a heartbeat extends the time limits; elsewhere it does nothing.
"""

from collections.abc import Callable

_listeners: list[Callable[[], None]] = []


def beat() -> None:
    """Report that a part of the work is done."""
    for listener in _listeners:
        listener()


def listen(listener: Callable[[], None]) -> None:
    """Call `listener` at every beat of this process."""
    _listeners.append(listener)
