"""JSON and JSON Lines: each record of a known form becomes a text, other values are written out together."""

import json
from typing import Any

from soldiom_ray.collect.documents.chat_exports import with_rows_joined
from soldiom_ray.collect.documents.encodings import read_text
from soldiom_ray.collect.documents.json_forms import concatenated, is_description, records_of, with_lists_as_messages
from soldiom_ray.collect.documents.lenient_json import DECODER, is_comment, lenient_value
from soldiom_ray.collect.documents.message_trees import conversations_of, holds_trees
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.documents.record_texts import record_texts
from soldiom_ray.collect.text import SkippedError


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """Records of a JSON array or of JSON Lines, or the one value of a JSON file."""
    decoded = read_text(data)
    metadata: dict[str, Any] = dict(decoded.metadata)
    try:
        value = DECODER.decode(decoded.text)
        if is_description(value):
            raise SkippedError("dataset_description", "describes a data set and holds none of its records")
        values = records_of(value)
    except RecursionError as error:
        raise SkippedError("damaged", "nested too deeply") from error
    except ValueError as error:
        values, bad_lines, repaired = _lines(decoded.text)
        if bad_lines and (whole := concatenated(decoded.text)):
            values, bad_lines, repaired = whole, 0, 0
        elif not bad_lines and len(values) == 1 and isinstance(values[0], list):
            values = records_of(values[0])  # below a comment
        elif (bad_lines or repaired) and (whole := _lenient_records(decoded.text)):
            values, bad_lines, repaired = whole, 0, 1
        if not values or (bad_lines and not name.lower().endswith((".jsonl", ".ndjson"))):
            raise SkippedError("damaged", f"not JSON ({_error_position(error)})") from error
        metadata |= {"bad_lines": bad_lines} if bad_lines else {}
        metadata |= {"repaired_json": repaired} if repaired else {}
    values = conversations_of(values) if holds_trees(values) else with_lists_as_messages(with_rows_joined(values))
    metadata |= {"records": len(values)} if len(values) > 1 else {}
    return record_texts(values, options.columns, metadata)


def _lines(text: str) -> tuple[list[Any], int, int]:
    """(the values of JSON Lines, lines that are none, lines that are no strict JSON)."""
    values, bad_lines, repaired = [], 0, 0
    for line in text.split("\n"):
        if not line or line.isspace():
            continue
        try:
            value, end = DECODER.raw_decode(line)
        except (ValueError, RecursionError):
            end = -1
        if end == len(line):  # most lines: without a search for blanks around it
            values.append(value)
            continue
        try:
            values.append(DECODER.decode(line))
        except (ValueError, RecursionError):
            if is_comment(line):
                continue
            try:
                values.append(lenient_value(line.rstrip().rstrip(",")))
            except ValueError:
                bad_lines += 1
            else:
                repaired += 1
    return values, bad_lines, repaired


def _lenient_records(text: str) -> list[Any]:
    """The records of a whole file that is JSON but for how it is written; empty where it is not."""
    try:
        return records_of(lenient_value(text))
    except (ValueError, RecursionError):
        return []


def _error_position(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} in line {error.lineno}, column {error.colno}"
    return type(error).__name__
