"""The roles of a record's columns or fields (text, question, answer, label, ...): guessed from their names, or set by
the user."""

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
"""A role and the names, best first, that a column for it usually has. A data set's own
split is never guessed: its author and purpose are unknown."""

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
"""The roles of each form of record. A record has the first form whose roles it has all of."""

_METADATA_ROLES = ("label", "rejected", "correction", "time", "group", "license", "image", "split")
"""Roles that may accompany any form: they become metadata, not text."""

_RECORD_ROLES = ("time", "group", "license", "image", "split")
"""Roles that describe the record itself: its time, group, license, picture, and its split in the original data set."""

_ANSWERING = ("answer", "output", "chosen", "target")
"""Roles whose text is the assistant's message when they come last in a form."""

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
    by_name = {name.strip().lower().replace(" ", "_").replace("-", "_"): name for name in reversed(list(names))}
    by_role = {
        role: by_name[name]
        for role, usual_names in _NAMES.items()
        if (name := next((n for n in usual_names if n in by_name), None))
    }
    form = next((form for form in _FORMS if all(role in by_role for role in form)), None)
    if form is None:
        return {}
    return {role: by_role[role] for role in (*form, *(role for role in _METADATA_ROLES if role in by_role))}


def choose_columns(names: Sequence[str], requested: Mapping[str, str]) -> dict[str, str]:
    """The requested columns by role, or the guess when none are requested. A requested name may differ in case. `label`
    may name several columns, "a,b,c": a record's labels are those whose columns it marks. Raises SkippedError:
    wrong_columns, with the missing and the known names."""
    if not requested:
        return guess_columns(names)
    unknown = sorted(set(requested) - _NAMES.keys())
    if unknown:
        raise SkippedError("wrong_columns", f"no role {_quoted(unknown)}; known roles: {', '.join(_NAMES)}")
    by_folded_name = {name.strip().lower(): name for name in reversed(names)} | {name: name for name in names}

    def spelled(name: str) -> str:
        return by_folded_name.get(name, "") or by_folded_name.get(name.strip().lower(), "")

    columns = {role: spelled(name) for role, name in requested.items()}
    if not columns.get("label", "known") and all(parts := [spelled(name) for name in requested["label"].split(",")]):
        columns["label"] = ",".join(parts)
    missing = [requested[role] for role, name in columns.items() if not name]
    if missing:
        raise SkippedError("wrong_columns", f"no column {_quoted(missing)}; known: {_quoted(names)}")
    return columns


def text_of(record: Mapping[str, Any], columns: Mapping[str, str]) -> str | None:
    """The text that a record's columns make; None when they make none (only a label, or nothing is filled in)."""
    if "chosen" in columns and (turns := turns_of(record.get(columns["chosen"]))):
        return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
    parts = [part for role in _text_roles(tuple(columns)) if (part := _role_text(record, columns, role))]
    return "\n\n".join(parts) or None


def record_metadata(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """A record's metadata: `messages`, [{role, content}, ...], where it is a conversation or a question with its
    answer, and the `rejected` answer; its `label` (several as a list); its `time`, `group`, `license`, `image` and
    `split` where columns hold them; other small `fields`."""
    metadata: dict[str, Any] = {"messages": _messages(record, columns)}
    if (label := _label(record, columns)) != "":
        metadata["label"] = label
    if metadata["messages"] and "rejected" in columns:
        metadata |= _rejected(record, columns)
    metadata |= {role: plain(record.get(columns[role])).strip() for role in _RECORD_ROLES if role in columns}
    metadata["split"] = split_from_name(metadata.get("split", ""))
    return {name: value for name, value in metadata.items() if value or name == "label"} | other_fields(record, columns)


def split_from_name(name: str) -> str:
    """train, validation or test, for a common name of that split; else ""."""
    return next((split for split, names in _SIDES.items() if name.strip().lower() in names), "")


def _messages(record: Mapping[str, Any], columns: Mapping[str, str]) -> list[dict[str, str]]:
    roles = _text_roles(tuple(columns))
    if roles == ("messages",):
        return turns_of(record.get(columns["messages"]))
    if not roles or roles[-1] not in _ANSWERING:
        return []
    question = [part for role in roles[:-1] if (part := _role_text(record, columns, role))]
    answer_turns = turns_of(record.get(columns[roles[-1]])) if roles[-1] == "chosen" else []
    if len(answer_turns) > 1:
        return answer_turns
    answer = answer_turns[0]["content"] if answer_turns else _role_text(record, columns, roles[-1])
    if not question or not answer:
        return []
    return [{"role": "user", "content": "\n\n".join(question)}, {"role": "assistant", "content": answer}]


def _rejected(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """`rejected`, the last message of the conversation that was not chosen; `other_prompt` where the messages before it
    differ from those before the chosen answer."""
    turns, chosen = (turns_of(record.get(columns[role])) for role in ("rejected", "chosen"))
    text = turns[-1]["content"] if turns else _role_text(record, columns, "rejected")
    differs = len(turns) > 1 and turns[:-1] != chosen[:-1]
    return {"rejected": text} | ({"other_prompt": True} if differs else {})


def _label(record: Mapping[str, Any], columns: Mapping[str, str]) -> str | list[str]:
    """A record's label; a list of labels where its column holds a list or several columns are named."""
    name = columns.get("label")
    if name is None:
        return ""
    if name not in record and "," in name:
        return [entry for entry in name.split(",") if _as_label(record.get(entry)).lower() not in _UNMARKED]
    value = record.get(name)
    return [_as_label(entry) for entry in value] if isinstance(value, list) else _as_label(value)


def _as_label(value: Any) -> str:
    """A label as text. Whole floats lose their ".0": a column of integers with gaps holds floats in Parquet and
    JSON."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else plain(value).strip()


def turns_of(value: Any) -> list[dict[str, str]]:
    """A conversation's turns, [{role, content}, ...], with roles under their usual names: from a list of messages, or
    from a transcript ("\\n\\nHuman: ...\\n\\nAssistant: ..."). Empty when the value is neither, or a turn is blank."""
    if isinstance(value, str) and _TRANSCRIPT.match(value):
        pieces = _SPEAKER.split(value.strip())[1:]
        value = [{"role": role, "content": content} for role, content in zip(pieces[::2], pieces[1::2], strict=True)]
    turns = []
    for turn in value if isinstance(value, list) else ():
        if not isinstance(turn, dict):
            return []
        role = str(turn.get("role", turn.get("from", ""))).strip().lower()
        content = plain(turn.get("content", turn.get("value", ""))).strip()
        if not role or not content:
            return []
        turns.append({"role": _USUAL_ROLES.get(role, role), "content": content})
    return turns


def _role_text(record: Mapping[str, Any], columns: Mapping[str, str], role: str) -> str:
    """The stripped text of a role; a correction replaces the answer that it corrects."""
    if role in ("answer", "output") and "correction" in columns:
        corrected = _value_text(record.get(columns["correction"])).strip()
        if corrected:
            return corrected
    return _value_text(record.get(columns[role])).strip()


def other_fields(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """{"fields": ...}, the fields of a record that are not part of its text; {} when there are none or they are
    long."""
    used = {columns[role] for role in (*_text_roles(tuple(columns)), "rejected") if role in columns}
    others = {name: value for name, value in record.items() if name not in used and value is not None and value != ""}
    if not others or sum(len(name) + len(plain(value)) for name, value in others.items()) > MAX_FIELDS_CHARACTERS:
        return {}
    return {"fields": others}


@lru_cache(maxsize=256)
def _text_roles(roles: tuple[str, ...]) -> tuple[str, ...]:
    """The roles that make a record's text, in their order."""
    form = next((form for form in _FORMS if all(role in roles for role in form)), roles)
    return tuple(role for role in form if role not in _METADATA_ROLES) or (("image",) if "image" in roles else ())


def fields_text(record: Mapping[str, Any]) -> str:
    """Any record as text: a line `name: value` for each field that is not blank."""
    return "\n".join(f"{name}: {text}" for name, value in record.items() if (text := plain(value).strip()))


def plain(value: Any) -> str:
    """One value as text: strings as they are, nested ones as JSON."""
    if isinstance(value, str):
        return value
    if type(value) is int:  # most values of databases: ten times as fast as json
        return str(value)
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _value_text(value: Any) -> str:
    """A value as part of a text: a conversation turn by turn, a list of texts paragraph by paragraph."""
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        turns = [(turn.get("role", turn.get("from", "")), turn.get("content", turn.get("value", ""))) for turn in value]
        if all(content not in (None, "") or role for role, content in turns):
            return "\n\n".join(f"{role}: {plain(content)}" for role, content in turns)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n\n".join(value)
    return plain(value)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name[:60]) for name in list(names)[:40])
