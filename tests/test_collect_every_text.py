"""Every text of files that nobody wrote before is read, or counted as left out: random Word files, constructs that
are rare, workbooks of all kinds."""

import io
import random
import re
import struct
import zipfile
from collections import Counter
from typing import Any

import pytest
from broken_files import ole_bytes, replaced_in_zip
from test_collect_office_texts import NAMESPACES, RELATIONSHIPS, THINGS, paragraph, run, word
from test_collect_open_formats import opendocument
from test_collect_outlook import message, texts_of
from test_collect_workbooks import book_bytes

from soldiom_ray.collect.documents import parse_bytes

CONTAINERS = {
    "block": ("p", "tbl", "sdt", "ins", "del", "moveFrom", "alternatives", "equation"),
    "inline": ("r", "r", "hyperlink", "fldSimple", "smartTag", "sdt", "ins", "del", "moveTo", "ruby", "alternatives"),
    "run": ("t", "t", "instrText", "delText", "drawing", "box of HTML"),
}
MATH = ("f", "sPre", "m", "func", "limLow", "rad", "nary", "d", "acc", "sSubSup", "del", "ins", "stray")


class Writer:
    """Writes random trees of the elements of WordprocessingML; each text is a word of its own."""

    def __init__(self, seed: int) -> None:
        self.random, self.words = random.Random(seed), 0

    def word(self) -> str:
        self.words += 1
        return f"zq{self.words:04d}"

    def some(self, kind: str, depth: int) -> str:
        if depth <= 0:
            return paragraph(run(self.word())) if kind == "block" else run(self.word())
        names = [self.random.choice(CONTAINERS[kind]) for _ in range(self.random.randint(1, 3))]
        return "".join(self.element(name, kind, depth - 1) for name in names)

    def element(self, name: str, kind: str, depth: int) -> str:
        if name == "p":
            mark = self.random.choice(("", "<w:pPr><w:rPr><w:del/></w:rPr></w:pPr>"))
            return f"<w:p>{mark}{self.some('inline', depth)}</w:p>"
        if name == "r":
            hidden = self.random.choice(("", "", "<w:rPr><w:vanish/></w:rPr>"))
            return f"<w:r>{hidden}{self.some('run', depth) if depth > 0 else f'<w:t>{self.word()}</w:t>'}</w:r>"
        if name == "tbl":
            row = self.random.choice(("<w:trPr><w:del/></w:trPr>", "", ""))
            cells = "".join(f"<w:tc>{self.some('block', depth)}</w:tc>" for _ in range(2))
            return f"<w:tbl><w:tr>{row}{cells}</w:tr></w:tbl>"
        if name == "sdt":
            return f"<w:sdt><w:sdtPr/><w:sdtContent>{self.some(kind, depth)}</w:sdtContent></w:sdt>"
        if name == "alternatives":
            choices = "".join(
                f"<mc:Choice>{self.some(kind, depth)}</mc:Choice>" for _ in range(self.random.randint(0, 2))
            )
            fallback = f"<mc:Fallback>{self.some(kind, depth)}</mc:Fallback>"
            return f"<mc:AlternateContent>{choices}{fallback}</mc:AlternateContent>"
        if name == "ruby":
            return f"<w:ruby><w:rt>{run(self.word())}</w:rt><w:rubyBase>{run(self.word())}</w:rubyBase></w:ruby>"
        if name == "equation":
            return f"<m:oMathPara><m:oMath>{self.equation(depth)}</m:oMath></m:oMathPara>"
        if name == "drawing":
            box = f"<w:txbxContent>{self.some('block', depth)}</w:txbxContent>"
            return f"<w:drawing><wps:txbx>{box}</wps:txbx></w:drawing>"
        if name == "box of HTML":
            return f"<w:pict><v:textbox><div><font>{self.word()}</font></div></v:textbox></w:pict>"
        if kind == "run":
            return f"<w:{name}>{self.word()}</w:{name}>"
        return f"<w:{name}>{self.some(kind, depth)}</w:{name}>"

    def equation(self, depth: int) -> str:
        if depth <= 0:
            return f"<m:r><m:t>{self.word()}</m:t></m:r>"
        name = self.random.choice(MATH)
        if name in ("del", "ins"):
            return f"<w:{name}>{self.equation(depth - 1)}</w:{name}>"
        inner = "".join(f"<m:{part}>{self.equation(depth - 1)}</m:{part}>" for part in ("num", "den", "e", "e", "sub"))
        return (
            f"<m:{name}>{inner}</m:{name}>{self.equation(0)}" if name != "stray" else f"<m:f>{self.equation(0)}</m:f>"
        )


def counted(metadata: dict[str, Any]) -> int:
    things = (*THINGS, "alternative_texts")
    return sum(number for reason, number in metadata.get("skipped", {}).items() if reason not in things)


@pytest.mark.parametrize("seed", range(25))
def test_the_texts_of_a_random_word_file_are_read_or_counted_one_by_one(seed: int) -> None:
    writer = Writer(seed)
    body = paragraph(run("First")) + writer.some("block", 5) + writer.some("block", 5)
    (parsed,) = parse_bytes("a.docx", word(body))
    written, shown = (Counter(re.findall(r"zq\d{4}", text)) for text in (body, parsed.text))
    assert len(written) - len(shown) == counted(parsed.metadata) and max(shown.values(), default=1) == 1


def test_fields_symbols_hidden_styles_and_imported_files_are_read() -> None:
    import docx
    from docx.opc.packuri import PackURI
    from docx.opc.part import Part

    choice = '<w:ddList><w:result w:val="1"/><w:listEntry w:val="north"/><w:listEntry w:val="south"/></w:ddList>'
    field = '<w:r><w:fldChar w:fldCharType="begin"><w:ffData>{}</w:ffData></w:fldChar></w:r>'
    code = "<w:r><w:instrText>PAGEREF x</w:instrText></w:r>"
    body = (
        paragraph(run("Region "), field.format(choice), code, field.format("<w:checkBox><w:checked/></w:checkBox>"))
        + paragraph('<w:r><w:sym w:font="Symbol" w:char="F061"/><w:sym w:font="Wingdings" w:char="F0FE"/>'
                    '<w:sym w:font="Webdings" w:char="F0AA"/></w:r>')
        + '<w:altChunk r:id="rId900"/>'
    )  # fmt: skip
    document = docx.Document()
    page = Part(PackURI("/word/chunk.html"), "text/html", b"<!doctype html><p>An imported page.", document.part.package)
    relation = document.part.relate_to(page, f"{RELATIONSHIPS}/aFChunk")
    sink = io.BytesIO()
    document.save(sink)
    source = f"<w:document{NAMESPACES}><w:body>{body.replace('rId900', relation)}</w:body></w:document>"
    (parsed,) = parse_bytes("a.docx", replaced_in_zip(sink.getvalue(), {"word/document.xml": source.encode()}))
    assert parsed.text.split("\n\n") == ["Region south☒", "α☑", "An imported page."]
    assert parsed.metadata["skipped"] == {"field_codes": 1, "symbols": 1}


def test_a_chart_of_office_2016_is_preferred_to_the_words_that_stand_in_for_it() -> None:
    import pptx
    from lxml import etree
    from pptx.opc.package import Part
    from pptx.opc.packuri import PackURI

    show = pptx.Presentation()
    slide = show.slides.add_slide(show.slide_layouts[6])
    chart = (
        '<cx:chartSpace xmlns:cx="urn:cx"><cx:chartData><cx:data id="0"><cx:strDim type="cat"><cx:lvl>'
        "<cx:pt>North</cx:pt><cx:pt>South</cx:pt></cx:lvl></cx:strDim><cx:numDim><cx:lvl><cx:pt>3</cx:pt><cx:pt>4</cx:pt>"
        "</cx:lvl></cx:numDim></cx:data></cx:chartData><cx:chart><cx:title><cx:tx><cx:txData><cx:v>Sales</cx:v>"
        "</cx:txData></cx:tx></cx:title><cx:series><cx:tx><cx:txData><cx:v>2024</cx:v></cx:txData></cx:tx>"
        '<cx:dataId val="0"/></cx:series></cx:chart></cx:chartSpace>'
    )
    part = Part(
        PackURI("/ppt/charts/chartEx1.xml"), "application/vnd.ms-office.chartex+xml", show.part.package, chart.encode()
    )
    relation = slide.part.relate_to(part, "http://schemas.microsoft.com/office/2014/relationships/chartEx")
    slide.shapes._spTree.append(
        etree.fromstring(
            f"<mc:AlternateContent{NAMESPACES}><mc:Choice Requires='cx1'><a:graphicData><c:chart r:id='{relation}'/>"
            "</a:graphicData></mc:Choice><mc:Fallback><a:r><a:t>Not available.</a:t></a:r></mc:Fallback>"
            "</mc:AlternateContent>"
        )
    )
    sink = io.BytesIO()
    show.save(sink)
    (parsed,) = parse_bytes("a.pptx", sink.getvalue())
    assert parsed.text == "## Slide 1\n\nSales\n2024 | North: 3 | South: 4"
    assert parsed.metadata["skipped"]["alternatives"] == 1


SPREADSHEET = {
    "two paragraphs": "<text:p>{}</text:p><text:p>{}</text:p>",
    "spans": "<text:p>{}<text:span>{}</text:span> {}</text:p>",
    "comment": "<office:annotation><text:p>{}</text:p><text:p>{}</text:p></office:annotation><text:p>{}</text:p>",
    "box": "<text:p>{}</text:p><draw:frame><draw:text-box><text:p>{}</text:p></draw:text-box></draw:frame>",
    "note": "<text:p>{}<text:note><text:note-body><text:p>{}</text:p></text:note-body></text:note></text:p>",
}
OUTSIDE = {
    "changes": "<table:tracked-changes><table:previous><text:p>{}</text:p></table:previous></table:tracked-changes>",
    "validations": "<table:content-validations><table:error-message><text:p>{}</text:p><text:p>{}</text:p>"
    "</table:error-message></table:content-validations>",
}


@pytest.mark.parametrize("name", [*SPREADSHEET, *OUTSIDE, "no type", "heading alone", "object", "page"])
def test_the_texts_of_an_open_workbook_are_read_or_counted(name: str) -> None:
    names = [f"zq{number}" for number in range(10)]
    cell = "<table:table-cell{}>{}</table:table-cell>"
    text = ' office:value-type="string"'
    inner = SPREADSHEET.get(name, "<text:p>{}</text:p>").format(*names)
    heads = cell.format(text, "<text:p>a</text:p>") + cell.format(text, "<text:p>b</text:p>")
    extra = cell.format(text, "<text:p>zq8</text:p>") if name == "heading alone" else ""
    row = cell.format(text, "<text:p>1</text:p>") + cell.format("" if name == "no type" else text, inner)
    rows = f"<table:table-row>{heads}{extra}</table:table-row><table:table-row>{row}</table:table-row>"
    before = OUTSIDE.get(name, "").format("zq5", "zq6")
    head = "<style:header><text:p><text:span>zq7</text:span></text:p></style:header>"
    page = f"<office:master-styles>{head}</office:master-styles>"
    drawn = ' xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0"'
    sheet = f'{before}<table:table table:name="S"{drawn}>{rows}</table:table>'
    data = opendocument("spreadsheet", sheet, styles=page if name == "page" else "")
    if name == "object":
        data = replaced_in_zip(data, {"Object 1/content.xml": b"<office:body><text:p>zq9</text:p></office:body>"})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        written = set(re.findall(r"zq\d", "".join(archive.read(part).decode() for part in archive.namelist())))
    (parsed,) = parse_bytes("a.ods", data)
    missing = [each for each in written if each not in parsed.text]
    assert len(missing) == counted(parsed.metadata)
    assert name != "no type" or "b: zq0" in parsed.text


def record(kind: int, content: bytes = b"") -> bytes:
    return struct.pack("<HH", kind, len(content)) + content


def short_text(text: str, count_bytes: int = 2) -> bytes:
    return len(text).to_bytes(count_bytes, "little") + b"\0" + text.encode("latin-1")


def test_the_texts_of_an_old_workbook_are_read_or_counted() -> None:
    begin, end = record(0x809, struct.pack("<HHHHII", 0x600, 0x10, 0, 1996, 0, 6)), record(0x0A)
    label = b"".join(
        record(0x204, struct.pack("<HHH", row, column, 15) + short_text(text))
        for row, texts in enumerate((("name", "town"), ("zq1", "zq2")))
        for column, text in enumerate(texts)
    )
    chart = record(0x809, struct.pack("<HHHHII", 0x600, 0x20, 0, 1996, 0, 6))
    chart += record(0x100D, b"\0\0" + short_text("zq3", 1)) + end
    boxes = record(0x1B6, struct.pack("<HH6xHH4x", 0, 0, 3, 16)) * 2
    beside = record(0x14, short_text("zq4")) + boxes + record(0x1C, bytes(12)) + chart
    sheet = begin + label + beside + end
    globals_ = record(0x809, struct.pack("<HHHHII", 0x600, 5, 0, 1996, 0, 6))
    styles = record(0xE0, bytes(20)) * 16
    place = (
        len(globals_) + len(styles) + len(record(0x85, struct.pack("<IBB", 0, 0, 0) + short_text("S", 1))) + len(end)
    )
    globals_ += styles + record(0x85, struct.pack("<IBB", place, 0, 0) + short_text("S", 1)) + end
    files = {"Workbook": globals_ + sheet, "MBD00012345": {"Contents": b"x"}}
    (parsed,) = parse_bytes("a.xls", ole_bytes(files))
    assert parsed.text == "name: zq1\ntown: zq2"
    counts = {"comments": 1, "drawings": 2, "headers_footers": 1, "embedded_files": 1}
    assert parsed.metadata["skipped"] == counts


def test_captions_readings_and_values_of_other_files_in_a_workbook_are_counted() -> None:
    def fill(book: Any) -> None:
        book.add_worksheet("S").write_column(0, 0, ["name", "value"])

    data = book_bytes(fill)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        strings = archive.read("xl/sharedStrings.xml")
    reading = b"<t>value</t><rPh sb='0' eb='1'><t>zq1</t></rPh>"
    changes = {
        "xl/sharedStrings.xml": strings.replace(b"<t>value</t>", reading),
        "xl/drawings/vmlDrawing1.vml": b"<v:textbox><div><font>zq2</font></div></v:textbox>",
        "xl/externalLinks/externalLink1.xml": b"<externalLink><cell><v>zq3</v></cell></externalLink>",
    }
    (parsed,) = parse_bytes("a.xlsx", replaced_in_zip(data, changes))
    assert parsed.metadata["skipped"] == {"drawings": 1, "other_files": 1, "readings": 1}


def test_categories_and_hidden_recipients_of_a_message_are_kept() -> None:
    from test_collect_outlook import item

    letter = message(recipients=(item(8, {0x0C15: 3}, p3001="Eve"),), p0037="Lease", p1000="Words.")
    letter["__substg1.0_8003101F-00000000"] = "Urgent matters".encode("utf-16-le")
    letter["__substg1.0_8003101F"] = struct.pack("<I", 28)
    (parsed,) = texts_of(letter).values()
    assert parsed.metadata["bcc"] == "Eve" and parsed.metadata["skipped"] == {"properties": 1}
