"""Workbooks (XLSX, XLSM, XLSB, XLS, ODS) through calamine: the cached values of the cells, without formulas."""

import datetime
import io
import re
import zipfile
from typing import Any

from soldiom_ray.collect.documents import ole, zipped
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.documents.rows import (
    Table,
    cell_value,
    header_names,
    lines_texts,
    looks_like_header,
    tables_texts,
)
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.signatures import OLE_MAGIC

MAX_CELLS = 20_000_000
"""Cells of one sheet, blank ones included: calamine holds a sheet as a full rectangle, 32 bytes a cell."""
_CORNER = re.compile(rb'<c\b[^>]{0,200}?\br="([A-Z]{1,3})([0-9]{1,7})"')


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """Every sheet that is not blank: as a table where its first row names the columns, else its rows as lines."""
    import python_calamine

    if data.startswith(OLE_MAGIC):
        ole.check(data)
    else:
        zipped.check_office_file(data)
        _check_extent(data)
    try:
        workbook = python_calamine.CalamineWorkbook.from_object(io.BytesIO(data))
        sheets = {name: rows for name in workbook.sheet_names if (rows := _rows(workbook, name))}
    except python_calamine.PasswordError as error:
        raise SkippedError("encrypted", "a workbook with a password") from error
    except (python_calamine.CalamineError, *zipped.BROKEN, RuntimeError) as error:
        raise SkippedError("damaged", f"a workbook that does not open ({type(error).__name__})") from error
    except BaseException as error:  # calamine's assertions arrive as a PanicException, which is no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise SkippedError("damaged", "a workbook whose structure contradicts itself") from error
    tables, texts, metadata = [], [], {"sheets": len(sheets)}
    for name, rows in sheets.items():
        table_name = name if len(sheets) > 1 else ""
        if len(rows) > 1 and looks_like_header(rows[0]):
            tables.append(Table(table_name, header_names(rows[0], max(map(len, rows))), rows[1:]))
        else:
            texts += lines_texts(table_name, rows, metadata)
    return tables_texts(tables, options.columns, metadata) + texts


def _rows(workbook: Any, name: str) -> list[list[Any]]:
    try:
        sheet = workbook.get_sheet_by_name(name)
    except Exception as error:
        if type(error).__name__ != "WorksheetNotFound":  # a chart or a dialogue has a name but no cells
            raise
        return []
    rows = ([_cell(value) for value in row] for row in sheet.iter_rows())
    return [row for row in rows if any(cell not in ("", None) for cell in row)]


def _cell(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return cell_value(value)


def _check_extent(data: bytes) -> None:
    """Check that no sheet extends so far that its rectangle fills the memory. Raises SkippedError: too_large."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for part in archive.namelist():
            if part.startswith("xl/worksheets/") and part.endswith(".xml"):
                rows = columns = 0
                for letters, digits in _CORNER.findall(zipped.read_member(archive, part)):
                    rows = max(rows, int(digits))
                    columns = max(columns, _column_number(letters))
                if rows * columns > MAX_CELLS:
                    raise SkippedError("too_large", f"a sheet of {rows} rows and {columns} columns")


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number
