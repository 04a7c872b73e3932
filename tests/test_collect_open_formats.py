"""Old and open workbooks show numbers as their formats do, and OpenDocument texts number their lists and headings."""

import base64
import io
import struct
import zipfile
import zlib

import pytest

from soldiom_ray.collect.documents import parse_bytes
from soldiom_ray.collect.documents.ods_markup import shown_number
from soldiom_ray.collect.text import SkippedError

XLS = zlib.decompress(
    base64.b85decode(
        "c-rk)OK4PA82-+kJ2T0c$7CjnM(cD;h|efd5u{+o2-YstR-q_GsFTda3_6oAi3?r$ioumoaHVu(v9@lsZnUC-"
        "6uKy+kfNYa5E5Iu5ekJ0E;QHg{P)fz#<^hdfy(_a=RfEF&g(np{O7^_W2|oc{MGprm?0eqVA8HcXd0#%DvL%G%(rcwEXEZKwlD9M"
        "R90{yLqXiE{ynVMP_Op{4E$vNLJd4%*n>W7@6B7uw<w#0Lt1GL8>kh&B~pVXVHFeIEjljxij=%1dZQqxMQ>o)arG6(QrnlWcfEMG"
        "(JXm2(CuEAI)4hX8V&eOd-2h4lv6f{&O$bQz|ZhAULhl4R^bA;!M0d=tDx-"
        "&zGo)dwIs|qF47y(($><_zN)>wIl1}Eoy`fe7C#^Y9HOku<yK}g39|t|>Z5lGO7`@8lFN;wo?G_<9@$CY|Kb@vlJxPniz^U+{5&4"
        "^z$@qi<?u>=<?sldq#QnnUQ!OP^60l3W?8(3u2l}Nm1FWnJnF%}&Vzr<gMZwEf4v9)1`qy?9{lHe@Sj(P=NZEUj=|n5SI!XUWYE1"
        "9KQCmgLjMzN)jLuGOLq5WEbij|o^(OSeT8hdMYu1W%`nQRb5;Q8%I>2vkQF0u?W69@=czaKcIkGUD>(Yx6<jTxtEe;X{MX3^6{Xi"
        "ax%A)dZCziaz82(|JiDC7S*vCb8^?7GR<4m86UE2ba;dRG^a*Kofu!e))}G3;pIPZl1J5Qxi$5KdQYR&UG22)xawoN9T6!tdLl1Z"
        "SoEZ8mwT$V@TP6<IU%r<*k7mwrhV}I~h&I)x&YjhABUOx*dzIf8-Son>USULC_O|;5t;JKBeQ-"
        "v!IF_CtRk93swj3)!D^RjbT4u=#(h8QW5Uo(j3eyU^9MlXBM~sMIF?7V)17})~F<$he)G%`tIn-lxT@^j{yI&1*(CsSr-YBc#)C$"
        "r+51yI#_o=&UIvpfL&(soY{b!@oPna|FFCS}~i7|u8FcR(>Ca4!+l=>rmnP4F<mU=bVYeF9H!))DPuOG`8lfrBf+3NA?_5(71Q|*"
        "V)LQHWj0|MD@RyA7n0M&>ZY2q4n7%^PaJox&Wk_de9#TQ?Ec{fGLaSu7%O}P-"
        "A2T0icuk(~)(*I5J!OBkb@*ChoU^DWJ3pg|@|7k=}728rTS*Q5FP|Gg%Uci2I36K4=_Fq09)%5Yabj9fF+d{MLe{wcF-"
        "*ErW0DS6@ss"
    )
)
"""Written by xlwt: a sheet with formats 00000, 0%, #,##0.00" EUR", yyyy-mm-dd, and a formula without its value."""
_URN = "urn:oasis:names:tc:opendocument:xmlns"
NAMES = " ".join(f'xmlns:{name}="{_URN}:{name}:1.0"' for name in ("office", "style", "table", "text"))


def opendocument(kind: str, body: str, automatic: str = "", styles: str = "") -> bytes:
    """An OpenDocument file of these parts."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("mimetype", f"application/vnd.oasis.opendocument.{kind}")
        body = f"<office:body><office:{kind}>{body}</office:{kind}></office:body>"
        content = f"<office:automatic-styles>{automatic}</office:automatic-styles>{body}"
        archive.writestr("content.xml", f"<office:document-content {NAMES}>{content}</office:document-content>")
        archive.writestr("styles.xml", f"<office:document-styles {NAMES}>{styles}</office:document-styles>")
        archive.writestr("META-INF/manifest.xml", "<manifest/>")
    return sink.getvalue()


def cell(shown: str, kind: str = "string", value: object = "", more: str = "") -> str:
    written = f' office:value="{value}"' if value != "" else ""
    paragraph = f"<text:p>{shown}</text:p>" if shown else ""
    return f'<table:table-cell office:value-type="{kind}"{written}{more}>{paragraph}</table:table-cell>'


@pytest.mark.parametrize(
    ("record", "place", "value", "told"),
    [
        (b"\x00\x02\x0e\x00", 14, struct.pack("<H", 65_535), "column 65535"),
        (b"\x00\x02\x0e\x00", 8, struct.pack("<I", 4_000_000_000), "row 4000000000"),
        (b"\x03\x02\x0e\x00", 6, struct.pack("<H", 40_000), "column 40001"),
    ],
)
def test_an_old_workbook_that_says_it_is_larger_than_one_can_be_is_damaged(
    record: bytes, place: int, value: bytes, told: str
) -> None:
    """Its reader would reserve memory for all cells up to there: 136 GB."""
    data = bytearray(XLS)
    start = data.index(record) + place
    data[start : start + len(value)] = value
    with pytest.raises(SkippedError) as skipped:
        parse_bytes("a.xls", bytes(data))
    assert skipped.value.reason == "damaged" and told in skipped.value.detail


def test_an_old_workbook_shows_its_numbers_and_names_formulas_without_values() -> None:
    (sheet,) = parse_bytes("a.xls", XLS)
    first, second = sheet.text.split("\n\n")
    assert first.startswith("code: 01231\nshare: 12.5%\nprice: 2000.5 EUR\npaid: 2024-03-01\nname: Ann\n")
    assert "code: 00007\nshare: 50%\nprice: 3 EUR" in second
    assert sheet.metadata["missing_values"] == ["Orders!B4"]
    assert sheet.metadata["skipped"] == {"formulas_without_values": 1, "headers_footers": 2}


def test_an_open_workbook_shows_its_numbers_and_computes_formulas_without_values() -> None:
    note = "<office:annotation><text:p>ask 5%</text:p></office:annotation>"
    rows = [
        [cell(name) for name in ("code", "share", "price", "weight", "size", "sum")],
        [
            cell("01231", "float", 1231),
            cell("13%", "percentage", 0.125),
            cell("2.000,50 €", "currency", 2000.5),
            cell("2 kg", "float", 2),
            cell("1.234,6", "float", 1234.567),
            cell("3", "float", 3),
        ],
        [
            cell("00007", "float", 7),
            cell("50%", "percentage", 0.5),
            cell("-$3.00", "currency", -3),
            cell("0.3 kg", "float", 0.25).replace("<text:p>", f"{note}<text:p>"),
            cell("1", "float", 1),
            cell("", "float", "", ' table:formula="of:=SUM([.F2:.F2];[.E3])"'),
        ],
    ]
    table = "".join(f"<table:table-row>{''.join(row)}</table:table-row>" for row in rows)
    body = f'<table:table table:name="Orders">{table}</table:table>'
    (sheet,) = parse_bytes("a.ods", opendocument("spreadsheet", body))
    first, second = sheet.text.split("\n\n")
    assert first == "code: 01231\nshare: 12.5%\nprice: 2.000,50 €\nweight: 2 kg\nsize: 1234.567\nsum: 3"
    assert second == "code: 00007\nshare: 50%\nprice: -$3.00\nweight: 0.25 kg\nsize: 1\nsum: 4"
    assert sheet.metadata["skipped"] == {"comments": 1}


@pytest.mark.parametrize(
    ("kind", "number", "shown", "text"),
    [
        ("float", 3.14159, "3.14", None),
        ("float", 1234567.0, "1,234,567", None),
        ("float", 123000.0, "1.23E+05", None),
        ("float", 0.5, "1/2", None),
        ("currency", 1234.5, "$1,234.50", "$1,234.50"),
        ("currency", 1234.567, "1 234,57 €", "1234.567 €"),
        ("float", 5, "005", "005"),
    ],
)
def test_a_number_is_shown_as_its_cell_does_with_all_its_digits(
    kind: str, number: float, shown: str, text: str | None
) -> None:
    assert shown_number(kind, number, shown) == text


def test_lists_and_headings_of_open_documents_have_their_numbers() -> None:
    def level(number: int, form: str, suffix: str, shown: int = 1) -> str:
        about = f'text:level="{number}" style:num-format="{form}" style:num-suffix="{suffix}"'
        return f'<text:list-level-style-number {about} text:display-levels="{shown}"/>'

    def items(*texts: str) -> str:
        return "".join(f"<text:list-item>{text}</text:list-item>" for text in texts)

    def listed(style: str, content: str, more: str = "") -> str:
        return f'<text:list text:style-name="{style}"{more}>{content}</text:list>'

    p = "<text:p>{}</text:p>".format
    lists = f'<text:list-style style:name="L">{level(1, "1", ".")}{level(2, "a", ")")}</text:list-style>'
    bullets = '<text:list-style style:name="B"><text:list-level-style-bullet text:level="1"/></text:list-style>'
    headings = (
        '<text:outline-style><text:outline-level-style text:level="1" style:num-format="I"/><text:outline-level-style'
        ' text:level="2" style:num-format="1" text:display-levels="2"/></text:outline-style>'
    )
    body = "".join(
        [
            '<text:h text:outline-level="1">Rent</text:h><text:h text:outline-level="2">Due</text:h>',
            listed(
                "L", items(p("One.") + p("More."), p("Two.") + f"<text:list>{items(p('Sub.'), p('Sub.'))}</text:list>")
            ),
            p("Between."),
            listed("L", items(p("Three.")), ' text:continue-numbering="true"'),
            listed("L", items(p("Again."))),
            listed("B", items(p("Point."))),
            listed("none", items(p("Point."))),
        ]
    )
    (text,) = parse_bytes("a.odt", opendocument("text", body, lists + bullets, headings))
    assert text.text.split("\n\n") == [
        *("# I Rent", "## I.1 Due", "1. One.", "More.", "2. Two.", "a) Sub.", "b) Sub.", "Between."),
        *("3. Three.", "1. Again.", "- Point.", "- Point."),
    ]  # fmt: skip


def test_numbers_of_open_documents_that_are_none_cost_no_file() -> None:
    blank = '<text:p>a<text:s text:c="²"/>b<text:s text:c="{}"/>c</text:p>'.format("9" * 5000)
    style = '<text:list-style style:name="L"><text:list-level-style-number text:level="²" text:start-value="³"'
    item = '<text:list text:style-name="L"><text:list-item><text:p>One.</text:p></text:list-item></text:list>'
    body = f'<text:h text:outline-level="²">Rent</text:h>{blank}{item}'
    (text,) = parse_bytes("a.odt", opendocument("text", body, f'{style} style:num-format="1"/></text:list-style>'))
    assert text.text.split("\n\n") == ["# Rent", "a b c", "1 One."]
