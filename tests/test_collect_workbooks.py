"""Workbooks as people have them: number formats, formulas without values, titles, several tables, merged and hidden
cells."""

import base64
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from broken_files import replaced_in_zip

from soldiom_ray.collect.documents import parse_bytes
from soldiom_ray.collect.documents.number_formats import number_format
from soldiom_ray.collect.documents.parsed import ParsedText

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==")
SHARED = Path(__file__).parent.parent.parent / "shared/data"


def book_bytes(fill: Callable[[Any], None]) -> bytes:
    import xlsxwriter

    sink = io.BytesIO()
    book = xlsxwriter.Workbook(sink, {"in_memory": True})
    fill(book)
    book.close()
    return sink.getvalue()


def rows_bytes(rows: list[list[object]]) -> bytes:
    def fill(book: Any) -> None:
        sheet = book.add_worksheet("S")
        for number, row in enumerate(rows):
            sheet.write_row(number, 0, row)

    return book_bytes(fill)


def texts_of(data: bytes) -> dict[str, ParsedText]:
    return {parsed.part: parsed for parsed in parse_bytes("a.xlsx", data)}


def test_the_reported_workbook_gives_formats_formulas_and_the_header_below_its_title() -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no data at {SHARED}")
    texts = texts_of((SHARED / "reported/orders_nocache.xlsx").read_bytes())
    for expected in ("Postcode: 01231", "Share: 12.5%", "Price: 2000.5 EUR", "Ordered: 2024-03-01", "Total: 4001"):
        assert expected in texts["table Orders"].text
    questions = [parsed for part, parsed in texts.items() if part.startswith("row ")]
    assert len(questions) == 10 and questions[0].metadata["columns"] == {"question": "Question", "answer": "Answer"}
    assert questions[0].metadata["title_rows"] == ["Quarterly questions of the help desk, 2024"]


@pytest.mark.parametrize(
    ("code", "number", "shown"),
    [
        ("00000", 1231, "01231"), ("00000", 123456, "123456"), ("00", -5, "-05"), ("0.0%", 0.125, "12.5%"),
        ("0%", 0.07, "7%"), ('#,##0.00 "EUR"', -1234567.25, "-1234567.25 EUR"), ("000-00-0000", 12345, "000-01-2345"),
        ("(000) 000-0000", 5551234567, "(555) 123-4567"), ("[$€-407]#,##0.00", 12.5, "€12.5"),
        ('_-* #,##0.00\\ "kr"_-;-* #,##0.00', 5, "5 kr"), ("[Red]0%;0%", 0.5, "50%"), ("0000.0", 3.5, "0003.5"),
        ('0" up";0" down"', -5, "-5"), ('"$"#,##0;[Red]-"$"#,##0', -5, "-$5"), ('0.0,,"M"', 1.5, None),
        *((code, 1.5, None) for code in ("General", "0.00", "#,##0", "0.00E+00", "dd.mm.yyyy", "[h]:mm", "# ?/?", "@")),
    ],
)  # fmt: skip
def test_number_formats_add_what_the_number_lacks(code: str, number: float, shown: str | None) -> None:
    form = number_format(code)
    assert (form.text(number) if form else None) == shown


def test_formulas_without_values_are_computed_or_counted() -> None:
    formulas = {
        "=B2*2+1": "n: 7", "=(B2+B3)/2%": "n: 400", "=SUM(B2:B3,10)": "n: 18", "=AVERAGE(B$2:$B$3)": "n: 4",
        '="No. "&B2&"""x"""': 'n: No. 3"x"', "=-B2^2": "n: 9", "=ROUND(B2/7,2)": "n: 0.43", "=COUNT(A2:B3)": "n: 2",
        "=ROUND(2.675,2)": "n: 2.68", "=ROUND(-2.5,0)": "n: -3",
        "=VLOOKUP(B2,A:B,2)": None, "=Other!A1": None, "=B2/0": None, "=A2*1": None, "=C2": None, "=B2^9999": None,
    }  # fmt: skip
    for source, expected in formulas.items():

        def fill(book: Any, source: str = source) -> None:
            sheet = book.add_worksheet("S")
            sheet.write_row(0, 0, ["name", "count", "n"])
            sheet.write_row(1, 0, ["x", 3])
            sheet.write_row(2, 0, ["y", 5, 1])
            sheet.write_formula(1, 2, source)

        (parsed,) = parse_bytes("a.xlsx", book_bytes(fill))
        assert parsed.text.split("\n\n")[0] == "name: x\ncount: 3" + (f"\n{expected}" if expected else ""), source
        if not expected:
            assert parsed.metadata["skipped"] == {"formulas_without_values": 1}
            assert parsed.metadata["missing_values"] == ["S!C2"]


def test_values_that_the_file_holds_are_believed() -> None:
    def fill(book: Any) -> None:
        sheet = book.add_worksheet("S")
        sheet.write_row(0, 0, ["name", "n"])
        sheet.write_formula("B2", "=1+1", None, 7)
        sheet.write_formula("B3", "=1+1", book.add_format({"num_format": "0%"}), 0.5)

    (parsed,) = parse_bytes("a.xlsx", book_bytes(fill))
    assert parsed.text == "n: 7\n\nn: 50%" and "skipped" not in parsed.metadata


def test_growing_sums_and_long_chains_end() -> None:
    def fill(book: Any) -> None:
        sheet = book.add_worksheet("S")
        sheet.write_row(0, 0, ["a", "b", "c"])
        for row in range(2, 3002):
            sheet.write_number(f"A{row}", row)
            sheet.write_formula(f"B{row}", f"=SUM(A$2:A{row})")
            sheet.write_formula(f"C{row}", f"=C{row + 1}")

    parsed = parse_bytes("a.xlsx", book_bytes(fill))
    assert parsed[0].text.startswith("a: 2\nb: 2\n") and parsed[0].metadata["skipped"]["formulas_without_values"] > 3000


def test_a_header_is_found_below_titles_and_several_tables_on_a_sheet() -> None:
    data = rows_bytes(
        [
            ["Report of the branch"], ["as of", "today"], [], ["city", "people", "share", "note"],
            ["Oslo", 7, 0.5, "x"], ["Bergen", 3, 0.2, "y"], [],
            ["Costs"], ["item", "price"], ["pen", 2], [], ["ink", 3], [],
            ["question", "answer"], ["Why?", "So."],
        ]
    )  # fmt: skip
    texts = texts_of(data)
    oslo, bergen = "city: Oslo\npeople: 7\nshare: 0.5\nnote: x", "city: Bergen\npeople: 3\nshare: 0.2\nnote: y"
    assert texts[""].text == f"Report of the branch\nas of | today\n\n{oslo}\n\n{bergen}"
    assert texts[""].metadata["title_rows"] == ["Report of the branch", "as of | today"]
    assert texts["table S 2"].text == "Costs\n\nitem: pen\nprice: 2\n\nitem: ink\nprice: 3"
    assert texts["table S 2"].metadata["title_rows"] == ["Costs"]
    assert texts["row 1 of S 3"].text == "Why?\n\nSo."
    (one,) = parse_bytes("a.xlsx", rows_bytes([["name", "town"], ["Bo", "Oslo"], [], ["Al", "Rome"], ["Cy", "Bern"]]))
    assert one.metadata["rows"] == 3 and "title_rows" not in one.metadata


def test_a_block_of_names_and_values_above_a_table_is_its_title() -> None:
    rows = [["Customer:", "ACME"], ["Date:", "2024-03-01"], [], ["item", "price", "amount"], ["pen", 2, 7]]
    (parsed,) = parse_bytes("a.xlsx", rows_bytes(rows))
    assert parsed.text == "Customer: | ACME\nDate: | 2024-03-01\n\nitem: pen\nprice: 2\namount: 7"


def test_a_sheet_of_formulas_alone_and_names_with_a_prefix_are_read() -> None:
    def fill(book: Any) -> None:
        sheet = book.add_worksheet("S")
        for row in range(2):
            sheet.write_formula(row + 1, 3, f"={row}+1", book.add_format({"num_format": "000"}))
        sheet.write_formula("B9", "=IF(TRUE,1,2)")
        sheet.write_formula("C9", '=""', None, "")

    data = book_bytes(fill)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        source = archive.read("xl/worksheets/sheet1.xml")
    source = re.sub(rb"<(/?)(?=[a-zA-Z])", rb"<\1x:", source).replace(b"xmlns=", b"xmlns:x=")
    for workbook in (data, replaced_in_zip(data, {"xl/worksheets/sheet1.xml": source})):
        (parsed,) = parse_bytes("a.xlsx", workbook)
        assert parsed.text == "001\n002" and parsed.metadata["missing_values"] == ["S!B9"]


def test_every_text_of_a_workbook_is_read_or_counted() -> None:
    def fill(book: Any) -> None:
        sheet = book.add_worksheet("S")
        sheet.write_row(0, 0, ["Title here"])
        sheet.write_row(2, 0, ["name", "value"])
        sheet.write_row(3, 0, ["plain", "cell"])
        sheet.write_rich_string("A5", "rich ", book.add_format({"bold": True}), "bold")
        sheet.write_formula("B5", "=1/0", None, "#DIV/0!")
        sheet.write_url("A6", "https://example.org/", string="a link")
        sheet.write_comment("A6", "a remark")
        sheet.insert_textbox("D2", "in a box")
        sheet.set_header("&Cpage head")
        sheet.insert_image("F9", "dot.png", {"image_data": io.BytesIO(PNG)})
        chart = book.add_chart({"type": "column"})
        chart.add_series({"values": "=S!$B$4:$B$6"})
        chart.set_title({"name": "chart title"})
        sheet.insert_chart("H2", chart)

    (parsed,) = parse_bytes("a.xlsx", book_bytes(fill))
    assert parsed.text == "Title here\n\nname: plain\nvalue: cell\n\nname: rich bold\n\nname: a link"
    counts = {"comments": 1, "drawings": 2, "error_values": 1, "headers_footers": 1, "pictures": 1}
    assert parsed.metadata["skipped"] == counts


def test_merged_cells_repeat_and_hidden_ones_are_told() -> None:
    def fill(book: Any) -> None:
        sheet = book.add_worksheet("S")
        sheet.write_row(1, 1, ["region", "town"])
        sheet.merge_range("B3:B4", "North")
        sheet.write("C3", "Oslo")
        sheet.write("C4", "Bergen")
        sheet.set_row(3, None, None, {"hidden": True})
        sheet.set_column("C:D", None, None, {"hidden": True})
        sheet.write_comment("C4", "a remark")
        book.add_worksheet("Lists").hide()

    (parsed,) = parse_bytes("a.xlsx", book_bytes(fill))
    assert parsed.text == "region: North\ntown: Oslo\n\nregion: North\ntown: Bergen"
    assert parsed.metadata["hidden"] == {"sheets": 1, "rows": 1, "columns": 2}
    assert parsed.metadata["skipped"].keys() == {"comments"}
