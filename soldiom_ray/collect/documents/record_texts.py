"""Records of known forms become a text each; others share texts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from soldiom_ray.collect.documents.columns import Columns, choose_columns, fields_text
from soldiom_ray.collect.documents.formed import FormedRecord
from soldiom_ray.collect.documents.packs import pack
from soldiom_ray.collect.documents.parsed import ParsedText
from soldiom_ray.collect.documents.record_forms import formed
from soldiom_ray.collect.documents.records import Reading, ReadRecord, refused_texts
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.messages import ROLES

MAX_NAMES = 40


def record_texts(values: Sequence[Any], requested: Mapping[str, str], metadata: dict[str, Any]) -> list[ParsedText]:
    """A text per record where all have a known form, else texts that hold many records. Blank records of a known form
    are counted in `blank_records`, what was refused or left out of one in `reading`. Raises SkippedError:
    wrong_columns, or the reason why all records were refused."""
    if all(role in ROLES for role in requested):
        values = formed(values)
    columns = _columns(values, requested)
    if not all(known.by_role or _is_known(value) for value, known in zip(values, columns, strict=True)):
        return _pack_values(values, metadata | _unrecognized(values))
    texts, blank, reading = [], 0, Reading()
    shared, shared_metadata = Columns(), metadata
    for number, (value, known) in enumerate(zip(values, columns, strict=True), 1):
        part = "" if len(values) == 1 else f"record {number}"
        try:
            record = ReadRecord(value, {}) if isinstance(value, str) else reading.read(part, value, known)
        except SkippedError:
            continue
        if record is None or not record.text:
            blank += 1
            continue
        if known is not shared:
            shared, shared_metadata = known, metadata | ({"columns": known.by_role} if known.by_role else {})
        texts.append(ParsedText(record.text, part, shared_metadata | record.metadata))
    if not texts and not reading.refused:
        return _pack_values(values, metadata)
    if blank:
        for text in texts:
            text.metadata["blank_records"] = blank
    return refused_texts(texts, reading)


def _is_known(value: Any) -> bool:
    """Whether a value without known columns is a text, or refused already."""
    return isinstance(value, str) or (isinstance(value, FormedRecord) and value.refused is not None)


def _columns(values: Sequence[Any], requested: Mapping[str, str]) -> list[Columns]:
    """How each value is read; without columns for those that are no records or have no known form."""
    records = [value for value in values if isinstance(value, dict)]
    if any(role not in ROLES for role in requested):
        all_names = dict.fromkeys(name for value in records for name in value)
        chosen = choose_columns(list(all_names), requested, records)
        return [chosen if isinstance(value, dict) else Columns() for value in values]
    by_names: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    names_of_values = [tuple(value) if isinstance(value, dict) else None for value in values]
    for value, names in zip(values, names_of_values, strict=True):
        if names is not None:
            by_names.setdefault(names, []).append(value)
    guessed = {names: choose_columns(names, requested, some) for names, some in by_names.items()}
    return [Columns() if names is None else guessed[names] for names in names_of_values]


def _unrecognized(values: Sequence[Any]) -> dict[str, Any]:
    """The names of records of which none has a known role."""
    names = dict.fromkeys(name for value in values if isinstance(value, dict) for name in value)
    return {"unrecognized_columns": list(names)[:MAX_NAMES]} if names and len(values) > 1 else {}


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
