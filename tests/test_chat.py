"""Conversations as tokens: the trainer and the server see the same, and only the assistant's words are learnt."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preparing import context_in, document, documents_of
from training import dataset_in

from soldiom_ray.artifacts import Context
from soldiom_ray.deploy.app import ModelEndpoint
from soldiom_ray.deploy.requests import read_request
from soldiom_ray.domains.builtin_models import BUILTIN_FOLDER
from soldiom_ray.domains.schema import Prepare, SplitRule, Train
from soldiom_ray.errors import InputError
from soldiom_ray.models.chat import chat_text, encode_chat, encode_prompt, encode_samples
from soldiom_ray.models.expressible import folded, template_gaps
from soldiom_ray.models.tokens import CHAT_TEMPLATE, END_OF_TEXT, train_tokenizer
from soldiom_ray.prepare import prepare
from soldiom_ray.records import Manifest
from soldiom_ray.train.blocks import Blocks
from soldiom_ray.train.driver import run_locally
from soldiom_ray.train.tasks.causal import CausalTask, open_tokens, tokenize

TEXT = ["The lease ends in May. Why? Because the tenant moved.", "user assistant system question answer"] * 50
MARKS = ["<|im_start|>", "<|im_end|>", "<|start|>", "<|stop|>", "<|eot|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m['role'] }}<|stop|>\n\n"
    "{{ m['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('no') }}{% endif %}"
    "{% endfor %}"
)
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MESSAGES = [
    {"role": "user", "content": "When does the lease end?"},
    {"role": "assistant", "content": "In May."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "The tenant moved."},
]


def tokenizer_with(template: str | None, end: str = END_OF_TEXT) -> Any:
    tokenizer = train_tokenizer(TEXT, 400, 128)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.chat_template = template
    tokenizer.eos_token = end
    return tokenizer


TEMPLATES = {
    "own": (CHAT_TEMPLATE, END_OF_TEXT),
    "chatml": (CHATML, "<|im_end|>"),
    "llama": (LLAMA, "<|eot|>"),
    "mistral": (MISTRAL, END_OF_TEXT),
    "none": (None, END_OF_TEXT),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_trainer_sees_what_the_server_sees_and_learns_only_answers_and_their_ends(name: str) -> None:
    tokenizer = tokenizer_with(*TEMPLATES[name])
    conversation = encode_chat(tokenizer, MESSAGES)
    prompt = encode_prompt(tokenizer, chat_text(tokenizer, MESSAGES[:1], add_generation_prompt=True))
    assert conversation.ids[: len(prompt)].tolist() == prompt and not conversation.loss_mask[: len(prompt)].any()
    labeled = tokenizer.decode(conversation.ids[conversation.loss_mask])
    assert "In May." in labeled and "The tenant moved." in labeled and "lease" not in labeled and "Why" not in labeled
    ends = [token for token in conversation.ids[conversation.loss_mask].tolist() if token == tokenizer.eos_token_id]
    assert len(ends) == 2
    whole = chat_text(tokenizer, MESSAGES, add_generation_prompt=False)
    assert tokenizer.decode(conversation.ids) in (whole, whole + tokenizer.eos_token)


def test_a_template_that_rewrites_earlier_turns_teaches_the_last_answer_only() -> None:
    tokenizer = tokenizer_with(FORGETFUL, "<|im_end|>")
    turns = [dict(turn) for turn in MESSAGES]
    turns[1]["content"] = "hm</think>In May."
    conversation = encode_chat(tokenizer, turns)
    labeled = tokenizer.decode(conversation.ids[conversation.loss_mask])
    assert "The tenant moved." in labeled and "May" not in labeled


def test_a_conversation_that_the_template_refuses_is_named_by_its_roles() -> None:
    with pytest.raises(InputError, match="critic, user"):
        encode_chat(tokenizer_with(MISTRAL), [{"role": "critic", "content": "x"}, *MESSAGES[:1]])


def test_a_system_turn_that_the_template_refuses_is_folded_into_the_users() -> None:
    text = chat_text(tokenizer_with(MISTRAL), [{"role": "system", "content": "x"}, *MESSAGES[:1]],
                     add_generation_prompt=True)  # fmt: skip
    assert text.endswith("[INST] x\n\nWhen does the lease end? [/INST]")


def conversation_dataset(context: Context) -> Manifest:
    """Forty conversations of one question and one answer, prepared."""
    import json

    rows = [
        document(
            f"Question number {n} about the lease of house {n}?\n\nAnswer {n}: the tenant of house {n} moved away.",
            f"row {n}",
            f"{n}.txt",
            metadata=json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": f"Question number {n} about the lease of house {n}?"},
                        {"role": "assistant", "content": f"Answer {n}: the tenant of house {n} moved away."},
                    ]
                }
            ),
        )
        for n in range(40)
    ]
    declared = Prepare(filters=("min_words",), split=SplitRule(test=0.1, validation=0.1))
    return prepare(context, [documents_of(context, rows)], declared)


def test_a_dataset_of_conversations_becomes_streams_with_a_mask_and_a_report_of_cuts(tmp_path: Any) -> None:
    import json

    context = context_in(tmp_path)
    dataset = conversation_dataset(context)
    sample = next(context.artifacts.rows(dataset, "train/"))
    assert json.loads(sample["messages"])[1]["role"] == "assistant" and sample["verdict"] == "allowed"
    tokenizer = tokenizer_with(CHATML, "<|im_end|>")
    tokens = tokenize(context.artifacts, dataset, tokenizer, "t", context.report)
    cuts = CausalTask().cuts(context.artifacts, tokens, 16)
    assert cuts["samples"] == dataset.counts["train"] == cuts["cut_samples"] and cuts["cut_tokens"] > 0
    with open_tokens(context.artifacts, tokens, 16) as (train, _):
        _, labels = train.batch(np.arange(len(train)))
        labeled = labels[labels >= 0]
        assert 0 < len(labeled) == train.label_count(np.arange(len(train))) < labels.size
        assert "Question" not in tokenizer.decode(labeled)


def test_a_stream_without_conversations_learns_everything() -> None:
    blocks = Blocks(np.arange(100, dtype=np.uint16), 10)
    ids, labels = blocks.batch(np.array([0, 3]))
    assert (labels == ids + 1).all() and blocks.label_count(np.array([0, 3])) == 20


@pytest.mark.long
def test_an_endpoint_asks_a_model_the_way_it_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_in(tmp_path)
    monkeypatch.setenv("SOLDIOM_HOME", str(tmp_path))
    declared = Train(base_model="builtin/tiny", method="lora", max_tokens=2000, sequence_length=64)
    conversations = run_locally(context, conversation_dataset(context), declared)
    texts = run_locally(context, dataset_in(context.artifacts), declared)
    assert [run.details["prompt_format"] for run in (conversations, texts)] == ["chat", "text"]
    question = "Question number 3?"
    as_text = {"inputs": [question]}
    as_turn = {"messages": [{"role": "user", "content": question}]}
    as_is = {"inputs": [question], "raw": True}
    for run, base, equals in (
        (conversations.id, None, as_turn),
        (texts.id, None, as_is),
        (None, "builtin/tiny", as_is),
        (None, str(chat_model(tmp_path / "instruct")), as_turn),
    ):
        endpoint = ModelEndpoint("a model", run, base, 1, "1")
        answers = [asyncio.run(endpoint.generate(request)) for request in (as_text, equals, as_turn, as_is)]
        assert answers[0] == answers[1]
        assert answers[2]["outputs"][0]["prompt_tokens"] > answers[3]["outputs"][0]["prompt_tokens"]


def chat_model(folder: Path) -> Path:
    """A base with a chat template, as instruction-tuned models of the hub are."""
    shutil.copytree(BUILTIN_FOLDER / "tiny", folder)
    return folder


CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
WITH_CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "Is it late?", "tools": [CLOCK]},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "12:00"},
    {"role": "assistant", "content": "It is noon."},
]
KNOWS_TOOLS = (
    "{% if tools %}<|start|>{{ tools | tojson }}<|stop|>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for call in m.tool_calls or [] %}CALL {{ call.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def taught(tokenizer: Any, messages: list[dict[str, Any]]) -> str:
    encoded = encode_chat(tokenizer, messages)
    return str(tokenizer.decode(encoded.ids[encoded.loss_mask]))


def test_calls_and_tools_reach_a_template_that_knows_them_and_the_calls_are_taught() -> None:
    tokenizer = tokenizer_with(KNOWS_TOOLS)
    text = chat_text(tokenizer, WITH_CALLS, add_generation_prompt=False)
    assert text.startswith('<|start|>[{"type": "function"') and "<|im_start|>tool\n12:00<|im_end|>" in text
    said = taught(tokenizer, WITH_CALLS)
    assert 'CALL {"name": "clock", "arguments": {"zone": "UTC"}}' in said and "It is noon." in said
    assert "12:00" not in said and "late" not in said
    assert template_gaps(tokenizer, WITH_CALLS) == []


def test_a_template_without_tools_gets_them_folded_into_what_it_can_express() -> None:
    tokenizer = tokenizer_with(CHATML)
    text = chat_text(tokenizer, WITH_CALLS, add_generation_prompt=False)
    assert text.startswith("<|im_start|>system\nYou may call these functions.")
    assert '<tools>\n{"name": "clock", "parameters": {"type": "object"}}\n</tools><|im_end|>' in text
    assert "<|im_start|>user\n<tool_response>\n12:00\n</tool_response><|im_end|>" in text
    said = taught(tokenizer, WITH_CALLS)
    assert said.startswith('<tool_call>\n{"name": "clock", "arguments": {"zone": "UTC"}}\n</tool_call><|im_end|>')
    assert "It is noon.<|im_end|>" in said and "12:00" not in said
    assert template_gaps(tokenizer, WITH_CALLS) == ["tools", "calls", "results"]
    assert folded(tokenizer, folded(tokenizer, WITH_CALLS)) == folded(tokenizer, WITH_CALLS)


def test_an_answer_of_weight_0_is_read_and_not_taught() -> None:
    weighted = [MESSAGES[0], MESSAGES[1] | {"weight": 0}, *MESSAGES[2:]]
    said = taught(tokenizer_with(CHATML), weighted)
    assert "In May." not in said and "The tenant moved." in said


def test_a_conversation_with_calls_is_asked_as_it_was_trained_also_from_openais_client() -> None:
    sent = [dict(message) for message in WITH_CALLS[:3]]
    function = {"name": "clock", "arguments": '{"zone": "UTC"}'}
    sent[1] = {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}
    asked = [message.as_dict() for message in read_request({"messages": sent}).messages]
    for template in (CHATML, KNOWS_TOOLS):
        tokenizer = tokenizer_with(template)
        trained = chat_text(tokenizer, WITH_CALLS, add_generation_prompt=False)
        assert trained.startswith(chat_text(tokenizer, asked, add_generation_prompt=True))


def test_a_system_turn_that_a_template_would_leave_out_begins_the_users_turn() -> None:
    silent = tokenizer_with(CHATML.replace("%}<|im_start|>{{", "%}{% if m['role'] != 'system' %}<|im_start|>{{", 1)
        .replace("<|im_end|>\n{% endfor %}", "<|im_end|>\n{% endif %}{% endfor %}"))  # fmt: skip
    messages = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    text = chat_text(silent, messages, add_generation_prompt=False)
    assert text.startswith("<|im_start|>user\nBe brief.\n\nWhen does the lease end?<|im_end|>")
    (encoded,) = encode_samples(silent, [("", messages)])
    assert "Be brief." in silent.decode(encoded.ids) and "Be brief." not in silent.decode(
        encoded.ids[encoded.loss_mask]
    )
    assert template_gaps(silent, messages) == ["system turns"]
    kept = chat_text(tokenizer_with(CHATML), messages, add_generation_prompt=False)
    assert kept.startswith("<|im_start|>system\nBe brief.<|im_end|>")


ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_turns_of_one_speaker_become_one_where_a_template_refuses_them_and_are_taught_as_they_were() -> None:
    strict = tokenizer_with(ALTERNATING)
    said = [("user", "Why?"), ("user", "And when?"), ("assistant", "In May."), ("assistant", "The tenant moved.")]
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in said]
    assert template_gaps(strict, messages) == ["repeated user turns", "repeated answers"]
    assert taught(strict, messages).startswith("In May.\n\nThe tenant moved.<|im_end|>")
    prompt = chat_text(strict, messages[:2], add_generation_prompt=True)
    assert chat_text(strict, messages, add_generation_prompt=False).startswith(prompt)
    assert template_gaps(tokenizer_with(CHATML), messages) == []
    half_taught = [*messages[:2], messages[2] | {"weight": 0}, messages[3]]
    with pytest.raises(InputError, match=r"refuses turn 3 \(assistant\)"):
        encode_chat(strict, half_taught)
