"""Inputs as single libraries and services write them, which are read like the usual forms or refused with a reason."""

import json
from typing import Any

import pytest

from soldiom_ray.collect.documents import parse_bytes
from soldiom_ray.collect.documents.parsed import ParsedText
from soldiom_ray.collect.text import SkippedError

USER, TOLD = {"role": "user", "content": "Is it late?"}, {"role": "assistant", "content": "It is noon."}
LATER = [{"role": "user", "content": "And now?"}, {"role": "assistant", "content": "One."}]
PYTHON = "[{'role': 'user', 'content': 'Is it late?'}, {'role': 'assistant', 'content': 'It is noon.'}]"


def read(*records: Any) -> list[ParsedText]:
    return parse_bytes("a.jsonl", "\n".join(map(json.dumps, records)).encode())


def messages(*records: Any) -> list[dict[str, Any]]:
    return list(read(*records)[0].metadata["messages"])


def called(arguments: Any) -> dict[str, Any]:
    function = {"name": "clock", "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]}


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, {"role": "assistant", "content": None, "refusal": "It is noon."}]},
        {"messages": [{"role": "user", "content": {"text": "Is it late?"}}, TOLD]},
        {"conversations": [[USER, TOLD]]},
        {"id": 1, "sample": {"messages": [USER, TOLD]}},
        {"messages": PYTHON},
        {"text": "<|prompter|>Is it late?<|endoftext|><|assistant|>It is noon.<|endoftext|>"},
        {"user_input": "Is it late?", "bot_response": "It is noon."},
        {"input_text": "Is it late?", "output_text": "It is noon."},
        {"Human": "Is it late?", "AI": "It is noon."},
        {"Q": "Is it late?", "A": "It is noon."},
        {"Description": "Time", "Patient": "Is it late?", "Doctor": "It is noon."},
        {"instruction": "Is it late?", "input": "", "output": ["It is noon.", "Who knows."]},
        {"prompt": "Is it late?", "chosen_response": "It is noon.", "rejected_response": "Who knows."},
        {"prompt": "Is it late?", "accepted": "It is noon.", "rejected": "Who knows."},
        {"question": "Is it late?", "response_j": "It is noon.", "response_k": "Who knows."},
        {"prompt": [USER], "ability": "time", "reward_model": {"style": "rule", "ground_truth": "It is noon."}},
    ],
)
def test_dialects_are_the_same_two_messages(record: Any) -> None:
    (text,) = read(record)
    assert text.metadata["messages"] == [USER, TOLD] and text.metadata.get("rejected") in (None, "Who knows.")


@pytest.mark.parametrize(
    "mark", [{"masked": True}, {"mask": True}, {"loss_mask": 0}, {"train": False}, {"loss": False}]
)
def test_masked_answers_are_not_taught(mark: dict[str, Any]) -> None:
    assert messages({"messages": [USER, TOLD | mark, *LATER]}) == [USER, TOLD | {"weight": 0}, *LATER]


@pytest.mark.parametrize(
    "answer",
    [
        [TOLD | {"reasoning": "Noon?"}],
        [TOLD | {"thinking": "Noon?"}],
        [{"role": "assistant", "channel": "analysis", "content": "Noon?"}, TOLD | {"channel": "final"}],
    ],
)
def test_what_was_thought_stands_beside_the_answer(answer: list[dict[str, Any]]) -> None:
    assert messages({"messages": [USER, *answer]}) == [USER, TOLD | {"reasoning_content": "Noon?"}]


def test_calls_without_arguments_are_read_and_damaged_ones_refused() -> None:
    for arguments in (None, "", "{}"):
        call = messages({"messages": [USER, called(arguments), {"role": "tool", "content": "12"}, TOLD]})[1]
        assert call["tool_calls"][0]["function"] == {"name": "clock", "arguments": {}}
    for turn in (called('{"zone": '), {"role": "function_call", "content": '{"name": '}):
        with pytest.raises(SkippedError, match="damaged_call"):
            read({"messages": [USER, turn, {"role": "tool", "content": "12"}, TOLD]})


def test_what_is_no_conversation_is_refused() -> None:
    for record, reason in (
        ({"id": 1, "messages": [{"note": 1}]}, "no_conversation"),
        ({"question_id": 1, "turns": ["Is it late?", "And now?"]}, "no_answer"),
    ):
        with pytest.raises(SkippedError) as raised:
            read(record)
        assert raised.value.reason == reason


@pytest.mark.parametrize(
    "value",
    [
        {"a": [USER, TOLD], "b": [*LATER]},
        {"a": {"question": "Is it late?", "answer": "It is noon."}, "b": {"question": "Now?", "answer": "One."}},
        {
            "name": "x",
            "questions": [{"question": "Is it late?", "answer": "It is noon."}, {"question": "?", "answer": 1}],
        },
        [["question", "answer"], ["Is it late?", "It is noon."], ["And now?", "One."]],
        {"intents": [{"tag": "time", "patterns": ["Is it late?", "How late?"], "responses": ["It is noon.", "Noon."]}]},
    ],
)
def test_records_in_other_forms_of_json_are_found(value: Any) -> None:
    texts = parse_bytes("a.json", json.dumps(value).encode())
    assert len(texts) == 2 and texts[0].metadata["messages"] == [USER, TOLD]


def test_cells_hold_lists_as_python_and_numpy_write_them() -> None:
    array = PYTHON.replace("}, {", "}\n {")
    squad = "{'text': array(['It is noon.'], dtype=object), 'answer_start': array([0], dtype=int32)}"
    for table in (
        f'id,messages\n1,"{PYTHON}"\n',
        f'id,messages\n1,"{array}"\n',
        f'question,answers\nIs it late?,"{squad}"\n',
    ):
        (text,) = parse_bytes("a.csv", table.encode())
        assert text.metadata["messages"] == [USER, TOLD]
    (text,) = parse_bytes("a.csv", b"question,choices,answer\nWhich?,\"['red', 'blue']\",1\n")
    assert text.metadata["messages"][1]["content"] == "B. blue"


def test_values_that_are_missing_are_no_answers() -> None:
    texts = parse_bytes("a.jsonl", b'{"question": "Is it late?", "answer": NaN}')
    assert texts[0].text == "Is it late?" and "messages" not in texts[0].metadata


def test_a_table_without_a_header_keeps_its_first_row() -> None:
    texts = parse_bytes("a.tsv", b"ham\tSee you\nspam\tBuy now\nham\tAt noon\n")
    assert (texts[0].metadata["label"], texts[0].text, len(texts)) == ("ham", "See you", 3)
    assert texts[0].metadata["reading"]["notes"] == {"the first line is a row: there is no header": 1}
    assert "reading" not in texts[1].metadata


def test_a_gap_after_a_prompt_is_filled() -> None:
    assert read({"prompt": "def f(", "suffix": ")", "middle": "x"})[0].text == "def f(x)"
