"""Rows of a table become texts: one per row where the columns say what its text is, else many rows to a text."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

from soldiom_ray.collect.documents.columns import choose_columns, fields_text, plain, record_metadata, text_of
from soldiom_ray.collect.documents.parsed import ParsedText
from soldiom_ray.collect.text import SkippedError

ROWS_PER_TEXT = 200
CHARACTERS_PER_TEXT = 8000
"""Rows that say little for themselves stand together, but not so many that a question finds all of them or none."""


@dataclass
class Table:
    """A table of a file. `name` is "" where the file is the table; a row may be shorter than `columns`; values are
    strings, numbers, booleans, None, or what JSON holds."""

    name: str
    columns: Sequence[str]
    rows: Iterable[Sequence[Any]]


def table_texts(table: Table, wished: Mapping[str, str], told: dict[str, Any]) -> list[ParsedText]:
    """The texts of one table. Each tells `told`, how many `rows` there are, which `columns` made it and, where they are
    few, its other `fields`. Raises SkippedError: wrong_columns."""
    chosen = choose_columns(table.columns, wished)
    records = [dict(zip(table.columns, row, strict=False)) for row in table.rows]
    about = told | ({"table": table.name} if table.name else {}) | {"rows": len(records)}
    if chosen and any(own := [text_of(record, chosen) for record in records]):
        return list(_one_per_row(table.name, records, own, chosen, about))
    return _many_to_a_text(table.name, records, about)


def tables_texts(tables: Iterable[Table], wished: Mapping[str, str], told: dict[str, Any]) -> list[ParsedText]:
    """The texts of all tables of a file. Columns that the user wished count in the tables that have them; there must be
    one. Raises SkippedError: wrong_columns."""
    texts: list[ParsedText] = []
    refused: list[SkippedError] = []
    tables = list(tables)
    for table in tables:
        try:
            texts.extend(table_texts(table, wished, told))
        except SkippedError as skipped:
            if skipped.reason != "wrong_columns":
                raise
            refused.append(skipped)
            texts.extend(table_texts(table, {}, told))
    if tables and len(refused) == len(tables):
        raise refused[0]
    return texts


def header_names(cells: Sequence[str], width: int) -> list[str]:
    """A name for each of `width` columns: those given, "column 3" for a blank one, a number after a repeated one."""
    names: list[str] = []
    taken: set[str] = set()
    for number in range(1, width + 1):
        name = cells[number - 1].strip() if number <= len(cells) else ""
        name = name or f"column {number}"
        name = name if name not in taken else f"{name} {number}"
        names.append(name)
        taken.add(name)
    return names


def looks_like_header(cells: Sequence[Any]) -> bool:
    """Whether a first row may name the columns: filled texts without a repeat, none of them a number."""
    filled = [cell.strip() for cell in cells if isinstance(cell, str) and cell.strip()]
    return (
        bool(filled)
        and len(filled) == len(set(filled))
        and len(filled) == sum(cell not in (None, "") for cell in cells)
    )


def lines_texts(name: str, rows: Sequence[Sequence[Any]], told: dict[str, Any]) -> list[ParsedText]:
    """Rows without column names, one line each, cells between bars."""
    lines = [" | ".join(plain(cell).strip() for cell in row).strip(" |") for row in rows]
    about = told | ({"table": name} if name else {}) | {"rows": len(rows)}
    return _in_pieces([line for line in lines if line], "\n", name, about)


def cell_value(value: Any) -> Any:
    """A value as JSON holds it: times in ISO 8601, bytes as text where they are UTF-8 and by their length elsewhere."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
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


def _one_per_row(
    name: str,
    records: Sequence[Mapping[str, Any]],
    own: Sequence[str | None],
    chosen: dict[str, str],
    about: dict[str, Any],
) -> Iterator[ParsedText]:
    blank = sum(text is None for text in own)
    told = about | {"columns": chosen} | ({"blank_rows": blank} if blank else {})
    for number, (record, text) in enumerate(zip(records, own, strict=True), 1):
        if text is not None:
            part = f"row {number} of {name}" if name else f"row {number}"
            yield ParsedText(text, part, told | record_metadata(record, chosen))


def _many_to_a_text(name: str, records: Sequence[Mapping[str, Any]], about: dict[str, Any]) -> list[ParsedText]:
    return _in_pieces([fields_text(record) for record in records], "\n\n", name, about)


def _in_pieces(texts: Sequence[str], between: str, name: str, about: dict[str, Any]) -> list[ParsedText]:
    of = f" of {name}" if name else ""
    pieces = list(pack(texts))
    if len(pieces) <= 1:
        return [ParsedText(between.join(texts), f"table {name}" if name else "", about)]
    return [ParsedText(between.join(piece), f"rows from {start + 1}{of}", about) for start, piece in pieces]


def pack(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Rows together, at most ROWS_PER_TEXT and about CHARACTERS_PER_TEXT, with the number of the first (from 0)."""
    start, piece, size = 0, list[str](), 0
    for number, text in enumerate(texts):
        if piece and (len(piece) >= ROWS_PER_TEXT or size + len(text) > CHARACTERS_PER_TEXT):
            yield start, piece
            start, piece, size = number, [], 0
        piece.append(text)
        size += len(text)
    if piece:
        yield start, piece
