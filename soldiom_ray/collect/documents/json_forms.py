"""The records of a JSON file, in the forms that pandas, Hugging Face and people write them."""

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from soldiom_ray.collect.documents.column_names import CONVERSATION_NAMES, NAMES
from soldiom_ray.collect.documents.columns import guess_columns, split_from_name
from soldiom_ray.collect.documents.dialects import usual_turns
from soldiom_ray.collect.documents.lenient_json import DECODER
from soldiom_ray.collect.documents.message_trees import holds_trees
from soldiom_ray.collect.documents.turns import KNOWN_SPEAKERS, names_speakers, turns_in

_LISTS = (
    *("data", "rows", "records", "examples", "items", "instances", "samples", "entries", "dataset", "results"),
    *("questions", "pairs", "conversations", "dialogues", "dialogs", "threads", "chats", "intents", "faq", "faqs"),
)
_SPEAKERS = {"role", "from"}
_SPACE = re.compile(r"[\s,]*")
_DESCRIPTIONS = ({"features", "splits"}, {"features", "citation"}, {"_data_files", "_fingerprint"})


def records_of(value: Any) -> list[Any]:
    """The records that one JSON value holds, or the value alone: a list; columns ({name: [...]}, or pandas' split and
    columns orientations); {"train": [...], "test": [...]}, where each record gets its `split`; {"data": [...]}; the
    nested paragraphs of SQuAD's own files."""
    if isinstance(value, list):
        if rows := _of_rows(value):
            return rows
        return [record for entry in value for record in _paragraphs(entry)]
    if not isinstance(value, Mapping) or not value:
        return [value]
    if named := _of_names(value):
        return named
    if _is_conversation(value):
        return [value]
    return _of_splits(value) or _of_wrapper(value) or _of_columns(value) or _paragraphs(value)


def with_lists_as_messages(values: list[Any]) -> list[Any]:
    """The values, where each is a list of turns, or all together are the turns of one conversation, as records with
    `messages`."""
    if values and all(isinstance(value, list) and names_speakers(value) for value in values):
        return [{"messages": value} for value in values]
    if not values or not isinstance(values[0], Mapping) or len(usual_turns(values[:1])[0].keys() & _SPEAKERS) == 0:
        return values
    if all(isinstance(value, Mapping) for value in values):
        values = usual_turns(values)
    speakers = [str(turn.get("role", turn.get("from"))).lower() for turn in values if isinstance(turn, Mapping)]
    is_conversation = (
        len(speakers) == len(values) > 1 and names_speakers(values) and KNOWN_SPEAKERS.keys() >= {*speakers}
    )
    return [{"messages": values}] if is_conversation and not holds_trees(values) else values


def _is_conversation(value: Mapping[str, Any]) -> bool:
    """Whether an object is one record with turns in it, and no table of records."""
    return any(
        _is_records(inner)
        and (names_speakers(inner) or (name.strip().lower() in CONVERSATION_NAMES and turns_in(inner) is not None))
        for name, inner in value.items()
    )


def _of_splits(value: Mapping[str, Any]) -> list[Any]:
    if not all(split_from_name(name) and _is_records(inner) for name, inner in value.items()):
        return []
    return [{"split": name} | record for name, inner in value.items() for record in records_of(inner)]


def _of_wrapper(value: Mapping[str, Any]) -> list[Any]:
    """The one list of records in an object that says something about them besides; rows of Hugging Face's viewer."""
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        names = [str(name) for name in value["columns"]]
        if all(isinstance(row, list) and len(row) == len(names) for row in value["data"]):
            return [dict(zip(names, row, strict=True)) for row in value["data"]]
    lists = [name for name, inner in value.items() if _is_records(inner)]
    if (
        len(lists) != 1
        or "instruction" in value
        or lists in (["translation"], ["choices"])
        or (lists[0] not in _LISTS and len(value) > 1)
    ):
        return []
    rows = value[lists[0]]
    if all(isinstance(row.get("row"), Mapping) for row in rows):
        rows = [row["row"] for row in rows]
    about = {name: value[name] for name in NAMES["context"] if isinstance(value.get(name), str)}
    return [about | dict(record) if isinstance(record, Mapping) else record for record in records_of(rows)]


def _of_rows(value: list[Any]) -> list[Any]:
    """Of [[name, ...], [cell, ...], ...], whose names have known roles."""
    names = value[0] if len(value) > 1 else None
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
        return []
    if not all(isinstance(row, list) and len(row) == len(names) for row in value) or not guess_columns(names):
        return []
    return [dict(zip(names, row, strict=True)) for row in value[1:]]


def _of_names(value: Mapping[str, Any]) -> list[Any]:
    """Of {id: [turn, ...]} and {id: {...}}, whose records have the same fields of known roles."""
    inner = list(value.values())
    if (
        len(value) < 2
        or all(map(str.isdigit, value))
        or any(name in names for name in map(str.lower, value) for names in NAMES.values())
    ):
        return []
    if all(names_speakers(turns) and turns for turns in inner):
        return [{"id": name, "messages": turns} for name, turns in value.items()]
    if not all(isinstance(record, Mapping) and record.keys() == inner[0].keys() for record in inner):
        return []
    return [{"id": name} | dict(record) for name, record in value.items()] if guess_columns(inner[0]) else []


def _of_columns(value: Mapping[str, Any]) -> list[Any]:
    """Of {name: [...]} or {name: {row: ...}}, all of one length; of {row: {...}}, whose names are numbers."""
    inner = list(value.values())
    if all(isinstance(column, list) for column in inner):
        lengths = {len(column) for column in inner}
        is_table = len(value) > 1 and len(lengths) == 1 and lengths != {0}
        return [dict(zip(value, row, strict=True)) for row in zip(*inner, strict=True)] if is_table else []
    if not all(isinstance(column, Mapping) and column for column in inner):
        return []
    if all(str(name).isdigit() for name in value):
        return inner
    rows = list(inner[0])
    if all(str(row).isdigit() for row in rows) and all(list(column) == rows for column in inner):
        return [{name: column[row] for name, column in value.items()} for row in rows]
    return []


def _paragraphs(entry: Any) -> list[Any]:
    """The questions of an article of SQuAD, each with its context; any other entry alone."""
    paragraphs = entry.get("paragraphs") if isinstance(entry, Mapping) else None
    if not _is_records(paragraphs) or not all(_is_records(paragraph.get("qas")) for paragraph in paragraphs):
        return [entry]
    return [
        {"title": entry.get("title", ""), "context": paragraph.get("context", "")} | dict(question)
        for paragraph in paragraphs
        for question in paragraph["qas"]
    ]


def _is_records(value: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(record, Mapping) for record in value)


def concatenated(text: str) -> list[Any]:
    """JSON values one after the other, each over as many lines as it likes; empty when something else is among them."""
    position, values = _after_space(text, 0), []
    while position < len(text):
        try:
            value, end = DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            return []
        values.append(value)
        position = _after_space(text, end)
    return values


def _after_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    return space.end() if space else position


def is_description(value: Any) -> bool:
    """Whether a file describes a data set of Hugging Face's and holds none of its records."""
    if not isinstance(value, Mapping):
        return False
    names_splits = value.keys() == {"splits"} and all(isinstance(name, str) for name in value["splits"])
    return names_splits or any(names <= value.keys() for names in _DESCRIPTIONS)
