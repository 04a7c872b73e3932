"""Records of a form of their own: exports of chats, rankings, questions about one text. Each becomes the usual
conversation or pair, what is left out of it is counted, and no bad answer is taught."""

import json
from typing import Any

import pytest

from soldiom_ray.collect.documents import parse_bytes
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError

QUESTION, ANSWER, BAD = "Is it late today?", "It is noon, not late.", "Who knows, go away."
USER, TOLD = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}


def read(value: Any, name: str = "a.jsonl", **columns: str) -> list[ParsedText]:
    data = "\n".join(json.dumps(record) for record in value) if name.endswith("l") else json.dumps(value)
    return parse_bytes(name, data.encode(), ParseOptions(columns=columns))


def node(parent: str | None, children: list[str], role: str, *parts: Any, **more: Any) -> dict[str, Any]:
    content = {"content_type": "text", "parts": list(parts)}
    return {"parent": parent, "children": children, "message": {"author": {"role": role}, "content": content} | more}


CHATGPT = {
    "title": "Time",
    "current_node": "c",
    "mapping": {
        "root": {"parent": None, "children": ["s"], "message": None},
        "s": node("root", ["a"], "system", ""),
        "a": node("s", ["b", "c"], "user", QUESTION),
        "b": node("a", [], "assistant", BAD),
        "c": node("a", [], "assistant", ANSWER),
    },
}
PARTS = {"role": "model", "parts": [{"text": ANSWER}]}
LANGCHAIN = [{"type": kind, "data": {"content": text}} for kind, text in (("human", QUESTION), ("ai", ANSWER))]
CONSTRUCTED = [
    {"lc": 1, "type": "constructor", "id": ["langchain", kind], "kwargs": {"content": text}}
    for kind, text in (("HumanMessage", QUESTION), ("AIMessage", ANSWER))
]
RATED = [{"response": BAD, "overall_score": 3}, {"response": ANSWER, "overall_score": 9}]
NESTED = {"stem": QUESTION, "choices": [{"label": "A", "text": BAD}, {"label": "B", "text": ANSWER}]}
JAR = {"goal": "b", "sol1": "c", "sol2": "d", "label": 0}
CLAUDE = [
    {"sender": "human", "text": QUESTION, "content": [{"type": "text", "text": QUESTION}]},
    {"sender": "assistant", "text": ANSWER, "content": [{"type": "text", "text": ANSWER}]},
]


@pytest.mark.parametrize(
    "record",
    [
        CHATGPT,
        {"chat_messages": CLAUDE},
        {"contents": [{"role": "user", "parts": [{"text": QUESTION}]}, PARTS]},
        {"messages": LANGCHAIN},
        {"messages": CONSTRUCTED},
        {"messages": [{"type": "human", "content": QUESTION}, {"type": "ai", "content": ANSWER}]},
        {"chat_history": [], "message": QUESTION, "text": ANSWER},
        {"conversation": [{"input": QUESTION, "output": ANSWER}]},
        {"conversations": [QUESTION, ANSWER]},
        {"request": {"messages": [USER]}, "response": {"choices": [{"message": TOLD}]}},
        {"messages": [USER], "choices": [{"message": TOLD}]},
        {"turns": [{"speaker": "USER", "utterance": QUESTION}, {"speaker": "SYSTEM", "utterance": ANSWER}]},
        {"text": f"### Human: {QUESTION}### Assistant: {ANSWER}"},
        {"text": f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n{ANSWER}<|im_end|>\n"},
        {"text": f"<s>[INST] {QUESTION} [/INST] {ANSWER} </s>"},
        {"text": f"<start_of_turn>user\n{QUESTION}<end_of_turn>\n<start_of_turn>model\n{ANSWER}<end_of_turn>\n"},
        {"chat": f"USER: {QUESTION}\n\n\nASSISTANT: {ANSWER} <|endoftext|>"},
        {"instruction": QUESTION, "instances": [{"input": "", "output": ANSWER}]},
        {"inputs": QUESTION, "targets": ANSWER},
        {"Context": QUESTION, "Response": ANSWER},
        {"question": {"text": QUESTION, "tokens": []}, "answers": [{"text": ANSWER}, {"text": BAD}]},
        {"text": QUESTION, "code": ANSWER, "test_list": ["assert True"]},
        {"translation": {"en": QUESTION, "de": ANSWER}},
        {"en": QUESTION, "de": ANSWER},
        {"prompt": QUESTION, "completions": [ANSWER, BAD], "labels": [True, False]},
        {"instruction": QUESTION, "completions": RATED},
        {"prompt": QUESTION, "answers": [{"answer": BAD, "rank": 2.0}, {"answer": ANSWER, "rank": 1.0}]},
        {"question": QUESTION, "answers": [{"text": BAD, "pm_score": 0}, {"text": ANSWER, "pm_score": 4}]},
        {"title": QUESTION, "answers": {"text": [BAD, ANSWER], "score": [1, 7]}},
        {"info": {"post": QUESTION}, "summaries": [{"text": BAD}, {"text": ANSWER}], "choice": 1},
        {"question": {"full_text": QUESTION}, "answer_0": BAD, "score_0": -0.5, "answer_1": ANSWER, "score_1": 0.5},
        {"context": [USER], "response1": ANSWER, "response2": BAD, "overall_preference": -2},
        {"history": QUESTION, "human_ref_A": BAD, "human_ref_B": ANSWER, "labels": 0},
        {"prompt": QUESTION, "response_0": BAD, "response_1": ANSWER, "better_response_id": 1},
        {"prompt": QUESTION, "response_a": ANSWER, "response_b": BAD, "winner": "model_a"},
        {"prompt": QUESTION, "responses": [BAD, ANSWER], "scores": [0.2, 0.9]},
        {"winner": "model_b", "conversation_a": [USER, TOLD | {"content": BAD}], "conversation_b": [USER, TOLD]},
    ],
)  # fmt: skip
def test_every_form_becomes_the_same_question_and_its_good_answer(record: Any) -> None:
    (text,) = read([record])
    assert text.metadata["messages"] == [USER, TOLD]
    assert BAD not in text.text and text.metadata.get("rejected") in (None, BAD)


def test_marks_of_texts_without_answers_refuse_nothing() -> None:
    (text,) = read([{"text": "You are all fools.", "label": "toxic", "toxic": 1}])
    assert text.metadata["label"] == "toxic"


def test_the_number_of_a_row_is_no_mark_and_no_check() -> None:
    (pair,) = read([{"": 1, "prompt": QUESTION, "response": ANSWER, "rating": 5}])
    assert pair.metadata["messages"] == [USER, TOLD]
    (task,) = read([{"": 1, "prompt": "Write f.", "code": ANSWER, "test_list": ["assert f(1)"]}])
    assert task.metadata["checks"] == "assert f(1)"


def test_of_several_rejected_answers_the_first_is_taken() -> None:
    (text,) = read([{"prompt": QUESTION, "chosen": ANSWER, "rejected": [BAD, "Berlin."]}])
    assert text.metadata["rejected"] == BAD
    assert "rejected, all but the first" in json.dumps(text.metadata)
    (pair,) = read([{"prompt": QUESTION, "response_w": ANSWER, "response_l": BAD}])
    assert pair.metadata["rejected"] == BAD and pair.metadata["messages"] == [USER, TOLD]


def test_lists_of_texts_as_numpy_prints_them_stay_lists() -> None:
    (text,) = read(
        [{"question": QUESTION, "choices": "['it is night' 'noon, or so'\n \"six o'clock\"]", "answer_key": "B"}]
    )
    assert text.metadata["messages"][0]["content"].endswith("B. noon, or so\nC. six o'clock")


def test_a_question_that_does_not_name_its_function_shows_a_check() -> None:
    task = {"text": "Double a number.", "code": "def double(x): return 2 * x"}
    (shown,) = read([task | {"test_list": ["assert double(2) == 4", "assert double(0) == 0"]}])
    asked = "Double a number.\nIt has to pass this check: assert double(2) == 4"
    assert shown.metadata["messages"][0]["content"] == asked and shown.text.startswith(asked)
    (named,) = read([task | {"text": "Write double(x).", "test_list": ["assert double(2) == 4"]}])
    assert named.metadata["messages"][0]["content"] == "Write double(x)."


@pytest.mark.parametrize(
    ("beside", "checks"),
    [
        ({"test_list": ["assert f(1) == 1", "assert f(2)"]}, "assert f(1) == 1\nassert f(2)"),
        ({"test_list": "['assert f(1) == 1', 'assert f(2)']"}, "assert f(1) == 1\nassert f(2)"),
        ({"test_setup_code": "import math", "test_list": ["assert f(1)"]}, "import math\nassert f(1)"),
        (
            {"test": "def check(candidate):\n    assert candidate(1)", "entry_point": "f"},
            "def check(candidate):\n    assert candidate(1)\n\ncheck(f)",
        ),
        ({"test": "the second of three"}, None),
    ],
)
def test_checks_of_a_task_in_code_stay_with_its_sample(beside: dict[str, Any], checks: str | None) -> None:
    (text,) = read([{"prompt": "Write f.", "code": ANSWER} | beside])
    assert text.metadata["messages"] == [{"role": "user", "content": "Write f."}, TOLD]
    assert text.metadata.get("checks") == checks


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": QUESTION, "response_a": ANSWER, "response_b": BAD, "winner": "tie"}, "no_preference"),
        ({"prompt": QUESTION, "answers": [{"text": ANSWER, "score": 2}, {"text": BAD, "score": 2}]}, "no_preference"),
        ({"question": QUESTION, "answer_0": ANSWER, "score_0": -2, "answer_1": BAD, "score_1": -3}, "bad_answer"),
        ({"prompt": QUESTION, "completions": [BAD], "labels": [False]}, "bad_answer"),
        ({"prompt": QUESTION, "response": BAD, "is_safe": False}, "bad_answer"),
        ({"prompt": QUESTION, "response": BAD, "feedback": "negative"}, "bad_answer"),
        ({"prompt": QUESTION, "response": BAD, "quality": "poor"}, "bad_answer"),
        ({"prompt": QUESTION, "response": BAD, "toxic": True}, "bad_answer"),
        ({"messages": [USER, TOLD], "is_deleted": "1"}, "bad_answer"),
        ({"custom_id": "1", "body": {"messages": [USER]}}, "no_answer"),
        ({"contents": [USER, {"role": "model", "parts": [{"inlineData": {"data": ""}}]}]}, "part_not_text"),
        ({"messages": [{"author": {"name": "Ada"}, "content": QUESTION}]}, "unknown_role"),
    ],
)
def test_what_has_no_good_answer_is_refused(record: Any, reason: str) -> None:
    with pytest.raises(SkippedError) as raised:
        read([record])
    assert raised.value.reason == reason


def reading(texts: list[ParsedText]) -> dict[str, Any]:
    return dict(texts[0].metadata["reading"])


def test_what_is_left_out_of_a_form_is_counted() -> None:
    assert reading(read([CHATGPT], "a.json"))["notes"] == {"turns of branches that were left": 1, "column title": 1}
    assert reading(read([CHATGPT]))["forms"] == {"ChatGPT's export": 1}
    answers = [{"answer": text, "rank": rank} for rank, text in enumerate((ANSWER, "So so.", BAD), 1)]
    ranked = read([{"prompt": QUESTION, "answers": answers}])
    assert ranked[0].metadata["rejected"] == BAD
    assert reading(ranked)["notes"] == {"answers between the best and the worst": 1}
    steps = {"prompt": QUESTION, "completions": ["One.", "Two.", "Three."], "labels": [True, False, True]}
    (stepwise,) = read([steps])
    assert stepwise.metadata["messages"][1]["content"] == "One."
    assert reading([stepwise])["notes"] == {"steps that are marked wrong, or come after one": 2}


def test_calls_of_gemini_anthropic_hermes_and_glaive_are_calls() -> None:
    asked = {"role": "user", "parts": [{"text": QUESTION}]}
    called = {"role": "model", "parts": [{"functionCall": {"name": "clock", "args": {"zone": "UTC"}}}]}
    result = {"role": "user", "parts": [{"functionResponse": {"name": "clock", "response": "12:00"}}]}
    tools = [{"functionDeclarations": [{"name": "clock", "parameters": {"type": "object"}}]}]
    written = '<tool_call>\n{"name": "clock", "arguments": {"zone": "UTC"}}\n</tool_call>'
    glaive = """<functioncall> {"name": "clock", "arguments": '{"zone": "UTC"}'} <|endoftext|>"""
    for record in (
        {"contents": [asked, called, result, PARTS], "tools": tools},
        {"messages": [USER, {"role": "assistant", "content": written}, {"role": "tool", "content": "12:00"}, TOLD]},
        {"messages": [USER, {"role": "assistant", "content": glaive}, {"role": "tool", "content": "12:00"}, TOLD]},
    ):
        (text,) = read([record])
        _, call, told, last = text.metadata["messages"]
        assert (call["content"], call["tool_calls"]) == ("", [CALL])
        assert (told["role"], told["content"], last) == ("tool", "12:00", TOLD)
    thinking = [{"type": "thinking", "thinking": "Noon?"}, {"type": "text", "text": ANSWER}]
    (text,) = read([{"messages": [USER, {"role": "assistant", "content": thinking}]}])
    assert text.metadata["messages"][1] == TOLD | {"reasoning_content": "Noon?"}


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_rows_that_are_turns_are_joined_by_their_conversation(name: str) -> None:
    rows = [("1", "1", "customer", QUESTION), ("2", "1", "customer", "Why?"), ("1", "2", "agent", ANSWER)]
    rows.append(("2", "2", "agent", "Because of it."))
    names = ("conversation_id", "turn", "speaker", "text")
    lines = [",".join(names), *(",".join(f'"{cell}"' for cell in row) for row in rows)]
    if name.endswith("l"):
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    first, second = parse_bytes(name, "\n".join(lines).encode(), ParseOptions())
    assert first.metadata["messages"] == [USER, TOLD] and first.metadata["group"] == "1"
    assert [message["content"] for message in second.metadata["messages"]] == ["Why?", "Because of it."]


@pytest.mark.parametrize(
    ("turns", "is_sorted"),
    [
        (("10.0", "2.0"), True),
        ((10, 2.5), True),
        (("2024-05-02", "2024-05-01"), True),
        (("2", "²"), False),
        (("2", ""), False),
        ((None, None), False),
        (("9" * 5000, "1"), False),
    ],
)
def test_turns_are_in_the_order_of_their_numbers_or_of_their_rows(turns: tuple[Any, Any], is_sorted: bool) -> None:
    said = (("agent", ANSWER), ("customer", QUESTION)) if is_sorted else (("customer", QUESTION), ("agent", ANSWER))
    rows = [
        {"conversation_id": "1", "turn": turn, "speaker": speaker, "text": text}
        for turn, (speaker, text) in zip(turns, said, strict=True)
    ]
    (text,) = read(rows)
    assert text.metadata["messages"] == [USER, TOLD]
    notes = text.metadata["reading"].get("notes", {})
    assert ("conversations in the order of their rows, since turn is missing or mixed" in notes) is not is_sorted


def test_questions_about_one_text_keep_it_and_follow_one_another() -> None:
    coqa = {"story": "A lease.", "questions": [{"input_text": "When?"}, {"input_text": "Why?"}]}
    coqa |= {"answers": [{"input_text": "In May."}, {"input_text": "He moved."}]}
    (text,) = read({"data": [coqa]}, "a.json")
    assert [m["content"] for m in text.metadata["messages"]] == ["A lease.\n\nWhen?", "In May.", "Why?", "He moved."]
    questions = [
        {"question": "What were sales?", "answer": ["10"], "scale": "million"},
        {"question": "All?", "answer": 7},
    ]
    tatqa = {"table": {"uid": "t1", "table": [["", "2019"], ["Sales", "10"]]}, "paragraphs": [{"text": "It fell."}]}
    first, second = read([tatqa | {"questions": questions}], "a.json")
    assert first.text == "What were sales?\n\n| 2019\nSales | 10\n\nIt fell.\n\n10 million" and second.text.endswith(
        "7"
    )
    assert first.metadata["group"] == second.metadata["group"] == "t1"


@pytest.mark.parametrize(
    ("records", "right"),
    [
        ([{"goal": QUESTION, "sol1": BAD, "sol2": ANSWER, "label": 1}, JAR], "2."),
        ([{"sentence": QUESTION, "option1": BAD, "option2": ANSWER, "answer": "2"}], "2."),
        ([{"question": QUESTION, "answerA": BAD, "answerB": ANSWER, "answerC": "c", "label": n} for n in "23"], "B."),
        ([{"question": QUESTION, "choices": [BAD, ANSWER, "1"], "answer": n} for n in (1, 0)], "B."),
        ([{"question": QUESTION, "choices": [BAD, ANSWER, "1"], "answer": n} for n in ("1", "0")], "B."),
        ([{"question": NESTED, "answerKey": "B"}], "B."),
        ([{"question": QUESTION, "mc1_targets": {"choices": [ANSWER, BAD], "labels": [1, 0]}}], "A."),
        ([{"premise": "", "question": QUESTION, "choice1": ANSWER, "choice2": BAD, "label": n} for n in (0, 1)], "1."),
    ],
)  # fmt: skip
def test_places_of_right_choices_count_as_the_whole_file_counts_them(records: list[Any], right: str) -> None:
    first = read(records)[0]
    assert first.metadata["messages"][-1]["content"] == f"{right} {ANSWER}"
    assert "label" not in first.metadata


def test_sentences_in_pairs_are_texts_with_their_label() -> None:
    (text,) = read([{"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment"}])
    assert text.text == "It rains.\n\nIt is wet." and text.metadata["label"] == "entailment"


def test_the_messages_of_a_channel_are_asked_about_and_read_when_speakers_are_named() -> None:
    said = [("U1", QUESTION), ("U2", ANSWER)]
    rows = [{"type": "message", "user": user, "text": text, "ts": f"{n}.0"} for n, (user, text) in enumerate(said)]
    rows.append({"type": "message", "subtype": "channel_join", "user": "U3", "text": "has joined", "ts": "3.0"})
    with pytest.raises(SkippedError, match="turn 1 is by 'U1'") as raised:
        read(rows, "a.json")
    assert raised.value.reason == "unknown_role"
    (text,) = read(rows, "a.json", user="U1", assistant="U2")
    assert text.metadata["messages"] == [USER, TOLD]
    assert reading([text])["notes"] == {"messages that nobody said": 1}


@pytest.mark.parametrize("mark", [{"train_on_turn": False}, {"learn": False}, {"loss_weight": 0}, {"trainable": False}])
def test_turn_marked_as_not_to_be_learnt_has_weight_0(mark: dict[str, Any]) -> None:
    question = {"role": "user", "content": "What is the capital?"}
    turns = [question, {"role": "assistant", "content": "Rome."} | mark]
    turns += [question, {"role": "assistant", "content": "Paris."}]
    parsed = parse_bytes("a.jsonl", json.dumps({"messages": turns}).encode())
    assert [turn.get("weight") for turn in parsed[0].metadata["messages"]] == [None, 0, None, None]


@pytest.mark.parametrize(
    "text",
    [
        "<｜begin▁of▁sentence｜><｜User｜>Where?<｜Assistant｜>Here.<｜end▁of▁sentence｜>",
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Where?<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>Here.<|END_OF_TURN_TOKEN|>",
        "<|start_of_role|>user<|end_of_role|>Where?<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>Here.<|end_of_text|>",
        "[gMASK]<sop><|user|>\nWhere?<|assistant|>\nHere.",
    ],
)
def test_transcripts_of_more_templates_become_turns(text: str) -> None:
    parsed = parse_bytes("a.jsonl", json.dumps({"text": text}).encode())
    turns = [(turn["role"], turn["content"]) for turn in parsed[0].metadata["messages"]]
    assert turns == [("user", "Where?"), ("assistant", "Here.")]


@pytest.mark.parametrize("ends", [("score_chosen", "score_rejected"), ("chosen_score", "rejected_score")])
def test_pair_whose_scores_prefer_the_rejected_answer_is_counted(ends: tuple[str, str]) -> None:
    pair = {"prompt": "Where?", "chosen": "Here.", "rejected": "Nowhere."}
    good, bad = pair | dict(zip(ends, (4.0, 1.0), strict=True)), pair | dict(zip(ends, (1.0, 4.0), strict=True))
    assert len(parse_bytes("a.jsonl", f"{json.dumps(good)}\n{json.dumps(bad)}".encode())) == 1
