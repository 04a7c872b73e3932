"""Collection of users' files: every family, every kind of broken file, and inputs from the database."""

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from collecting import documents_of, make_context

from soldiom_ray.artifacts import Context
from soldiom_ray.collect import collect
from soldiom_ray.collect.documents import parse_bytes
from soldiom_ray.collect.documents.parsed import ParseOptions
from soldiom_ray.collect.documents.sandbox import Sandbox, _read_reply
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.file_types import FAMILY_OF_ENDING
from soldiom_ray.domains.sources import FilesSource
from soldiom_ray.errors import InputError
from soldiom_ray.records import Manifest

DATA = Path(__file__).parents[2] / "shared" / "data" / "documents"


def gather(home: Path, **declared: Any) -> tuple[Context, Manifest]:
    context = make_context(home)
    return context, collect(context, [FilesSource(source="files", **declared)])


def outcome_of(name: str, data: bytes) -> str:
    with pytest.raises(SkippedError) as raised:
        parse_bytes(name, data)
    return raised.value.reason


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
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
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
    unrecognized = {"unrecognized_columns": ["name", "city", "column 3"]}
    assert parsed.metadata == unrecognized | {
        "delimiter": ";",
        "rows": 3,
        "ragged_rows": 2,
        "encoding": "windows-1252",
    }
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
    assert texts[0].metadata == {"bad_lines": 1, "records": 3, "columns": {"text": "text"}}
    assert texts[1].metadata["columns"] == {"messages": "messages"}
    assert parse_bytes("a.json", b'{"a": 1, "b": "x"}')[0].text == "a: 1\nb: x"
    assert outcome_of("a.json", b"{broken") == "damaged"


def test_a_page_is_what_its_reader_sees() -> None:
    head = b"<html><head><title>T</title><style>x{}</style></head>"
    body = b"<body><nav>menu</nav><h2>Head</h2><p>One <b>two</b></p><ul><li>a<li>b</ul><script>no()</script></body>"
    (parsed,) = parse_bytes("a.html", head + body)
    assert parsed.text == "## Head\n\nOne two\n\n- a\n- b"
    assert parsed.metadata == {"title": "T", "skipped": {"nav": 1, "script": 1, "style": 1}}


def test_each_kind_of_bad_file_has_its_own_outcome() -> None:
    assert outcome_of("a.txt", b"  ") == "empty"
    assert outcome_of("a.csv", b"only,a,header\n") == "empty"
    assert outcome_of("a.pdf", b"just words") == "wrong_type"
    assert outcome_of("a.docx", pdf_bytes("x")) == "wrong_type"
    assert outcome_of("a.pdf", pdf_bytes("x")[:120]) == "damaged"
    assert outcome_of("a.docx", docx_bytes()[:900]) == "damaged"
    assert outcome_of("a.txt", b"7z\xbc\xaf\x27\x1c\0\4") == "unsupported"
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
        with pytest.raises(SkippedError) as raised:
            sandbox.parse("deep.json", deep)
        assert raised.value.reason in ("damaged", "crashed")
        with pytest.raises(SkippedError) as raised:
            sandbox.parse("large.csv", b"a,b\n" + b"x,y\n" * 20_000_000)
        assert raised.value.reason in ("too_complex", "crashed", "timeout")
        assert sandbox.parse("b.txt", b"fine too")[0].text == "fine too"
        assert first is not None
        sandbox.wall_seconds = 0.0
        with pytest.raises(SkippedError) as raised:
            sandbox.parse("c.pdf", pdf_bytes("x"))
        assert raised.value.reason == "timeout" and sandbox.process is None
        sandbox.wall_seconds = 20
        assert sandbox.parse("c.pdf", pdf_bytes("x"))[0].text == "x"


def test_the_parser_sees_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLDIOM_GITHUB_TOKEN", "secret")
    with Sandbox() as sandbox:
        sandbox.parse("a.txt", b"x")
        assert sandbox.process is not None
        if sys.platform == "linux":
            assert b"secret" not in Path(f"/proc/{sandbox.process.pid}/environ").read_bytes()


def test_options_go_into_the_parsers_process_and_attachments_and_pictures_come_out() -> None:
    with Sandbox() as sandbox:
        (row,) = sandbox.parse("a.csv", b"id,Body\n1,words\n", ParseOptions(columns={"text": "Body"}))
        assert (row.text, row.part, row.metadata["columns"]) == ("words", "row 1", {"text": "Body"})
        with pytest.raises(SkippedError) as raised:
            sandbox.parse("a.csv", b"id,Body\n1,words\n", ParseOptions(columns={"text": "Story"}))
        assert raised.value.reason == "wrong_columns"
    answer = {"texts": [["t", "", {}, [[{"second": 1}, 2], [{"second": 2}, 3]], 0], ["u", "p", {}, [], 4]]}
    first, second = _read_reply(answer, b"abcdefghi").texts
    assert [(a.data, a.metadata) for a in first.attachments] == [(b"ab", {"second": 1}), (b"cde", {"second": 2})]
    assert (first.image, second.attachments, second.image) == (None, (), b"fghi")


CONFINED = """
import os, socket, subprocess, sys
from soldiom_ray.collect.documents.confine import confine
print(confine(2 << 30))
def tried(action):
    try:
        action()
    except (OSError, PermissionError) as error:
        return "refused"
    return "done"
print([
    tried(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2)),
    tried(lambda: open(sys.argv[2] + "/new", "w")),
    tried(lambda: os.remove(sys.argv[2] + "/there")),
    tried(lambda: subprocess.run(["true"])),
    tried(lambda: os.kill(os.getppid(), 0)),
    tried(lambda: open(sys.argv[2] + "/there").read()),
])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's filters of Linux")
def test_the_parsers_process_reaches_no_network_writes_nothing_and_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as server:
        arguments = [str(server.getsockname()[1]), str(tmp_path)]
        ran = subprocess.run([sys.executable, "-c", CONFINED, *arguments], capture_output=True, text=True, check=True)
    held, results = ran.stdout.splitlines()
    if "system calls" not in held:
        pytest.skip("this kernel gives no filter of system calls")
    assert results == str(["refused"] * 5 + ["done"])
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_process_that_dies_or_falls_silent_costs_one_file_and_signs_of_life_put_that_off() -> None:
    with Sandbox(wall_seconds=1.0) as sandbox:
        assert sandbox.parse("a.txt", b"x")[0].text == "x"
        assert sandbox.process is not None
        sandbox.process.kill()
        sandbox.process.wait()
        assert sandbox.parse("a.txt", b"y")[0].text == "y"
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb", 0) as pipe:
            beats = threading.Thread(target=_beat, args=(writing,))
            beats.start()
            assert sandbox._receive_frame(pipe) == b"late"
            beats.join()


def _beat(pipe: int) -> None:
    for _ in range(3):
        time.sleep(0.6)
        os.write(pipe, b"\xff" * 8)
    time.sleep(0.6)
    os.write(pipe, (4).to_bytes(8, "big") + b"late")
    os.close(pipe)


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


EXPECTED = {
    "csv/csv-comma-in-cell.csv": "4: d",
    "csv/csv-comma.csv": "Company: Rasmussen Group",
    "csv/csv-inconsistent-header.csv": "column 4: d",
    "csv/csv-semicolon.csv": "Company: Rasmussen Group",
    "csv/csv-tab.csv": "Company: Rasmussen Group",
    "csv/csv-too-few-columns.csv": "2: 'b'",
    "derived/empty.pdf": SkippedError("empty", "no bytes"),
    "derived/latin1.csv": "José Müller",
    "derived/not_a_pdf.pdf": SkippedError("wrong_type", "named .pdf but is text"),
    "docx/docx_lists.docx": "- List item 1",
    "docx/tablecell.docx": "Some text before",
    "docx/unit_test_headers.docx": "## Section 1.1",
    "docx/word_sample.docx": "# Swimming in the lake",
    "docx/word_tables.docx": "Header 0.0 | Header 0.1 | Header 0.2",
    "email/eml_simple.eml": "Simple Email\n\nHello Bob,",
    "epub/epub_purvis_poetry.epub": "By Sarah Louisa Forten Purvis.",
    "html/formatting.html": "# HTML Text Formatting Examples",
    "html/wiki_duck.html": "Duck",
    "md/nested.md": "\t- abc123",
    "md/wiki.md": "International Business Machines",
    "odf/text_document_01.odt": "# heading level 1.0",
    "pypdf/crazyones.txt": "The Crazy Ones",
    "pypdf/passwords.json": "libreoffice",
}
"""What every file of the folder gives: a piece of its text, or the outcome and its reason. PDF, pictures, sound and
film have tests of their own."""
OTHERS = ("pdf", "image", "audio", "video")


def test_every_real_file_gives_its_text_or_says_why_not(tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip(f"no documents at {DATA}")
    files = {path.relative_to(DATA).as_posix(): path for path in sorted(DATA.rglob("*")) if path.is_file()}
    descriptions = {name for name in files if Path(name).name.startswith(("LICENSE", "SOURCE")) or "transcript" in name}
    others = {name for name in files if FAMILY_OF_ENDING.get(Path(name).suffix) in OTHERS} - EXPECTED.keys()
    assert files.keys() - descriptions - others == EXPECTED.keys()
    for name, expected in EXPECTED.items():
        if isinstance(expected, SkippedError):
            with pytest.raises(SkippedError) as raised:
                parse_bytes(name, files[name].read_bytes())
            assert (raised.value.reason, raised.value.detail) == (expected.reason, expected.detail), name
        else:
            assert expected in parse_bytes(name, files[name].read_bytes())[0].text, name


def test_a_folder_of_real_documents_is_collected(tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip(f"no documents at {DATA}")
    context, manifest = gather(tmp_path, paths=(str(DATA / "docx"), str(DATA / "csv"), str(DATA / "derived")))
    rows = {row["path"]: row["text"] for row in documents_of(context, manifest)}
    assert "José Müller" in rows["derived/latin1.csv"] and len(rows) >= 12
    assert "Header 0.0 | Header 0.1 | Header 0.2" in rows["docx/word_tables.docx"]
    dropped = {row["path"]: row["reason"] for row in context.artifacts.rows(manifest, "dropped/")}
    assert dropped["derived/empty.pdf"] == "empty" and dropped["derived/not_a_pdf.pdf"] == "wrong_type"


def test_inputs_of_users_are_read_from_database_and_storage(tmp_path: Path, postgres_url: str) -> None:
    from soldiom_ray.db import inputs
    from soldiom_ray.db.engine import migrate, open_session

    context = make_context(tmp_path, SOLDIOM_DATABASE_URL=postgres_url)
    migrate(context.settings)
    context.artifacts.storage.write("inputs/lease", docx_bytes())
    upload = {"sha256": "0" * 64, "size_bytes": 1, "user_id": "ann"}
    with open_session(context.settings) as session:
        ids = [
            inputs.add(session, input_type="text", content="Only words.", **upload).id,
            inputs.add(session, input_type="structured", content='{"question": "Why?", "answer": "So."}', **upload).id,
            inputs.add(
                session, input_type="file", content="inputs/lease", metadata={"file_name": "l.docx"}, **upload
            ).id,
            inputs.add(session, input_type="file", content="inputs/gone", metadata={"file_name": "g.pdf"}, **upload).id,
        ]
        foreign = inputs.add(session, input_type="text", content="x", tenant="other", **upload).id
    manifest = collect(context, [FilesSource(source="files", inputs=tuple(ids))])
    texts = [row["text"] for row in documents_of(context, manifest)]
    assert texts[:2] == ["Only words.", "Why?\n\nSo."] and texts[2].startswith("# Lease")
    assert manifest.details["outcomes"] == {"collected": 3, "unreadable": 1}
    with pytest.raises(InputError, match=foreign):
        collect(context, [FilesSource(source="files", inputs=(foreign,))])
