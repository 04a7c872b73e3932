"""What stands in a record's cells: a question's parts, an answer in its many forms, and whether it is a good one."""

import json
from collections.abc import Mapping
from typing import Any

from soldiom_ray.collect.documents.columns import Columns, as_number, plain
from soldiom_ray.collect.text import SkippedError

_BAD = ("false", "0", "no", "n", "bad", "down", "thumbs_down", "undesirable", "rejected", "incorrect")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def bad_answer(record: Mapping[str, Any], columns: Columns) -> str:
    """Why a record's answer must not be taught as a good one, "" when nothing speaks against it: a rating below the
    middle of its scale, KTO's label false, a step that is marked wrong, or it is the rejected one alone."""
    roles = columns.by_role
    if "rejected" in roles and not {"chosen", "output", "answer", "text", "target", "messages"} & roles.keys():
        return "it is a rejected answer without the chosen one"
    if "rating" in roles and (why := _low_rating(record.get(roles["rating"]), columns.middle)):
        return f"{roles['rating']} is {why}"
    if columns.label_is_mark and plain(record.get(roles["label"])).strip().lower() in ("false", "0", "0.0"):
        return f"{roles['label']} is {plain(record[roles['label']])}"
    if "step_labels" in roles:
        marks = record.get(roles["step_labels"])
        for number, mark in enumerate(marks if isinstance(marks, list) else (), 1):
            if mark is False or plain(mark).strip().lower() in _BAD:
                return f"step {number} of {len(marks or ())} is marked wrong"
    return ""


def _low_rating(value: Any, middle: float | None) -> str:
    number = as_number(value)
    if value is False or (isinstance(value, str) and number is None and value.strip().lower() in _BAD):
        return str(value).strip().lower()
    if number is not None and (number < 0 or (middle is not None and number < middle)):
        return f"{number:g}" + (f", below {middle:g}" if middle is not None else "")
    return ""


def answer_text(value: Any, column: str) -> str:
    """An answer as text: SQuAD's {"text": [...]} and lists under a plural name are several answers of which the first
    is taken; numbers, other lists and objects are written out."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        value = next((text for text in value["text"] if str(text).strip()), "")
    elif isinstance(value, Mapping) and isinstance(value.get("text"), str):
        value = value["text"]
    elif isinstance(value, Mapping) and isinstance(value.get("value"), str):
        value = value["value"]  # TriviaQA, beside its aliases
    elif isinstance(value, list) and column.strip().lower().endswith("answers") and len(value) > 0:
        first = value[0]
        value = answer_text(first, "") if isinstance(first, Mapping) else first
    return value_text(value).strip()


def value_text(value: Any) -> str:
    """A value as part of a text: a list of texts paragraph by paragraph, objects as JSON."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n\n".join(value)
    return plain(value)


def choices_in(record: Mapping[str, Any], by_role: Mapping[str, str]) -> list[tuple[str, str]]:
    """(label, text) of each choice of a record's question: in one column, or each in its own, whose last letter is its
    label."""
    if "choices" in by_role:
        return choices_of(record.get(by_role["choices"]))
    names = by_role["choice_columns"].split(",")
    return [(name[-1].upper(), plain(record.get(name))) for name in names if record.get(name) not in (None, "")]


def choices_of(value: Any) -> list[tuple[str, str]]:
    """(label, text) of each choice of a question, from a list, an object, or {"text": [...], "label": [...]}."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return []
    if isinstance(value, Mapping):
        texts, labels = value.get("text"), value.get("label")
        if isinstance(texts, list) and isinstance(labels, list):
            return [(str(label), plain(text)) for label, text in zip(labels, texts, strict=False)]
        return [(str(label), plain(text)) for label, text in value.items()]
    if isinstance(value, list):
        return [
            (str(choice.get("label", _LETTERS[number % 26])), plain(choice.get("text", choice)))
            if isinstance(choice, Mapping)
            else (_LETTERS[number % 26], plain(choice))
            for number, choice in enumerate(value)
        ]
    return []


def right_choice(choices: list[tuple[str, str]], key: Any) -> str:
    """The right choice, "B. its text". `key` is its label, its text, or its place from 0. Raises SkippedError:
    unmatched_choice."""
    if isinstance(key, list) and len(key) == 1:
        (key,) = key
    written = plain(key).strip()
    for label, text in choices:
        if (written and written in (label, text.strip())) or written.lower() == f"{label}. {text}".lower():
            return f"{label}. {text}"
    for label, text in choices:
        if written.lower().strip("().") == label.lower():
            return f"{label}. {text}"
    if written.isdigit() and int(written) < len(choices):
        return "{}. {}".format(*choices[int(written)])
    raise SkippedError("unmatched_choice", f"the answer {written[:60]!r} is none of {len(choices)} choices")
