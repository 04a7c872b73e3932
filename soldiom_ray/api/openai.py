"""OpenAI's protocol: its bodies as requests to an endpoint, and an endpoint's answers in its shapes."""

import time
import uuid
from base64 import b64encode
from collections.abc import Mapping, Sequence
from struct import unpack
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from soldiom_ray.api.bodies import Message, Stop, check_length
from soldiom_ray.domains.builtin_models import MINILM
from soldiom_ray.domains.door_defaults import REQUEST_CHARACTERS
from soldiom_ray.domains.response_format import ResponseFormat
from soldiom_ray.errors import InputError, Problem
from soldiom_ray.records import Record, new_id

MAX_PROMPTS, MAX_CHOICES, MAX_EMBEDDED = 64, 16, 2048


class StreamOptions(Record):
    """What a stream has besides text."""

    include_usage: bool = Field(False, description="send the counts of tokens in a last chunk")


class Sampling(Record):
    """What chats and completions have in common. `user` goes to the stored answer; none is stored for a longer name
    than `user_id` may be elsewhere."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = Field(min_length=1, max_length=512, description="a deployed model: its id, or family/name")
    max_tokens: int | None = Field(None, ge=1, le=65536, description="most tokens to generate")
    temperature: float | None = Field(None, ge=0, le=2, description="0: the most likely token, always; unset: 1")
    top_p: float | None = Field(None, gt=0, le=1, description="probability mass of the tokens that are sampled from")
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="answers to each prompt")
    seed: int | None = Field(None, ge=0, lt=2**63, description="makes sampling reproducible")
    stop: tuple[Stop, ...] = Field((), max_length=8, description="texts that end the output")
    stream: bool | None = Field(None, description="send server-sent events while the model generates")
    stream_options: StreamOptions | None = Field(None, description="what a stream has besides text")
    frequency_penalty: Literal[0] | None = Field(None, description="not supported: 0")
    presence_penalty: Literal[0] | None = Field(None, description="not supported: 0")
    user: str | None = Field(None, max_length=512, description="who asks; unset: the name of the key")

    @field_validator("stop", mode="before")
    @classmethod
    def _one_text_is_a_list(cls, value: Any) -> Any:
        return () if value is None else (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _streams_one_answer(self) -> "Sampling":
        if self.stream and (self.n or 1) > 1:
            raise ValueError("a stream has one answer: `n` is 1")
        return self

    def parameters(self, choice: int = 0) -> dict[str, Any]:
        """An endpoint's parameters for one of `n` answers, each of which has a seed of its own."""
        values = {"max_tokens": self.max_tokens, "top_p": self.top_p}
        seed = None if self.seed is None else (self.seed + choice * MAX_PROMPTS) % 2**63
        values |= {"temperature": 1.0 if self.temperature is None else self.temperature, "seed": seed}
        return {name: value for name, value in values.items() if value is not None} | {"stop": list(self.stop)}


class ChatMessage(Message):
    """One turn; its content may be parts of text, and a developer's turn is the system's."""

    refusal: None = Field(None, description="not used")

    @model_validator(mode="before")
    @classmethod
    def _plain_text(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        content, role = value.get("content"), value.get("role")
        if isinstance(content, list):
            if any(not isinstance(part, Mapping) or part.get("type") != "text" for part in content):
                raise ValueError("parts of `content` are of the type text")
            content = "".join(str(part.get("text", "")) for part in content)
        calls = value.get("tool_calls") or ()
        return {**value, "content": content, "tool_calls": calls, "role": "system" if role == "developer" else role}


class ToolName(Record):
    """A function by its name."""

    name: str = Field(min_length=1, max_length=256)


class ToolChoice(Record):
    """The function that is to be called."""

    type: Literal["function"] = "function"
    function: ToolName


class ChatBody(Sampling):
    """A conversation whose next turn is asked for."""

    messages: tuple[ChatMessage, ...] = Field(min_length=1, max_length=1000, description="a conversation")
    max_completion_tokens: int | None = Field(None, ge=1, le=65536, description="the newer name of `max_tokens`")
    logprobs: bool | None = Field(None, description="send each token's log probability")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="and those of so many alternatives")
    tools: tuple[dict[str, Any], ...] = Field((), max_length=128, description="functions that the model may call")
    tool_choice: Literal["auto", "none", "required"] | ToolChoice | None = Field(
        None, description="none: call no function; required: call one; or the function to call; unset: auto"
    )
    parallel_tool_calls: bool | None = Field(None, description="false: call at most one function")
    response_format: ResponseFormat | None = Field(
        None, description="the form of the answer: free, or JSON by a schema"
    )

    @model_validator(mode="after")
    def _is_short(self) -> "ChatBody":
        check_length(self.messages, self.tools)
        return self

    def request(self, choice: int = 0) -> dict[str, Any]:
        """What an endpoint is asked for one of `n` answers."""
        kept = {"role", "content", "tool_calls", "tool_call_id", "name"}
        messages = [each.model_dump(include=kept, exclude_defaults=True, exclude_none=True) for each in self.messages]
        if self.tools and self.tool_choice != "none":
            messages[0] |= {"tools": list(self.tools)}
        parameters = self.parameters(choice)
        if self.tools:
            named = self.tool_choice if isinstance(self.tool_choice, ToolChoice) else None
            parameters["tool_choice"] = named.function.model_dump() if named else self.tool_choice or "auto"
            parameters["parallel_tool_calls"] = self.parallel_tool_calls is not False
        if self.max_completion_tokens:
            parameters["max_tokens"] = self.max_completion_tokens
        if self.logprobs:
            parameters["logprobs"] = self.top_logprobs or 0
        if self.response_format:
            parameters["response_format"] = self.response_format.model_dump(exclude_none=True, by_alias=True)
        return {"messages": messages, "parameters": parameters}


class CompletionBody(Sampling):
    """Texts that the model continues as they are."""

    prompt: tuple[str, ...] = Field(min_length=1, max_length=MAX_PROMPTS, description="a text, or several")
    logprobs: int | None = Field(None, ge=0, le=5, description="send log probabilities, of so many alternatives")
    echo: Literal[False] | None = Field(None, description="not supported: false")
    best_of: Literal[1] | None = Field(None, description="not supported: 1")
    suffix: Literal[""] | None = Field(None, description="not supported: empty")

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_prompt_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_short(self) -> "CompletionBody":
        if sum(map(len, self.prompt)) > REQUEST_CHARACTERS:
            raise ValueError(f"`prompt` holds more than {REQUEST_CHARACTERS} characters")
        return self

    def request(self, choice: int = 0) -> dict[str, Any]:
        """What an endpoint is asked for one of `n` answers to each prompt. InputError for a stream of several."""
        if self.stream and len(self.prompt) > 1:
            problem = Problem("body.prompt", "a stream continues one text")
            raise InputError("The request cannot be used.", problems=[problem])
        parameters = self.parameters(choice)
        if self.logprobs is not None:
            parameters["logprobs"] = self.logprobs
        return {"inputs": list(self.prompt), "raw": True, "parameters": parameters}


class EmbeddingsBody(Record):
    """Texts whose vectors are asked for."""

    model: str = Field(min_length=1, max_length=512, description=f"the model that embeds: {MINILM}")
    input: tuple[str, ...] = Field(min_length=1, max_length=MAX_EMBEDDED, description="a text, or several")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="base64: each vector as the bytes of little-endian float32"
    )
    dimensions: int | None = Field(None, ge=1, description="only what the model gives: its vectors cannot be shortened")
    user: str | None = Field(None, max_length=512, description="not used")

    @field_validator("input", mode="before")
    @classmethod
    def _one_text_is_a_list(cls, value: Any) -> Any:
        if isinstance(value, list) and value and all(isinstance(each, (int, list)) for each in value):
            raise ValueError("tokens of another tokenizer cannot be read: send texts")
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_short(self) -> "EmbeddingsBody":
        if sum(map(len, self.input)) > REQUEST_CHARACTERS:
            raise ValueError(f"`input` holds more than {REQUEST_CHARACTERS} characters")
        return self


def embeddings_answer(body: EmbeddingsBody, vectors: Sequence[bytes], tokens: Sequence[int]) -> dict[str, Any]:
    """The vectors in the order of the texts. InputError where other dimensions were asked for."""
    size = len(vectors[0]) // 4
    if body.dimensions not in (None, size):
        raise InputError(
            f"Vectors of {body.model} cannot be shortened.",
            remedy=f"leave out `dimensions`, or give {size}",
            problems=[Problem("body.dimensions", f"is {body.dimensions}; the vectors have {size}")],
        )
    is_text = body.encoding_format == "base64"
    written = [b64encode(row).decode() if is_text else list(unpack(f"<{size}f", row)) for row in vectors]
    data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(written)]
    counts = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
    return {"object": "list", "data": data, "model": body.model, "usage": counts}


def new_answer(kind: str, model: str, *, chunk: bool = False) -> dict[str, Any]:
    """The members that all parts of one answer share; `kind` is "chat.completion" or "text_completion"."""
    prefix = "chatcmpl" if kind == "chat.completion" else "cmpl"
    name = f"{kind}.chunk" if chunk and kind == "chat.completion" else kind
    return {"id": f"{prefix}-{new_id()}", "object": name, "created": int(time.time()), "model": model}


def chat_choice(index: int, output: Mapping[str, Any]) -> dict[str, Any]:
    """A whole answer of a chat."""
    calls = [{"id": new_call(), "type": "function", "function": call} for call in output.get("tool_calls") or ()]
    content = output["text"] or None if calls else output["text"]
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    finish = chat_finish(output["finish_reason"], calls=bool(calls))
    return {"index": index, "message": message, "finish_reason": finish, "logprobs": chat_logprobs(output)}


def completion_choice(index: int, output: Mapping[str, Any]) -> dict[str, Any]:
    """A whole continuation."""
    choice = {"index": index, "text": output["text"], "finish_reason": output["finish_reason"]}
    return {**choice, "logprobs": completion_logprobs(output)}


def chat_finish(reason: str, *, calls: bool) -> str:
    """Why a turn ended."""
    return "tool_calls" if calls and reason == "stop" else reason


def new_call() -> str:
    """The id of a call, by which its result is sent."""
    return f"call_{uuid.uuid4().hex[:24]}"


def call_delta(call: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a call in a stream: its name, then its arguments piece by piece."""
    if "name" in call:
        function = {"name": call["name"], "arguments": ""}
        return {"index": call["index"], "id": new_call(), "type": "function", "function": function}
    return {"index": call["index"], "function": {"arguments": call["arguments"]}}


def chat_logprobs(output: Mapping[str, Any]) -> dict[str, Any] | None:
    """Log probabilities of an answer's tokens; None where they were not asked for."""
    if output.get("logprobs") is None:
        return None

    def entry(token: Mapping[str, Any]) -> dict[str, Any]:
        written = {"token": token["token"], "bytes": list(token["token"].encode())}
        return written | {"logprob": token["logprob"]}

    content = [entry(each) | {"top_logprobs": [entry(top) for top in each["top"]]} for each in output["logprobs"]]
    return {"content": content, "refusal": None}


def completion_logprobs(output: Mapping[str, Any]) -> dict[str, Any] | None:
    """The same in the older form."""
    if output.get("logprobs") is None:
        return None
    entries: Sequence[Mapping[str, Any]] = output["logprobs"]
    lengths = [len(each["token"]) for each in entries]
    return {
        "tokens": [each["token"] for each in entries],
        "token_logprobs": [each["logprob"] for each in entries],
        "top_logprobs": [{top["token"]: top["logprob"] for top in each["top"]} for each in entries],
        "text_offset": [sum(lengths[:place]) for place in range(len(lengths))],
    }


def usage(outputs: Sequence[Mapping[str, Any]], choices: int = 1) -> dict[str, int]:
    """Tokens of the answers; a prompt that has several answers counts once."""
    prompt = sum(int(each["prompt_tokens"]) for each in outputs) // choices
    completion = sum(int(each["completion_tokens"]) for each in outputs)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
