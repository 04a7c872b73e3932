"""What files tell beside their text: conversations, corrections, times, scans that were read, members left out."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from collecting import documents_of, make_context

from soldiom_ray.artifacts import Context
from soldiom_ray.collect import collect
from soldiom_ray.collect.files import shown_group
from soldiom_ray.domains.schema import Prepare, SplitRule
from soldiom_ray.domains.sources import FilesSource
from soldiom_ray.prepare import prepare
from soldiom_ray.records import Manifest


def gather(home: Path, name: str, data: bytes, **declared: Any) -> tuple[Context, Manifest, list[dict[str, Any]]]:
    (home / "given").mkdir(parents=True, exist_ok=True)
    (home / "given" / name).write_bytes(data)
    context = make_context(home)
    manifest = collect(context, [FilesSource(source="files", paths=(str(home / "given" / name),), **declared)])
    rows = documents_of(context, manifest)
    return context, manifest, [row | {"about": json.loads(row["metadata"])} for row in rows]


def test_questions_and_conversations_keep_who_says_what(tmp_path: Path) -> None:
    table = b"Query,Response,Correction,Date\nWho?,Ann,Bob,2026-01-02\nWhen?,May,,2026-02-03\n"
    _, manifest, rows = gather(tmp_path / "a", "feedback.csv", table)
    assert [row["text"] for row in rows] == ["Who?\n\nBob", "When?\n\nMay"]
    assert rows[0]["about"]["messages"] == [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Bob"},
    ]
    assert rows[0]["about"]["time"] == "2026-01-02" and manifest.details["data_type"] == "structured"
    expected = {"question": ["Query"], "output": ["Response"], "correction": ["Correction"], "time": ["Date"]}
    assert manifest.details["columns"] == expected
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
    _, _, rows = gather(tmp_path / "b", "talk.jsonl", json.dumps({"conversations": turns}).encode())
    assert [turn["role"] for turn in rows[0]["about"]["messages"]] == ["user", "assistant"]


def test_the_newest_rows_are_held_out_by_time(tmp_path: Path) -> None:
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu"
    lines = [
        f"Is number {n} of the {words} known {n}?,It is {n} times {words[n % 9 :]} {n},2026-01-{n + 1:02d}"
        for n in range(20)
    ]
    context, manifest, _ = gather(tmp_path, "qa.csv", ("question,answer,time\n" + "\n".join(lines)).encode())
    declared = Prepare(filters=("min_words",), split=SplitRule(by="time", test=0.2, validation=0.1), redact=())
    dataset = prepare(context, [manifest], declared)
    test = [row["text"] for row in context.artifacts.rows(dataset, "test/")]
    assert len(test) == 4 and all(any(f"known {n}?" in text for n in range(16, 20)) for text in test)
    assert dataset.details["split"]["test_by"] == "time"
    sample = next(context.artifacts.rows(dataset, "train/"))
    assert [turn["role"] for turn in json.loads(sample["messages"])] == ["user", "assistant"]


def test_a_scan_that_was_read_is_counted_and_does_not_stop_the_batch(tmp_path: Path) -> None:
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("RGB", (1000, 400), "white")
    ImageDraw.Draw(page).text((60, 120), "The lease ends in May", "black", ImageFont.load_default(64))
    sink = io.BytesIO()
    page.save(sink, format="PDF")
    _, manifest, rows = gather(tmp_path, "scan.pdf", sink.getvalue())
    assert manifest.details["ocr_pages"] == 1 and "lease ends" in rows[0]["text"]


def test_members_of_an_archive_that_are_left_out_are_counted_and_named(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("good.txt", "some good words")
        archive.writestr("bad.pdf", "no pdf at all")
        archive.writestr("../evil.txt", "outside")
    context, manifest, rows = gather(tmp_path, "letters.zip", sink.getvalue())
    assert [row["text"].strip() for row in rows] == ["some good words"]
    assert manifest.details["outcomes"] == {"collected": 1, "member_unsafe_path": 1, "member_wrong_type": 1}
    dropped = {row["path"]: row["reason"] for row in context.artifacts.rows(manifest, "dropped/")}
    assert dropped["letters.zip!bad.pdf"] == "member_wrong_type"


def test_rows_name_their_own_licence_and_what_they_belong_to(tmp_path: Path) -> None:
    table = b"text,licence,conversation_id\nfirst words,MIT,a\nsecond words,,a\nthird words,cc-by-4.0,b\n"
    _, _, rows = gather(tmp_path, "notes.csv", table, license="Apache-2.0")
    assert [row["license"] for row in rows] == ["MIT", "Apache-2.0", "CC-BY-4.0"]
    assert rows[0]["group"] == rows[1]["group"] != rows[2]["group"] and "#a" not in rows[0]["group"]
    assert {row["language"] for row in rows} == {""}


@pytest.mark.parametrize(
    ("name", "column", "is_shown"),
    [
        ("peft", "package", True),
        ("Pokemon GO Terms of Service", "doc", True),
        ("chapter 3", "group", True),
        ("peft", "user", False),
        ("a", "conversation_id", False),
        ("Jane Doe", "group", False),
        ("Doe, Jane", "group", False),
        ("jane.doe@corp-mail.com", "group", False),
        ("4915112345678", "group", False),
        ("0815", "group", False),
    ],
)
def test_a_group_is_shown_by_its_name_unless_it_may_be_of_a_person(name: str, column: str, is_shown: bool) -> None:
    assert (shown_group(name, column) == name) is is_shown


def test_groups_named_by_a_column_are_held_out_by_their_names(tmp_path: Path) -> None:
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu"
    lines = ["package,question,answer\n"] + [
        f"{('peft', 'rich', 'typer')[n % 3]},Is {words[n:]} {n}?,It is {n} times {words[:n]} {n}\n" for n in range(18)
    ]
    context, manifest, _ = gather(tmp_path, "qa.csv", "".join(lines).encode(), columns={
        "question": "question", "answer": "answer", "group": "package"})  # fmt: skip
    split = SplitRule(test=0, validation=0, test_groups=("peft",))
    dataset = prepare(context, [manifest], Prepare(filters=(), split=split, redact=()))
    assert {row["group"].rpartition("#")[2] for row in context.artifacts.rows(dataset, "test/")} == {"peft"}
    assert not any(row["group"].endswith("#peft") for row in context.artifacts.rows(dataset, "train/"))
