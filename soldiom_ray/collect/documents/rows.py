"""Rows of a table become texts: one per row where columns have known roles, else many rows in one text."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

from soldiom_ray.collect.documents.cell_values import plain
from soldiom_ray.collect.documents.columns import Columns, choose_columns, fields_text
from soldiom_ray.collect.documents.formed import FormedRecord
from soldiom_ray.collect.documents.message_trees import conversations_of, holds_trees
from soldiom_ray.collect.documents.packs import ROWS_PER_TEXT, pack
from soldiom_ray.collect.documents.parsed import ParsedText
from soldiom_ray.collect.documents.record_forms import formed
from soldiom_ray.collect.documents.record_texts import record_texts
from soldiom_ray.collect.documents.records import Reading, refused_texts
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.messages import ROLES

MAX_NAMES = 40


@dataclass
class Table:
    """A table of a file. `name` is "" where the file is the table; a row may be shorter than `columns`; values are
    strings, numbers, booleans, None, or nested JSON values."""

    name: str
    columns: Sequence[str]
    rows: Iterable[Sequence[Any]]
    titles: Sequence[str] = ()
    """Lines above the header."""


def table_texts(table: Table, requested: Mapping[str, str], metadata: dict[str, Any]) -> list[ParsedText]:
    """The texts of one table. Each has `metadata`, the number of `rows`, the `columns` by role and, where they are
    small, its other `fields`. Raises SkippedError: wrong_columns."""
    records = [dict(zip(table.columns, row, strict=False)) for row in table.rows]
    names = table.columns
    if holds_trees(records[:ROWS_PER_TEXT]) and holds_trees(records) and (trees := conversations_of(records)):
        records, names = trees, list(trees[0])
    table_metadata = metadata | ({"title_rows": list(table.titles)} if table.titles else {})
    table_metadata |= ({"table": table.name} if table.name else {}) | {"rows": len(records)}
    if all(role in ROLES for role in requested):
        records_formed = formed(records)
        if FormedRecord in set(map(type, records_formed)):
            return record_texts(records_formed, requested, table_metadata)
    columns = choose_columns(names, requested, records)
    if columns.by_role:
        reading = Reading()
        texts = refused_texts(list(_text_per_row(table.name, records, columns, table_metadata, reading)), reading)
        if texts:
            return texts
    elif len(records) > 1:
        table_metadata |= {"unrecognized_columns": list(table.columns)[:MAX_NAMES]}
    texts_of_rows = [fields_text(record) for record in records]
    if texts_of_rows and table.titles:
        texts_of_rows[0] = "\n\n".join(["\n".join(table.titles), texts_of_rows[0]])
    return _pack_texts(texts_of_rows, "\n\n", table.name, table_metadata)


def tables_texts(tables: Iterable[Table], requested: Mapping[str, str], metadata: dict[str, Any]) -> list[ParsedText]:
    """The texts of all tables of a file. Requested columns apply to the tables that have them; at least one table must.
    Raises SkippedError: wrong_columns."""
    texts: list[ParsedText] = []
    errors: list[SkippedError] = []
    tables = list(tables)
    for table in tables:
        try:
            texts.extend(table_texts(table, requested, metadata))
        except SkippedError as skipped:
            if skipped.reason != "wrong_columns":
                raise
            errors.append(skipped)
            texts.extend(table_texts(table, {}, metadata))
    if tables and len(errors) == len(tables):
        raise errors[0]
    return texts


def header_names(cells: Sequence[str], width: int) -> list[str]:
    """A name for each of `width` columns: its cell, "column 3" for a blank one, with a number when it is a repeat."""
    names = [cell.strip() for cell in cells]
    if len(names) == width == len({*names} - {""}):
        return names
    names = []
    seen: set[str] = set()
    for number in range(1, width + 1):
        name = cells[number - 1].strip() if number <= len(cells) else ""
        name = name or f"column {number}"
        name = name if name not in seen else f"{name} {number}"
        names.append(name)
        seen.add(name)
    return names


def lines_texts(name: str, rows: Sequence[Sequence[Any]], metadata: dict[str, Any]) -> list[ParsedText]:
    """The texts of rows without column names: a line per row, cells separated by bars."""
    lines = [" | ".join(plain(cell).strip() for cell in row).strip(" |") for row in rows]
    table_metadata = metadata | ({"table": name} if name else {}) | {"rows": len(rows)}
    return _pack_texts([line for line in lines if line], "\n", name, table_metadata)


def cell_value(value: Any) -> Any:
    """A value as JSON can hold it: NaN as none, times in ISO 8601, bytes as text where they are UTF-8, else by their
    length."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _bytes_value(bytes(value))
    if isinstance(value, Mapping):
        return {str(key): cell_value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [cell_value(inner) for inner in value]
    return str(value)


def _bytes_value(value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return f"({len(value)} bytes)"
    return text if "\0" not in text else f"({len(value)} bytes)"


def _text_per_row(
    name: str, records: Sequence[Mapping[str, Any]], columns: Columns, table_metadata: dict[str, Any], reading: Reading
) -> Iterator[ParsedText]:
    texts, blank = [], 0
    for number, record in enumerate(records, 1):
        part = f"row {number} of {name}" if name else f"row {number}"
        try:
            record_read = reading.read(part, record, columns)
        except SkippedError:
            continue
        if record_read is None:
            blank += 1
        else:
            texts.append((record_read.text, part, record_read.metadata))
    row_metadata = table_metadata | {"columns": columns.by_role} | ({"blank_rows": blank} if blank else {})
    for text, part, about in texts:
        yield ParsedText(text, part, row_metadata | about)


def _pack_texts(texts: Sequence[str], separator: str, name: str, metadata: dict[str, Any]) -> list[ParsedText]:
    suffix = f" of {name}" if name else ""
    packs = list(pack(texts))
    if len(packs) <= 1:
        return [ParsedText(separator.join(texts), f"table {name}" if name else "", metadata)]
    return [
        ParsedText(separator.join(packed_texts), f"rows from {start + 1}{suffix}", metadata)
        for start, packed_texts in packs
    ]
