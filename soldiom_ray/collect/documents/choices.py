"""The choices of a question, and which of them is right."""

from collections.abc import Mapping, Sequence
from typing import Any

from soldiom_ray.collect.documents.cell_values import plain
from soldiom_ray.collect.documents.tool_calls import parsed_json
from soldiom_ray.collect.text import SkippedError

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


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
        value = parsed_json(value)
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


def right_choice(choices: list[tuple[str, str]], key: Any, first: int | None = None) -> str:
    """The right choice, "B. its text". `key` is its place, from `first` on, or where that is None its label or text.
    Raises SkippedError: unmatched_choice."""
    if isinstance(key, list) and len(key) == 1:
        (key,) = key
    written = plain(key).strip()
    if first is not None and _is_place(written) and 0 <= int(written) - first < len(choices):
        return "{}. {}".format(*choices[int(written) - first])
    for label, text in choices if first is None else ():
        if (written and written in (label, text.strip())) or written.lower() == f"{label}. {text}".lower():
            return f"{label}. {text}"
    for label, text in choices if first is None else ():
        if written.lower().strip("().") == label.lower():
            return f"{label}. {text}"
    raise SkippedError("unmatched_choice", f"the answer {written[:60]!r} is none of {len(choices)} choices")


def _is_place(written: str) -> bool:
    """Whether a key can be the place of a choice: "²" is a digit and no number."""
    return written.isdecimal() and len(written) < 10


def first_place(by_role: Mapping[str, str], records: Sequence[Mapping[str, Any]]) -> int | None:
    """0 or 1 where the keys of all records are places among their choices, counted from there; None where they are
    labels, or most of them texts. From 1 on they count where one is the number of its choices, or 0 is none of them and
    the choices are numbered themselves."""
    role = next((role for role in ("answer", "answer_key", "label") if role in by_role), None)
    if role is None or {"choices", "choice_columns"}.isdisjoint(by_role):
        return None
    places, texts_among, is_last, are_numbered = [], 0, False, True
    for record in records:
        key = record.get(by_role[role])
        (key,) = key if isinstance(key, list) and len(key) == 1 else (key,)
        if key is None or key == "":
            continue
        choices = choices_in(record, by_role)
        texts = [text.strip() for _, text in choices]
        texts_among += isinstance(key, str) and key.strip() in texts
        if isinstance(key, bool) or not _is_place(plain(key).strip()) or int(key) > len(choices):
            return None
        places.append(int(key))
        is_last |= int(key) == len(choices)
        are_numbered &= all(label.isdigit() for label, _ in choices)
    if not places or 2 * texts_among > len(places):
        return None
    return 1 if 0 not in places and (is_last or are_numbered) else 0
