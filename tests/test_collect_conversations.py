"""Conversations, pairs and answers in the forms that the field writes them: read whole, or refused and counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from soldiom_ray.collect.documents import parse_bytes
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError

REPORTED = Path(__file__).parents[2] / "shared" / "data" / "reported"
PLAIN = Path(__file__).parents[2] / "shared" / "data" / "legal_plain_english"
needs_reported = pytest.mark.skipif(not REPORTED.is_dir(), reason=f"no reported inputs at {REPORTED}")

USER, TOLD = {"role": "user", "content": "Is it late?"}, {"role": "assistant", "content": "It is noon."}
SYSTEM = {"role": "system", "content": "Be brief."}
HUMAN, GPT = {"from": "human", "value": "Is it late?"}, {"from": "gpt", "value": "It is noon."}
CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}


def read(records: list[Any], **columns: str) -> list[ParsedText]:
    lines = "\n".join(json.dumps(record) for record in records)
    return parse_bytes("a.jsonl", lines.encode(), ParseOptions(columns=columns))


def messages(record: Any, **columns: str) -> list[dict[str, Any]]:
    (text,) = read([record], **columns)
    return text.metadata.get("messages", [])  # type: ignore[no-any-return]


def refusal(record: Any) -> str:
    with pytest.raises(SkippedError) as raised:
        read([record])
    return raised.value.reason


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, TOLD]},
        {"messages": [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in (USER, TOLD)]},
        {"messages": {"role": ["user", "assistant"], "content": ["Is it late?", "It is noon."]}},
        {"messages": json.dumps([USER, TOLD])},
        {"messages": [["user", "Is it late?"], ["assistant", "It is noon."]]},
        {"conversations": [HUMAN, GPT]},
        {"conversation": [{"human": "Is it late?", "assistant": "It is noon."}]},
        {"dialogue": [{"speaker": "Customer", "text": "Is it late?"}, {"speaker": "Agent", "text": "It is noon."}]},
        {"id": "0", "data": ["Is it late?", "It is noon."]},
        {"prompt": "Is it late?", "completion": "It is noon."},
        {"prompt": [USER], "completion": [TOLD]},
        {"prompt": "Is it late?", "completion": "It is noon.", "label": True},
        {"prompt": [USER], "completion": [TOLD], "label": True},
        {"instruction": "Is it late?", "context": "", "response": "It is noon.", "category": "open_qa"},
        {"user": "Is it late?", "assistant": "It is noon."},
        {"question": "Is it late?", "answers": {"text": ["It is noon.", "noon"], "answer_start": [0, 6]}},
        {"question": "Is it late?", "answer": {"value": "It is noon.", "aliases": ["noon"]}},
        {"prompt": "Is it late?", "completion": "It is noon.", "rating": 5},
        {"prompt": "Is it late?", "completions": ["It is noon."], "labels": [True]},
        {"prompt": [USER], "chosen": [TOLD], "rejected": [{"role": "assistant", "content": "Who knows."}]},
        {"original_text": "Is it late?", "reference_summary": "It is noon."},
        {"id": "a", "items": [HUMAN, GPT]},
        {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "Who knows."}},
        {"prompt": "\n\nHuman: Is it late?\n\nAssistant:", "chosen": " It is noon.", "rejected": " Who knows."},
        {
            "input": {"messages": [USER]},
            "preferred_output": [TOLD],
            "non_preferred_output": [TOLD | {"content": "No."}],
        },
        {"messages": [USER, TOLD], "label": True},
        {"problem": "Is it late?", "solution": "It is noon."},
        {"input": "Is it late?", "target": "It is noon."},
        {"question": "Is it late?", "distractor1": "It is night.", "correct_answer": "It is noon."},
    ],
)
def test_every_form_of_one_exchange_is_the_same_two_messages(record: Any) -> None:
    assert messages(record) == [USER, TOLD]


@pytest.mark.parametrize(
    "record",
    [
        {"system": "Be brief.", "conversations": [HUMAN, GPT]},
        {"conversations": [{"from": "system", "value": "Be brief."}, HUMAN, GPT]},
        {"messages": [{"role": "developer", "content": "Be brief."}, USER, TOLD]},
        {"instruction": "Is it late?", "input": "", "output": "It is noon.", "system": "Be brief.", "history": []},
        {"system": "Be brief.", "messages": [SYSTEM, USER, TOLD]},
    ],
)
def test_a_system_turn_comes_first_wherever_it_stands(record: Any) -> None:
    assert messages(record) == [SYSTEM, USER, TOLD]


@pytest.mark.parametrize(
    "record",
    [
        {
            "messages": [
                USER,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "12:00"},
                TOLD,
            ],
            "tools": [CLOCK],
        },
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "function_call": {"name": "clock", "arguments": '{"zone": "UTC"}'},
                },
                {"role": "function", "name": "", "content": "12:00"},
                TOLD,
            ],
            "functions": [CLOCK["function"]],
        },
        {
            "conversations": [
                HUMAN,
                {"from": "function_call", "value": '{"name": "clock", "arguments": {"zone": "UTC"}}'},
                {"from": "observation", "value": "12:00"},
                GPT,
            ],
            "tools": json.dumps([CLOCK["function"]]),
        },
        {
            "messages": [
                USER,
                {"role": "assistant", "content": [{"type": "tool_use", "name": "clock", "input": {"zone": "UTC"}}]},
                {"role": "tool", "content": [{"type": "text", "text": "12:00"}]},
                TOLD,
            ],
            "tools": [{"name": "clock", "input_schema": {"type": "object"}}],
        },
    ],
)
def test_calls_results_and_tools_are_the_same_from_every_dialect(record: Any) -> None:
    assert messages(record) == [
        USER | {"tools": [CLOCK]},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "12:00"},
        TOLD,
    ]


def test_the_history_of_alpaca_comes_before_the_question_with_its_input() -> None:
    record = {
        "instruction": "And now?",
        "input": "In Rome.",
        "output": "One.",
        "history": [["Is it late?", "It is noon."]],
    }
    asked = {"role": "user", "content": "And now?\n\nIn Rome."}
    assert messages(record) == [USER, TOLD, asked, {"role": "assistant", "content": "One."}]


def test_answers_in_a_prompt_are_not_taught_again() -> None:
    later = {"role": "user", "content": "And now?"}
    record = {"prompt": [USER, TOLD, later], "completion": [{"role": "assistant", "content": "One."}]}
    assert messages(record) == [USER, TOLD | {"weight": 0}, later, {"role": "assistant", "content": "One."}]
    for weight in (0, 0.0, False):
        assert messages({"messages": [USER, TOLD | {"weight": weight}, later, TOLD]})[1] == TOLD | {"weight": 0}


@pytest.mark.parametrize(
    "record",
    [
        {"question": "Which?", "choices": ["red", "blue"], "answer": 1},
        {"question": "Which?", "choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "answerKey": "B"},
        {"question": "Which?", "options": {"A": "red", "B": "blue"}, "answer": "B"},
        {"question": "Which?", "choices": ["red", "blue"], "answer": "blue"},
        {"ctx": "Which?", "endings": ["red", "blue"], "label": "1"},
        {"question": "Which?", "opa": "red", "opb": "blue", "cop": 1},
    ],
)
def test_a_multiple_choice_is_asked_with_its_choices_and_answered_with_the_right_one(record: Any) -> None:
    question, answer = messages(record)
    assert (question["content"], answer["content"]) == ("Which?\n\nA. red\nB. blue", "B. blue")


@pytest.mark.parametrize("answer", ["²", "9" * 5000])
def test_a_choice_of_digits_that_are_no_place_is_found_by_its_text(answer: str) -> None:
    record = {"question": "Which?", "choices": ["x", answer], "answer": answer}
    assert messages(record)[1]["content"] == f"B. {answer}"


def test_labels_that_name_classes_are_no_marks() -> None:
    rows = [{"prompt": f"Question {n}", "completion": f"Answer {n}", "label": n} for n in range(3)]
    assert [text.metadata["label"] for text in read(rows)] == ["0", "1", "2"]


def test_numbers_lists_and_objects_are_answers() -> None:
    assert messages({"question": "How many?", "answer": 3})[1]["content"] == "3"
    assert messages({"question": "Which?", "answer": ["a", "b"]})[1]["content"] == "a\n\nb"
    assert messages({"question": "Who?", "answer": {"name": "Ann"}})[1]["content"] == '{"name": "Ann"}'


def test_a_text_with_a_gap_is_read_whole() -> None:
    (text,) = read([{"prefix": "def f():\n    ", "suffix": "\n", "middle": "return 1"}])
    assert text.text == "def f():\n    return 1\n" and "messages" not in text.metadata


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": [{"role": "zorg", "content": "Is it late?"}, TOLD]}, "unknown_role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, TOLD]}, "part_not_text"),
        ({"messages": [USER]}, "no_answer"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "no_answer"),
        ({"messages": [USER, {"role": "assistant", "content": " "}, USER, TOLD]}, "empty_turn"),
        ({"messages": [USER, TOLD | {"weight": 0}]}, "nothing_taught"),
        ({"messages": [USER, TOLD], "tools": ["clock"]}, "damaged_tools"),
        ({"messages": [USER, {"role": "assistant", "content": "", "tool_calls": ["?"]}]}, "damaged_call"),
        ({"prompt": "Is it late?"}, "no_answer"),
        ({"prompt": [USER]}, "no_answer"),
        ({"prompt": "Is it late?", "completion": "Who knows.", "label": False}, "bad_answer"),
        ({"prompt": [USER], "completion": [TOLD], "label": False}, "bad_answer"),
        ({"prompt": "Is it late?", "rejected": "Who knows."}, "bad_answer"),
        ({"messages": [USER, TOLD], "label": False}, "bad_answer"),
        ({"messages": [USER, TOLD], "kto_tag": False}, "bad_answer"),
        ({"prompt": "Is it late?", "completion": "Who knows.", "label": 0}, "bad_answer"),
        ({"messages": [USER | {"content": "<image> What is it?"}, TOLD], "images": ["a.png"]}, "part_not_text"),
        ({"prompt": "1 + 1 + 1", "completions": ["1 + 1 is 3", "so 4"], "labels": [False, False]}, "bad_answer"),
        ({"prompt": "1 + 1 + 1", "completions": ["1 + 1 is 2"], "labels": True}, "damaged"),
        ({"messages": [USER | {"content": [["It", "is"]]}, TOLD]}, "part_not_text"),
        ({"question": "Which?", "choices": ["red", "blue"], "answer": "green"}, "unmatched_choice"),
        ({"question": "Who?", "context": "Nobody.", "answers": {"text": [], "answer_start": []}}, "no_answer"),
    ],
)
def test_what_cannot_be_taught_is_refused_with_its_reason(record: Any, reason: str) -> None:
    assert refusal(record) == reason


def test_a_record_with_a_value_of_another_kind_costs_no_other_record() -> None:
    good = {"messages": [USER, TOLD]}
    empty = {"messages": [USER | {"content": [None, "Is it late?", {}]}, TOLD]}
    answered = {"messages": [USER, TOLD, {"type": {"a": 1}, "content": "?"}]}
    first, second = read([good, empty, answered])
    assert first.metadata["messages"] == second.metadata["messages"] == [USER, TOLD]
    assert first.metadata["reading"]["refused_counts"] == {"unknown_role": 1}
    replies: list[Any] = [{"text": "No.", "role": "assistant", "rank": "²"}, {"text": "It is noon.", "rank": 0}, ["?"]]
    replies[1] |= {"role": "assistant", "replies": True}
    tree = {"message_tree_id": "t", "prompt": {"text": "Is it late?", "role": "prompter", "replies": replies}}
    texts = read([tree])
    assert texts[0].metadata["messages"] == [USER, TOLD]


def test_answers_below_the_middle_of_their_scale_are_not_taught() -> None:
    rows = [{"instruction": f"Question {n}", "output": f"Answer {n}", "rating": n} for n in range(1, 6)]
    texts = read(rows)
    assert [text.metadata["messages"][1]["content"] for text in texts] == ["Answer 3", "Answer 4", "Answer 5"]
    assert texts[0].metadata["reading"]["refused_counts"] == {"bad_answer": 2}
    assert texts[0].metadata["reading"]["refused"][0] == ["record 1", "bad_answer", "rating is 1, below 3"]


def test_votes_are_no_scale_but_those_below_zero_are_not_taught() -> None:
    rows = [{"question": f"Question {n}", "answer": f"Answer {n}", "score": n} for n in (-2, 0, 3, 30)]
    texts = read(rows)
    assert [text.metadata["messages"][1]["content"] for text in texts] == ["Answer 0", "Answer 3", "Answer 30"]
    assert texts[0].metadata["reading"]["refused"] == [["record 1", "bad_answer", "score is -2"]]


def test_what_is_left_out_of_a_conversation_that_is_kept_is_counted() -> None:
    texts = read(
        [
            {"messages": [USER | {"id": 7}, TOLD], "topic": "time"},
            {"messages": [{"role": "system", "content": ""}, USER, TOLD, USER], "topic": ""},
            {"messages": [{"role": "nobody", "content": "Is it late?"}, TOLD], "topic": ""},
        ]
    )
    assert texts[0].metadata["reading"] == {
        "notes": {
            "field id of turns": 1,
            "column topic": 1,
            "empty system turns": 1,
            "conversations whose last turn has no answer": 1,
        },
        "refused_counts": {"unknown_role": 1},
        "refused": [
            ["record 3", "unknown_role", "turn 1 is by 'nobody'; say who that is: --column user=nobody (or assistant)"]
        ],
    }


def test_speakers_are_guessed_shown_and_can_be_named() -> None:
    talk = {"messages": [{"role": "customer", "content": "Is it late?"}, {"role": "Ann", "content": "It is noon."}]}
    assert messages(talk, assistant="ann") == [USER, TOLD]
    (text,) = read([talk], assistant="ann", user="bob,customer")
    assert text.metadata["reading"]["speakers"] == {"customer = user": 1, "ann = assistant": 1}
    (text,) = read([talk], assistant="ann")
    assert text.metadata["reading"]["speakers"]["customer = user (a guess)"] == 1


PAIRS = [{"question": f"Is it {n}?", "answer": f"It is {n}."} for n in range(3)]
COLUMNS = {name: [pair[name] for pair in PAIRS] for name in ("question", "answer")}


@pytest.mark.parametrize(
    "value",
    [
        PAIRS,
        COLUMNS,
        {name: {str(n): text for n, text in enumerate(texts)} for name, texts in COLUMNS.items()},
        {str(n): pair for n, pair in enumerate(PAIRS)},
        {"columns": ["question", "answer"], "index": [0, 1, 2], "data": [[*pair.values()] for pair in PAIRS]},
        {"version": 2, "data": PAIRS},
        {"train": PAIRS[:2], "test": PAIRS[2:]},
        {"rows": [{"row_idx": n, "row": pair} for n, pair in enumerate(PAIRS)]},
    ],
)
def test_every_form_of_a_json_file_holds_the_same_records(value: Any) -> None:
    texts = parse_bytes("a.json", json.dumps(value).encode())
    assert [text.metadata["messages"][1]["content"] for text in texts] == ["It is 0.", "It is 1.", "It is 2."]


@pytest.mark.parametrize(
    ("name", "data", "count"),
    [
        ("a.json", json.dumps([[USER, TOLD], [USER, TOLD]]), 2),
        ("a.jsonl", "\n".join([json.dumps([USER, TOLD])] * 2), 2),
        ("a.json", json.dumps([USER, TOLD]), 1),
        ("a.jsonl", "\n".join([json.dumps(HUMAN), json.dumps(GPT)]), 1),
        ("a.json", json.dumps({"messages": [[USER, TOLD], [USER, TOLD]], "id": [1, 2]}), 2),
    ],
)
def test_lists_of_turns_without_a_name_are_conversations(name: str, data: str, count: int) -> None:
    texts = parse_bytes(name, data.encode())
    assert [text.metadata["messages"] for text in texts] == [[USER, TOLD]] * count


def test_indented_records_one_after_another_are_read() -> None:
    data = "\n".join(json.dumps(pair, indent=2) for pair in PAIRS).encode()
    for name in ("a.json", "a.jsonl"):
        texts = parse_bytes(name, data)
        assert len(texts) == 3 and "bad_lines" not in texts[0].metadata


def test_the_nested_paragraphs_of_squad_are_questions_with_their_context() -> None:
    question = {"question": "Who?", "id": "1", "answers": [{"text": "Ann", "answer_start": 0}]}
    article = {"title": "T", "paragraphs": [{"context": "Ann came.", "qas": [question]}]}
    (text,) = parse_bytes("a.json", json.dumps({"version": "1.1", "data": [article]}).encode())
    assert [turn["content"] for turn in text.metadata["messages"]] == ["Who?\n\nAnn came.", "Ann"]


def test_the_description_of_a_data_set_is_no_record_of_it() -> None:
    for description in (
        {"features": {}, "splits": {}, "citation": ""},
        {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "a"},
        {"splits": ["train", "test"]},
    ):
        with pytest.raises(SkippedError, match="dataset_description"):
            parse_bytes("dataset_info.json", json.dumps(description).encode())


def node(name: str, parent: str | None, role: str, text: str, rank: int | None = None, **more: Any) -> dict[str, Any]:
    row = {"message_id": name, "parent_id": parent, "message_tree_id": "t", "role": role, "text": text, "rank": rank}
    return row | more


TREE = [
    node("1", None, "prompter", "Is it late?"),
    node("2", "1", "assistant", "Who knows.", 1),
    node("3", "1", "assistant", "It is noon.", 0),
    node("4", "3", "prompter", "And now?"),
    node("5", "4", "assistant", "One."),
    node("6", "3", "prompter", "Why?"),
    node("7", "6", "assistant", "Because.", review_result=True),
    node("8", "6", "assistant", "Go away.", review_result=False),
]


def test_a_tree_of_messages_gives_the_best_ranked_conversations_and_teaches_each_reply_once() -> None:
    texts = read(TREE)
    assert [text.metadata["messages"] for text in texts] == [
        [USER, TOLD, {"role": "user", "content": "And now?"}, {"role": "assistant", "content": "One."}],
        [
            USER,
            TOLD | {"weight": 0},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "Because."},
        ],
    ]
    assert texts[0].metadata["reading"]["refused_counts"] == {"bad_answer": 2}
    assert {text.metadata["group"] for text in texts} == {"t"}
    whole = {"message_tree_id": "t", "prompt": {"text": "Is it late?", "role": "prompter", "replies": [
        {"text": "It is noon.", "role": "assistant", "replies": []}]}}  # fmt: skip
    assert messages(whole) == [USER, TOLD]


def test_no_message_of_a_tree_is_lost_in_a_circle_by_its_id_or_by_its_depth() -> None:
    circle = [
        node("3", "2", "prompter", "Below the circle."),
        node("1", "2", "prompter", "Who was first?"),
        node("2", "1", "assistant", "You were."),
        node("4", "3", "assistant", "So it is."),
    ]
    said = {turn["content"] for text in read(circle) for turn in text.metadata["messages"]}
    assert said == {row["text"] for row in circle}
    orphan = [node("2", "1", "assistant", "You were."), *circle[:1], circle[3]]
    (text,) = read(orphan)
    assert [turn["content"] for turn in text.metadata["messages"]] == ["You were.", "Below the circle.", "So it is."]
    twice = [TREE[0], TREE[2], node("1", None, "prompter", "Another one?"), node("1", None, "prompter", "A third?")]
    (text,) = read(twice)
    assert text.metadata["messages"] == [USER, TOLD] and text.metadata["reading"]["refused_counts"] == {"no_answer": 2}
    roles = ("prompter", "assistant")
    long = [node(str(n), str(n - 1) if n else None, roles[n % 2], f"Turn {n}.") for n in range(1200)]
    (whole,) = read(long)
    assert [turn["content"] for turn in whole.metadata["messages"]] == [row["text"] for row in long]


@needs_reported
@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("toolcalls_openai", ["system", "user", "assistant", "tool", "assistant"]),
        ("content_parts", ["user", "assistant"]),
        ("sharegpt_system", ["system", "user", "assistant"]),
        ("squad", ["user", "assistant"]),
        ("roles_agent", ["user", "assistant"]),
    ],
)
def test_the_reported_conversations_are_read_as_they_should_be(name: str, roles: list[str]) -> None:
    texts = parse_bytes(f"{name}.jsonl", (REPORTED / f"{name}.jsonl").read_bytes())
    conversations = [text.metadata["messages"] for text in texts]
    assert len(conversations) == 40 and all([turn["role"] for turn in turns] == roles for turns in conversations)
    assert all(isinstance(turn["content"], str) for turns in conversations for turn in turns)
    assert not any(turn["content"].startswith("[{") for turns in conversations for turn in turns)
    if name == "toolcalls_openai":
        turns = conversations[0]
        assert turns[0]["tools"][0]["function"]["name"] == "find_form"
        assert turns[2]["tool_calls"][0]["function"]["arguments"] == {"item": "lease", "action": "replace"}
    if name == "squad":
        assert conversations[0][1]["content"] == "form 100" and "In building 0" in conversations[0][0]["content"]


@pytest.mark.skipif(not PLAIN.is_dir(), reason=f"no data at {PLAIN}")
def test_summaries_of_legal_texts_are_found_without_naming_columns() -> None:
    texts = parse_bytes("train.jsonl", (PLAIN / "train.jsonl").read_bytes())
    assert len(texts) == 401 and all(len(text.metadata["messages"]) == 2 for text in texts)
    assert texts[0].metadata["columns"] == {"source": "original_text", "target": "reference_summary", "group": "doc"}
