"""What the XML of an ODS sheet says beyond the cells' values: numbers as they are shown, formulas without values, and
what stands beside the cells. Read by patterns, as the markup of XLSX sheets."""

import html
import re
import zipfile
from collections import Counter

from soldiom_ray.collect.documents import zipped
from soldiom_ray.collect.documents.cell_values import whole_number
from soldiom_ray.collect.documents.sheet_markup import SheetMarkup

_TOKEN = re.compile(
    rb"<table:table\s([^>]*)>|(<table:table-row\b([^>]*)>)|<table:(?:covered-)?table-cell\b([^>]*?)(/?)>", re.DOTALL
)
_CELL_END = re.compile(rb"</table:(?:covered-)?table-cell>")
_ANNOTATION = re.compile(rb"<office:annotation\b.*?</office:annotation>", re.DOTALL)
_PARAGRAPH = re.compile(rb"<text:p\b[^>]*?(?<!/)>(.*?)</text:p>", re.DOTALL)
_BLANK = re.compile(rb"<text:s\b[^>]*/>")
_MARK = re.compile(rb"<[^>]*>")
_WORDS = re.compile(rb">\s*[^<\s]")
_CELL = re.compile(
    rb"<table:(?:covered-)?table-cell\b[^>]*?(?:/>|(?<!/)>.*?</table:(?:covered-)?table-cell>)", re.DOTALL
)
_DELETIONS = re.compile(rb"<table:tracked-changes\b.*?</table:tracked-changes>", re.DOTALL)
_SHAPE = re.compile(rb"<draw:(?:frame|custom-shape|rect|ellipse|line|caption)\b.*?</draw:\w[\w-]*>", re.DOTALL)
_SAYS_MORE = re.compile(
    rb'office:value-type="(?:percentage|currency)"|office:value-type="float"[^>]*>\s*<text:p\b[^>]*>[^<]*'
    rb"(?:(?<=>)0\d|[^\d\s.,<-])|table:formula=|<table:table-cell\b(?![^>]*office:value-type)[^>]*(?<!/)>\s*<text:"
)
"""What a sheet has to hold for its cells to be looked at one by one."""
_NUMBER = re.compile(r"^([^\d]*?)(-?\d[\d.,'\s\u00a0\u202f]*)(.*)$", re.DOTALL)
_GAPS = re.compile(r"[\s\u00a0\u202f']")
_REFERENCE = re.compile(r"\[\.?(\$?[A-Z]{1,3}\$?\d+)(?::\.?(\$?[A-Z]{1,3}\$?\d+))?\]")
_MAX_REPEATED = 1000


def read_ods_markup(archive: zipfile.ZipFile) -> tuple[dict[str, SheetMarkup], Counter[str]]:
    """The markup of each sheet by its name, and the counts of what stands beside the cells' values."""
    names = set(archive.namelist())
    beside: Counter[str] = Counter()
    if "content.xml" not in names:
        return {}, beside
    source = zipped.read_member(archive, "content.xml")
    if b"<office:annotation" in source:
        beside["comments"] = sum(len(_WORDS.findall(comment)) for comment in _ANNOTATION.findall(source))
        source = _ANNOTATION.sub(b"", source)
    if b"<table:tracked-changes" in source:
        beside["deletions"] = sum(len(_WORDS.findall(change)) for change in _DELETIONS.findall(source))
        source = _DELETIONS.sub(b"", source)
    for name in names:
        if name.endswith("/content.xml"):  # a chart or an equation
            beside["drawings"] += len(_WORDS.findall(zipped.read_member(archive, name)))
    outside = _CELL.sub(b"", source.partition(b"<office:body")[2])
    if b"<draw:" in outside:  # those in a cell are read as its text
        beside["drawings"] += sum(bool(_WORDS.search(shape)) for shape in _SHAPE.findall(outside))
        outside = _SHAPE.sub(b"", outside)
    beside["other_texts"] = len(_WORDS.findall(outside))
    beside["pictures"] = sum(name.startswith("Pictures/") for name in names)
    if "styles.xml" in names:
        masters = zipped.read_member(archive, "styles.xml").partition(b"<office:master-styles")[2]
        beside["headers_footers"] = len(_WORDS.findall(masters))
    return (_sheets(source) if _SAYS_MORE.search(source) else {}), beside


def _sheets(source: bytes) -> dict[str, SheetMarkup]:
    sheets: dict[str, SheetMarkup] = {}
    markup, row, column, rows = SheetMarkup(), -1, 0, 1
    for match in _TOKEN.finditer(source):
        table, is_row, row_attributes, cell, closed = match.groups()
        if table is not None:
            markup, row, column, rows = SheetMarkup(), -1, 0, 1
            sheets[html.unescape(_attribute(table, b"table:name"))] = markup
        elif is_row is not None:
            row, column = row + rows, 0
            rows = _count(row_attributes, b"table:number-rows-repeated")
        else:
            columns = _count(cell, b"table:number-columns-repeated")
            if b"office:value" in cell or b"table:formula" in cell or not closed:
                end = _CELL_END.search(source, match.end()) if not closed else None
                content = source[match.end() : end.start()] if end else b""
                for place in (
                    (row + below, column + right)
                    for below in range(min(rows, _MAX_REPEATED))
                    for right in range(min(columns, _MAX_REPEATED))
                ):
                    _read_cell(markup, place, cell, content)
            column += columns
    return sheets


def _read_cell(markup: SheetMarkup, place: tuple[int, int], attributes: bytes, content: bytes) -> None:
    kind, value = _attribute(attributes, b"office:value-type"), _attribute(attributes, b"office:value")
    if b"table:formula=" in attributes and not value and not content.strip():
        formula = _attribute(attributes, b"table:formula").partition("=")[2]
        markup.formulas[place] = _excel_formula(html.unescape(formula))
        return
    try:
        number = float(value)
    except ValueError:
        if not kind and (words := _shown(content)):  # it is a text, and calamine leaves it out
            markup.formatted[place] = words
        return
    shown = _shown(content)
    if (text := shown_number(kind, number, shown)) is not None:
        markup.formatted[place] = text


def _shown(content: bytes) -> str:
    """The paragraphs of a cell."""
    paragraphs = [_BLANK.sub(b" ", paragraph) for paragraph in _PARAGRAPH.findall(content)]
    return html.unescape(_MARK.sub(b"", b" ".join(paragraphs)).decode("utf-8", "replace")).strip()


def shown_number(kind: str, number: float, shown: str) -> str | None:
    """A number as its cell shows it, with all its digits; None where the bare number says as much."""
    if kind == "percentage":
        return shown if _is_same(number * 100, shown.rstrip("% \u00a0\u202f")) else f"{number * 100:.15g}%"
    match = _NUMBER.match(shown)
    if match is None or any(sign in shown for sign in ":/") or re.search(r"\d[Ee][+-]?\d", shown):
        return None
    before, digits, after = match[1], match[2].strip(), match[3]
    whole = re.split(r"[.,]", digits)[0].lstrip("-")
    is_padded = len(whole) > 1 and whole.startswith("0")
    if not is_padded and not before.strip(" -()") and not after.strip(" ()"):
        return None
    if _is_same(abs(number), digits.lstrip("-")):
        return shown
    if is_padded:
        return f"{'-' if number < 0 else ''}{before}{f'{abs(number):.15g}'.zfill(len(whole))}{after}"
    return f"{before}{abs(number) if '-' in before else number:.15g}{match[2][len(match[2].rstrip()) :]}{after}"


def _is_same(number: float, shown: str) -> bool:
    """Whether digits, with whatever signs between them, are a number."""
    plain = _GAPS.sub("", shown)
    for written in (plain.replace(",", ""), plain.replace(".", "").replace(",", "."), plain):
        try:
            if abs(float(written) - number) <= 1e-12 * max(1.0, abs(number)):
                return True
        except ValueError:
            continue
    return False


def _excel_formula(formula: str) -> str:
    """A formula of ODS as XLSX writes it: references without brackets, commas between arguments."""
    plain = _REFERENCE.sub(lambda match: f"{match[1]}:{match[2]}" if match[2] else match[1], formula)
    return plain.replace(";", ",")


def _attribute(attributes: bytes, name: bytes) -> str:
    match = re.search(rb'(?:^|\s)%s="([^"]*)"' % name, attributes)
    return match[1].decode("utf-8", "replace") if match else ""


def _count(attributes: bytes, name: bytes) -> int:
    written = _attribute(attributes, name) if name in attributes else ""
    return whole_number(written) or 1
