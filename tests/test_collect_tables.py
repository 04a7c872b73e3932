"""Tables, records, databases and dumps of users: rows, columns that are guessed or set, encodings, broken ones."""

import io
import json
import sqlite3
from pathlib import Path

import pytest
from broken_files import replaced_in_zip, xls_bytes, zip_bytes

from soldiom_ray.collect.documents import parse_bytes
from soldiom_ray.collect.documents.parsed import ParseOptions
from soldiom_ray.collect.documents.sql import read_dump
from soldiom_ray.collect.text import SkippedError

CHINOOK = Path(__file__).parents[2] / "shared" / "data" / "db_chinook"
JAPANESE = "これは日本語の文章です。文字コードを調べるための短い例。\n東京は日本の首都です。\n"
CHINESE = "这是一个简短的中文示例。\n我们用它来检测编码。北京是中国的首都。\n"
RUSSIAN = "Это короткий русский текст.\nОн нужен, чтобы проверить кодировку. Москва - столица.\n"
ARABIC = "هذا نص عربي قصير.\nنستخدمه لاختبار الترميز. القاهرة عاصمة مصر.\n"
FRENCH = "Où est l'élève? Il a été à la fête près de l'hôtel.\n"


def skipped_by(name: str, data: bytes, **columns: str) -> SkippedError:
    with pytest.raises(SkippedError) as raised:
        parse_bytes(name, data, ParseOptions(columns=columns))
    return raised.value


def workbook_bytes(sheets: dict[str, list[list[object]]]) -> bytes:
    import xlsxwriter

    sink = io.BytesIO()
    book = xlsxwriter.Workbook(sink, {"in_memory": True})
    for name, rows in sheets.items():
        sheet = book.add_worksheet(name)
        for number, row in enumerate(rows):
            sheet.write_row(number, 0, row)
    book.close()
    return sink.getvalue()


def parquet_bytes(columns: dict[str, list[object]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def sqlite_bytes(script: str) -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.executescript(script)
    data = connection.serialize()
    connection.close()
    return data


@pytest.mark.parametrize(
    ("text", "codec", "encoding"),
    [
        (JAPANESE, "shift_jis", "shift_jis"),
        (JAPANESE, "euc_jp", "euc-jp"),
        (JAPANESE, "iso2022_jp", "iso-2022-jp"),
        (JAPANESE, "utf-16-be", "utf-16-be"),
        (CHINESE, "gb18030", "gb18030"),
        (CHINESE, "utf-16-le", "utf-16-le"),
        (RUSSIAN, "koi8_r", "koi8-r"),
        (RUSSIAN, "cp1251", "windows-1251"),
        (ARABIC, "cp1256", "windows-1256"),
        (FRENCH, "cp1252", "windows-1252"),
        (FRENCH, "utf-16", "utf-16"),
        (FRENCH, "utf-32", "utf-32"),
    ],
)
def test_a_text_is_read_in_its_encoding_and_tells_it(text: str, codec: str, encoding: str) -> None:
    (parsed,) = parse_bytes("a.txt", text.encode(codec))
    assert (parsed.text, parsed.metadata) == (text, {"encoding": encoding})


def test_lines_in_two_encodings_are_both_read_and_nothing_is_replaced() -> None:
    mixed = "Ünïcode line\n".encode() * 3 + "línea en latín\n".encode("latin-1")
    (parsed,) = parse_bytes("a.txt", mixed)
    assert parsed.text == "Ünïcode line\n" * 3 + "línea en latín\n"
    assert parsed.metadata == {"encoding": "mixed utf-8 and windows-1252"}
    (marked,) = parse_bytes("a.txt", b"\xef\xbb\xbfplain")
    assert (marked.text, marked.metadata) == ("plain", {})
    (page,) = parse_bytes("a.html", "<meta charset=koi8-r><p>Москва</p>".encode("koi8-r"))
    assert (page.text, page.metadata) == ("Москва", {"encoding": "koi8-r"})


def test_a_stray_nul_is_taken_out_and_counted_and_many_make_a_file_binary() -> None:
    (parsed,) = parse_bytes("a.csv", b"a,b\nx\0y,2\n")
    assert parsed.text == "a: xy\nb: 2" and parsed.metadata["nul_bytes"] == 1
    assert skipped_by("a.csv", b"a,b\n" + b"\0\1\2\3" * 100).reason == "binary"


def test_each_fault_of_a_table_is_counted_or_named() -> None:
    (parsed,) = parse_bytes("a.csv", b'a|b\n1|"two\nlines"\n3|"said ""so"""\n4\n5|6|7\n')
    assert parsed.text == 'a: 1\nb: two\nlines\n\na: 3\nb: said "so"\n\na: 4\n\na: 5\nb: 6\ncolumn 3: 7'
    unrecognized = {"unrecognized_columns": ["a", "b", "column 3"]}
    assert parsed.metadata == {"delimiter": "|", "ragged_rows": 2, "rows": 4} | unrecognized
    (parsed,) = parse_bytes("a.csv", b'a,b\n1,2\n3,"open\n5,6\n7,8\n')
    assert parsed.text.split("\n\n")[1:] == ['a: 3\nb: "open', "a: 5\nb: 6", "a: 7\nb: 8"]
    assert parsed.metadata["unclosed_quotes"] == 1 and parsed.metadata["rows"] == 4
    (large,) = parse_bytes("a.csv", b"name,story\nx," + b"y" * 10_000_000 + b"\n")
    assert len(large.text) > 10_000_000
    assert skipped_by("a.csv", b"a,b\n" + b"y" * (17 << 20) + b",1\n").reason == "too_large"
    (headers,) = parse_bytes("a.csv", b"a,a,\n1,2,3\n")
    assert headers.text == "a: 1\na 2: 2\ncolumn 3: 3"


def test_columns_are_guessed_told_and_the_other_fields_kept() -> None:
    data = b"id,Question,Answer,category\n7,Why?,So.,easy\n8,,,hard\n9,How?,Thus.,\n"
    rows = parse_bytes("qa.csv", data)
    assert [(row.text, row.part) for row in rows] == [("Why?\n\nSo.", "row 1"), ("How?\n\nThus.", "row 3")]
    columns = {"question": "Question", "answer": "Answer", "label": "category"}
    assert rows[0].metadata["columns"] == columns and rows[0].metadata["blank_rows"] == 1
    assert rows[0].metadata["fields"] == {"id": "7", "category": "easy"}
    pair = {"prompt": "Q", "chosen": "good", "rejected": "bad"}
    (preferred,) = parse_bytes("a.jsonl", json.dumps(pair).encode())
    assert preferred.text == "Q\n\ngood" and preferred.metadata["rejected"] == "bad"
    (translated,) = parse_bytes("a.csv", b"source,target,note\nhouse,maison,x\n")
    assert translated.text == "house\n\nmaison" and translated.metadata["fields"] == {"note": "x"}


def test_a_user_sets_the_columns_and_is_told_which_are_missing() -> None:
    data = b"id,Summary,Body\n1,short,long\n"
    (row,) = parse_bytes("a.csv", data, ParseOptions(columns={"text": "summary", "label": "id"}))
    assert row.text == "short" and row.metadata["columns"] == {"text": "Summary", "label": "id"}
    assert row.metadata["fields"] == {"id": "1", "Body": "long"}
    wrong = skipped_by("a.csv", data, text="Story")
    assert wrong.reason == "wrong_columns" and wrong.detail == "no column 'Story'; known: 'id', 'Summary', 'Body'"
    assert "no role 'txt'" in skipped_by("a.csv", data, txt="Body").detail
    assert skipped_by("a.jsonl", b'{"a": "1"}\n{"b": "2"}\n', text="c").detail == "no column 'c'; known: 'a', 'b'"
    texts = parse_bytes("a.jsonl", b'{"a": "1"}\n{"b": "2"}\n', ParseOptions(columns={"text": "b"}))
    assert [(text.text, text.part, text.metadata["blank_records"]) for text in texts] == [("2", "record 2", 1)]


def test_json_lines_keep_signs_that_end_lines_elsewhere() -> None:
    (parsed,) = parse_bytes("a.jsonl", '{"text": "one\u2028two"}\n'.encode())
    assert parsed.text == "one\u2028two"


def test_half_a_surrogate_pair_is_replaced_and_counted() -> None:
    (parsed,) = parse_bytes("a.jsonl", b'{"text": "x\\ud800y \\ud83d\\ude00"}\n')
    assert parsed.text == "x\ufffdy \U0001f600" and parsed.metadata["lone_surrogates"] == 1


def test_a_workbook_gives_every_sheet_that_holds_something() -> None:
    data = workbook_bytes(
        {
            "Cities": [["name", "people", "share"], ["Oslo", 700_000, 0.5], ["Bergen", 290_000, 0.25]],
            "Empty": [],
            "Chat": [["question", "answer"], ["Why?", "So."]],
            "Notes": [["one", ""], [1, 2]],
        }
    )
    texts = {parsed.part: parsed for parsed in parse_bytes("a.xlsx", data)}
    assert texts["table Cities"].text.startswith("name: Oslo\npeople: 700000\nshare: 0.5\n\n")
    assert texts["row 1 of Chat"].text == "Why?\n\nSo."
    unrecognized = {"unrecognized_columns": ["name", "people", "share"]}
    assert texts["table Cities"].metadata == {"sheets": 3, "table": "Cities", "rows": 2} | unrecognized
    (old,) = parse_bytes("a.xls", xls_bytes([["name", "n"], ["Zoë", 1.5]]))
    assert old.text == "name: Zoë\nn: 1.5"
    office = 'xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"'
    namespaces = office + "".join(
        f' xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in ("table", "text")
    )
    cell = '<table:table-cell office:value-type="string"><text:p>{}</text:p></table:table-cell>'
    rows = "".join(
        f"<table:table-row>{''.join(cell.format(c) for c in row)}</table:table-row>" for row in (["a", "b"], ["x", "y"])
    )
    sheet = f'<table:table table:name="S">{rows}</table:table>'
    content = (
        f"<office:document-content {namespaces}><office:body><office:spreadsheet>{sheet}</office:spreadsheet>"
        "</office:body></office:document-content>"
    )
    manifest = '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>'
    members: dict[str, bytes | str] = {
        "mimetype": "application/vnd.oasis.opendocument.spreadsheet",
        "META-INF/manifest.xml": manifest,
        "content.xml": content,
    }
    (opened,) = parse_bytes("a.ods", zip_bytes(members, compressed=False))
    assert opened.text == "a: x\nb: y"


def test_a_workbook_whose_last_cell_is_far_away_is_refused_before_memory_is_asked_for() -> None:
    data = workbook_bytes({"S": [["a"], ["b"]]})
    far = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData><row r="1048576">'
    far += b'<c r="XFD1048576"><v>1</v></c></row></sheetData></worksheet>'
    wrong = skipped_by("a.xlsx", replaced_in_zip(data, {"xl/worksheets/sheet1.xml": far}))
    assert (wrong.reason, wrong.detail) == ("too_large", "a sheet of 1048576 rows and 16384 columns")
    assert skipped_by("a.xlsx", data[: len(data) // 2]).reason == "damaged"
    assert skipped_by("a.xlsx", replaced_in_zip(data, {"xl/workbook.xml": b"<workbook"})).reason == "damaged"


def test_parquet_rows_are_records_and_nested_values_stay() -> None:
    data = parquet_bytes(
        {"text": ["one", None, "three"], "tags": [["a"], [], ["b", "c"]], "raw": [b"\xff\0", b"", b""]}
    )
    rows = parse_bytes("a.parquet", data)
    assert [(row.text, row.part) for row in rows] == [("one", "row 1"), ("three", "row 3")]
    assert rows[0].metadata["fields"] == {"tags": ["a"], "raw": "(2 bytes)"} and rows[0].metadata["blank_rows"] == 1
    turns = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]]
    assert parse_bytes("b.parquet", parquet_bytes({"messages": turns}))[0].text == "user: hi\n\nassistant: ho"
    assert skipped_by("a.parquet", data[:-3]).reason == "damaged"
    assert skipped_by("a.parquet", data[:40] + bytes(40) + data[80:]).reason in ("damaged", "empty")
    assert skipped_by("a.parquet", b"col\n1\n").reason == "wrong_type"
    assert skipped_by("a.parquet", parquet_bytes({"a": []})).reason == "empty"


def test_every_table_of_an_sqlite_file_is_read_and_nothing_in_it_is_run() -> None:
    script = """
        CREATE TABLE "odd ""name" (text, label); INSERT INTO "odd ""name" VALUES ('hello', 'x'), ('there', 'y');
        CREATE TABLE plain (a INTEGER, b BLOB); INSERT INTO plain VALUES (1, x'ff00'), (2, NULL);
        CREATE TABLE none (a);
        CREATE VIEW endless AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c;
    """
    data = sqlite_bytes(script)
    texts = {parsed.part: parsed.text for parsed in parse_bytes("a.db", data)}
    assert texts == {
        'row 1 of odd "name': "hello",
        'row 2 of odd "name': "there",
        "table plain": "a: 1\nb: (2 bytes)\n\na: 2",
    }
    in_wal_mode = data[:18] + b"\2\2" + data[20:]
    assert len(parse_bytes("a.txt", in_wal_mode)) == 3
    assert skipped_by("a.sqlite", data[:100] + bytes(400)).reason in ("damaged", "empty")
    assert skipped_by("a.sqlite", sqlite_bytes("CREATE TABLE t (a)")).reason == "empty"
    assert skipped_by("a.sqlite", b"SQLite format 3\0" + b"\xff" * 4000).reason == "damaged"


def test_the_postgres_dump_and_the_sqlite_file_of_chinook_hold_the_same_rows() -> None:
    if not CHINOOK.is_dir():
        pytest.skip(f"no database at {CHINOOK}")
    dump = read_dump((CHINOOK / "Chinook_PostgreSql.sql").read_text())
    counts = {table.replace("_", ""): len(rows) for table, rows in dump.rows.items()}
    connection = sqlite3.connect(f"file:{CHINOOK / 'Chinook_Sqlite.sqlite'}?mode=ro", uri=True)
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    expected = {n.lower(): connection.execute(f'SELECT count(*) FROM "{n}"').fetchone()[0] for n in names}
    assert counts == expected and len(counts) == 11 and not dump.cut_off
    albums = connection.execute("SELECT AlbumId, Title, ArtistId FROM Album ORDER BY AlbumId").fetchall()
    assert [tuple(row) for row in sorted(dump.rows["album"])] == albums
    again = read_dump("\n".join(connection.iterdump()))
    assert {table.lower(): len(rows) for table, rows in again.rows.items()} == expected
    assert again.columns["Album"] == ["AlbumId", "Title", "ArtistId"]
    texts = parse_bytes("Chinook_Sqlite.sqlite", (CHINOOK / "Chinook_Sqlite.sqlite").read_bytes())
    assert sum(text.text.count("TrackId: ") for text in texts if text.part.endswith("of Track")) == 3503
    connection.close()


def test_dumps_of_mysql_and_postgres_are_read_without_being_run() -> None:
    mysql = read_dump(
        "-- MySQL dump 10.13\n/*!40101 SET NAMES utf8 */;\nDROP DATABASE x;\n"
        "CREATE TABLE `t` (\n `id` int(11) NOT NULL,\n `body` text COMMENT 'a, (b',\n PRIMARY KEY (`id`)\n)"
        " ENGINE=InnoDB;\nINSERT INTO `t` VALUES (1,'it\\'s; \\\"so\\\" \\\\ \\n new'),(2,NULL),(3,'a''b'),"
        "(4,_binary 'x\\0y'),(5,0xFF);\n"
        "DELIMITER ;;\nCREATE TRIGGER x BEGIN INSERT INTO t VALUES (9,'no'); END ;;\nDELIMITER ;\n"
        "INSERT INTO `t` (`body`,`id`) VALUES ('swapped',6);\n"
    )
    assert mysql.columns == {"t": ["id", "body"]} and not mysql.cut_off
    assert mysql.rows["t"][:3] == [[1, 'it\'s; "so" \\ \n new'], [2, None], [3, "a'b"]]
    assert mysql.rows["t"][3:] == [[4, "(7 bytes)"], [5, "(2 bytes)"], [6, "swapped"]]
    postgres = read_dump(
        "--\n-- PostgreSQL database dump\n--\n\\restrict abc\nCREATE TABLE public.t (id integer, body text);\n"
        "COPY public.t (id, body) FROM stdin;\n1\ta\\tb\\\\c\n2\t\\N\n3\t\\101\\8\\²\n\\.\n"
        "CREATE FUNCTION f() RETURNS x AS $$ INSERT INTO t VALUES (1,2); $$ LANGUAGE sql;\n"
        "INSERT INTO public.t VALUES (3, 'c:\\new'), (4, E'a\\nb'), (5, now()), (-6, 'x'::text);\n"
        "INSERT INTO t SELECT * FROM u;\nINSERT INTO t VALUES (7, 'cut"
    )
    rows = [["1", "a\tb\\c"], ["2", None], ["3", "A8²"], [3, "c:\\new"], [4, "a\nb"], [5, "now()"], [-6, "x"]]
    assert postgres.rows == {"t": rows} and postgres.cut_off and postgres.other_statements == 2
    (script,) = parse_bytes("a.sql", b"SELECT 1;\n-- only a query\n")
    assert script.text == "SELECT 1;\n-- only a query\n"


def test_hostile_dumps_end_quickly() -> None:
    for script in (
        "'" * 200_001,
        "(" * 200_000,
        "/*" * 100_000,
        "INSERT INTO t VALUES " + "(" * 100_000,
        "$a$" * 50_001,
        "@" * 200_000,
        "9" * 200_000 + "x;",
    ):
        assert not read_dump(script).rows
    (row,) = read_dump(f"INSERT INTO t VALUES ({'9' * 200_000}x, 1abc, 1.5e, 2.5e3, .5, -1.);").rows["t"]
    assert row[1:] == ["1abc", "1.5e", 2500.0, 0.5, -1.0] and len(row[0]) == 200_001
    assert read_dump("INSERT INTO t VALUES ('" + "x''" * 300_000 + "')").rows["t"][0][0].startswith("x'x'")
