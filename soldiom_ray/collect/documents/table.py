"""CSV and its relatives: rows with a text of their own are texts, other tables are written out field by field."""

import csv
import io
from collections.abc import Sequence

from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions, fields_text, read_text, record_text
from soldiom_ray.collect.text import LeftOut

ROWS_PER_TEXT = 200


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """Rows of a table with a header line. Rows that are too short or too long are kept and counted in `ragged_rows`."""
    text, encoding = read_text(data)
    delimiter = "\t" if name.lower().endswith(".tsv") else _delimiter(text)
    csv.field_size_limit(16 << 20)
    try:
        lines = [
            line
            for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            if any(cell.strip() for cell in line)
        ]
    except csv.Error as error:
        raise LeftOut("damaged", f"not a table: {error}") from error
    if len(lines) < 2:
        raise LeftOut("empty", "a header without rows")
    header = _header(lines[0], max(len(line) for line in lines))
    ragged = sum(len(line) != len(lines[0]) for line in lines[1:])
    told = {"delimiter": delimiter, "rows": len(lines) - 1} | ({"ragged_rows": ragged} if ragged else {})
    if encoding != "utf-8":
        told["encoding"] = encoding
    records = [dict(zip(header, line, strict=False)) for line in lines[1:]]
    own = [record_text(record) for record in records]
    if all(own):
        return [ParsedText(str(part), f"row {number}", told) for number, part in enumerate(own, 1)]
    texts = [fields_text(record) for record in records]
    if len(texts) <= ROWS_PER_TEXT:
        return [ParsedText("\n\n".join(texts), "", told)]
    starts = range(0, len(texts), ROWS_PER_TEXT)
    return [ParsedText("\n\n".join(texts[s : s + ROWS_PER_TEXT]), f"rows from {s + 1}", told) for s in starts]


def _delimiter(text: str) -> str:
    """The one of the four usual signs that cuts the first lines into the most equal rows."""
    sample = "\n".join(text.splitlines()[:50])

    def score(sign: str) -> tuple[float, int]:
        try:
            widths = [len(line) for line in csv.reader(io.StringIO(sample), delimiter=sign) if line]
        except csv.Error:
            return (0.0, 0)
        usual = max(set(widths), key=widths.count, default=1)
        return (widths.count(usual) / len(widths) if usual > 1 else 0.0, usual)

    return max(",;\t|", key=score)


def _header(cells: Sequence[str], width: int) -> list[str]:
    names: list[str] = []
    for number in range(width):
        name = cells[number].strip() if number < len(cells) else ""
        name = name or f"column {number + 1}"
        names.append(name if name not in names else f"{name} {number + 1}")
    return names
