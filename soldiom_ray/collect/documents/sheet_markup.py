"""What the XML of an XLSX sheet says beyond the cells' values: number formats, formulas without values, hidden rows and
columns. Read by patterns, since a tree of a sheet takes ten times as long as its values."""

import html
import re
import zipfile
from collections import Counter
from dataclasses import dataclass, field

from soldiom_ray.collect.documents import zipped
from soldiom_ray.collect.documents.cell_values import whole_number
from soldiom_ray.collect.documents.equations import local_name
from soldiom_ray.collect.documents.formulas import column_number
from soldiom_ray.collect.documents.number_formats import BUILT_IN, NumberFormat, number_format
from soldiom_ray.collect.text import SkippedError

MAX_CELLS = 20_000_000
"""Cells of one sheet, blank ones included: calamine holds a sheet as a full rectangle, 32 bytes a cell."""
_MAX_STYLES = 500
_CORNER = re.compile(rb'<c\b[^>]{0,200}?\br="([A-Z]{1,3})([0-9]{1,7})"')
_PLACE = re.compile(rb'\br="([A-Z]{1,3})([0-9]{1,7})"')
_STYLE = re.compile(rb'\bs="(\d{1,6})"')
_TYPE = re.compile(rb'\bt="(?!n")')
_FORMULA = rb"<f\b[^>]{0,500}?(?:/>|>([^<]{0,9000})</f>)"
_CELL = rb"<c\b([^>]{0,300})>"
_NO_VALUE = rb"(?:<v>\s{0,20}</v>|<v\s?/>)?"
_IS_TEXT = re.compile(rb'\bt="str"')
_NOTHING_COMPUTED = rb"(?:<v>0?</v>|<v\s?/>)?"
_COMPUTED = re.compile(rb"</f>\s{0,20}<v>(?!0?</v>)")
_HIDDEN_ROW = re.compile(rb'<row\b[^>]{0,300}?\bhidden="(?:1|true)"')
_COLUMNS = re.compile(rb"<col\b[^>]{0,300}>")
_PREFIX = re.compile(rb"<(\w{1,20}:)worksheet[ >]")
_ERROR = re.compile(rb' t="e"[^>]{0,300}>')
_PAGE_TEXT = re.compile(rb"<(?:odd|even|first)(?:Header|Footer)>[^<]")
_TEXT = re.compile(rb"<(?:\w{1,20}:)?(?:t|text)(?: [^>]{0,200})?>\s*[^\s<]")
_CAPTION = re.compile(rb"<(?:div|font|span)\b[^>]{0,300}>\s*[^\s<]", re.IGNORECASE)
_READING = re.compile(rb"<(?:\w{1,20}:)?rPh[ >]")
_CACHED = re.compile(rb"<(?:\w{1,20}:)?v>\s*[^\s<]")
_BESIDE = (
    ("xl/sharedStrings.xml", "readings", _READING),
    ("xl/externalLinks/", "other_files", _CACHED),
    ("xl/chartsheets/", "headers_footers", _PAGE_TEXT),
    ("xl/drawings/vmlDrawing", "drawings", _CAPTION),
    ("xl/comments", "comments", _TEXT),
    ("xl/threadedComments/", "comments", _TEXT),
    ("xl/drawings/", "drawings", _TEXT),
    ("xl/charts/", "drawings", _TEXT),
    ("xl/diagrams/data", "drawings", _TEXT),
    ("xl/worksheets/", "error_values", _ERROR),
    ("xl/worksheets/", "headers_footers", _PAGE_TEXT),
)
"""Folder, reason, and what to count in its parts under that reason."""
_THINGS = (("xl/media/", "pictures"), ("xl/embeddings/", "embedded_files"))


@dataclass
class SheetMarkup:
    """Cells by (row, column), counted from 0: `formatted` as they are shown, `formulas` without a value, the
    `formats` of those, and `number_formats` of cells whose values are read elsewhere, and what
    is `uncomputed` for good."""

    formatted: dict[tuple[int, int], str] = field(default_factory=dict)
    formulas: dict[tuple[int, int], str] = field(default_factory=dict)
    formats: dict[tuple[int, int], NumberFormat] = field(default_factory=dict)
    number_formats: dict[tuple[int, int], NumberFormat] = field(default_factory=dict)
    uncomputed: list[tuple[int, int]] = field(default_factory=list)
    hidden: dict[str, int] = field(default_factory=dict)


def read_markup(archive: zipfile.ZipFile) -> tuple[dict[str, SheetMarkup], Counter[str]]:
    """The markup of each sheet by its name, and the counts of what stands beside the cells' values. Raises
    SkippedError: damaged, and too_large for a sheet that extends so far that its rectangle fills the memory."""
    names = set(archive.namelist())
    beside: Counter[str] = Counter()
    if "xl/workbook.xml" not in names:
        return {}, beside
    book = zipped.read_member(archive, "xl/workbook.xml")
    formats = _formats(archive, names)
    sheets = _sheet_parts(archive, names, book)
    markup: dict[str, SheetMarkup] = {}
    for part in sorted(names):
        beside.update(reason for folder, reason in _THINGS if part.startswith(folder))
        if not part.endswith((".xml", ".vml")) or not part.startswith((*(folder for folder, *_ in _BESIDE), *sheets)):
            continue
        source = zipped.read_member(archive, part)
        if part in sheets or part.startswith("xl/worksheets/"):
            source = _without_prefix(source)
            _check_extent(source)
        for folder, reason, pattern in _BESIDE:
            if part.startswith(folder):
                beside[reason] += len(pattern.findall(source))
        if part in sheets:
            markup[sheets[part]] = _read_sheet(source, formats, b'fullCalcOnLoad="1"' in book)
    return markup, beside


def _without_prefix(source: bytes) -> bytes:
    """A sheet as most programs write it: without a prefix before the names of its elements."""
    prefix = _PREFIX.search(source[:4096])
    return source.replace(b"<" + prefix[1], b"<").replace(b"</" + prefix[1], b"</") if prefix else source


def _sheet_parts(archive: zipfile.ZipFile, names: set[str], book: bytes) -> dict[str, str]:
    """Name of a sheet's part -> its name."""
    if "xl/_rels/workbook.xml.rels" not in names:
        return {}
    relations = zipped.parse_xml(zipped.read_member(archive, "xl/_rels/workbook.xml.rels"))
    targets = {relation.get("Id", ""): relation.get("Target", "") for relation in relations if local_name(relation)}
    parts = {}
    for sheet in zipped.parse_xml(book).iter():
        if local_name(sheet) == "sheet":
            relation = next((value for key, value in sheet.items() if key.endswith("}id")), "")
            target = targets.get(relation, "")
            parts[target.lstrip("/") if target.startswith("/") else f"xl/{target}"] = sheet.get("name", "")
    return parts


def _formats(archive: zipfile.ZipFile, names: set[str]) -> dict[bytes, NumberFormat]:
    """Number of a cell's style -> its format, of the formats that say more than the number."""
    if "xl/styles.xml" not in names:
        return {}
    codes = dict(BUILT_IN)
    formats: dict[bytes, NumberFormat] = {}
    for element in zipped.parse_xml(zipped.read_member(archive, "xl/styles.xml")):
        if local_name(element) == "numFmts":
            for child in element:
                if local_name(child) and (number_of_format := whole_number(child.get("numFmtId"))) is not None:
                    codes[number_of_format] = child.get("formatCode", "")
        elif local_name(element) == "cellXfs":
            for number, style in enumerate(child for child in element if local_name(child) == "xf"):
                code = codes.get(whole_number(style.get("numFmtId")) or 0, "")
                if len(formats) < _MAX_STYLES and (form := number_format(code)):
                    formats[str(number).encode()] = form
    return formats


def _read_sheet(source: bytes, formats: dict[bytes, NumberFormat], computed_on_load: bool) -> SheetMarkup:
    markup = SheetMarkup()
    if formats:
        styled = rb'(?=[^>]{0,200}?\bs="(?:%s)")' % b"|".join(formats)
        pattern = rb"<c\b%s([^>]{0,300})>(?:%s)?<v>([^<]{1,40})</v>" % (styled, _FORMULA)
        for match in re.finditer(pattern, source):
            place, style = _place(match[1]), _STYLE.search(match[1])
            if place and style and not _TYPE.search(match[1]) and (number := _number(match[3])) is not None:
                markup.formatted[place] = formats[style[1]].text(number)
    if b"<f" in source:
        without_values = computed_on_load and not _COMPUTED.search(source)
        no_value = _NOTHING_COMPUTED if without_values else _NO_VALUE
        for match in re.finditer(rb"%s%s%s\s{0,20}</c>" % (_CELL, _FORMULA, no_value), source):
            if not _IS_TEXT.search(match[1]) and (place := _place(match[1])):
                markup.formulas[place] = html.unescape((match[2] or b"").decode("utf-8", "replace"))
                markup.formatted.pop(place, None)
                if (style := _STYLE.search(match[1])) and style[1] in formats:
                    markup.formats[place] = formats[style[1]]
    rows = len(_HIDDEN_ROW.findall(source)) if b"hidden=" in source else 0
    columns = sum(_width(column) for column in _COLUMNS.findall(source[: 1 << 16]) if b'hidden="1"' in column)
    markup.hidden = ({"rows": rows} if rows else {}) | ({"columns": columns} if columns else {})
    return markup


def _check_extent(source: bytes) -> None:
    corners = _CORNER.findall(source)
    columns = max((column_number(letters.decode()) for letters in {letters for letters, _ in corners}), default=0)
    rows = max(map(int, {digits for _, digits in corners}), default=0)
    if rows * columns > MAX_CELLS:
        raise SkippedError("too_large", f"a sheet of {rows} rows and {columns} columns")


def _place(attributes: bytes) -> tuple[int, int] | None:
    match = _PLACE.search(attributes)
    if match is None or not int(match[2]):
        return None
    return int(match[2]) - 1, column_number(match[1].decode()) - 1


def _number(text: bytes) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _width(column: bytes) -> int:
    first, last = (re.search(rb'\b%s="(\d{1,5})"' % name, column) for name in (b"min", b"max"))
    return int(last[1]) - int(first[1]) + 1 if first and last else 1
