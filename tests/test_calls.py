"""Calls of functions: written as the model's template writes them, their arguments bound to the schemas."""

import asyncio
import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from test_chat import CHATML, KNOWS_TOOLS, tokenizer_with

from soldiom_ray.deploy.app import ModelEndpoint
from soldiom_ray.errors import InputError
from soldiom_ray.models.decoding.calls import CallReader, CallSyntax, bound_calls, call_syntax, read_calls
from soldiom_ray.models.decoding.constraint import Constraint

CLOCK = {"name": "clock", "parameters": {"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}},
         "required": ["zone"]}}  # fmt: skip
ADD = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "note": {}},
       "required": ["a"]}}  # fmt: skip
TOOLS = [{"type": "function", "function": each} for each in (CLOCK, ADD)]
SCHEMAS = {each["name"]: each["parameters"] for each in (CLOCK, ADD)}


@pytest.fixture(scope="module")
def endpoint() -> ModelEndpoint:
    return ModelEndpoint("tiny", None, "builtin/tiny", 1, "1")


def ask(endpoint: ModelEndpoint, **parameters: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Say \"it's <late", "tools": TOOLS}]
    request = {"messages": messages, "parameters": {"max_tokens": 80, "temperature": 1.0} | parameters}
    output: dict[str, Any] = asyncio.run(endpoint.generate(request))["outputs"][0]
    return output


def checked_names(calls: list[dict[str, str]]) -> set[str]:
    for call in calls:
        Draft202012Validator(SCHEMAS[call["name"]]).validate(json.loads(call["arguments"]))
    return {call["name"] for call in calls}


def test_a_call_that_is_required_comes_and_its_arguments_obey_their_schema(endpoint: ModelEndpoint) -> None:
    outputs = [ask(endpoint, tool_choice="required", seed=seed, parallel_tool_calls=seed > 1) for seed in range(5)]
    assert all(output["tool_calls"] and not output["text"] for output in outputs)
    assert all(checked_names(output["tool_calls"]) for output in outputs)
    assert all(len(output["tool_calls"]) == 1 for output in outputs[:2])
    named = ask(endpoint, tool_choice={"name": "clock"}, max_tokens=60)
    assert [call["name"] for call in named["tool_calls"]] == ["clock"] and checked_names(named["tool_calls"])


def test_an_answer_that_may_call_is_free_text_else(endpoint: ModelEndpoint) -> None:
    greedy: dict[str, Any] = {"temperature": 0.0, "max_tokens": 16}
    free, auto = ask(endpoint, **greedy), ask(endpoint, **greedy, tool_choice="auto")
    assert auto["text"] == free["text"] and auto["tool_calls"] == [] and auto["finish_reason"] == "length"


@pytest.mark.parametrize("room", [1, 5, 12, 30, 60])
def test_a_call_that_has_begun_is_whole_or_not_there(endpoint: ModelEndpoint, room: int) -> None:
    calls = bound_calls(TOOLS, "auto", parallel=True, syntax=endpoint.call_syntax)
    assert calls is not None

    async def begun() -> str:
        constraint = Constraint(await endpoint.engine.call_grammar(calls), room)
        vocabulary, text = constraint.grammar.vocabulary, 'so "it is\n<tool_call>\n{"name": "clock", "arg'
        tokens: list[int] = []
        while not constraint.is_complete and len(tokens) < room:
            written = b"".join(vocabulary.texts[token] for token in tokens if token not in vocabulary.ends)
            left = text.encode().removeprefix(written)
            tokens.append(constraint.take(vocabulary.first(left) if left else vocabulary.ends[0]))
        return b"".join(vocabulary.texts[token] for token in tokens if token not in vocabulary.ends).decode()

    text = asyncio.run(begun())
    words, made = read_calls(text, endpoint.call_syntax)
    assert 'so "it is\n'.startswith(words[:10]) and (room < 60 or checked_names(made) == {"clock"})
    assert "<tool_call>" not in words and ("<tool_call>" in text) == bool(made)


def test_a_template_that_writes_calls_its_own_way_is_followed() -> None:
    assert call_syntax(tokenizer_with(CHATML)) == CallSyntax()
    assert call_syntax(tokenizer_with(None)).mark == "<tool_call>"
    own = call_syntax(tokenizer_with(KNOWS_TOOLS))
    assert (own.before, own.between, own.after) == ('CALL {"name": "', '", "arguments": ', "}")
    text = 'Well. CALL {"name": "clock", "arguments": {"zone": "}\\""}}'
    assert read_calls(text, own) == ("Well. ", [{"name": "clock", "arguments": '{"zone": "}\\""}'}])


def test_calls_are_read_from_any_pieces() -> None:
    call = '<tool_call>\n{"name": "a\\"b", "arguments": {"x": {"y": "{"}}}\n</tool_call>'
    for size in (1, 2, 7, 1000):
        reader = CallReader(CallSyntax())
        text = f"One < two.{call}\n{call}"
        parts = [part for start in range(0, len(text), size) for part in reader.add(text[start : start + size])]
        parts += reader.end()
        assert "".join(part.get("text", "") for part in parts) == "One < two."
        calls = [part["tool_call"] for part in parts if "tool_call" in part]
        for index in (0, 1):
            own = [each for each in calls if each["index"] == index]
            assert own[0]["name"] == 'a"b' and "".join(each["arguments"] for each in own[1:]) == '{"x": {"y": "{"}}'
    assert read_calls("a <tool", CallSyntax()) == ("a <tool", [])


def test_a_strict_schema_is_refused_where_a_loose_one_becomes_any_object() -> None:
    tool: dict[str, Any] = {"function": {"name": "f", "parameters": {"type": "object", "not": {}}}}
    calls = bound_calls([tool], "auto", parallel=True, syntax=CallSyntax())
    assert calls is not None and calls.functions == {"f": {"type": "object"}}
    tool["function"]["strict"] = True
    with pytest.raises(InputError) as refused:
        bound_calls([tool], "auto", parallel=True, syntax=CallSyntax())
    assert refused.value.problems[0].loc == "tools.0.function.parameters.not"
    with pytest.raises(InputError, match=r"names 'g'; `tools` hold f"):
        bound_calls([{"function": {"name": "f"}}], {"name": "g"}, parallel=True, syntax=CallSyntax())
    with pytest.raises(InputError):
        bound_calls([{"type": "function"}], "auto", parallel=True, syntax=CallSyntax())
