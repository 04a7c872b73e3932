"""One value of a cell as text or number."""

import json
from typing import Any

BAD = frozenset(
    (
        *(
            "false",
            "0",
            "no",
            "n",
            "bad",
            "down",
            "thumbs_down",
            "thumbs-down",
            "thumbsdown",
            "undesirable",
            "rejected",
        ),
        *(
            "incorrect",
            "negative",
            "poor",
            "wrong",
            "dislike",
            "disliked",
            "unhelpful",
            "harmful",
            "unsafe",
            "\U0001f44e",
        ),
    )
)
"""Words that say of an answer that it is not to be learnt."""
VERDICTS = frozenset(
    (
        *("good", "bad", "desirable", "undesirable", "chosen", "rejected", "accepted", "like", "dislike", "liked"),
        *("disliked", "helpful", "unhelpful", "thumbs_up", "thumbs_down", "\U0001f44d", "\U0001f44e"),
    )
)
"""Words that as the label of an answer are a mark, and name no class of texts."""


def plain(value: Any) -> str:
    """One value as text: strings as they are, nested ones as JSON."""
    if isinstance(value, str):
        return value
    if type(value) is int:  # most values of databases: ten times as fast as json
        return str(value)
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def as_number(value: Any) -> float | None:
    """A number, or a text that is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def whole_number(text: str | None) -> int | None:
    """The number that a text of one to nineteen digits is; None for any other. "²" is a digit, and no number."""
    return int(text) if text and text.isdecimal() and len(text) < 20 else None
