"""PDF: text layers, scans, forms, outlines, and files that break or attack the parser."""

import hashlib
import io
import struct
import zlib
from pathlib import Path

import pytest

from soldiom_ray.collect.documents import ocr, pdf
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.documents.sandbox import Sandbox
from soldiom_ray.collect.text import SkippedError

DATA = Path(__file__).parents[2] / "shared" / "data" / "documents"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no documents at {DATA}")

CATALOG = b"<</Type/Catalog/Pages 2 0 R>>"
ONE_PAGE = b"<</Type/Pages/Kids[3 0 R]/Count 1>>"
FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"


def pdf_of(*objects: bytes, trailer: bytes = b"") -> bytes:
    """A PDF of these objects, numbered from 1; the first is its catalog."""
    parts, offsets, offset = [b"%PDF-1.7\n"], [], 9
    for number, content in enumerate(objects, 1):
        offsets.append(offset)
        parts.append(b"%d 0 obj\n%s\nendobj\n" % (number, content))
        offset += len(parts[-1])
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    end = b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF"
    return b"".join(parts) + end % (len(objects) + 1, table, len(objects) + 1, trailer, offset)


def stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<<%s/Length %d>>\nstream\n%s\nendstream" % (entries, len(content), content)


def page(contents: int = 4, box: bytes = b"0 0 600 800", more: bytes = b"", xobjects: bytes = b"") -> bytes:
    fonts = b"/Resources<</Font<</F1 5 0 R>>/XObject<<%s>>>>" % xobjects
    return b"<</Type/Page/Parent 2 0 R/MediaBox[%s]/Contents %d 0 R%s%s>>" % (box, contents, fonts, more)


def words(text: str) -> bytes:
    return stream(b"BT /F1 12 Tf 50 700 Td (%s) Tj ET" % text.encode())


def picture_of(text: str, width: int = 1200, height: int = 400) -> bytes:
    """A scan: an image with words on it, as a PDF object."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("L", (width, height), "white")
    ImageDraw.Draw(image).multiline_text((60, 60), text, fill="black", font=ImageFont.load_default(60))
    entries = (
        b"/Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceGray/BitsPerComponent 8/Filter/FlateDecode"
    )
    return stream(zlib.compress(image.tobytes()), entries % (width, height))


def scan(text: str, stamp: str = "", box: bytes = b"0 0 600 200") -> bytes:
    contents = b"q 600 0 0 200 0 0 cm /I Do Q BT /F1 8 Tf 5 5 Td (%s) Tj ET" % stamp.encode()
    xobjects = b"/I 6 0 R"
    return pdf_of(CATALOG, ONE_PAGE, page(box=box, xobjects=xobjects), stream(contents), FONT, picture_of(text))


def parse(data: bytes, use_ocr: bool = True) -> ParsedText:
    (parsed,) = pdf.parse("a.pdf", data, ParseOptions(ocr=use_ocr))
    return parsed


def skipped_by(data: bytes, use_ocr: bool = True) -> SkippedError:
    with pytest.raises(SkippedError) as raised:
        parse(data, use_ocr)
    return raised.value


def rc4(key: bytes, data: bytes) -> bytes:
    box, j, out = list(range(256)), 0, bytearray()
    for i in range(256):
        j = (j + box[i] + key[i % len(key)]) % 256
        box[i], box[j] = box[j], box[i]
    i = j = 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + box[i]) % 256
        box[i], box[j] = box[j], box[i]
        out.append(byte ^ box[(box[i] + box[j]) % 256])
    return bytes(out)


def encrypted(text: str, user: bytes, owner: bytes) -> bytes:
    """PDF 32000-1, 7.6.3, revision 2: a 40-bit key."""
    padding = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
    owner_entry = rc4(hashlib.md5((owner + padding)[:32]).digest()[:5], (user + padding)[:32])
    key = hashlib.md5((user + padding)[:32] + owner_entry + struct.pack("<i", -4) + b"ID").digest()[:5]
    own_key = hashlib.md5(key + (4).to_bytes(3, "little") + bytes(2)).digest()[:10]
    contents = stream(rc4(own_key, b"BT /F1 12 Tf 50 700 Td (%s) Tj ET" % text.encode()))
    entry = b"<</Filter/Standard/V 1/R 2/P -4/O<%s>/U<%s>>>"
    filled = entry % (owner_entry.hex().encode(), rc4(key, padding).hex().encode())
    trailer = b"/Encrypt 6 0 R/ID[<%s><%s>]" % (b"ID".hex().encode(), b"ID".hex().encode())
    return pdf_of(CATALOG, ONE_PAGE, page(), contents, FONT, filled, trailer=trailer)


def test_pages_are_parted_by_a_blank_line_and_their_starts_are_told() -> None:
    kids = b"<</Type/Pages/Kids[3 0 R 6 0 R 8 0 R]/Count 3>>"
    blank = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]>>"
    parsed = parse(pdf_of(CATALOG, kids, page(), words("First"), FONT, blank, words("Third"), page(7)))
    assert parsed.text == "First\n\nThird" and parsed.part == ""
    assert parsed.metadata == {"pages": 3, "page_starts": [0, 7, 7]}
    assert parsed.text[parsed.metadata["page_starts"][2] :].startswith("Third")


def test_letters_beyond_the_basic_plane_are_kept_and_what_lies_off_the_page_is_not() -> None:
    cmap = b"1 begincodespacerange <00> <ff> endcodespacerange 1 beginbfchar <41> <D83DDE00> endbfchar"
    font = FONT.replace(b">>", b"/ToUnicode 6 0 R>>")
    drawn = stream(b"BT /F1 12 Tf 50 700 Td (A b) Tj 0 5000 Td (hidden) Tj ET")
    parsed = parse(pdf_of(CATALOG, ONE_PAGE, page(), drawn, font, stream(b"begincmap " + cmap + b" endcmap")))
    assert parsed.text.split() == ["\U0001f600", "b"]


@needs_data
def test_words_cut_at_a_lines_end_are_whole_and_arabic_reads_as_it_is_written() -> None:
    text = parse((DATA / "pdf" / "code_and_formula.pdf").read_bytes()).text
    assert "diam nonumy eirmod tempor" in text and "￾" not in text and "\x02" not in text
    arabic = parse((DATA / "pdf" / "right_to_left_01.pdf").read_bytes()).text
    assert arabic.startswith("تحسين الإنتاجية وحل المشكلات من خلال البرمجة بلغة R")
    assert "اإل" not in arabic and "المشكالت" not in arabic


@needs_data
def test_real_files_tell_their_title_and_outline() -> None:
    metadata = parse((DATA / "pypdf" / "metadata.pdf").read_bytes()).metadata
    assert (
        metadata["title"] == "The Title"
        and metadata["author"] == "Martin Thoma"
        and metadata["created"] == "2022-04-15"
    )
    outline = parse((DATA / "pdf" / "bookmark_sample.pdf").read_bytes()).metadata["bookmarks"]
    assert outline[5] == {"title": "3.1 Payment Schedule", "level": 3, "page": 2} and len(outline) == 8
    expected = (DATA / "pypdf" / "crazyones.txt").read_text().split()
    extracted = parse((DATA / "pypdf" / "crazyones.pdf").read_bytes()).text.split()
    assert len(set(expected) & set(extracted)) / len(set(expected)) > 0.9


def test_filled_form_fields_follow_their_page_and_passwords_do_not() -> None:
    def field(name: bytes, kind: bytes, more: bytes) -> bytes:
        return b"<</Type/Annot/Subtype/Widget/Rect[0 0 9 9]/T(%s)/FT/%s%s>>" % (name, kind, more)

    catalog = b"<</Type/Catalog/Pages 2 0 R/AcroForm<</Fields[6 0 R 7 0 R 8 0 R 9 0 R]>>>>"
    fields = [
        field(b"name", b"Tx", b"/V(Ada)"),
        field(b"secret", b"Tx", b"/Ff 8192/V(hunter2)"),
        field(b"agreed", b"Btn", b"/V/Yes/AS/Yes/AP<</N<</Yes 4 0 R/Off 4 0 R>>>>"),
        field(b"empty", b"Tx", b""),
    ]
    annotated = page(more=b"/Annots[6 0 R 7 0 R 8 0 R 9 0 R]")
    parsed = parse(pdf_of(catalog, ONE_PAGE, annotated, words("Form"), FONT, *fields))
    assert parsed.text == "Form\nname: Ada\nagreed: Yes"
    about = {"pages": 1, "form": "acroform", "form_fields": 2}
    assert parsed.metadata == about | {"skipped": {"hidden_fields": 1}}


def test_an_outline_that_runs_in_a_circle_ends() -> None:
    catalog = b"<</Type/Catalog/Pages 2 0 R/Outlines 6 0 R>>"
    marks = [b"<</Title(x)/First 7 0 R/Next 7 0 R/Parent 6 0 R/Dest[3 0 R/Fit]>>"]
    parsed = parse(pdf_of(catalog, ONE_PAGE, page(), words("x"), FONT, b"<</First 7 0 R/Last 7 0 R>>", *marks))
    assert parsed.metadata["bookmarks"] == [{"title": "x", "level": 1, "page": 1}]


def test_an_owners_password_does_not_hinder_reading_and_a_users_does() -> None:
    assert parse(encrypted("Open to read", b"", b"owner")).text == "Open to read"
    assert skipped_by(encrypted("Closed", b"secret", b"owner")).reason == "encrypted"


def test_a_scan_is_read_by_ocr_and_only_its_pages() -> None:
    xobjects = b"/I 6 0 R"
    kids = b"<</Type/Pages/Kids[3 0 R 7 0 R]/Count 2>>"
    drawn = stream(b"q 600 0 0 200 0 0 cm /I Do Q")
    scanned = page(8, b"0 0 600 200", xobjects=xobjects)
    objects = [CATALOG, kids, page(), words("Typed words"), FONT, picture_of("Scanned words"), scanned, drawn]
    parsed = parse(pdf_of(*objects))
    assert parsed.text == "Typed words\n\nScanned words" and parsed.metadata["ocr_pages"] == [2]
    assert parsed.metadata["ocr_confidence"] > 0.9 and parsed.metadata["page_starts"] == [0, 13]
    assert parse(pdf_of(*objects), use_ocr=False).text == "Typed words"


def test_a_scan_with_a_stamp_is_a_scan_all_the_same() -> None:
    parsed = parse(scan("The whole contract\nis on this picture", stamp="BATES 000123"))
    assert "The whole contract" in parsed.text and parsed.metadata["ocr_pages"] == [1]
    assert parse(scan("x", stamp="BATES 000123"), use_ocr=False).text == "BATES 000123"


def test_pages_beyond_the_limit_of_ocr_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "MAX_OCR_PAGES", 1)
    kids = b"<</Type/Pages/Kids[3 0 R 3 0 R 3 0 R]/Count 3>>"
    drawn = stream(b"q 600 0 0 200 0 0 cm /I Do Q")
    objects = [CATALOG, kids, page(box=b"0 0 600 200", xobjects=b"/I 6 0 R"), drawn, FONT, picture_of("Scanned words")]
    metadata = parse(pdf_of(*objects)).metadata
    assert metadata["ocr_pages"] == [1] and metadata["ocr_skipped_pages"] == 2 and metadata["pages"] == 3


def test_each_file_without_text_says_why() -> None:
    assert skipped_by(scan("Words"), use_ocr=False).reason == "no_text"
    assert skipped_by(scan("")).detail == "1 pages are pictures, and OCR found no words on 1 of them"
    blank = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]>>"
    assert skipped_by(pdf_of(CATALOG, ONE_PAGE, blank)).reason == "empty"
    content = pdf_of(CATALOG, ONE_PAGE, page(), words("Words"), FONT)
    for length in (0, 9, 100, 300):
        assert skipped_by(content[:length]).reason == "damaged"
    assert parse(content[:-10]).text == "Words"  # pdfium mends what it can


@pytest.mark.parametrize(
    "tree",
    [
        b"<</Type/Pages/Kids[2 0 R 3 0 R 2 0 R]/Count 5>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1000000000>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 3000>>",
        b"<</Type/Pages/Kids[3 0 R]/Count -5>>",
    ],
)
def test_a_page_tree_that_loops_or_lies_gives_the_pages_it_has(tree: bytes) -> None:
    parsed = parse(pdf_of(CATALOG, tree, page(), words("Words"), FONT))
    assert parsed.text == "Words" and parsed.metadata["pages"] <= 3000
    assert parsed.metadata["pages"] - 1 == parsed.metadata.get("bad_pages", 0)
    assert skipped_by(pdf_of(CATALOG, b"<</Type/Pages/Kids[2 0 R]/Count 1>>")).reason == "damaged"


def test_a_hundred_thousand_pages_are_read_to_the_limit() -> None:
    kids = b"<</Type/Pages/Kids[%s]/Count 100000>>" % (b"3 0 R " * 100_000)
    parsed = parse(pdf_of(CATALOG, kids, page(), words("x"), FONT))
    assert parsed.metadata == {"pages": 100_000, "skipped_pages": 90_000}
    assert parsed.text.count("x") == pdf.MAX_PAGES


@pytest.mark.parametrize(
    "box", [b"0 0 1e9 1e9", b"0 0 1000000 1", b"0 0 -5 -5", b"0 0 0 0", b"0 0 99999999999999999999999 9", b"nan 0 9 9"]
)
def test_a_page_of_any_size_is_drawn_within_bounds(box: bytes) -> None:
    assert skipped_by(scan("", box=box)).reason == "no_text"


def test_a_file_that_draws_itself_without_end_is_stopped_by_the_sandbox() -> None:
    form = b"/Type/XObject/Subtype/Form/BBox[0 0 600 800]/Resources<</XObject<</I 6 0 R>>>>"
    drawn = [stream(b"/I Do"), FONT, stream(b"/I Do /I Do /I Do", form)]
    looping = pdf_of(CATALOG, ONE_PAGE, page(xobjects=b"/I 6 0 R"), *drawn)
    with Sandbox(cpu_seconds=3) as sandbox:
        with pytest.raises(SkippedError) as raised:
            sandbox.parse("loop.pdf", looping)
        assert raised.value.reason == "timeout"
        assert sandbox.parse("a.pdf", pdf_of(CATALOG, ONE_PAGE, page(), words("x"), FONT))[0].text == "x"


def test_columns_are_read_one_after_the_other_and_tables_row_by_row() -> None:
    def line(left: float, top: float, width: float, text: str) -> ocr.Box:
        return ocr.Box(left, top, left + width, top + 20, text)

    prose = [line(0, 0, 700, "Heading")]
    for row in range(4):
        prose += [line(0, 60 + 24 * row, 300, f"left {row}"), line(400, 60 + 24 * row, 300, f"right {row}")]
    assert ocr.in_reading_order(prose) == [
        "Heading", "left 0", "left 1", "left 2", "left 3", "right 0", "right 1", "right 2", "right 3",
    ]  # fmt: skip
    table = [line(200 * column, 30 * row, 60, f"{row}.{column}") for column in range(3) for row in range(3)]
    assert ocr.in_reading_order(table) == ["0.0 0.1 0.2", "1.0 1.1 1.2", "2.0 2.1 2.2"]


@needs_data
def test_a_real_page_read_by_ocr_has_the_words_of_its_text_layer() -> None:
    import pypdfium2

    document = pypdfium2.PdfDocument((DATA / "pdf" / "multi_page.pdf").read_bytes())
    layer = document[1].get_textpage().get_text_bounded().split()
    sink = io.BytesIO()
    document[1].render(scale=200 / 72).to_pil().save(sink, "PNG")
    from soldiom_ray.collect.documents import image

    (parsed,) = image.parse("page.png", sink.getvalue(), ParseOptions())
    ocr_words = parsed.text.split()
    assert sum(word in ocr_words for word in layer) / len(layer) > 0.95
