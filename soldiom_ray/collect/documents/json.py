"""JSON and JSON Lines: records whose form is known are texts of their own, other values are written out."""

import json
from typing import Any

from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions, fields_text, read_text, record_text
from soldiom_ray.collect.text import LeftOut

RECORDS_PER_TEXT = 200


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """Records of a JSON array or of JSON Lines, or the one value of a JSON file."""
    text, encoding = read_text(data)
    told: dict[str, Any] = {} if encoding == "utf-8" else {"encoding": encoding}
    try:
        value = json.loads(text)
        values = value if isinstance(value, list) else [value]
    except RecursionError as error:
        raise LeftOut("damaged", "nested too deeply") from error
    except ValueError as error:
        values, bad = _lines(text)
        if not values or (bad and not name.lower().endswith((".jsonl", ".ndjson"))):
            raise LeftOut("damaged", f"not JSON: {error}") from error
        if bad:
            told["bad_lines"] = bad
    return _texts(values, told)


def _lines(text: str) -> tuple[list[Any], int]:
    values, bad = [], 0
    for line in text.splitlines():
        if line.strip():
            try:
                values.append(json.loads(line))
            except (ValueError, RecursionError):
                bad += 1
    return values, bad


def _texts(values: list[Any], told: dict[str, Any]) -> list[ParsedText]:
    told = told | ({"records": len(values)} if len(values) > 1 else {})
    own = [
        value if isinstance(value, str) else record_text(value) if isinstance(value, dict) else None for value in values
    ]
    if own and all(part is not None for part in own):
        single = len(own) == 1
        return [ParsedText(str(part), "" if single else f"record {number}", told) for number, part in enumerate(own, 1)]
    written = [_written(value) for value in values]
    starts = range(0, len(written), RECORDS_PER_TEXT)
    parts = ["\n\n".join(written[s : s + RECORDS_PER_TEXT]) for s in starts]
    names = [""] if len(parts) == 1 else [f"records from {s + 1}" for s in starts]
    return [ParsedText(part, name, told) for part, name in zip(parts, names, strict=True)]


def _written(value: Any) -> str:
    if isinstance(value, dict) and not any(isinstance(inner, (dict, list)) for inner in value.values()):
        return fields_text(value)
    return json.dumps(value, ensure_ascii=False, indent=1)
