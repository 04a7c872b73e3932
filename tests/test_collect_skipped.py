"""Every piece of text of a file is read, or counted as left out: pages, books, mails, OpenDocument, rich text,
notebooks, PDF."""

import io
import json
import mailbox
import zipfile
from collections import Counter
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from broken_files import zip_bytes
from collecting import make_context

from soldiom_ray.cli.mapping import mapping_lines, mapping_of
from soldiom_ray.collect import collect
from soldiom_ray.collect.documents import parse_bytes
from soldiom_ray.collect.documents.parsed import ParseOptions
from soldiom_ray.domains.sources import FilesSource
from soldiom_ray.errors import InputError

SHARED = Path(__file__).parent.parent.parent / "shared/data"
THINGS = ("pictures", "embedded_files", "alternative_texts", "outputs")
"""What is counted but is no piece of text."""
KTO = b'{"prompt": "Why?", "completion": "No.", "label": false}\n'
NAMESPACES = "".join(
    f' xmlns:{prefix}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for prefix, name in {
        "office": "office", "text": "text", "table": "table", "draw": "drawing", "style": "style",
        "svg": "svg-compatible", "presentation": "presentation",
    }.items()
) + ' xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:dc="http://purl.org/dc/elements/1.1/"'  # fmt: skip


def squeezed(text: str) -> str:
    """The text without blanks and without what parsers put between pieces."""
    return "".join(text.replace("\\n", "").replace("|", "").split())


def assert_nothing_is_lost(pieces: list[str], name: str, data: bytes) -> None:
    texts = parse_bytes(name, data)
    read = squeezed("".join(f"{parsed.text} {parsed.metadata}" for parsed in texts))
    missing = Counter(piece for piece in pieces if squeezed(piece) and squeezed(piece) not in read)
    counted: Counter[str] = sum((Counter(parsed.metadata.get("skipped", {})) for parsed in texts), Counter())
    assert missing.total() <= sum(n for reason, n in counted.items() if reason not in THINGS), missing


def page_pieces(source: bytes) -> list[str]:
    from lxml import html

    tree = html.fromstring(source)
    return [str(text) for text in tree.xpath("//text()") if text.getparent().tag not in ("title", "script", "style")]


def test_every_real_page_book_mail_and_opendocument_text_is_read_or_counted() -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no data at {SHARED}")
    from lxml import etree

    for path in SHARED.rglob("*.html"):
        assert_nothing_is_lost(page_pieces(path.read_bytes()), path.name, path.read_bytes())
    for path in [*SHARED.rglob("*.epub"), *SHARED.rglob("*.odt")]:
        with zipfile.ZipFile(path) as archive:
            pages = [archive.read(n) for n in archive.namelist() if n.endswith((".xhtml", ".html", ".htm"))]
            pieces = [piece for page in pages for piece in page_pieces(page)]
            if path.suffix == ".odt":
                pieces = [str(text) for text in etree.fromstring(archive.read("content.xml")).itertext()]
        assert pieces
        assert_nothing_is_lost(pieces, path.name, path.read_bytes())
    for path in SHARED.rglob("*.eml"):
        message: Any = mailbox.mboxMessage(path.read_bytes())
        parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
        assert_nothing_is_lost([part.get_payload(decode=True).decode() for part in parts], path.name, path.read_bytes())


def test_parts_of_a_page_that_are_not_read_are_counted() -> None:
    body = (
        "<title>T</title><nav>a</nav><noscript><p>b</p>c</noscript><template><p>d</p></template><select><option>e"
        "</option></select><svg><title>no title</title></svg><img alt='a duck'><img alt=''><table>"
        "<caption>cap</caption><tr><th>x<td>y<table><tr><td>in</table></table><details><summary>s</summary>more</details>"
    )
    (parsed,) = parse_bytes("a.html", f"<!doctype html><body>{body}".encode())
    assert parsed.text.split() == ["cap", "x", "|", "y", "in", "s", "more"] and parsed.metadata["title"] == "T"
    things = {"pictures": 2, "alternative_texts": 1}
    assert parsed.metadata["skipped"] == {"nav": 1, "noscript": 2, "template": 1, "select": 1, "svg": 1} | things


def test_a_mail_keeps_all_its_texts_and_counts_the_other_forms_of_one() -> None:
    message = EmailMessage()
    message["Subject"] = "S"
    message.set_content("<p>Only the page.</p><nav>menu</nav>", subtype="html")
    message.make_mixed()
    footer, form = EmailMessage(), EmailMessage()
    footer.set_content("Footer of the list.")
    form.set_content("plain form")
    form.add_alternative("<p>page form</p>", subtype="html")
    form.add_alternative("BEGIN:VCALENDAR", subtype="calendar")
    message.attach(form)
    message.attach(footer)
    message.add_attachment(b"\x78\x9f\x3e\x22\0\0", maintype="application", subtype="ms-tnef", filename="winmail.dat")
    texts = {parsed.part: parsed for parsed in parse_bytes("a.eml", message.as_bytes())}
    assert texts[""].text.split("\n\n") == ["S", "Only the page.", "plain form", "Footer of the list."]
    assert texts[""].metadata["skipped"] == {"alternatives": 1, "nav": 1}
    assert texts["attachment 1"].text.strip() == "BEGIN:VCALENDAR"
    assert texts[""].metadata["left_out"][0]["why"].startswith("is a winmail.dat of Outlook")


def test_reports_on_deliveries_and_lines_that_look_like_a_new_message_are_read() -> None:
    report = (
        b"Subject: failed\nContent-Type: multipart/report; boundary=x\n\n--x\n\nIt bounced.\n--x\nContent-Type: "
        b"message/delivery-status\n\nReporting-MTA: dns; a.example\n\nFinal-Recipient: b@x.example\n\n--x--\n"
    )
    (parsed,) = parse_bytes("a.eml", report)
    assert "Reporting-MTA: dns; a.example" in parsed.text and "Final-Recipient: b@x.example" in parsed.text
    box = b"From a@x Mon\nSubject: One\n\nwords\n\nFrom the sea comes wind.\n\nFrom b@x Tue\nSubject: Two\n\nmore\n"
    assert [parsed.text for parsed in parse_bytes("a.mbox", box)] == [
        "One\n\nwords\n\nFrom the sea comes wind.",
        "Two\n\nmore",
    ]


def odt(body: str, members: dict[str, bytes | str] | None = None) -> bytes:
    content = f"<office:document-content{NAMESPACES}><office:body><office:text>{body}</office:text></office:body>"
    mimetype = "application/vnd.oasis.opendocument.text"
    return zip_bytes(
        {"mimetype": mimetype, "content.xml": f"{content}</office:document-content>"} | dict(members or {})
    )


def test_an_opendocument_text_gives_comments_boxes_objects_and_counts_the_rest() -> None:
    def object_(number: int) -> str:
        return f'<draw:frame><draw:object xlink:href="./Object {number}"/></draw:frame>'

    body = (
        "<text:tracked-changes><text:changed-region><text:deletion><text:p>gone</text:p></text:deletion>"
        "</text:changed-region></text:tracked-changes><text:p>Price<office:annotation><dc:creator>Ann</dc:creator>"
        "<text:p>too high?</text:p></office:annotation><draw:frame><draw:text-box><text:p>boxed</text:p>"
        "</draw:text-box><svg:title>alt</svg:title></draw:frame></text:p><table:table><table:table-row>"
        "<table:table-cell><text:p>outer</text:p><table:table><table:table-row><table:table-cell><text:p>in</text:p>"
        "</table:table-cell></table:table-row></table:table></table:table-cell><table:covered-table-cell><text:p>cov"
        f"</text:p></table:covered-table-cell></table:table-row></table:table><text:p>{object_(1)}</text:p>"
        f"<text:p>{object_(2)}</text:p><text:p><text:ruby><text:ruby-base>漢</text:ruby-base><text:ruby-text>kan"
        "</text:ruby-text></text:ruby><text:note><text:note-citation>1</text:note-citation><text:note-body>"
        '<text:p>note</text:p></text:note-body></text:note></text:p><draw:image xlink:href="Pictures/a.png"/>'
    )
    page = "<text:p>{}</text:p>"
    master = f"<style:master-page><style:header>{page.format('Secret')}</style:header></style:master-page>"
    math = '<math xmlns="http://www.w3.org/1998/Math/MathML"><mi>x</mi><annotation>x over y</annotation></math>'
    chart = f"<office:document-content{NAMESPACES}><office:body>{page.format('Sales')}</office:body>"
    members: dict[str, bytes | str] = {
        "Object 1/content.xml": math,
        "Object 2/content.xml": f"{chart}</office:document-content>",
        "styles.xml": f"<office:document-styles{NAMESPACES}>{master}</office:document-styles>",
    }
    (parsed,) = parse_bytes("a.odt", odt(body, members))
    assert parsed.text.split("\n\n") == [
        *("Priceboxed", "outer (in)", "x over y", "Sales", "漢(kan) [note]", "[comment 1] too high?"),
    ]
    assert parsed.metadata["headers"] == ["Secret"]
    counts = {"deletions": 1, "authors_of_comments": 1, "hidden": 1, "note_numbers": 1}
    assert parsed.metadata["skipped"] == counts | {"pictures": 1, "alternative_texts": 1}


def test_rich_text_follows_fonts_boxes_notes_and_counts_what_it_leaves_out() -> None:
    source = (
        rb"{\rtf1\ansi\ansicpg1252\deff0{\fonttbl{\f0\fcharset0 Arial;}{\f1\fcharset204 Arial;}}{\info{\title Lease}"
        rb"{\author Ann}{\subject Flat}}{\header Confidential}\f1 \'cf\'f0\'e8\plain  end{\footnote why}\par "
        rb"{\*\annotation check}{\shp{\*\shpinst{\sp{\sn name}{\sv 5}}{\shptxt boxed}}{\shprslt old}}\par "
        rb"{\field{\*\fldinst HYPERLINK x}{\fldrslt link}} {\deleted gone}{\v secret}\deleted out\deleted0 {\pict 00ff}"
        rb"{\object{\*\objdata 0102}{\result shown}}{\*\unknowngroup thing}\u-10179?\u-8704?\par {\pict\bin3 }}{}}"
    )
    (parsed,) = parse_bytes("a.rtf", source)
    assert parsed.text.split("\n\n") == ["При end [why]", " [comment: check]boxed", "link shown\U0001f600"]
    assert parsed.metadata.pop("skipped") == {
        "alternatives": 1,
        "deletions": 2,
        "embedded_files": 1,
        "field_codes": 1,
        "hidden": 1,
        "other_groups": 1,
        "pictures": 2,
        "properties": 1,
    }
    assert parsed.metadata == {"title": "Lease", "author": "Ann", "headers": ["Confidential"]}


def test_outputs_of_notebooks_and_comments_on_pdf_pages_are_counted_or_read() -> None:
    cells = [
        {"cell_type": "code", "source": "1 + 1", "outputs": [{"text": "2"}]},
        {"cell_type": "markdown", "source": "![x](attachment:x.png)", "attachments": {"x.png": {}}},
    ]
    (parsed,) = parse_bytes("a.ipynb", json.dumps({"cells": cells}).encode())
    assert parsed.metadata == {"skipped": {"outputs": 1, "pictures": 1}}
    from test_collect_pdf import CATALOG, FONT, ONE_PAGE, page, pdf_of, stream

    notes = [
        b"<</Type/Annot/Subtype/%s/Rect[0 0 9 9]/Contents(%s)>>" % note
        for note in ((b"Text", b"Check this"), (b"FreeText", b"Typed here"), (b"Popup", b"x"), (b"Link", b"y"))
    ]
    annotated = page(more=b"/Annots[6 0 R 7 0 R 8 0 R 9 0 R]")
    drawn = stream(b"BT /F1 12 Tf 50 700 Td (On it) Tj 0 5000 Td (off it) Tj ET")
    (parsed,) = parse_bytes("a.pdf", pdf_of(CATALOG, ONE_PAGE, annotated, drawn, FONT, *notes))
    assert parsed.text == "On it\nComment: Check this\nTyped here"
    assert parsed.metadata["skipped"]["letters_off_the_page"] >= 5


def test_further_sounds_of_a_film_are_counted() -> None:
    import av

    sink = io.BytesIO()
    with av.open(sink, "w", format="matroska") as film:
        video = film.add_stream("mpeg4", rate=5)
        video.width = video.height = 32
        for sound in range(2):
            film.add_stream("pcm_s16le", rate=8000 * (sound + 1))
        film.mux(video.encode(av.VideoFrame(32, 32, "yuv420p")))
        film.mux(video.encode())
    (parsed,) = parse_bytes("a.mkv", sink.getvalue(), ParseOptions(ocr=False))
    assert parsed.metadata["skipped"] == {"sounds": 1}


@pytest.mark.parametrize(
    ("files", "include", "cause", "remedy"),
    [
        ({}, (), "nothing was found", "name files, or a folder that holds some"),
        ({"a.txt": b"words"}, ("*.md",), "1 of 1 match none of the patterns", "widen `include`"),
        ({"a.exe": b"MZ\0\0" + bytes(60), "b.bin": b"\x7fELF"}, (), "all 2 are of formats", "save them in a format"),
        (
            {"a.txt": b" ", "b.txt": b"", "c.pdf": b"%PDF-1.4"},
            (),
            "2 of 3 hold no text",
            "files with text in them; repair",
        ),
        (
            {"a.txt": b" ", "b.txt": b"x", "c.txt": b"y"},
            ("a*",),
            "1 of 3 hold no text",
            "text in them; widen `include`",
        ),
        ({"a.jsonl": KTO * 2}, (), "are rejected, marked or rated as bad", "give answers"),
    ],
)
def test_the_remedy_of_an_empty_collection_fits_its_cause(
    files: dict[str, bytes], include: tuple[str, ...], cause: str, remedy: str, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with pytest.raises(InputError) as raised:
        collect(make_context(tmp_path / "home"), [FilesSource(paths=(str(folder),), include=include)])
    assert cause in str(raised.value) and remedy in raised.value.remedy


def test_what_files_leave_out_is_added_up_and_shown(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<!doctype html><p>words</p><nav>menu</nav><img>")
    (tmp_path / "b.mbox").write_bytes(
        b"From a@x Mon\nSubject: One\nContent-Type: text/html\n\n<p>a</p><nav>b</nav>\n\n"
        b"From b@x Tue\nSubject: Two\nContent-Type: text/html\n\n<p>c</p><nav>d</nav>\n"
    )
    paths = (str(tmp_path / "a.html"), str(tmp_path / "b.mbox"))
    manifest = collect(make_context(tmp_path / "home"), [FilesSource(paths=paths)])
    assert manifest.details["skipped"] == {"nav": 3, "pictures": 1}
    assert "Left out of files: nav (3), pictures (1)" in mapping_lines(mapping_of(manifest.details))


def test_what_the_standard_library_gives_up_on_costs_no_page_and_no_letter() -> None:
    (page,) = parse_bytes("a.html", f"<p>Rent<![octype x]> is &#{'9' * 5000};due</p>".encode())
    assert page.text == "Rent is \ufffddue"
    head = f"Subject: Rent\nContent-Disposition: inline; filename*{'9' * 5000}=x"
    texts = parse_bytes("a.eml", f"{head}\nContent-Type: text/plain\n\nIt is due.\n".encode())
    assert "It is due." in "".join(text.text for text in texts)
