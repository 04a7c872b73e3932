"""JSON and JSON Lines: each record of a known form becomes a text, other values are written out together."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from soldiom_ray.collect.documents.columns import choose_columns, fields_text, guess_columns, record_metadata, text_of
from soldiom_ray.collect.documents.encodings import read_text
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.documents.rows import pack
from soldiom_ray.collect.text import SkippedError


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """Records of a JSON array or of JSON Lines, or the one value of a JSON file."""
    decoded = read_text(data)
    metadata: dict[str, Any] = dict(decoded.metadata)
    try:
        value = json.loads(decoded.text)
        values = value if isinstance(value, list) else [value]
    except RecursionError as error:
        raise SkippedError("damaged", "nested too deeply") from error
    except ValueError as error:
        values, bad_lines = _lines(decoded.text)
        if not values or (bad_lines and not name.lower().endswith((".jsonl", ".ndjson"))):
            raise SkippedError("damaged", f"not JSON ({_error_position(error)})") from error
        if bad_lines:
            metadata["bad_lines"] = bad_lines
    metadata |= {"records": len(values)} if len(values) > 1 else {}
    return record_texts(values, options.columns, metadata)


def record_texts(values: Sequence[Any], requested: Mapping[str, str], metadata: dict[str, Any]) -> list[ParsedText]:
    """A text per record where all have a known form, else texts that hold many records. Blank records of a known form
    are counted in `blank_records`. Raises SkippedError: wrong_columns."""
    columns = _columns(values, requested)
    own_texts = [
        value if isinstance(value, str) else text_of(value, roles) if roles else None
        for value, roles in zip(values, columns, strict=True)
    ]
    has_form = all(isinstance(value, str) or roles for value, roles in zip(values, columns, strict=True))
    if not has_form or not any(own_texts):
        return _pack_values(values, metadata)
    if blank := sum(not text for text in own_texts):
        metadata = metadata | {"blank_records": blank}
    texts = []
    for number, (value, roles, text) in enumerate(zip(values, columns, own_texts, strict=True), 1):
        if text:
            own_metadata = {"columns": roles} | record_metadata(value, roles) if roles else {}
            texts.append(ParsedText(text, "" if len(values) == 1 else f"record {number}", metadata | own_metadata))
    return texts


def _columns(values: Sequence[Any], requested: Mapping[str, str]) -> list[dict[str, str]]:
    """Role -> field for every value; empty for values that are no records or have no known form."""
    if requested:
        all_names = dict.fromkeys(name for value in values if isinstance(value, dict) for name in value)
        chosen = choose_columns(list(all_names), requested)
        return [chosen if isinstance(value, dict) else {} for value in values]
    guessed: dict[tuple[str, ...], dict[str, str]] = {}
    columns = []
    for value in values:
        names = tuple(value) if isinstance(value, dict) else ()
        if names not in guessed:
            guessed[names] = guess_columns(names)
        columns.append(guessed[names])
    return columns


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
