"""Answers that obey a JSON Schema: always whole and valid, whatever the model would say and whoever is beside it."""

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from random_schemas import PROMPTS, random_schema

from soldiom_ray.deploy.app import ModelEndpoint
from soldiom_ray.errors import InputError
from soldiom_ray.models.decoding import scheduler
from soldiom_ray.models.decoding.schemas import checked

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "kind": {"enum": ["cat", "dog"]}},
    "required": ["name", "age", "kind"],
}


@pytest.fixture(scope="module")
def endpoint() -> ModelEndpoint:
    return ModelEndpoint("tiny", None, "builtin/tiny", 1, "1")


def obeying(schema: Any, **parameters: Any) -> dict[str, Any]:
    return parameters | {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def ask(endpoint: ModelEndpoint, *requests: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers to prompts that are asked at the same time."""

    async def ask_all() -> list[dict[str, Any]]:
        calls = [endpoint.generate({"inputs": [text], "parameters": parameters}) for text, parameters in requests]
        return [answer["outputs"][0] for answer in await asyncio.gather(*calls)]

    return asyncio.run(ask_all())


def invalid_answers(endpoint: ModelEndpoint, seeds: Sequence[int]) -> tuple[int, list[str]]:
    """(answers, those that break their schema) to hostile prompts with random schemas, greedy and sampled, with room
    for little more than the shortest answer or for much."""

    async def ask_one(seed: int) -> tuple[int, str]:
        draw, schema = random.Random(-seed), random_schema(seed)
        try:
            shortest = (await endpoint.engine.grammar(schema)).shortest_tokens
        except InputError as error:  # its parts contradict one another
            assert "no answer" in str(error) or "Unsatisfiable" in str(error), (schema, error)
            return 0, ""
        tokens = min(shortest + draw.choice((0, 1, 5, 20, 80)), 250)
        parameters = obeying(schema, max_tokens=tokens, temperature=float(seed % 2), seed=seed)
        request = {"inputs": [draw.choice(PROMPTS)], "parameters": parameters}
        output = (await endpoint.generate(request))["outputs"][0]
        try:
            Draft202012Validator(schema).validate(json.loads(output["text"]))
        except Exception as error:
            return 1, f"{seed}: {json.dumps(schema)} -> {output}: {error}"
        return 1, ""

    async def ask_all() -> list[tuple[int, str]]:
        results = []
        for start in range(0, len(seeds), 16):
            results += await asyncio.gather(*map(ask_one, seeds[start : start + 16]))
        return results

    results = asyncio.run(ask_all())
    return sum(count for count, _ in results), [text for _, text in results if text]


def test_answers_to_hostile_prompts_obey_random_schemas(endpoint: ModelEndpoint) -> None:
    count, invalid = invalid_answers(endpoint, range(24))
    assert count >= 22 and not invalid, "\n".join(invalid)


@pytest.mark.endurance
@pytest.mark.parametrize("base", ["builtin/tiny", "builtin/smollm2-135m-instruct"])
def test_a_thousand_answers_obey_random_schemas(base: str) -> None:
    count, invalid = invalid_answers(ModelEndpoint("a model", None, base, 2, "1"), range(1000, 2000))
    assert count >= 980 and not invalid, "\n".join(invalid)


@pytest.mark.parametrize("temperature", [0, 1])
def test_an_answer_is_whole_within_every_limit_that_holds_the_shortest(
    endpoint: ModelEndpoint, temperature: int
) -> None:
    shortest = asyncio.run(endpoint.engine.grammar(PERSON)).shortest_tokens
    limits = range(shortest, shortest + 12)
    requests = [("x", obeying(PERSON, max_tokens=limit, temperature=temperature, seed=limit)) for limit in limits]
    for limit, output in zip(limits, ask(endpoint, *requests), strict=True):
        Draft202012Validator(PERSON).validate(json.loads(output["text"]))
        assert output["completion_tokens"] <= limit
    with pytest.raises(InputError, match=f"takes {shortest} tokens"):
        ask(endpoint, ("x", obeying(PERSON, max_tokens=shortest - 1)))


def test_one_long_text_leaves_room_for_what_must_come_after_it(endpoint: ModelEndpoint) -> None:
    texts = {"type": "object", "properties": {name: {"type": "string", "minLength": 1} for name in "abc"},
             "required": ["a", "b", "c"]}  # fmt: skip
    (output,) = ask(endpoint, ("def read(path):", obeying(texts, max_tokens=120, temperature=1, seed=2)))
    lengths = [len(text) for text in json.loads(output["text"]).values()]
    assert len(lengths) == 3 and min(lengths) >= 1 and " \n" not in output["text"]


def test_who_is_beside_an_answer_does_not_change_it(endpoint: ModelEndpoint) -> None:
    free = [("def read(path):", {"max_tokens": 24}), ("import", {"max_tokens": 20, "temperature": 1.0, "seed": 5})]
    bound = [("def read(path):", obeying(PERSON, max_tokens=60, temperature=1.0, seed=seed)) for seed in (1, 2)]
    alone = [ask(endpoint, each)[0] for each in (*free, *bound)]
    assert ask(endpoint, *free, *bound) == alone
    assert alone[2] != alone[3]


def test_tokens_without_a_choice_are_read_together_and_change_nothing(
    endpoint: ModelEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = obeying(PERSON, max_tokens=60, temperature=1.0, seed=1)
    counted = endpoint.engine.generator.scheduler.batches  # type: ignore[attr-defined]
    counted.clear()
    together = ask(endpoint, ("x", parameters))[0]
    assert len(counted) < together["completion_tokens"] - 8
    monkeypatch.setattr(scheduler, "FORCED", 1)
    assert ask(endpoint, ("x", parameters))[0] == together
    with_logprobs = ask(endpoint, ("x", parameters | {"logprobs": 0}))[0]
    assert with_logprobs["text"] == together["text"]
    assert len(with_logprobs["logprobs"]) == together["completion_tokens"]


def test_an_object_is_asked_for_without_a_schema_and_logprobs_are_the_models_own(endpoint: ModelEndpoint) -> None:
    parameters = {"max_tokens": 30, "logprobs": 2, "response_format": {"type": "json_object"}}
    free, bound = ask(endpoint, ("x", {"max_tokens": 1, "logprobs": 2}), ("x", parameters))
    assert isinstance(json.loads(bound["text"]), dict)
    assert bound["logprobs"][0]["top"] == free["logprobs"][0]["top"]


@pytest.mark.parametrize(
    ("schema", "place", "words"),
    [
        ({"type": "object", "properties": {"a": {"not": {}}}}, ".properties.a.not", "anyOf"),
        ({"type": "strin"}, ".type", "is not valid"),
        ({"type": "string", "format": "iban"}, ".format", "pattern"),
        ({"type": "string", "pattern": "^(?=a)b"}, "", "look-around"),
        ({"type": "array", "uniqueItems": True}, ".uniqueItems", "leave it out"),
        ({"$ref": "#"}, ".$ref", "itself"),
        ({"$ref": "https://example.com/x"}, ".$ref", "$defs"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "", "greater"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "", "anyOf"),
        ({"type": "object", "minProperties": 2}, ".minProperties", "additionalProperties"),
        ({"enum": ["x" * 1000 + str(number) for number in range(70)]}, "", "at most"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_by_its_keyword(
    endpoint: ModelEndpoint, schema: Any, place: str, words: str
) -> None:
    with pytest.raises(InputError) as refused:
        ask(endpoint, ("x", obeying(schema)))
    problem = refused.value.problems[0]
    assert problem.loc == f"response_format.json_schema.schema{place}" and words in problem.msg


def test_schemas_made_to_cost_much_are_refused_soon(endpoint: ModelEndpoint) -> None:
    deep: Any = {"type": "integer"}
    for _ in range(300):
        deep = {"type": "array", "items": deep}
    endless = {"properties": {"a": {"$ref": "#"}}, "required": ["a"], "type": "object", "additionalProperties": False}
    for schema in (deep, endless, {"type": "string", "pattern": "^((((a{100}){100}){100}){100})$"}):
        with pytest.raises(InputError):
            ask(endpoint, ("x", obeying(schema)))


def test_stop_texts_do_not_cut_an_answer(endpoint: ModelEndpoint) -> None:
    with pytest.raises(InputError, match="could cut"):
        ask(endpoint, ("x", obeying(PERSON, stop=["}"])))


def test_a_schema_is_tightened_only_where_every_answer_still_obeys_it() -> None:
    assert checked(PERSON)["additionalProperties"] is False
    assert checked(PERSON)["properties"]["age"]["maximum"] == 2**53 - 1
    both = {"allOf": [PERSON, {"type": "object", "properties": {"b": {"type": "integer", "minimum": 1e17}}}]}
    assert checked(both) == both
    choice = {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}, "required": ["b"]}, {"required": ["a"]}]}
    assert checked(choice) == choice
    assert checked({"type": "integer", "minimum": 2**60}) == {"type": "integer", "minimum": 2**60}


def test_a_grammar_is_compiled_once_for_each_schema(endpoint: ModelEndpoint) -> None:
    schema = PERSON | {"title": "once"}
    first = asyncio.run(endpoint.engine.grammar(schema))
    assert asyncio.run(endpoint.engine.grammar(dict(schema))) is first
