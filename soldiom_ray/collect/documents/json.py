"""JSON and JSON Lines: each record of a known form becomes a text, other values are written out together."""

import json
from typing import Any

from soldiom_ray.collect.documents.chat_exports import with_rows_joined
from soldiom_ray.collect.documents.encodings import read_text
from soldiom_ray.collect.documents.json_forms import concatenated, is_description, records_of, with_lists_as_messages
from soldiom_ray.collect.documents.message_trees import conversations_of, holds_trees
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.documents.record_texts import record_texts
from soldiom_ray.collect.text import SkippedError

_DECODER = json.JSONDecoder(parse_constant=lambda _: None)
"""pandas and Python write NaN for a value that is missing."""


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """Records of a JSON array or of JSON Lines, or the one value of a JSON file."""
    decoded = read_text(data)
    metadata: dict[str, Any] = dict(decoded.metadata)
    try:
        value = _DECODER.decode(decoded.text)
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
    values = conversations_of(values) if holds_trees(values) else with_lists_as_messages(with_rows_joined(values))
    metadata |= {"records": len(values)} if len(values) > 1 else {}
    return record_texts(values, options.columns, metadata)


def _lines(text: str) -> tuple[list[Any], int]:
    values, bad_lines = [], 0
    for line in text.split("\n"):
        if line.strip():
            try:
                values.append(_DECODER.decode(line))
            except (ValueError, RecursionError):
                bad_lines += 1
    return values, bad_lines


def _error_position(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} in line {error.lineno}, column {error.colno}"
    return type(error).__name__
