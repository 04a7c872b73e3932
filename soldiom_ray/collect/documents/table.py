"""CSV and similar tables with a header line."""

import collections
import csv
import io
import itertools
import re
from typing import Any

from soldiom_ray.collect.documents.columns import guess_columns
from soldiom_ray.collect.documents.encodings import read_text
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.documents.rows import Table, header_names, table_texts
from soldiom_ray.collect.text import SkippedError

MAX_FIELD_CHARACTERS = 16 << 20
MAX_CLASSES = 30
SEARCHED_ROWS = 200
"""So many rows show that a column has too many values for classes, as most have."""
_DELIMITERS = ",;\t|"
_END = "\x1eend of the table\x1e"
_WRITTEN_DELIMITER = re.compile(r"[\"']?sep=([,;|\t])[\"']?\r?\n", re.IGNORECASE)
"""The line before the header with which Excel is told the delimiter."""


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The rows as texts. Rows that are too short or too long are read, and counted in `ragged_rows`; quotes that are
    never closed in `unclosed_quotes`."""
    decoded = read_text(data)
    written = _WRITTEN_DELIMITER.match(decoded.text)
    table_text = decoded.text[written.end() :] if written else decoded.text
    delimiter = written[1] if written else "\t" if name.lower().endswith(".tsv") else _delimiter(table_text)
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    faults: dict[str, int] = {}
    try:
        lines = [line for line in _lines(table_text, delimiter, faults) if not _is_blank("".join(line))]
    except csv.Error as error:
        if "field limit" in str(error):
            detail = f"one field holds more than {MAX_FIELD_CHARACTERS} characters"
            raise SkippedError("too_large", detail) from error
        raise SkippedError("damaged", f"not a table: {error}") from error
    if len(lines) < 2:
        raise SkippedError("empty", "a header without rows")
    names = _names_of_rows(lines)
    ragged = sum(len(line) != len(lines[0]) for line in lines[1:])
    metadata: dict[str, Any] = (
        {"delimiter": delimiter} | ({"ragged_rows": ragged} if ragged else {}) | faults | decoded.metadata
    )
    if names:
        table = Table("", header_names(names, max(map(len, lines))), lines)
        texts = table_texts(table, options.columns, metadata)
        reading = texts[0].metadata.get("reading", {})
        notes = reading.get("notes", {}) | {"the first line is a row: there is no header": 1}
        texts[0].metadata["reading"] = reading | {"notes": notes}
        return texts
    header = header_names(lines[0], max(map(len, lines)))
    return table_texts(Table("", header, lines[1:]), options.columns, metadata)


def _is_blank(text: str) -> bool:
    return not text or text.isspace()


def _names_of_rows(lines: list[list[str]]) -> list[str]:
    """Names for the columns of a table without a header, [] for one that has it: a cell of the first line is one of the
    few values that its column has, as in lists of messages with their class."""
    first, rows = lines[0], lines[1:]
    if guess_columns(first) or len(rows) < 2 or len(first) < 2:
        return []
    beginning, others = rows[:SEARCHED_ROWS], rows[SEARCHED_ROWS:]
    values = None if others else {*map(str.strip, itertools.chain.from_iterable(rows))}
    for column, cell in enumerate(first):
        value = cell.strip()
        if values is not None and value not in values:  # most names of columns stand nowhere else
            continue
        distinct = {row[column].strip() for row in beginning if len(row) > column}
        if len(distinct) > MAX_CLASSES or "" in distinct:
            continue
        distinct |= {row[column].strip() for row in others if len(row) > column}
        if value in distinct and len(distinct) <= min(MAX_CLASSES, len(rows)) and "" not in distinct:
            names = [""] * len(first)
            names[column] = "label"
            beside = [number for number in range(len(first)) if number != column]
            longest = max(beside, key=lambda number: sum(len(row[number]) for row in lines if len(row) > number))
            names[longest] = "text"
            return names
    return []


def _lines(text: str, delimiter: str, faults: dict[str, int]) -> list[list[str]]:
    """The table's lines. For the csv module a quote that is never closed begins a field that extends to the end; from
    there on the lines are read again with the quote as a plain character."""
    lines = list(csv.reader(itertools.chain(io.StringIO(text, newline=""), (_END,)), delimiter=delimiter))
    last = lines.pop()
    if last == [_END]:
        return lines
    faults["unclosed_quotes"] = 1
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    collections.deque(itertools.islice(reader, len(lines)), maxlen=0)
    remaining_lines = itertools.islice(io.StringIO(text, newline=""), reader.line_num, None)
    return lines + list(csv.reader(remaining_lines, delimiter=delimiter, quoting=csv.QUOTE_NONE))


def _delimiter(text: str) -> str:
    """The delimiter of the four usual ones that splits the first lines into the most uniform rows."""
    sample = text[: 1 << 16].splitlines()[:50]
    if len(text) > 1 << 16 and len(sample) > 1:
        sample.pop()

    def score(sign: str) -> tuple[float, int]:
        try:
            widths = [len(line) for line in csv.reader(sample, delimiter=sign) if line]
        except csv.Error:
            return (0.0, 0)
        usual = max(set(widths), key=widths.count, default=1)
        return (widths.count(usual) / len(widths) if usual > 1 else 0.0, usual)

    written = "\n".join(sample)
    scores = {sign: score(sign) for sign in _DELIMITERS if sign in written}
    if not any(share for share, _ in scores.values()):
        scores = {sign: score(sign) for sign in _DELIMITERS}
    return max(scores, key=lambda sign: scores[sign])
