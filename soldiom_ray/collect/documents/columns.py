"""Which columns or fields of a record say what: guessed by their names, or set by the user."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from soldiom_ray.collect.text import SkippedError

_NAMES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation"),
    "instruction": ("instruction", "prompt"),
    "input": ("input",),
    "output": ("output", "response", "completion"),
    "question": ("question", "query"),
    "context": ("context", "contexts"),
    "answer": ("answer", "answers", "long_answer"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "source": ("source", "src", "source_text"),
    "target": ("target", "tgt", "target_text"),
    "text": ("text", "content", "body", "document", "passage", "article", "sentence", "tweet", "review"),
    "correction": ("correction", "corrected", "corrected_answer"),
    "time": ("time", "timestamp", "created_at", "datetime", "date"),
    "group": ("group", "group_id", "conversation_id", "thread_id", "session_id", "doc_title", "document_id"),
    "license": ("license", "licence"),
    "label": ("label", "labels", "class", "category"),
    "image": ("file_name", "filename", "image_file", "image_path", "image"),
    "split": (),
}
"""A role and the names, best first, that a column for it usually has. A set's own division is never guessed: it may be
an old one that a stranger made."""

_FORMS = (
    ("instruction", "input", "chosen", "rejected"),
    ("instruction", "chosen", "rejected"),
    ("question", "context", "chosen", "rejected"),
    ("question", "chosen", "rejected"),
    ("input", "chosen", "rejected"),
    ("chosen", "rejected"),
    ("messages",),
    ("instruction", "input", "output"),
    ("instruction", "output"),
    ("instruction", "chosen"),
    ("question", "context", "answer"),
    ("question", "answer"),
    ("question", "output"),
    ("input", "output"),
    ("source", "target"),
    ("text",),
    ("chosen",),
    ("image", "label"),
)
"""The roles that a record of one form has. The first form counts that a record has all roles of."""

_BESIDE = ("label", "rejected", "correction", "time", "group", "license", "image", "split")
"""Roles that are told beside any form: they are no part of the text."""

_OWN = ("time", "group", "license", "image", "split")
"""Roles that say something of the record itself: when, what it belongs to, how it may be used, which picture it is of,
on which side of the set's own division it stands."""

_ANSWERING = ("answer", "output", "chosen", "target")
"""Roles that a model is to say, where they come last in a form."""

_USUAL_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "function": "tool"}

_SIDES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}

_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_TRANSCRIPT = re.compile(r"\s*Human:.*\n\nAssistant:", re.DOTALL)
"""The form of the HH-RLHF pairs (Bai et al. 2022)."""

_UNMARKED = ("", "0", "false", "no")
MAX_FIELDS_CHARACTERS = 2000


def guess_columns(names: Iterable[str]) -> dict[str, str]:
    """Role -> column for the first form that the columns fill, and for labels; empty when they fill none."""
    known = {name.strip().lower().replace(" ", "_").replace("-", "_"): name for name in reversed(list(names))}
    found = {
        role: known[name] for role, usual in _NAMES.items() if (name := next((n for n in usual if n in known), None))
    }
    form = next((form for form in _FORMS if all(role in found for role in form)), None)
    if form is None:
        return {}
    return {role: found[role] for role in (*form, *(beside for beside in _BESIDE if beside in found))}


def choose_columns(names: Sequence[str], wished: Mapping[str, str]) -> dict[str, str]:
    """The columns that the user wished, or the guess. Raises SkippedError: wrong_columns, with the missing and the
    known names; a wished name may differ in case. `label` may name several columns, "a,b,c": a record's
    labels are those that it marks."""
    if not wished:
        return guess_columns(names)
    unknown = sorted(set(wished) - _NAMES.keys())
    if unknown:
        raise SkippedError("wrong_columns", f"no role {_listed(unknown)}; known roles: {', '.join(_NAMES)}")
    folded = {name.strip().lower(): name for name in reversed(names)} | {name: name for name in names}

    def known(name: str) -> str:
        return folded.get(name, "") or folded.get(name.strip().lower(), "")

    chosen = {role: known(name) for role, name in wished.items()}
    if not chosen.get("label", "known") and all(several := [known(name) for name in wished["label"].split(",")]):
        chosen["label"] = ",".join(several)
    missing = [wished[role] for role, name in chosen.items() if not name]
    if missing:
        raise SkippedError("wrong_columns", f"no column {_listed(missing)}; known: {_listed(names)}")
    return chosen


def text_of(record: Mapping[str, Any], columns: Mapping[str, str]) -> str | None:
    """The text that a record's columns make; None when they make none (only a label, or nothing is filled in)."""
    if "chosen" in columns and (turns := turns_of(record.get(columns["chosen"]))):
        return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
    parts = [part for role in _text_roles(tuple(columns)) if (part := _part(record, columns, role))]
    return "\n\n".join(parts) or None


def record_metadata(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """What metadata tells of a record beside its text: `messages` where it is a conversation or a question with its
    answer, [{role, content}, ...], and the answer that was `rejected`; its `label` (several as a list); its `time`,
    `group`, `license`, `image` and `split` where columns hold them; small other `fields`."""
    told: dict[str, Any] = {"messages": _messages(record, columns)}
    if (label := _label(record, columns)) != "":
        told["label"] = label
    if told["messages"] and "rejected" in columns:
        told |= _rejected(record, columns)
    told |= {role: plain(record.get(columns[role])).strip() for role in _OWN if role in columns}
    told["split"] = split_from_name(told.get("split", ""))
    return {name: value for name, value in told.items() if value or name == "label"} | other_fields(record, columns)


def split_from_name(name: str) -> str:
    """train, validation or test, for a usual name of one; else ""."""
    return next((side for side, names in _SIDES.items() if name.strip().lower() in names), "")


def _messages(record: Mapping[str, Any], columns: Mapping[str, str]) -> list[dict[str, str]]:
    roles = _text_roles(tuple(columns))
    if roles == ("messages",):
        return turns_of(record.get(columns["messages"]))
    if not roles or roles[-1] not in _ANSWERING:
        return []
    asked = [part for role in roles[:-1] if (part := _part(record, columns, role))]
    answered = turns_of(record.get(columns[roles[-1]])) if roles[-1] == "chosen" else []
    if len(answered) > 1:
        return answered
    answer = answered[0]["content"] if answered else _part(record, columns, roles[-1])
    if not asked or not answer:
        return []
    return [{"role": "user", "content": "\n\n".join(asked)}, {"role": "assistant", "content": answer}]


def _rejected(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """`rejected`, the last words of the conversation that was not chosen; `other_prompt` where what comes before them
    is not what comes before the chosen ones."""
    turns, chosen = (turns_of(record.get(columns[role])) for role in ("rejected", "chosen"))
    text = turns[-1]["content"] if turns else _part(record, columns, "rejected")
    differs = len(turns) > 1 and turns[:-1] != chosen[:-1]
    return {"rejected": text} | ({"other_prompt": True} if differs else {})


def _label(record: Mapping[str, Any], columns: Mapping[str, str]) -> str | list[str]:
    """A record's label; a list of them where its column holds one, or where several columns are marked."""
    name = columns.get("label")
    if name is None:
        return ""
    if name not in record and "," in name:
        return [one for one in name.split(",") if _as_label(record.get(one)).lower() not in _UNMARKED]
    value = record.get(name)
    return [_as_label(one) for one in value] if isinstance(value, list) else _as_label(value)


def _as_label(value: Any) -> str:
    """Whole numbers as such: a column of them with holes is one of fractions in Parquet and JSON."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else plain(value).strip()


def turns_of(value: Any) -> list[dict[str, str]]:
    """A conversation's turns under the usual names of roles: of a list of messages, or of a text that a person and an
    assistant share ("\\n\\nHuman: ...\\n\\nAssistant: ..."); empty when it is none, or a turn has no words."""
    if isinstance(value, str) and _TRANSCRIPT.match(value):
        pieces = _SPEAKER.split(value.strip())[1:]
        value = [{"role": role, "content": said} for role, said in zip(pieces[::2], pieces[1::2], strict=True)]
    found = []
    for turn in value if isinstance(value, list) else ():
        if not isinstance(turn, dict):
            return []
        role = str(turn.get("role", turn.get("from", ""))).strip().lower()
        content = plain(turn.get("content", turn.get("value", ""))).strip()
        if not role or not content:
            return []
        found.append({"role": _USUAL_ROLES.get(role, role), "content": content})
    return found


def _part(record: Mapping[str, Any], columns: Mapping[str, str], role: str) -> str:
    """What stands in a role, without blanks around it; a correction stands for the answer that it corrects."""
    if role in ("answer", "output") and "correction" in columns:
        corrected = _written(record.get(columns["correction"])).strip()
        if corrected:
            return corrected
    return _written(record.get(columns[role])).strip()


def other_fields(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a record that are no part of its text, as far as they are few and small: {"fields": ...} or {}."""
    used = {columns[role] for role in (*_text_roles(tuple(columns)), "rejected") if role in columns}
    rest = {name: value for name, value in record.items() if name not in used and value is not None and value != ""}
    if not rest or sum(len(name) + len(plain(value)) for name, value in rest.items()) > MAX_FIELDS_CHARACTERS:
        return {}
    return {"fields": rest}


@lru_cache(maxsize=256)
def _text_roles(roles: tuple[str, ...]) -> tuple[str, ...]:
    """Those of a record's roles that make its text, in their order."""
    form = next((form for form in _FORMS if all(role in roles for role in form)), roles)
    return tuple(role for role in form if role not in _BESIDE) or (("image",) if "image" in roles else ())


def fields_text(record: Mapping[str, Any]) -> str:
    """Any record, one `name: value` line per field that holds something."""
    return "\n".join(f"{name}: {text}" for name, value in record.items() if (text := plain(value).strip()))


def plain(value: Any) -> str:
    """One value as text: strings as they are, nested ones as JSON."""
    if isinstance(value, str):
        return value
    if type(value) is int:  # most values of databases: ten times as fast as json
        return str(value)
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _written(value: Any) -> str:
    """A value as part of a text: a conversation turn by turn, a list of texts paragraph by paragraph."""
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        turns = [(turn.get("role", turn.get("from", "")), turn.get("content", turn.get("value", ""))) for turn in value]
        if all(content not in (None, "") or role for role, content in turns):
            return "\n\n".join(f"{role}: {plain(content)}" for role, content in turns)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n\n".join(value)
    return plain(value)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name[:60]) for name in list(names)[:40])
