"""Workbooks (XLSX, XLSM, XLSB, XLS, ODS) through calamine: the cells' values, in all but XLSB as their formats show
them, and simple formulas computed where the file holds no value."""

import datetime
import io
import struct
from collections import Counter
from collections.abc import Iterable
from typing import Any

from soldiom_ray.collect.documents import ole, zipped
from soldiom_ray.collect.documents.columns import guess_columns
from soldiom_ray.collect.documents.formulas import FormulaError, Formulas, column_letters
from soldiom_ray.collect.documents.ods_markup import read_ods_markup
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions, skipped_entry
from soldiom_ray.collect.documents.rows import Table, cell_value, header_names, lines_texts, tables_texts
from soldiom_ray.collect.documents.sheet_markup import SheetMarkup, read_markup
from soldiom_ray.collect.documents.sheet_tables import SheetTable, Shown, sheet_tables
from soldiom_ray.collect.documents.xls_formats import read_xls_formats
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.signatures import OLE_MAGIC

_TIMES = (datetime.date, datetime.time, datetime.timedelta)
MAX_NAMED_CELLS = 20
MAX_FILLED_CELLS = 1_000_000
"""Cells of one sheet that take the value of the cell above which they are merged with."""


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """Every table of every sheet that is not blank: with named columns where a row names them, else as lines.
    `skipped` counts what was left out, `missing_values` names cells whose formulas could not be computed, `hidden`
    counts hidden sheets, rows and columns, which are read."""
    import python_calamine

    markup: dict[str, SheetMarkup] = {}
    skipped: Counter[str] = Counter()
    if data.startswith(OLE_MAGIC):
        markup, skipped = _read_old(ole.open_container(data))
    else:
        zipped.check_office_file(data)
        with zipped.open_zip(data) as archive:
            markup, skipped = read_ods_markup(archive) if "content.xml" in archive.NameToInfo else read_markup(archive)
    missing: list[str] = []
    try:
        workbook = python_calamine.CalamineWorkbook.from_object(io.BytesIO(data))
        sheets = {
            name: rows
            for name in workbook.sheet_names
            if (rows := _rows(workbook, name, markup.get(name, SheetMarkup()), missing))
        }
        visible = python_calamine.SheetVisibleEnum.Visible
        hidden = Counter({"sheets": sum(sheet.visible != visible for sheet in workbook.sheets_metadata)})
    except python_calamine.PasswordError as error:
        raise SkippedError("encrypted", "a workbook with a password") from error
    except (python_calamine.CalamineError, *zipped.BROKEN, RuntimeError) as error:
        raise SkippedError("damaged", f"a workbook that does not open ({type(error).__name__})") from error
    except BaseException as error:  # calamine's assertions arrive as a PanicException, which is no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise SkippedError("damaged", "a workbook whose structure contradicts itself") from error
    for sheet in markup.values():
        hidden.update(sheet.hidden)
    skipped["formulas_without_values"] = len(missing)
    metadata = {"sheets": len(sheets)} | skipped_entry(skipped)
    metadata |= {"missing_values": missing[:MAX_NAMED_CELLS]} if missing else {}
    return _texts(sheets, options, metadata | ({"hidden": dict(+hidden)} if +hidden else {}))


def _read_old(container: ole.Container) -> tuple[dict[str, SheetMarkup], Counter[str]]:
    """The formats of an old workbook; none where its records contradict themselves."""
    folder = container.folder()
    number = folder.get("Workbook") or folder.get("Book")
    try:
        formats, beside = read_xls_formats(container.stream(number)) if number is not None else ({}, Counter())
    except (struct.error, IndexError):
        return {}, Counter()
    beside["embedded_files"] += sum(name.startswith("MBD") for name in folder)
    sheets = {
        name: SheetMarkup(number_formats=sheet.formats, uncomputed=sheet.uncomputed) for name, sheet in formats.items()
    }
    return sheets, beside


def _texts(sheets: dict[str, list[list[Any]]], options: ParseOptions, metadata: dict[str, Any]) -> list[ParsedText]:
    tables, texts, unused = [], [], 0
    for name, rows in sheets.items():
        for number, table in enumerate(sheet_tables(rows), 1):
            table_name = name if len(sheets) > 1 else ""
            if number > 1:
                table_name = f"{name} {number}"
            if table.header is not None:
                width = max(map(len, [table.header, *table.rows]))
                names = header_names(table.header, width)
                if len(table.rows) == 1 or guess_columns(names):  # else they are named as unrecognized
                    unused += sum(_is_unused(place, table) for place in range(len(table.header)))
                tables.append(Table(table_name, names, table.rows, table.titles))
            else:
                texts += lines_texts(table_name, table.rows, metadata)
    if unused:
        metadata["skipped"] = metadata.get("skipped", {}) | {"names_of_empty_columns": unused}
    return tables_texts(tables, options.columns, metadata) + texts


def _is_unused(place: int, table: SheetTable) -> bool:
    """Whether a column has a name and no values."""
    header = table.header or []
    return header[place] not in ("", None) and not any(
        len(row) > place and row[place] not in ("", None) for row in table.rows
    )


def _rows(workbook: Any, name: str, markup: SheetMarkup, missing: list[str]) -> list[list[Any]]:
    """The rows of a sheet, blank ones included; [] for a blank sheet. Cells whose formulas are not computed are blank
    and appended to `missing`."""
    try:
        sheet = workbook.get_sheet_by_name(name)
    except Exception as error:
        if type(error).__name__ != "WorksheetNotFound":  # a chart or a dialogue has a name but no cells
            raise
        return []
    rows = [[value if type(value) is str else _cell(value) for value in row] for row in sheet.iter_rows()]
    grid = _Grid(rows, sheet.start[1] if sheet.start else 0)
    formulas = Formulas(markup.formulas, grid.get)
    for place in markup.formulas:
        try:
            result = formulas.result(*place)
            form = markup.formats.get(place)
            grid[place] = Shown(form.text(result)) if form and not isinstance(result, str) else _cell(result)
        except FormulaError:
            missing.append(f"{name}!{column_letters(place[1])}{place[0] + 1}")
            grid[place] = ""
    missing += [f"{name}!{column_letters(column)}{row + 1}" for row, column in markup.uncomputed]
    for place, form in markup.number_formats.items():
        if type(value := grid.get(*place)) in (int, float):
            grid[place] = Shown(form.text(value))
    for place, text in markup.formatted.items():
        grid[place] = Shown(text)
    _fill_merged(grid, sheet.merged_cell_ranges or ())
    return grid.rows if any(cell not in ("", None) for row in grid.rows for cell in row) else []


class _Grid:
    """The cells of a sheet by (row, column), counted from 0. `rows` leave out the columns before `_first`."""

    def __init__(self, rows: list[list[Any]], first: int) -> None:
        self.rows, self._first = rows, first

    def get(self, row: int, column: int) -> Any:
        """A cell's value; "" outside of the sheet."""
        at = column - self._first
        return self.rows[row][at] if row < len(self.rows) and 0 <= at < len(self.rows[row]) else ""

    def __setitem__(self, place: tuple[int, int], value: Any) -> None:
        row, at = place[0], place[1] - self._first
        if value == "" and self.get(*place) == "":
            return
        if at < 0:
            self.rows = [[""] * -at + cells for cells in self.rows]
            self._first, at = place[1], 0
        self.rows += [[] for _ in range(row + 1 - len(self.rows))]
        self.rows[row] += [""] * (at + 1 - len(self.rows[row]))
        self.rows[row][at] = value


def _fill_merged(grid: _Grid, ranges: Iterable[tuple[tuple[int, int], tuple[int, int]]]) -> None:
    """Repeat the value of cells merged downwards in each of their rows."""
    left = MAX_FILLED_CELLS
    for (top, column), (bottom, last) in ranges:
        value = grid.get(top, column)
        if column != last or value in ("", None):
            continue
        for row in range(top + 1, min(bottom + 1, top + 1 + left, len(grid.rows))):
            left -= 1
            if grid.get(row, column) in ("", None):
                grid[row, column] = value


def _cell(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return Shown(value.date().isoformat())
    return Shown(cell_value(value)) if isinstance(value, _TIMES) else cell_value(value)
