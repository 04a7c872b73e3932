"""Every piece of text in an office file is read, or counted as left out."""

import io
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from broken_files import replaced_in_zip

from soldiom_ray.collect.documents import parse_bytes

SHARED = Path(__file__).parent.parent.parent / "shared/data"
RELATIONSHIPS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
NAMESPACES = "".join(
    f' xmlns:{prefix}="{address}"'
    for prefix, address in {
        "w": "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
        "m": "http://schemas.openxmlformats.org/officeDocument/2006/math",
        "mc": "http://schemas.openxmlformats.org/markup-compatibility/2006",
        "a": "http://schemas.openxmlformats.org/drawingml/2006/main",
        "c": "http://schemas.openxmlformats.org/drawingml/2006/chart",
        "r": RELATIONSHIPS,
        "v": "urn:schemas-microsoft-com:vml",
        "wps": "http://schemas.microsoft.com/office/word/2010/wordprocessingShape",
    }.items()
)
THINGS = ("pictures", "symbols", "link_addresses", "embedded_files")
"""What is counted but is no piece of text."""


def run(text: str, properties: str = "") -> str:
    return f'<w:r>{properties}<w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(*content: str, properties: str = "") -> str:
    return f"<w:p>{properties}{''.join(content)}</w:p>"


def cell(*content: str, properties: str = "") -> str:
    return f"<w:tc>{properties}{''.join(content)}</w:tc>"


def word(body: str, related: dict[str, str] | None = None) -> bytes:
    """A Word file with this body. `related` has other parts: kind of relationship -> XML."""
    import docx
    from docx.opc.packuri import PackURI
    from docx.opc.part import Part

    document = docx.Document()
    for kind, source in (related or {}).items():
        part = Part(PackURI(f"/word/{kind}9.xml"), "application/vnd.x+xml", source.encode(), document.part.package)
        document.part.rels.get_or_add(f"{RELATIONSHIPS}/{kind}", part)
    sink = io.BytesIO()
    document.save(sink)
    source = f"<w:document{NAMESPACES}><w:body>{body}</w:body></w:document>"
    return replaced_in_zip(sink.getvalue(), {"word/document.xml": source.encode()})


def text_nodes(data: bytes) -> list[str]:
    """The pieces of text of all parts: w:t, m:t, a:t and w:delText."""
    from lxml import etree

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        roots = [etree.fromstring(archive.read(name)) for name in archive.namelist() if name.endswith(".xml")]
    nodes = [node for root in roots for node in root.iter("{*}t", "{*}delText")]
    return [text for node in nodes if (text := " ".join((node.text or "").split()))]


def assert_nothing_is_lost(data: bytes, name: str) -> None:
    (parsed,) = parse_bytes(name, data)
    read = " ".join(f"{parsed.text} {parsed.metadata}".replace("\\n", " ").replace("\\t", " ").split())
    missing = Counter(text for text in text_nodes(data) if text not in read)
    counted = sum(number for reason, number in parsed.metadata.get("skipped", {}).items() if reason not in THINGS)
    assert missing.total() <= counted, missing


def blocks(data: bytes) -> list[str]:
    assert_nothing_is_lost(data, "a.docx")
    return parse_bytes("a.docx", data)[0].text.split("\n\n")


def skipped(data: bytes) -> Any:
    return parse_bytes("a.docx", data)[0].metadata.get("skipped", {})


def test_the_reported_contract_is_read_as_its_reader_sees_it() -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no data at {SHARED}")
    data = (SHARED / "reported/contract.docx").read_bytes()
    text = "\n".join(blocks(data))
    for expected in (
        *("price is twelve thousand francs", "buyer is Orchard Cooperative, who", "Clause four", "New clause five"),
        *("Box: deliveries", "outer | (inner left | inner right)", "AB-77", "computed as K=P(1+r) per year"),
    ):
        assert expected in text
    assert "ten thousand" not in text and skipped(data) == {"deletions": 1}


def test_every_real_word_file_is_read_or_counted() -> None:
    files = sorted(SHARED.rglob("*.docx"))
    if not files:
        pytest.skip(f"no Word files below {SHARED}")
    for path in files:
        assert_nothing_is_lost(path.read_bytes(), path.name)


def test_changes_are_accepted_and_what_they_delete_is_counted() -> None:
    deleted_mark = "<w:pPr><w:rPr><w:del/></w:rPr></w:pPr>"
    row = f"<w:tr><w:trPr><w:del/></w:trPr>{cell(paragraph(run('row out')))}</w:tr>"
    body = (
        paragraph(
            run("The price is "),
            "<w:del><w:r><w:delText>ten</w:delText></w:r></w:del>",
            f"<w:ins>{run('two')}</w:ins>.",
        )
        + paragraph(f"<w:moveFrom>{run('moved here')}</w:moveFrom>")
        + paragraph(f"<w:moveTo>{run('moved there')}</w:moveTo>")
        + paragraph(run("First half, "), properties=deleted_mark)
        + paragraph(run("second half."))
        + f"<w:tbl>{row}<w:ins><w:tr>{cell(paragraph(run('row in')))}</w:tr></w:ins></w:tbl>"
        + paragraph(run("secret", "<w:rPr><w:vanish/></w:rPr>"), run(" open", '<w:rPr><w:vanish w:val="0"/></w:rPr>'))
    )
    data = word(body)
    assert blocks(data) == ["The price is two", "moved there", "First half, second half.", "row in", "open"]
    assert skipped(data) == {"deletions": 3, "hidden": 1}


def test_controls_boxes_and_alternatives_are_read_once() -> None:
    box = "<w:txbxContent>" + paragraph(run("In the box")) + "</w:txbxContent>"
    choice = (
        f'<mc:Choice Requires="wps"><w:drawing><wps:wsp><wps:txbx>{box}</wps:txbx></wps:wsp></w:drawing></mc:Choice>'
    )
    fallback = f"<mc:Fallback><w:pict><v:textbox>{box}</v:textbox></w:pict></mc:Fallback>"
    control = "<w:sdt><w:sdtPr/><w:sdtContent>{}</w:sdtContent></w:sdt>"
    rows = control.format(
        f"<w:tr>{control.format(cell(paragraph(run('in a cell'))))}{cell(paragraph(run('b')))}</w:tr>"
    )
    body = (
        paragraph(run("Before "), control.format(control.format(run("inline"))), run(" after"))
        + control.format(paragraph(run("block")) + f"<w:tbl>{rows}</w:tbl>")
        + paragraph(f"<w:r><mc:AlternateContent>{choice}{fallback}</mc:AlternateContent></w:r>", run("Anchor"))
        + paragraph('<w:r><w:pict><v:shape><v:textpath string="DRAFT"/></v:shape></w:pict></w:r>')
        + paragraph(
            '<w:hyperlink r:id="rId99">',
            run("the link"),
            "</w:hyperlink><w:fldSimple>",
            run(" field"),
            "</w:fldSimple>",
        )
        + f"<w:customXml>{paragraph('<w:smartTag>' + run('tagged') + '</w:smartTag>')}</w:customXml>"
        + paragraph(f"<w:ruby><w:rt>{run('kan')}</w:rt><w:rubyBase>{run('漢')}</w:rubyBase></w:ruby>")
    )
    data = word(body)
    assert blocks(data) == [
        "Before inline after", "block", "in a cell | b", "Anchor", "In the box", "DRAFT", "the link field",
        "tagged", "漢(kan)",
    ]  # fmt: skip
    assert skipped(data) == {"alternatives": 1, "link_addresses": 1}


def test_equations_keep_their_structure() -> None:
    def part(name: str, text: str) -> str:
        return f"<m:{name}><m:r><m:t>{text}</m:t></m:r></m:{name}>"

    root = f"<m:rad>{part('e', 'x+1')}</m:rad>"
    limits = part("sub", "i=1") + part("sup", "n")
    total = f'<m:nary><m:naryPr><m:chr m:val="∑"/></m:naryPr>{limits}{part("e", "i")}</m:nary>'
    equation = (
        f"<m:f>{part('num', 'a+b')}{part('den', '2')}</m:f><m:r><m:t>=</m:t></m:r>"
        f"<m:sSup>{part('e', 'c')}{part('sup', '2')}</m:sSup><m:r><m:t>+</m:t></m:r>{root}"
        f"<m:r><m:t>+</m:t></m:r>{total}"
    )
    data = word(paragraph(run("So "), f"<m:oMathPara><m:oMath>{equation}</m:oMath></m:oMathPara>"))
    assert blocks(data) == ["So (a+b)/2=c^2+√(x+1)+∑_(i=1)^n i"]


def test_notes_comments_and_headers_are_read_like_the_body() -> None:
    def note(kind: str, text: str) -> str:
        content = paragraph(f"<w:ins>{run(text)}</w:ins>")
        return f'<w:{kind}s{NAMESPACES}><w:{kind} w:id="2">{content}</w:{kind}></w:{kind}s>'

    box = f"<w:txbxContent>{paragraph(run('header box'))}</w:txbxContent>"
    box = f"<w:r><w:pict><v:textbox>{box}</v:textbox></w:pict></w:r>"
    related = {
        "footnotes": note("footnote", "At the foot."),
        "endnotes": note("endnote", "At the end."),
        "comments": note("comment", "A remark."),
        "header": f"<w:hdr{NAMESPACES}>{paragraph(run('Page head'), box)}</w:hdr>",
        "footer": f"<w:ftr{NAMESPACES}><w:tbl><w:tr>{cell(paragraph(run('Page foot')))}</w:tr></w:tbl></w:ftr>",
        "glossaryDocument": f"<w:glossaryDocument{NAMESPACES}>{paragraph(run('stock phrase'))}</w:glossaryDocument>",
    }
    data = word(paragraph(run("Body.")), related)
    assert blocks(data) == ["Body.", "[footnote 2] At the foot.", "[endnote 2] At the end.", "[comment 2] A remark."]
    metadata = parse_bytes("a.docx", data)[0].metadata
    assert metadata["headers"] == ["Page head\nheader box"] and metadata["footers"] == ["Page foot"]
    assert metadata["skipped"] == {"other_parts": 1}


def test_lists_are_numbered_as_word_numbers_them() -> None:
    levels = "".join(
        f'<w:lvl w:ilvl="{n}"><w:start w:val="1"/><w:numFmt w:val="{form}"/><w:lvlText w:val="{text}"/></w:lvl>'
        for n, (form, text) in enumerate(
            (("decimal", "%1."), ("lowerLetter", "%2)"), ("decimal", "%1.%3"), ("bullet", "o"))
        )
    )
    restart = '<w:lvlOverride w:ilvl="0"><w:startOverride w:val="7"/></w:lvlOverride>'
    lists = (
        f'<w:numbering{NAMESPACES}><w:abstractNum w:abstractNumId="3">{levels}</w:abstractNum><w:num w:numId="5">'
        f'<w:abstractNumId w:val="3"/></w:num><w:num w:numId="6"><w:abstractNumId w:val="3"/>{restart}</w:num>'
        "</w:numbering>"
    )

    def item(text: str, level: int, number: int = 5) -> str:
        numbers = f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{number}"/></w:numPr>'
        return paragraph(run(text), properties=f"<w:pPr>{numbers}</w:pPr>")

    body = item("one", 0) + item("sub", 1) + item("sub", 1) + item("two", 0) + item("sub", 1) + item("deep", 2)
    data = word(body + item("dot", 3) + item("plain", 0, 0) + item("again", 0, 6))
    data = replaced_in_zip(data, {"word/numbering.xml": lists.encode()})
    assert blocks(data) == [
        "1. one", "a) sub", "b) sub", "2. two", "a) sub", "2.1 deep", "- dot", "plain", "7. again",
    ]  # fmt: skip


def test_numbers_that_are_none_cost_no_file() -> None:
    level = '<w:lvl w:ilvl="{}"><w:start w:val="{}"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1."/></w:lvl>'
    restart = '<w:lvlOverride w:ilvl="²"><w:startOverride w:val="x"/></w:lvlOverride>'
    lists = (
        f'<w:numbering{NAMESPACES}><w:abstractNum w:abstractNumId="3">{level.format("²", "²")}</w:abstractNum>'
        f'<w:num w:numId="5"><w:abstractNumId w:val="3"/>{restart}</w:num></w:numbering>'
    )
    numbers = '<w:pPr><w:numPr><w:ilvl w:val="²"/><w:numId w:val="5"/></w:numPr></w:pPr>'
    wide = cell(paragraph(run("wide")), properties='<w:tcPr><w:gridSpan w:val="²"/></w:tcPr>')
    grid = f"<w:tbl><w:tr>{wide}</w:tr></w:tbl>"
    data = word(paragraph(run("item"), properties=numbers) + grid)
    data = replaced_in_zip(data, {"word/numbering.xml": lists.encode()})
    assert [block.split()[-1] for block in blocks(data)] == ["item", "wide"]


def test_tables_keep_merged_cells_and_tables_within() -> None:
    inner = f"<w:tbl><w:tr>{cell(paragraph(run('in 1')))}{cell(paragraph(run('in 2')))}</w:tr></w:tbl>"
    top = cell(paragraph(run("down")), properties='<w:tcPr><w:vMerge w:val="restart"/></w:tcPr>')
    below = cell(paragraph(), properties="<w:tcPr><w:vMerge/></w:tcPr>")
    body = f"<w:tbl><w:tr>{top}{cell(paragraph(run('a')))}</w:tr><w:tr>{below}{cell(inner, paragraph())}</w:tr></w:tbl>"
    assert blocks(word(body)) == ["down | a\ndown | (in 1 | in 2)"]


def test_deep_nesting_ends_in_an_outcome() -> None:
    from soldiom_ray.collect.text import SkippedError

    deep = "<w:sdt><w:sdtContent>" * 100 + paragraph(run("deep")) + "</w:sdtContent></w:sdt>" * 100
    assert blocks(word(deep)) == ["deep"]
    with pytest.raises(SkippedError):
        parse_bytes("a.docx", word("<w:sdt>" * 5000 + "</w:sdt>" * 5000))


def presentation() -> bytes:
    import pptx
    from lxml import etree
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.opc.package import Part
    from pptx.opc.packuri import PackURI

    show = pptx.Presentation()
    slide = show.slides.add_slide(show.slide_layouts[5])
    slide.shapes.title.text = "Results\nof the year"
    outer = slide.shapes.add_group_shape()
    outer.shapes.add_group_shape().shapes.add_textbox(0, 0, 9, 9).text_frame.text = "inner group\nsecond line"
    chart_data = CategoryChartData()
    chart_data.categories = ["North", "South"]
    chart_data.add_series("Sales", (1.5, 2))
    chart = slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, 99, 99, chart_data).chart
    chart.has_title = True
    chart.chart_title.text_frame.text = "Sales by region"
    box = slide.shapes.add_textbox(0, 0, 9, 9)
    equation = "<m:oMath><m:r><m:t>E=m</m:t></m:r></m:oMath>"
    box.text_frame.paragraphs[0]._p.append(
        etree.fromstring(
            f"<mc:AlternateContent{NAMESPACES}><mc:Choice><a14:m xmlns:a14='x'>{equation}</a14:m></mc:Choice>"
            "<mc:Fallback><a:r><a:t>a picture of it</a:t></a:r></mc:Fallback></mc:AlternateContent>"
        )
    )
    comment = b'<p:cmLst xmlns:p="x"><p:cm><p:text>Check this.</p:text></p:cm></p:cmLst>'
    part = Part(PackURI("/ppt/comments/comment1.xml"), "application/vnd.x+xml", show.part.package, comment)
    slide.part.rels.get_or_add(f"{RELATIONSHIPS}/comments", part)
    slide.notes_slide.notes_text_frame.text = "Say it.\nSlowly."
    slide._element.set("show", "0")
    sink = io.BytesIO()
    show.save(sink)
    return sink.getvalue()


def test_a_presentation_gives_groups_charts_equations_comments_and_notes() -> None:
    data = presentation()
    assert_nothing_is_lost(data, "a.pptx")
    (parsed,) = parse_bytes("a.pptx", data)
    assert parsed.text.split("\n\n") == [
        "## Results of the year", "inner group\nsecond line", "Sales by region\nSales | North: 1.5 | South: 2", "E=m",
        "Comment: Check this.", "Notes: Say it.\nSlowly.",
    ]  # fmt: skip
    assert parsed.metadata["hidden_slides"] == 1
    assert parsed.metadata["skipped"].keys() == {"alternatives", "embedded_files", "layouts"}
