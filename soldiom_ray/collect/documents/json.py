"""JSON and JSON Lines: records whose form is known are texts of their own, other values are written out."""

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
    read = read_text(data)
    told: dict[str, Any] = dict(read.told)
    try:
        value = json.loads(read.text)
        values = value if isinstance(value, list) else [value]
    except RecursionError as error:
        raise SkippedError("damaged", "nested too deeply") from error
    except ValueError as error:
        values, bad = _lines(read.text)
        if not values or (bad and not name.lower().endswith((".jsonl", ".ndjson"))):
            raise SkippedError("damaged", f"not JSON ({_place(error)})") from error
        if bad:
            told["bad_lines"] = bad
    told |= {"records": len(values)} if len(values) > 1 else {}
    return record_texts(values, options.columns, told)


def record_texts(values: Sequence[Any], wished: Mapping[str, str], told: dict[str, Any]) -> list[ParsedText]:
    """A text per record where all have a known form, else many records to a text. Records of a known form in which
    nothing is filled in are counted in `blank_records`. Raises SkippedError: wrong_columns."""
    columns = _columns(values, wished)
    own = [
        value if isinstance(value, str) else text_of(value, roles) if roles else None
        for value, roles in zip(values, columns, strict=True)
    ]
    formed = all(isinstance(value, str) or roles for value, roles in zip(values, columns, strict=True))
    if not formed or not any(own):
        return _written_out(values, told)
    if blank := sum(not text for text in own):
        told = told | {"blank_records": blank}
    texts = []
    for number, (value, roles, text) in enumerate(zip(values, columns, own, strict=True), 1):
        if text:
            about = {"columns": roles} | record_metadata(value, roles) if roles else {}
            texts.append(ParsedText(text, "" if len(values) == 1 else f"record {number}", told | about))
    return texts


def _columns(values: Sequence[Any], wished: Mapping[str, str]) -> list[dict[str, str]]:
    """Role -> field of every value; empty for what is no record or has no known form."""
    if wished:
        names = dict.fromkeys(name for value in values if isinstance(value, dict) for name in value)
        chosen = choose_columns(list(names), wished)
        return [chosen if isinstance(value, dict) else {} for value in values]
    guessed: dict[tuple[str, ...], dict[str, str]] = {}
    columns = []
    for value in values:
        names_here = tuple(value) if isinstance(value, dict) else ()
        if names_here not in guessed:
            guessed[names_here] = guess_columns(names_here)
        columns.append(guessed[names_here])
    return columns


def _lines(text: str) -> tuple[list[Any], int]:
    values, bad = [], 0
    for line in text.split("\n"):
        if line.strip():
            try:
                values.append(json.loads(line))
            except (ValueError, RecursionError):
                bad += 1
    return values, bad


def _written_out(values: Sequence[Any], told: dict[str, Any]) -> list[ParsedText]:
    pieces = list(pack([_written(value) for value in values]))
    names = [""] if len(pieces) == 1 else [f"records from {start + 1}" for start, _ in pieces]
    return [ParsedText("\n\n".join(piece), name, told) for (_, piece), name in zip(pieces, names, strict=True)]


def _written(value: Any) -> str:
    if isinstance(value, dict) and not any(isinstance(inner, (dict, list)) for inner in value.values()):
        return fields_text(value)
    return json.dumps(value, ensure_ascii=False, indent=1)


def _place(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} in line {error.lineno}, column {error.colno}"
    return type(error).__name__
