"""Number formats of the cells of an old Excel workbook (BIFF8, [MS-XLS]), which readers of values leave out, and the
counts of what stands beside the values."""

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from soldiom_ray.collect.documents.number_formats import BUILT_IN, NumberFormat, number_format
from soldiom_ray.collect.text import SkippedError

_BOF, _EOF, _SHEET, _FORMAT, _STYLE = 0x809, 0x0A, 0x85, 0x41E, 0xE0
_FORMULA, _NUMBER, _RK, _MANY_RK = 0x06, 0x203, 0x27E, 0xBD
_NOTE, _TEXT_OBJECT, _HEADER, _FOOTER, _ERROR = 0x1C, 0x1B6, 0x14, 0x15, 0x205
_CHART_TEXT = 0x100D
_DIMENSIONS, _CELLS = 0x200, (_FORMULA, _NUMBER, _RK, _MANY_RK, _ERROR, 0x201, 0xBE, 0x204, 0xFD, 0xD6)
_ROWS, _COLUMNS = 65_536, 256
"""What a sheet of this format has at most."""
_BIFF8 = 0x600
_MAX_STYLES = 4096

_EMPTY_RESULT = (b"\3", b"\xff\xff")
_EMPTY_TEXT = b"\x17\0"
"""The token of the text "", which a formula whose result is empty holds."""

Place = tuple[int, int]


@dataclass
class SheetFormats:
    """Cells by (row, column) from 0: `formats` that say more than the number, and formulas that are
    `uncomputed`."""

    formats: dict[Place, NumberFormat] = field(default_factory=dict)
    uncomputed: list[Place] = field(default_factory=list)


def read_xls_formats(stream: bytes) -> tuple[dict[str, SheetFormats], Counter[str]]:
    """(the formats of each sheet by its name, what stands beside the values), of a workbook's stream. SkippedError for
    cells where no sheet of this format has any: readers of values reserve memory up to there, of 136 GB in one case."""
    codes = dict(BUILT_IN)
    styles: list[int] = []
    sheets: list[tuple[int, str]] = []
    beside: Counter[str] = Counter()
    for kind, record in _records(stream, 0):
        if kind == _BOF and record[:2] != struct.pack("<H", _BIFF8):
            return {}, _beside_old(stream)
        if kind == _FORMAT and len(record) > 5:
            codes[_short(record, 0)] = _text(record, 2, 2)
        elif kind == _STYLE and len(record) > 4 and len(styles) < _MAX_STYLES:
            styles.append(_short(record, 2))
        elif kind == _SHEET and len(record) > 8:
            sheets.append((struct.unpack_from("<I", record)[0], _text(record, 6, 1)))
    formats = [number_format(codes.get(style, "")) for style in styles]
    return {name: _cells(stream, start, formats, beside) for start, name in sheets}, beside


def _beside_old(stream: bytes) -> Counter[str]:
    """What stands beside the values of a workbook of Excel 5 or 95."""
    beside: Counter[str] = Counter()
    start = 0
    while start + 4 <= len(stream):
        kind, size = struct.unpack_from("<HH", stream, start)
        _check_place(kind, stream[start + 4 : start + 4 + size])
        beside["comments"] += kind == _NOTE
        beside["headers_footers"] += kind in (_HEADER, _FOOTER) and size > 1
        beside["drawings"] += kind == _CHART_TEXT
        start += 4 + size
    return beside


def _cells(stream: bytes, start: int, formats: list[NumberFormat | None], beside: Counter[str]) -> SheetFormats:
    sheet = SheetFormats()

    def note(row: int, column: int, style: int) -> None:
        if style < len(formats) and (form := formats[style]):
            sheet.formats[row, column] = form

    texts = comments = 0
    for kind, record in _records(stream, start):
        _check_place(kind, record)
        if kind in (_FORMULA, _NUMBER, _RK) and len(record) >= 6:
            note(*struct.unpack_from("<HHH", record))
            if kind == _FORMULA and (record[6:7], record[12:14]) == _EMPTY_RESULT and _EMPTY_TEXT not in record[20:]:
                sheet.uncomputed.append(struct.unpack_from("<HH", record))
        elif kind == _MANY_RK and len(record) >= 6:
            row, column = struct.unpack_from("<HH", record)
            for number in range((len(record) - 6) // 6):
                note(row, column + number, _short(record, 4 + 6 * number))
        comments += kind == _NOTE
        beside["drawings"] += kind == _CHART_TEXT
        texts += kind == _TEXT_OBJECT and len(record) > 11 and _short(record, 10) > 0
        beside["headers_footers"] += kind in (_HEADER, _FOOTER) and len(record) > 2
        beside["error_values"] += kind == _ERROR and len(record) > 7 and record[7] == 1
    beside.update({"comments": comments, "drawings": max(0, texts - comments)})  # a comment's text is a drawing's too
    return sheet


def _check_place(kind: int, record: bytes) -> None:
    """SkippedError for a cell, or the size of a sheet, that is beyond what the format has."""
    rows = columns = 0
    if kind == _DIMENSIONS and len(record) >= 10:  # in Excel 5 rows have two bytes
        rows, columns = struct.unpack_from("<4xI2xH" if len(record) >= 14 else "<2xH2xH", record)
    elif kind in _CELLS and len(record) >= 4:
        columns = _short(record, 2) + 1
    if rows > _ROWS or columns > _COLUMNS:
        place = f"row {rows}" if rows > _ROWS else f"column {columns}"
        raise SkippedError("damaged", f"a sheet up to {place}; an .xls has {_ROWS} rows and {_COLUMNS} columns")


def _records(stream: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """The records of one part of a workbook, up to its end."""
    depth = 0
    while start + 4 <= len(stream):
        kind, size = struct.unpack_from("<HH", stream, start)
        yield kind, stream[start + 4 : start + 4 + size]
        depth += (kind == _BOF) - (kind == _EOF)
        if depth <= 0:
            return
        start += 4 + size


def _text(record: bytes, start: int, length_bytes: int) -> str:
    """A string: its length in one or two bytes, how it is coded, its characters."""
    length = record[start] if length_bytes == 1 else _short(record, start)
    start += length_bytes
    is_wide = record[start] & 1
    written = record[start + 1 : start + 1 + length * (2 if is_wide else 1)]
    return written.decode("utf-16-le" if is_wide else "latin-1", "replace")


def _short(record: bytes, start: int) -> int:
    value: int = struct.unpack_from("<H", record, start)[0]
    return value
