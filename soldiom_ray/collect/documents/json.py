"""JSON and JSON Lines: each record of a known form becomes a text, other values are written out together."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from soldiom_ray.collect.documents.columns import Columns, choose_columns, fields_text
from soldiom_ray.collect.documents.encodings import read_text
from soldiom_ray.collect.documents.json_forms import concatenated, is_description, records_of, with_lists_as_messages
from soldiom_ray.collect.documents.message_trees import conversations_of, holds_trees
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.documents.records import Reading, ReadRecord, refused_texts
from soldiom_ray.collect.documents.rows import pack
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.messages import ROLES

MAX_NAMES = 40


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """Records of a JSON array or of JSON Lines, or the one value of a JSON file."""
    decoded = read_text(data)
    metadata: dict[str, Any] = dict(decoded.metadata)
    try:
        value = json.loads(decoded.text)
        if is_description(value):
            raise SkippedError("dataset_description", "describes a data set and holds none of its records")
        values = records_of(value)
    except RecursionError as error:
        raise SkippedError("damaged", "nested too deeply") from error
    except ValueError as error:
        values, bad_lines = _lines(decoded.text)
        if bad_lines and (whole := concatenated(decoded.text)):
            values, bad_lines = whole, 0
        if not values or (bad_lines and not name.lower().endswith((".jsonl", ".ndjson"))):
            raise SkippedError("damaged", f"not JSON ({_error_position(error)})") from error
        if bad_lines:
            metadata["bad_lines"] = bad_lines
    values = conversations_of(values) if holds_trees(values) else with_lists_as_messages(values)
    metadata |= {"records": len(values)} if len(values) > 1 else {}
    return record_texts(values, options.columns, metadata)


def record_texts(values: Sequence[Any], requested: Mapping[str, str], metadata: dict[str, Any]) -> list[ParsedText]:
    """A text per record where all have a known form, else texts that hold many records. Blank records of a known form
    are counted in `blank_records`, what was refused or left out of one in `reading`. Raises SkippedError:
    wrong_columns, or the reason why all records were refused."""
    columns = _columns(values, requested)
    if not all(isinstance(value, str) or known.by_role for value, known in zip(values, columns, strict=True)):
        return _pack_values(values, metadata | _unrecognized(values))
    texts, blank, reading = [], 0, Reading()
    for number, (value, known) in enumerate(zip(values, columns, strict=True), 1):
        part = "" if len(values) == 1 else f"record {number}"
        try:
            record = ReadRecord(value, {}) if isinstance(value, str) else reading.read(part, value, known)
        except SkippedError:
            continue
        if record is None or not record.text:
            blank += 1
            continue
        own_metadata = {"columns": known.by_role} if known.by_role else {}
        texts.append(ParsedText(record.text, part, metadata | own_metadata | record.metadata))
    if not texts and not reading.refused:
        return _pack_values(values, metadata)
    if blank:
        for text in texts:
            text.metadata["blank_records"] = blank
    return refused_texts(texts, reading)


def _columns(values: Sequence[Any], requested: Mapping[str, str]) -> list[Columns]:
    """How each value is read; without columns for those that are no records or have no known form."""
    records = [value for value in values if isinstance(value, dict)]
    if any(role not in ROLES for role in requested):
        all_names = dict.fromkeys(name for value in records for name in value)
        chosen = choose_columns(list(all_names), requested, records)
        return [chosen if isinstance(value, dict) else Columns() for value in values]
    by_names: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for value in records:
        by_names.setdefault(tuple(value), []).append(value)
    guessed = {names: choose_columns(names, requested, some) for names, some in by_names.items()}
    return [guessed[tuple(value)] if isinstance(value, dict) else Columns() for value in values]


def _unrecognized(values: Sequence[Any]) -> dict[str, Any]:
    """The names of records of which none has a known role."""
    names = dict.fromkeys(name for value in values if isinstance(value, dict) for name in value)
    return {"unrecognized_columns": list(names)[:MAX_NAMES]} if names and len(values) > 1 else {}


def _lines(text: str) -> tuple[list[Any], int]:
    values, bad_lines = [], 0
    for line in text.split("\n"):
        if line.strip():
            try:
                values.append(json.loads(line))
            except (ValueError, RecursionError):
                bad_lines += 1
    return values, bad_lines


def _pack_values(values: Sequence[Any], metadata: dict[str, Any]) -> list[ParsedText]:
    packs = list(pack([_value_text(value) for value in values]))
    names = [""] if len(packs) == 1 else [f"records from {start + 1}" for start, _ in packs]
    return [
        ParsedText("\n\n".join(packed_texts), name, metadata)
        for (_, packed_texts), name in zip(packs, names, strict=True)
    ]


def _value_text(value: Any) -> str:
    if isinstance(value, dict) and not any(isinstance(inner, (dict, list)) for inner in value.values()):
        return fields_text(value)
    return json.dumps(value, ensure_ascii=False, indent=1)


def _error_position(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} in line {error.lineno}, column {error.colno}"
    return type(error).__name__
