"""Preferred and rejected answers, labels, and sources with their targets, from files to samples."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from preparing import context_in

from soldiom_ray.artifacts import Context
from soldiom_ray.cli.mapping import joined_mapping, mapping_lines, sample_lines, samples_of
from soldiom_ray.collect import collect
from soldiom_ray.domains.schema import Prepare, SplitRule
from soldiom_ray.domains.sources import FilesSource
from soldiom_ray.prepare import prepare
from soldiom_ray.records import Manifest

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
ASKED, TOLD = {"role": "user", "content": "Is it late?"}, {"role": "assistant", "content": "It is noon."}
WORSE = {"role": "assistant", "content": "Who knows, ask jane.doe@corp-mail.com."}


def made(home: Path, path: Path, columns: Mapping[str, str] | None = None, **how: Any) -> tuple[Context, Manifest]:
    context = context_in(home)
    documents = collect(context, [FilesSource(paths=(str(path),), columns=dict(columns or {}))])
    declared = Prepare(**{"filters": (), "split": SplitRule(test=0, validation=0)} | how)
    return context, prepare(context, [documents], declared)


def samples(context: Context, dataset: Manifest) -> list[dict[str, Any]]:
    rows = [row for split in ("train", "validation", "test") for row in context.artifacts.rows(dataset, f"{split}/")]
    return [row | {"about": json.loads(row["metadata"])} for row in rows]


def prepared(folder: Path, rows: Sequence[Any], columns: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return samples(*made(folder / "home", folder / "rows.jsonl", columns))


@pytest.mark.parametrize(
    "pair",
    [
        {"prompt": ASKED["content"], "chosen": TOLD["content"], "rejected": WORSE["content"]},
        {"prompt": ASKED["content"], "chosen": [ASKED, TOLD], "rejected": [ASKED, WORSE]},
        {"question": ASKED["content"], "chosen": [TOLD], "rejected": [WORSE]},
        {"chosen": [ASKED, TOLD], "rejected": [ASKED, WORSE]},
        {
            "chosen": "\n\nHuman: Is it late?\n\nAssistant: It is noon.",
            "rejected": "\n\nHuman: Is it late?\n\nAssistant: Who knows, ask jane.doe@corp-mail.com.",
        },
    ],
)
def test_every_usual_form_of_a_preference_is_a_conversation_and_what_was_rejected(tmp_path: Path, pair: Any) -> None:
    (row,) = prepared(tmp_path, [pair])
    assert json.loads(row["messages"]) == [ASKED, TOLD]
    assert row["about"]["rejected"] == "Who knows, ask <EMAIL>."
    assert "Is it late?" in row["text"] and "Who knows" not in row["text"]


def test_pairs_that_teach_nothing_are_dropped_with_their_reason(tmp_path: Path) -> None:
    again = {"role": "user", "content": "Is it early?"}
    rows = [
        {"prompt": "Is it late?", "chosen": "It is noon.", "rejected": "Who knows."},
        {"prompt": "Is it late now?", "chosen": "It is noon.", "rejected": " It is noon. "},
        {"prompt": "", "chosen": [again, TOLD], "rejected": [ASKED, WORSE]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    context, dataset = made(tmp_path / "home", tmp_path / "rows.jsonl")
    assert len(samples(context, dataset)) == 1
    assert {row["reason"] for row in context.artifacts.rows(dataset, "dropped/")} == {
        "rejected_is_chosen",
        "other_prompt",
    }


def test_columns_of_pairs_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("q,good,bad\nIs it late?,It is noon.,Who knows.\n")
    columns = {"question": "q", "chosen": "good", "rejected": "bad"}
    (row,) = samples(*made(tmp_path / "home", tmp_path / "rows.csv", columns))
    assert json.loads(row["messages"]) == [ASKED, TOLD] and row["about"]["rejected"] == "Who knows."


def test_labels_of_every_form_reach_the_sample_whatever_stands_beside_them(tmp_path: Path) -> None:
    rows = [
        {"text": "one word more", "label": "spam", "note": "x" * 3000},
        {"text": "another text", "label": 3},
        {"text": "a third one", "label": ["hate", 2]},
        {"text": "a fourth here", "label": []},
        {"text": "no label here", "label": None},
        {"text": "a holed column", "label": 1.0},
        {"text": "it is so", "label": True},
    ]
    labels = {row["text"].strip(): row["about"].get("label") for row in prepared(tmp_path, rows)}
    assert labels == {
        "one word more": "spam",
        "another text": "3",
        "a third one": ["hate", "2"],
        "a fourth here": [],
        "no label here": None,
        "a holed column": "1",
        "it is so": "true",
    }


def test_several_columns_of_marks_are_one_list_of_labels(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = {"comment": ["you are kind", "you are awful"], "toxic": [0, 1], "insult": [False, True], "threat": [0, 0]}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    columns = {"text": "comment", "label": "toxic,insult,threat"}
    context, dataset = made(tmp_path / "home", tmp_path / "rows.parquet", columns)
    labels = {row["text"].strip(): row["about"]["label"] for row in samples(context, dataset)}
    assert labels == {"you are kind": [], "you are awful": ["toxic", "insult"]}
    assert dataset.details["labels"] == {"insult": {"train": 1}, "toxic": {"train": 1}}


def test_a_set_s_own_division_holds_when_its_column_is_named(tmp_path: Path) -> None:
    rows = [{"text": f"text number {n} of them", "part": ("train", "dev", "test")[n % 3]} for n in range(9)]
    dataset = prepared(tmp_path, rows, {"text": "text", "split": "part"})
    sides = Counter((int(row["text"].split()[2]) % 3, row["split"]) for row in dataset)
    assert sides == {(0, "train"): 3, (1, "validation"): 3, (2, "test"): 3}


def test_calls_and_tools_reach_the_sample_with_what_is_private_in_them_redacted(tmp_path: Path) -> None:
    call = {"name": "send", "arguments": json.dumps({"to": "jane.doe@corp-mail.com", "copies": 2})}
    tools = [{"type": "function", "function": {"name": "send", "description": "Sends a letter"}}]
    turns = [
        ASKED,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "c1", "content": "sent to jane.doe@corp-mail.com"},
        TOLD,
    ]
    (row,) = prepared(tmp_path, [{"messages": turns, "tools": tools}])
    asked, called, result, told = json.loads(row["messages"])
    assert asked == ASKED | {"tools": tools} and told == TOLD
    assert called["tool_calls"][0]["function"]["arguments"] == {"to": "<EMAIL>", "copies": 2}
    assert result == {"role": "tool", "content": "sent to <EMAIL>", "tool_call_id": "c1"}
    assert 'assistant: {"name": "send", "arguments": {"to": "<EMAIL>", "copies": 2}}' in row["text"]


def test_records_that_cannot_be_taught_are_counted_and_named(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Is it late?", "completion": "It is noon.", "label": True},
        {"prompt": "Is it early?", "completion": "Who knows.", "label": False},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    context = context_in(tmp_path / "home")
    documents = collect(context, [FilesSource(paths=(str(tmp_path / "rows.jsonl"),))])
    assert documents.details["outcomes"] == {"collected": 1, "record_bad_answer": 1}
    (drop,) = context.artifacts.rows(documents, "dropped/")
    assert (drop["path"], drop["reason"]) == ("rows.jsonl#record 2", "record_bad_answer")
    assert drop["value"] == "label is false"


def test_the_mapping_says_what_became_of_columns_and_speakers_and_shows_what_is_taught(tmp_path: Path) -> None:
    turns = [{"role": "customer", "content": "Is it late?"}, {"role": "agent", "content": "It is noon."}]
    rows = [{"messages": turns, "topic": "time"}, {"messages": turns[:1], "topic": ""}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    context, dataset = made(tmp_path / "home", tmp_path / "rows.jsonl")
    assert mapping_lines(joined_mapping(context.artifacts, dataset)) == [
        "Columns: messages = messages   (to choose others: --column ROLE=COLUMN)",
        "Speakers: agent = assistant (a guess), customer = user (a guess)   (to choose: --column user=NAME)",
        "Left out of records that were kept: column topic (1)",
        "Refused records: no_answer (1)",
    ]
    assert sample_lines(samples_of(context.artifacts, dataset)) == [
        "Sample 1 as a model reads it; what it learns to say is marked with |",
        "  user: Is it late?",
        "| assistant: It is noon.",
    ]


def test_a_table_of_which_no_column_is_recognised_says_so_and_how_to_name_them(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("frage,antwort\nIs it late?,It is noon.\nWhy?,So.\n")
    context, dataset = made(tmp_path / "home", tmp_path / "rows.csv")
    (line,) = mapping_lines(joined_mapping(context.artifacts, dataset))
    assert line.startswith("No column of rows.csv was recognised, so its rows are texts: frage, antwort.")
    assert "--column question=COLUMN --column answer=COLUMN" in line


@needs_data
def test_the_real_preference_pairs(tmp_path: Path) -> None:
    context, dataset = made(tmp_path, DATA / "instruct_short" / "preferences.jsonl")
    rows = samples(context, dataset)
    pairs = [json.loads(line) for line in (DATA / "instruct_short" / "preferences.jsonl").read_text().splitlines()]
    rejected = {pair["rejected"].strip() for pair in pairs}
    same = sum(pair["rejected"].strip() == pair["chosen"].strip() for pair in pairs)
    assert dataset.counts["dropped_rejected_is_chosen"] == same > 0 and len(rows) > 980
    assert all(json.loads(row["messages"])[-1]["role"] == "assistant" for row in rows)
    assert sum(row["about"]["rejected"] in rejected for row in rows) > 0.98 * len(rows)


@needs_data
@pytest.mark.parametrize(
    ("path", "text", "label"),
    [("moderation_sms/train.jsonl", "text", "label"), ("moderation_hatespeech/train.jsonl", "tweet", "class")],
)
def test_real_labelled_texts_stay_whole_each_with_its_own_label(
    tmp_path: Path, path: str, text: str, label: str
) -> None:
    given = [json.loads(line) for line in (DATA / path).read_text().splitlines()][:1500]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    context, dataset = made(tmp_path / "home", tmp_path / "train.jsonl", redact=())
    labels: dict[str, set[str]] = {}
    for row in given:
        labels.setdefault(" ".join(row[text].split()), set()).add(row[label])
    labelled = [(" ".join(row["text"].split()), row["about"]["label"]) for row in samples(context, dataset)]
    assert dataset.counts["kept"] + dataset.counts.get("dropped_exact_duplicate", 0) == len(given)
    whole = [one in labels[text] for text, one in labelled if text in labels]
    assert all(whole) and len(whole) > 0.97 * len(labelled)


@needs_data
def test_a_real_translation_is_a_question_and_its_answer(tmp_path: Path) -> None:
    path = DATA / "translation_darija" / "train.jsonl"
    context, dataset = made(tmp_path, path, {"source": "english", "target": "darija"})
    rows = map(json.loads, path.read_text().splitlines())
    pairs = {(row["english"].strip(), row["darija"].strip()) for row in rows}
    turns = [json.loads(row["messages"]) for row in samples(context, dataset)]
    assert all([turn["role"] for turn in two] == ["user", "assistant"] for two in turns)
    same = sum((question["content"], answer["content"]) in pairs for question, answer in turns)
    assert same > 0.95 * len(turns) and len(turns) > 9000
