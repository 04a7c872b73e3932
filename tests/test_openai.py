"""OpenAI's protocol, spoken by OpenAI's own client with a real model behind the API."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest

from soldiom_ray.api import endpoints
from soldiom_ray.db import models
from soldiom_ray.db.engine import open_session
from soldiom_ray.deploy.app import ModelEndpoint
from soldiom_ray.settings import Settings

USER = [{"role": "user", "content": "def read(path):"}]


@pytest.fixture(scope="module")
def endpoint() -> ModelEndpoint:
    return ModelEndpoint("tiny", None, "builtin/tiny", 1, "1")


@pytest.fixture
def client(
    api_settings: Settings, api_url: str, api_keys: dict[str, str], endpoint: ModelEndpoint, monkeypatch: Any
) -> Iterator[openai.OpenAI]:
    """A client, for an API whose calls to Ray Serve end at a model in this process."""

    async def call(name: str, method: str, request: dict[str, Any]) -> Any:
        return await getattr(endpoint, method)(request)

    async def stream(name: str, method: str, request: dict[str, Any]) -> AsyncIterator[Any]:
        async for part in endpoint.stream(request):
            yield part

    monkeypatch.setattr(endpoints, "call", call)
    monkeypatch.setattr(endpoints, "stream", stream)
    with openai.OpenAI(base_url=f"{api_url}/v1", api_key=api_keys["user"], max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def model(api_settings: Settings) -> str:
    with open_session(api_settings) as session:
        models.create(session, family="base", name="idle")
        return str(models.create(session, family="base", name="tiny", deployed=True).id)


def test_deployed_models_are_listed(client: openai.OpenAI, model: str) -> None:
    assert [each.id for each in client.models.list()] == [model]
    assert client.models.retrieve(model).owned_by == "base/tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("base/idle")


def test_a_chat_is_answered_whole_and_as_a_stream(client: openai.OpenAI, model: str, endpoint: ModelEndpoint) -> None:
    asked: dict[str, Any] = {"model": model, "messages": USER, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    expected = asyncio.run(endpoint.generate({"messages": USER, "parameters": {"max_tokens": 12}}))["outputs"][0]
    choice = whole.choices[0]
    assert choice.message.content == expected["text"] and choice.finish_reason == expected["finish_reason"]
    assert whole.usage and whole.usage.prompt_tokens == expected["prompt_tokens"]
    assert whole.usage.completion_tokens == expected["completion_tokens"] == len(choice.logprobs.content)  # type: ignore
    first = choice.logprobs.content[0]  # type: ignore[union-attr,index]
    assert first.token == first.top_logprobs[0].token and first.logprob == first.top_logprobs[0].logprob <= 0
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected["text"]
    assert len(chunks) > 4 and chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert chunks[-2].choices[0].finish_reason == expected["finish_reason"]


def test_several_answers_stop_texts_and_parts_of_content(client: openai.OpenAI, model: str) -> None:
    parts = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
    ]
    asked: dict[str, Any] = {"model": "base/tiny", "messages": parts, "max_completion_tokens": 10, "n": 3, "seed": 4}
    answers = client.chat.completions.create(**asked)
    texts = [choice.message.content for choice in answers.choices]
    assert len(set(texts)) > 1 and answers.usage and answers.usage.completion_tokens <= 30
    assert texts == [choice.message.content for choice in client.chat.completions.create(**asked).choices]
    text = (
        client.completions.create(model=model, prompt="def read(path):", max_tokens=20, temperature=0).choices[0].text
    )
    stopped = client.completions.create(
        model=model, prompt="def read(path):", max_tokens=20, temperature=0, stop=text[8:10]
    )
    assert stopped.choices[0].text == text[: text.index(text[8:10])] and stopped.choices[0].finish_reason == "stop"


def test_texts_are_continued_together_and_as_a_stream(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "max_tokens": 8, "temperature": 0}
    both = client.completions.create(**asked, prompt=["import os", "class A:"], logprobs=1)
    alone = [client.completions.create(**asked, prompt=text).choices[0].text for text in ("import os", "class A:")]
    assert [choice.text for choice in both.choices] == alone
    logprobs = both.choices[0].logprobs
    assert logprobs and logprobs.tokens and len(logprobs.tokens) == 8 and logprobs.text_offset[0] == 0  # type: ignore
    chunks = list(client.completions.create(**asked, prompt="import os", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == alone[0]


def test_errors_are_those_that_the_client_knows(client: openai.OpenAI, model: str, api_url: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as wrong:
        client.chat.completions.create(model=model, messages=USER, temperature=9)  # type: ignore[arg-type]
    assert wrong.value.param == "temperature" and "less than or equal to 2" in str(wrong.value)
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="no-such", messages=USER)  # type: ignore[arg-type]
    assert missing.value.type == "invalid_request_error" and "no-such" in missing.value.message
    with pytest.raises(openai.ConflictError):
        client.completions.create(model="base/idle", prompt="x")
    with pytest.raises(openai.AuthenticationError), openai.OpenAI(base_url=f"{api_url}/v1", api_key="sld_x") as other:
        other.models.list()
    with pytest.raises(openai.APIError, match="max_tokens"):
        list(client.completions.create(model=model, prompt="x", max_tokens=9999, stream=True))
    plain = httpx.get(f"{api_url}/v1/models").json()
    assert plain["status"] == 401 and plain["error"]["type"] == "authentication_error" and plain["detail"]
