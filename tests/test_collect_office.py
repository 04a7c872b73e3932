"""Office files, books, e-mails and archives of users: what is read, and what each kind of hostile file comes to."""

import bz2
import gzip
import io
import lzma
import struct
import zipfile
from email.message import EmailMessage
from pathlib import Path

import pytest
from broken_files import ole_bytes, replaced_in_zip, tar_bytes, xls_bytes, zip_bytes
from test_collect_tables import parquet_bytes, workbook_bytes

from soldiom_ray.collect.documents import parse_bytes
from soldiom_ray.collect.text import SkippedError

ODF = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for name in ("office", "text", "table", "manifest")
)


def outcome(name: str, data: bytes) -> str:
    with pytest.raises(SkippedError) as raised:
        parse_bytes(name, data)
    assert raised.value.detail
    return raised.value.reason


def docx_bytes(words: str = "Words of a document.") -> bytes:
    import docx

    document = docx.Document()
    document.add_heading("Lease", 1)
    document.add_paragraph(words)
    document.sections[0].header.paragraphs[0].text = "Confidential"
    sink = io.BytesIO()
    document.save(sink)
    return sink.getvalue()


def pptx_bytes() -> bytes:
    import pptx
    from pptx.util import Inches

    show = pptx.Presentation()
    slide = show.slides.add_slide(show.slide_layouts[5])
    slide.shapes.title.text = "Results"
    table = slide.shapes.add_table(2, 2, Inches(1), Inches(2), Inches(4), Inches(1)).table
    for number, cell in enumerate(table.iter_cells()):
        cell.text = f"cell {number}"
    slide.notes_slide.notes_text_frame.text = "Say it slowly."
    box = show.slides.add_slide(show.slide_layouts[6]).shapes.add_textbox(0, 0, Inches(2), Inches(1))
    box.text_frame.text = "Only a box"
    sink = io.BytesIO()
    show.save(sink)
    return sink.getvalue()


def odt_bytes(body: str, prologue: str = "", manifest: str = "") -> bytes:
    members: dict[str, bytes | str] = {
        "mimetype": "application/vnd.oasis.opendocument.text",
        "META-INF/manifest.xml": f"<manifest:manifest {ODF}>{manifest}</manifest:manifest>",
        "content.xml": f"{prologue}<office:document-content {ODF}><office:body><office:text>{body}</office:text>"
        "</office:body></office:document-content>",
    }
    return zip_bytes(members)


def epub_bytes(chapters: dict[str, str], spine: list[str], more: dict[str, bytes | str] | None = None) -> bytes:
    items = "".join(f'<item id="{n}" href="text/{n}.xhtml" media-type="application/xhtml+xml"/>' for n in chapters)
    order = "".join(f'<itemref idref="{name}"/>' for name in spine)
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
        f"<dc:title>Book</dc:title></metadata><manifest>{items}</manifest><spine>{order}</spine></package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/p.opf"/></rootfiles></container>'
    )
    members: dict[str, bytes | str] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": container,
        "OEBPS/p.opf": package,
    }
    pages = {f"OEBPS/text/{n}.xhtml": f"<html><body>{body}</body></html>" for n, body in chapters.items()}
    return zip_bytes(members | pages | (more or {}))


def test_a_presentation_gives_titles_tables_and_notes() -> None:
    (parsed,) = parse_bytes("a.pptx", pptx_bytes())
    assert parsed.text.split("\n\n") == [
        "## Results", "cell 0 | cell 1\ncell 2 | cell 3", "Notes: Say it slowly.", "## Slide 2", "Only a box",
    ]  # fmt: skip
    assert parsed.metadata["slides"] == 2


def test_a_documents_page_headers_and_notes_stand_beside_its_text() -> None:
    (parsed,) = parse_bytes("a.docx", docx_bytes())
    assert parsed.text == "# Lease\n\nWords of a document." and parsed.metadata["headers"] == ["Confidential"]


def test_an_opendocument_text_is_read_in_order() -> None:
    body = (
        '<text:h text:outline-level="2">Head</text:h><text:p>a<text:s text:c="2"/>b<text:tab/>c<text:span>d</text:span>'
        "<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>why</text:p></text:note-body>"
        "</text:note></text:p><text:list><text:list-item><text:p>x</text:p></text:list-item></text:list><table:table>"
        "<table:table-row><table:table-cell><text:p>1</text:p></table:table-cell><table:table-cell><text:p>2</text:p>"
        "</table:table-cell></table:table-row></table:table>"
    )
    (parsed,) = parse_bytes("a.odt", odt_bytes(body))
    assert parsed.text.split("\n\n") == ["## Head", "a  b\tcd [why]", "- x", "1 | 2"]


def test_a_book_is_read_in_the_order_of_its_spine() -> None:
    chapters = {"one": "<h1>One</h1><p>First.</p>", "two": "<p>Second.</p>", "unused": "<p>Never.</p>"}
    (parsed,) = parse_bytes("a.epub", epub_bytes(chapters, ["two", "one", "gone"]))
    assert parsed.text == "Second.\n\n# One\n\nFirst."
    skipped = {"outside_the_spine": 1}
    assert parsed.metadata == {"chapters": 2, "bad_chapters": 1, "title": "Book", "skipped": skipped}


def test_an_email_prefers_its_plain_text_and_its_attachments_are_files_of_their_own() -> None:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Größe", "Ann <a@x.example>", "b@x.example"
    message.set_content("Plain words.\n")
    message.add_alternative("<p>HTML words.</p>", subtype="html")
    message.add_attachment(docx_bytes("Attached."), maintype="application", subtype="octet-stream", filename="l.docx")
    message.add_attachment(b"\x7fELF\0\0\0", maintype="application", subtype="octet-stream", filename="run.bin")
    inner = EmailMessage()
    inner["Subject"] = "Inner"
    inner.set_content("Forwarded.")
    message.add_attachment(inner)
    texts = {parsed.part: parsed for parsed in parse_bytes("a.eml", message.as_bytes())}
    assert texts[""].text == "Größe\n\nPlain words." and "HTML words" not in str(texts)
    assert texts[""].metadata["from"] == "Ann <a@x.example>" and texts["l.docx"].text.endswith("Attached.")
    assert texts["attachment 3.eml"].text == "Inner\n\nForwarded."
    assert texts[""].metadata["left_out"] == [{"name": "run.bin", "outcome": "unsupported", "why": "is a program"}]
    only_html = b"Subject: x\nContent-Type: text/html; charset=koi8-r\n\n<p>" + "Москва".encode("koi8-r") + b"</p>"
    assert parse_bytes("b.eml", only_html)[0].text == "x\n\nМосква"
    assert outcome("c.eml", b"just some words\n") == "damaged"


def test_a_mailbox_gives_one_text_per_message() -> None:
    mailbox = b"From a@x Mon\nSubject: One\n\nfirst\n>From here on\n\nFrom b@x Tue\nSubject: Two\n\nsecond\n"
    texts = [(parsed.part, parsed.text) for parsed in parse_bytes("a.mbox", mailbox)]
    assert texts == [("message 1", "One\n\nfirst\nFrom here on"), ("message 2", "Two\n\nsecond")]


def test_rich_text_is_read_in_its_code_page() -> None:
    source = rb"{\rtf1\ansi\ansicpg1251{\fonttbl{\f0 Arial;}}{\*\generator x;}"
    source += rb"\uc1 \'cf\'f0\'e8 \b bold\b0\par \u8364?5 \{x\}}"
    (parsed,) = parse_bytes("a.rtf", source)
    assert parsed.text == "При bold\n\n€5 {x}"
    assert outcome("a.rtf", source[:-9]) == "damaged"


def test_every_member_of_an_archive_is_a_file_of_its_own() -> None:
    members: dict[str, bytes | str] = {
        "docs/a.docx": docx_bytes(),
        "docs/rows.csv": b"text,label\nhello,x\n",
        "inner.zip": zip_bytes({"deep.txt": "deep words"}),
        "../../outside.txt": "no",
        "run.exe": b"MZ\0\0" + bytes(60),
        "__MACOSX/a": "junk",
    }
    texts = parse_bytes("all.zip", zip_bytes(members))
    assert [text.part for text in texts] == ["docs/a.docx", "docs/rows.csv#row 1", "inner.zip#deep.txt"]
    assert texts[0].metadata["left_out_counts"] == {"unsafe_path": 1, "unsupported": 1}
    assert texts[0].metadata["members"] == 3 and texts[1].metadata["columns"] == {"text": "text", "label": "label"}


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_packed_folders_and_single_files_are_read(ending: str, pack: object) -> None:
    tar = tar_bytes([("x/a.txt", b"one"), ("x/link", None), ("/etc/b.txt", b"no")])
    (text,) = parse_bytes(f"a.tar.{ending}", pack(tar))  # type: ignore[operator]
    assert (text.part, text.text) == ("x/a.txt", "one")
    assert text.metadata["left_out_counts"] == {"link": 1, "unsafe_path": 1}
    (single,) = parse_bytes(f"rows.csv.{ending}", pack(b"text\nhello\n"))  # type: ignore[operator]
    assert (single.part, single.text) == ("rows.csv#row 1", "hello")
    assert outcome(f"a.{ending}", pack(b"words " * 1000)[:-12]) == "damaged"  # type: ignore[operator]


def test_bombs_are_refused_wherever_they_lie() -> None:
    bomb = bytes(60_000_000)
    assert outcome("a.zip", zip_bytes({"a.txt": bomb})) == "too_large"
    assert outcome("a.gz", gzip.compress(bomb)) == "too_large"
    assert outcome("a.zip", zip_bytes({"b.txt.gz": gzip.compress(bomb)})) == "too_large"
    for name, data, part in (
        ("a.docx", docx_bytes(), "word/media/x.xml"),
        ("a.pptx", pptx_bytes(), "ppt/media/x.xml"),
        ("a.xlsx", workbook_bytes({"S": [["a"]]}), "xl/media/x.xml"),
        ("a.odt", odt_bytes("<text:p>x</text:p>"), "x.xml"),
        ("a.epub", epub_bytes({"one": "x"}, ["one"]), "OEBPS/x.xml"),
    ):
        bombed = replaced_in_zip(data, {part: bomb})
        assert outcome(name, bombed) == "too_large"
        texts = parse_bytes("outer.zip", zip_bytes({"good.txt": "fine", name: bombed}, compressed=False))
        assert texts[0].text == "fine" and texts[0].metadata["left_out_counts"] == {"too_large": 1}
    nested = b"words"
    for level in range(8):
        nested = zip_bytes({f"{level}.zip" if level else "a.txt": nested})
    assert outcome("a.zip", nested) == "too_deep"


def test_sizes_that_lie_in_a_zip_file_unpack_to_no_more_than_they_say() -> None:
    data = bytearray(zip_bytes({"a.txt": b"x" * 30_000_000 + b"end"}))
    offset = data.index(b"PK\x01\x02")
    data[offset + 24 : offset + 28] = (100).to_bytes(4, "little")
    assert outcome("a.zip", bytes(data)) in ("damaged", "too_large")


@pytest.mark.parametrize("attack", ["reads a file", "grows without bound"])
def test_entities_in_office_files_are_refused_and_never_read(tmp_path: Path, attack: str) -> None:
    canary = tmp_path / "canary"
    canary.write_text("the secret of the canary")
    declared = f'<!ENTITY e SYSTEM "{canary.as_uri()}">'
    if attack == "grows without bound":
        declared = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
        declared += '<!ENTITY e "&a9;">'
    prologue = f"<!DOCTYPE x [{declared}]>".encode()
    word = (
        b'<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>&e;'
    )
    word += b"</w:t></w:r></w:p></w:body></w:document>"
    sheet = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData><row>'
    sheet += b'<c t="str"><v>&e;</v></c></row></sheetData></worksheet>'
    for name, data in {
        "a.docx": replaced_in_zip(docx_bytes(), {"word/document.xml": prologue + word}),
        "b.docx": replaced_in_zip(docx_bytes(), {"word/document.xml": (prologue + word).decode().encode("utf-16")}),
        "a.pptx": replaced_in_zip(pptx_bytes(), {"ppt/slides/slide1.xml": prologue + b"<x>&e;</x>"}),
        "a.xlsx": replaced_in_zip(workbook_bytes({"S": [["a"]]}), {"xl/worksheets/sheet1.xml": prologue + sheet}),
        "a.odt": odt_bytes("<text:p>&e;</text:p>", prologue.decode()),
        "a.epub": epub_bytes({"one": "<p>x</p>"}, ["one"], {"OEBPS/p.opf": prologue + b"<package>&e;</package>"}),
    }.items():
        with pytest.raises(SkippedError) as raised:
            parse_bytes(name, data)
        assert raised.value.reason == "unsafe_xml" and "canary" not in raised.value.detail
    page = (prologue + b"<html><body><p>&e; words</p></body></html>").decode()
    (book,) = parse_bytes("a.epub", epub_bytes({"one": ""}, ["one"], {"OEBPS/text/one.xhtml": page}))
    assert "secret" not in book.text and "haha" not in book.text and "words" in book.text


def test_encrypted_files_say_so() -> None:
    locked = ole_bytes({"EncryptionInfo": b"x", "EncryptedPackage": b"y"})
    for name in ("a.docx", "a.xlsx", "a.pptx", "a.txt"):
        assert outcome(name, locked) == "encrypted"
    entry = '<manifest:file-entry manifest:full-path="content.xml"><manifest:encryption-data/></manifest:file-entry>'
    assert outcome("a.odt", odt_bytes("", manifest=entry)) == "encrypted"
    protection = {
        "META-INF/encryption.xml": '<encryption><EncryptionMethod Algorithm="http://x/aes256"/></encryption>',
    }
    assert outcome("a.epub", epub_bytes({"one": "x"}, ["one"], dict(protection))) == "encrypted"
    zipped = bytearray(zip_bytes({"a.txt": "words"}, compressed=False))
    zipped[6] |= 1
    zipped[zipped.index(b"PK\x01\x02") + 8] |= 1
    assert outcome("a.zip", bytes(zipped)) == "encrypted"


def test_an_old_workbook_whose_sectors_go_in_a_circle_is_damaged() -> None:
    data = bytearray(xls_bytes([["a", "b"], ["x", 1.0]] * 100))
    table = (struct.unpack_from("<I", data, 76)[0] + 1) * 512
    data[table + 28 : table + 32] = (0).to_bytes(4, "little")
    assert outcome("a.xls", bytes(data)) == "damaged"


def test_names_that_lie_are_found_out() -> None:
    assert parse_bytes("a.txt", docx_bytes())[0].text.startswith("# Lease")
    assert parse_bytes("a.csv", pptx_bytes())[0].text.startswith("## Results")
    assert parse_bytes("a", parquet_bytes({"text": ["x"]}))[0].text == "x"
    assert parse_bytes("a.csv", b"<!DOCTYPE html><p>Sign in</p>")[0].text == "Sign in"
    assert parse_bytes("a.py", b'MAGIC = b"%PDF-"\n')[0].text == 'MAGIC = b"%PDF-"\n'
    program = b"MZ" + bytes(100)
    for name, data in {
        "a.pdf": program,
        "a.docx": pptx_bytes(),
        "a.xlsx": docx_bytes(),
        "a.odt": zip_bytes({"a.txt": "x"}),
        "a.zip": docx_bytes(),
        "a.png": b"just words",
        "a.mp3": docx_bytes(),
        "a.xls": b"a,b\n1,2\n",
        "b.xls": ole_bytes({"WordDocument": b"x"}),
    }.items():
        assert outcome(name, data) == "wrong_type", name
    assert outcome("a.doc", ole_bytes({"WordDocument": b"x"})) == "unsupported"
    assert outcome("a.txt", program) == "unsupported"


@pytest.mark.parametrize("make", [docx_bytes, pptx_bytes, lambda: workbook_bytes({"S": [["a", "b"], ["x", "y"]]})])
def test_a_damaged_office_file_always_ends_in_an_outcome(make: object) -> None:
    content: bytes = make()  # type: ignore[operator]
    for cut in range(0, len(content), max(1, len(content) // 12)):
        with pytest.raises(SkippedError):
            parse_bytes("a.docx", content[:cut])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if name.endswith((".xml", ".rels"))]
        contents = {name: archive.read(name) for name in names}
    ending = {"w": ".docx", "p": ".pptx", "x": ".xlsx"}[next(n for n in names if "/" in n and n[0] in "wpx")[0]]
    for name in names[:14]:
        for broken in (b"", b"<x/>", contents[name][: len(contents[name]) // 2]):
            try:
                parse_bytes(f"a{ending}", replaced_in_zip(content, {name: broken}))
            except SkippedError as skipped:
                assert skipped.reason in ("damaged", "wrong_type", "empty"), (name, skipped)
