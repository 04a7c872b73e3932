"""Conversations that a chat template rendered, or that only name their speakers, JSON as people write it, and calls in
the words of an answer: read as what they say, without the marks."""

import json
from typing import Any

import pytest

from soldiom_ray.collect.documents import parse_bytes
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError

QUESTION, ANSWER, BAD, KIND = "Is it late today?", "It is noon, not late.", "Who knows, go away.", "Be kind."
USER, TOLD = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
SYSTEM = {"role": "system", "content": KIND}
TOOL = {"name": "clock", "description": "The time.", "parameters": {"type": "object", "properties": {}}}
CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC", "exact": True}}}


def read(*records: Any) -> list[ParsedText]:
    return parse_bytes("a.jsonl", "\n".join(map(json.dumps, records)).encode())


def reading(texts: list[ParsedText]) -> dict[str, Any]:
    return dict(texts[0].metadata["reading"])


@pytest.mark.parametrize(
    "prompt",
    [
        f"<s>[INST] <<SYS>>\n{KIND}\n<</SYS>>\n\n{QUESTION} [/INST]",
        f"<s>[SYSTEM_PROMPT]{KIND}[/SYSTEM_PROMPT][INST]{QUESTION}[/INST]",
        f"<|im_start|>system\n{KIND}<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
        f"<|im_start|>system<|im_sep|>{KIND}<|im_end|><|im_start|>user<|im_sep|>{QUESTION}<|im_end|>"
        "<|im_start|>assistant<|im_sep|>",
        f"{KIND}\n\n### Instruction:\n{QUESTION}\n\n### Response:\n",
        f"### System:\n{KIND}\n\n### User:\n{QUESTION}\n\n### Assistant:\n",
        f"{KIND} USER: {QUESTION} ASSISTANT:",
        f"{KIND}\n\nHuman: {QUESTION}\n\nAssistant:",
        f"{KIND}\nUser: {QUESTION}\nAssistant:",
        f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{KIND}<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{QUESTION}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        f"<|system|>\n{KIND}</s>\n<|user|>\n{QUESTION}</s>\n<|assistant|>\n",
        f"<|start|>system<|message|>{KIND}<|end|><|start|>user<|message|>{QUESTION}<|end|><|start|>assistant",
        f"<｜begin▁of▁sentence｜>{KIND}<｜User｜>{QUESTION}<｜Assistant｜><think>\n",
    ],
)
@pytest.mark.parametrize("end", ["", "</s>", "<|im_end|>\n"])
def test_the_marks_of_a_rendered_prompt_and_answer_are_never_taught(prompt: str, end: str) -> None:
    (pair,) = read({"prompt": prompt, "completion": f" {ANSWER}{end}"})
    assert pair.metadata["messages"] == [SYSTEM, USER, TOLD]
    (preferred,) = read({"prompt": prompt, "chosen": ANSWER + end, "rejected": BAD + end})
    assert preferred.metadata["messages"] == [SYSTEM, USER, TOLD] and preferred.metadata["rejected"] == BAD


@pytest.mark.parametrize(
    "text",
    [
        f"<｜begin▁of▁sentence｜>User: {QUESTION}\n\nAssistant: {ANSWER}<｜end▁of▁sentence｜>",
        f"<|start|>user<|message|>{QUESTION}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}<|return|>",
        f"GPT4 Correct User: {QUESTION}<|end_of_turn|>GPT4 Correct Assistant: {ANSWER}<|end_of_turn|>",
        f"User: {QUESTION}\nAssistant: {ANSWER}",
        f"**Question:** {QUESTION}\n**Answer:** {ANSWER}",
        f"Q: {QUESTION}\nA: {ANSWER}",
        f"Instruction: {QUESTION}\nOutput: {ANSWER}",
    ],
)
def test_texts_whose_speakers_are_marked_or_named_are_conversations(text: str) -> None:
    (read_text,) = read({"text": text})
    assert read_text.metadata["messages"] == [USER, TOLD]


def test_texts_that_are_no_transcripts_stay_texts() -> None:
    assert "messages" not in read({"text": "Answer: me.\nThe rest is silence."})[0].metadata
    (pair,) = read({"prompt": "### User stories\nWrite one.", "completion": "<s>As a</s> user"})
    assert [m["content"] for m in pair.metadata["messages"]] == ["### User stories\nWrite one.", "<s>As a</s> user"]
    (summary,) = read({"dialogue": f"Patient: {QUESTION}\nDoctor: {ANSWER}", "summary": "Noon."})
    assert summary.metadata["messages"][1]["content"] == "Noon."


def test_texts_among_transcripts_and_marks_that_stay_are_counted() -> None:
    rendered = {"text": f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n{ANSWER}<|im_end|>"}
    texts = read(rendered, rendered, {"text": "Just words."})
    assert texts[0].metadata["messages"] == [USER, TOLD]
    assert reading(texts)["notes"] == {"texts among conversations, read as texts": 1}
    marked = read({"prompt": "Say <|im_start|> backwards.", "completion": ANSWER})
    assert reading(marked)["notes"] == {"texts with marks of a chat template in them": 1}


def test_other_columns_stand_in_the_last_question_of_a_prompt_that_is_a_conversation() -> None:
    (text,) = read({"prompt": [SYSTEM, USER], "context": "The sun is high.", "completion": ANSWER})
    asked = {"role": "user", "content": f"{QUESTION}\n\nThe sun is high."}
    assert text.metadata["messages"] == [SYSTEM, asked, TOLD]


@pytest.mark.parametrize(
    "written",
    [
        '// by hand\n[{"prompt": "Q, // ]?", "completion": "Yes,]"}, /* the last */\n]',
        '{"data": [{"prompt": "Q, // ]?", "completion": "Yes,]",},],}',
        "[{'prompt': 'Q, // ]?', 'completion': \"Yes,]\", 'sure': True, 'who': None}]",
        "[{prompt: 'Q, // ]?', completion: 'Yes,]'}]",
        '# by hand\n[{"prompt": "Q, // ]?", "completion": "Yes,]"}]',
    ],
)
def test_json_as_people_and_python_write_it_is_read(written: str) -> None:
    (text,) = parse_bytes("a.json", written.encode())
    assert [message["content"] for message in text.metadata["messages"]] == ["Q, // ]?", "Yes,]"]


def test_lines_that_are_no_strict_json_are_read_and_counted() -> None:
    lines = b"// two\n{'prompt': 'Q?', 'completion': 'It\\'s'}\n{\"prompt\": \"Q?\", \"completion\": NaN}\nbroken {"
    texts = parse_bytes("a.jsonl", lines)
    assert texts[0].metadata["messages"][1]["content"] == "It's"
    assert texts[0].metadata["repaired_json"] == texts[0].metadata["bad_lines"] == 1
    assert "messages" not in texts[1].metadata and "NaN" not in texts[1].text


def test_a_line_that_tells_excel_the_delimiter_is_no_header() -> None:
    (text,) = parse_bytes("a.csv", b"sep=;\r\nquestion;answer\r\nWhat?;That.\r\n")
    assert [message["content"] for message in text.metadata["messages"]] == ["What?", "That."]


@pytest.mark.parametrize(
    ("source", "target"),
    [("eng_Latn", "deu_Latn"), ("sentence_eng_Latn", "sentence_deu_Latn"), ("en_US", "de_DE"), ("text_en", "text_de")],
)
def test_columns_named_by_codes_of_languages_are_translations(source: str, target: str) -> None:
    (text,) = read({"id": 7, source: QUESTION, target: ANSWER})
    assert text.metadata["messages"] == [USER, TOLD]


def test_calls_written_as_python_become_calls_and_their_functions_tools() -> None:
    system = (
        f"You know the time.\nHere are the functions:\n{json.dumps([TOOL])}.\n"
        "Put it in the format of [func1(a=1), func2(b=2)]"
    )
    turns = [
        {"from": "user", "value": QUESTION},
        {"from": "assistant", "value": '[clock(zone="UTC", exact=true)]'},
        {"from": "tool", "value": "12:00"},
        {"from": "assistant", "value": ANSWER},
    ]
    (text,) = read({"system": system, "conversations": turns})
    told, asked, called, result, answered = text.metadata["messages"]
    assert told["tools"] == [{"type": "function", "function": TOOL}] and "func1" not in told["content"]
    assert (asked, answered) == (USER, TOLD) and result["content"] == "12:00"
    assert called["tool_calls"] == [CALL] and called["content"] == ""
    (listed,) = read({"messages": [USER, {"role": "assistant", "content": "[f(x=1)]"}]})
    assert listed.metadata["messages"][1]["content"] == "[f(x=1)]"


def test_functions_and_results_within_turns_are_tools_and_results() -> None:
    rendered = (
        f"<s>[AVAILABLE_TOOLS] {json.dumps([TOOL])}[/AVAILABLE_TOOLS][INST] {QUESTION} [/INST][TOOL_CALLS] "
        f"[{json.dumps(CALL['function'])}]</s>[TOOL_RESULTS] 12:00[/TOOL_RESULTS] {ANSWER}</s>"
    )
    (text,) = read({"text": rendered})
    asked, called, result, answered = text.metadata["messages"]
    assert asked["tools"][0]["function"]["name"] == "clock" and called["tool_calls"] == [CALL]
    assert (result["role"], result["content"]) == ("tool", "12:00") and answered == TOLD
    called = {"role": "assistant", "content": f"<tool_call>{json.dumps(CALL['function'])}</tool_call>"}
    results = {
        "role": "user",
        "content": "<tool_response>\n12:00\n</tool_response>\n<tool_response>\n1\n</tool_response>",
    }
    (qwen,) = read({"messages": [SYSTEM | {"tools": [TOOL]}, USER, called, results, TOLD]})
    assert qwen.metadata["messages"][0]["tools"][0]["function"] == TOOL
    assert [(m["role"], m["content"]) for m in qwen.metadata["messages"][3:5]] == [("tool", "12:00"), ("tool", "1")]


def test_answers_without_their_request_are_refused_with_what_to_do() -> None:
    body = {"choices": [{"message": TOLD}], "object": "chat.completion"}
    alone = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": ANSWER}]}
    batch = {"custom_id": "1", "response": {"body": body}, "error": None}
    for record in (batch, body, {"choices": body["choices"]}, alone):
        with pytest.raises(SkippedError) as raised:
            read(record)
        assert raised.value.reason == "no_question" and "custom_id" in raised.value.detail


def test_steps_that_people_judged_are_taught_up_to_the_first_wrong_one() -> None:
    steps = [
        {"completions": [{"text": "One.", "rating": 1}, {"text": BAD, "rating": -1}], "chosen_completion": 0},
        {"completions": [{"text": BAD, "rating": -1}], "human_completion": {"text": "Two."}, "chosen_completion": None},
        {"completions": [{"text": BAD, "rating": -1}], "human_completion": None, "chosen_completion": None},
    ]
    record = {"question": {"problem": QUESTION}, "label": {"steps": steps, "finish_reason": "found_error"}}
    (text,) = texts = read(record)
    assert text.metadata["messages"] == [USER, {"role": "assistant", "content": "One.\nTwo."}]
    assert reading(texts)["notes"]["steps that were not taken"] == 2


IOS = (
    "[31/12/2023, 23:58:01] Support: \u200eMessages and calls are end-to-end encrypted.\n"
    f"[31/12/2023, 23:59:07] Ann: {QUESTION}\nI wonder.\n[31/12/2023, 23:59:30] Support: {ANSWER}\n"
    "\u200e[31/12/2023, 23:59:40] Ann: \u200eimage omitted\n[01/01/2024, 00:01:00] Ann: Happy new year\n"
    "[01/01/2024, 00:01:10] Support: You too: be well <This message was edited>\n"
)
ANDROID = (
    "12/31/23, 11:58\u202fPM - Messages and calls are end-to-end encrypted. Tap to learn more.\n"
    f"12/31/23, 11:59\u202fPM - Ann: {QUESTION}\nI wonder.\n12/31/23, 11:59\u202fPM - Support: {ANSWER}\n"
    "12/31/23, 11:59\u202fPM - Ann: <Media omitted>\n1/1/24, 12:01 AM - Ann: Happy new year\n"
    "1/1/24, 12:01 AM - Support: You too: be well\n"
)
GERMAN = (
    "31.12.23, 23:58 - Nachrichten und Anrufe sind Ende-zu-Ende-verschlüsselt.\n"
    f"31.12.23, 23:59 - Ann: {QUESTION}\nI wonder.\n31.12.23, 23:59 - Support: {ANSWER}\n"
    "31.12.23, 23:59 - Ann: <Medien ausgeschlossen>\n01.01.24, 00:01 - Ann: Happy new year\n"
    "01.01.24, 00:01 - Support: You too: be well\n"
)


@pytest.mark.parametrize("export", [IOS, ANDROID, GERMAN])
def test_a_chat_of_whatsapp_asks_who_answers_and_becomes_a_conversation_a_day(export: str) -> None:
    with pytest.raises(SkippedError) as raised:
        parse_bytes("WhatsApp Chat with Ann.txt", export.encode())
    assert raised.value.reason == "unknown_role" and "--column" in raised.value.detail
    texts = parse_bytes("a.txt", export.encode(), ParseOptions(columns={"user": "Ann", "assistant": "Support"}))
    asked = {"role": "user", "content": f"{QUESTION}\nI wonder."}
    assert [text.metadata["messages"][0] for text in texts] == [asked, {"role": "user", "content": "Happy new year"}]
    assert [text.metadata["messages"][1]["content"] for text in texts] == [ANSWER, "You too: be well"]
    assert reading(texts)["notes"] == {"messages that nobody said": 1, "media": 1}


def test_a_log_and_a_diary_are_no_chats() -> None:
    for text in ("2023-12-31, 23:59 - INFO: up\n2023-12-31, 23:59 - WARN: hot\n", "31/12/2023, 23:59 - Rain.\nMore.\n"):
        assert parse_bytes("a.txt", text.encode())[0].text == text


@pytest.mark.parametrize(
    "record",
    [
        {"system": "", "user": QUESTION, "assistant": ANSWER},
        {"problem": QUESTION, "solution": ANSWER, "answer": "4"},
        {"problem": QUESTION, "generated_solution": ANSWER, "is_correct": True},
        {"question": QUESTION, "query": ANSWER, "db_id": "d"},
        {"text": QUESTION, "summary": ANSWER},
        {"translation": [{"lang": "en", "text": QUESTION}, {"lang": "de", "text": ANSWER}]},
        {"turns": [{"speaker": "human_0:", "text": QUESTION}, {"speaker": "AI Assistant", "text": ANSWER}]},
        {"whatever": {"messages": [USER, TOLD]}, "number": 1},
    ],
)  # fmt: skip
def test_further_names_of_columns_and_speakers(record: dict[str, Any]) -> None:
    assert read(record)[0].metadata["messages"] == [USER, TOLD]


def test_a_system_column_beside_speakers_and_choices_beside_a_prompt_are_read() -> None:
    (text,) = read({"system": KIND, "user": QUESTION, "assistant": ANSWER})
    assert text.metadata["messages"] == [SYSTEM, USER, TOLD]
    (choice,) = read({"prompt": QUESTION, "choices": ["night", "noon"], "answer": "noon"})
    assert [m["content"] for m in choice.metadata["messages"]] == [f"{QUESTION}\n\nA. night\nB. noon", "B. noon"]


@pytest.mark.parametrize("mark", [{"toxic": True}, {"rating": "thumbsDown"}, {"liked": False}])
def test_an_answer_marked_as_bad_in_its_turn_is_not_taught(mark: dict[str, Any]) -> None:
    texts = read({"messages": [USER, TOLD | {"content": BAD} | mark, USER, TOLD]})
    assert [message.get("weight", 1) for message in texts[0].metadata["messages"]] == [1, 0, 1, 1]
    assert reading(texts)["notes"]["answers that are marked as bad in their turn"] == 1


def test_a_label_that_says_bad_is_a_mark_and_one_that_names_a_class_is_not() -> None:
    pairs = ((ANSWER, "good"), (BAD, "bad"))
    texts = read(*({"prompt": QUESTION, "completion": text, "label": word} for text, word in pairs))
    assert [text.metadata["messages"][1]["content"] for text in texts] == [ANSWER]
    assert reading(texts)["refused_counts"] == {"bad_answer": 1}
    (moderated,) = read({"messages": [USER, TOLD], "label": "unsafe"})
    assert moderated.metadata["label"] == "unsafe"
