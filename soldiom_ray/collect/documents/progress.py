"""A sign of life from a parser whose file honestly takes long: OCR after each page, speech after each minute.

Within the sandbox it puts off the end that a silent parser meets; elsewhere it does nothing.
"""

from collections.abc import Callable

_listeners: list[Callable[[], None]] = []


def beat() -> None:
    """A part of the work is done."""
    for listener in _listeners:
        listener()


def listen(listener: Callable[[], None]) -> None:
    """Call `listener` at every beat of this process."""
    _listeners.append(listener)
