"""Requests to an endpoint, validated before they reach the model."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from soldiom_ray.domains.door_defaults import REQUEST_CHARACTERS
from soldiom_ray.domains.messages import length_of_conversation, with_parsed_arguments
from soldiom_ray.domains.response_format import ResponseFormat
from soldiom_ray.errors import InputError, Problem
from soldiom_ray.records import Record

Kind = TypeVar("Kind", bound=Record)
MAX_INPUTS = 64
"""Inputs of one request; more belong into a batch job or several requests."""


class NamedTool(Record):
    """The one function that is to be called."""

    name: str


class Parameters(Record):
    """How text is generated. `temperature` 0 takes the likeliest token each time, whatever `top_p` and `seed`;
    `logprobs` asks for each token's log probability and those of so many alternatives; an answer always obeys its
    `response_format`. With a `tool_choice` calls of the conversation's `tools` obey their schemas and are read: one
    comes at least where it is "required" or names one, and one at most unless they are parallel."""

    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=10, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: tuple[str, ...] = Field(default=(), max_length=8)
    logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat = ResponseFormat(type="text")
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool = True

    @model_validator(mode="after")
    def _stops_are_not_empty(self) -> "Parameters":
        if any(not text for text in self.stop):
            raise ValueError("an entry of `stop` is empty")
        if self.stop and self.response_format.answer_schema is not None:
            raise ValueError("`stop` could cut an answer that obeys `response_format`: leave it out")
        return self


class Message(Record):
    """One turn of a conversation; `tool_calls` of the assistant's, `tool_call_id` and `name` of a tool's. The first
    carries the `tools` that may be called."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str = ""
    name: str = ""
    tools: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The message as chat templates take it, without what is empty."""
        calls = [with_parsed_arguments(call) for call in self.tool_calls]
        others = {"tool_calls": calls, "tool_call_id": self.tool_call_id, "name": self.name, "tools": list(self.tools)}
        return {"role": self.role, "content": self.content} | {name: value for name, value in others.items() if value}


class Request(Record):
    """Either texts, each on its own, or one conversation. A model that was trained on conversations takes a text as the
    user's turn, unless the request is `raw`: then every model continues it. `adapter` is the run whose adapter answers
    in place of the endpoint's own model."""

    inputs: tuple[str, ...] = Field(default=(), max_length=MAX_INPUTS)
    messages: tuple[Message, ...] = ()
    raw: bool = False
    adapter: str | None = None
    parameters: Parameters = Parameters()

    @model_validator(mode="after")
    def _has_inputs_or_messages(self) -> "Request":
        if bool(self.inputs) == bool(self.messages):
            raise ValueError("give either `inputs` (texts) or `messages` (a conversation)")
        if self.characters > REQUEST_CHARACTERS:
            raise ValueError(f"the request holds more than {REQUEST_CHARACTERS} characters")
        bound = self.parameters.tool_choice not in (None, "none", "auto")
        if bound and (self.parameters.stop or self.parameters.response_format.answer_schema is not None):
            raise ValueError("`tool_choice` asks for a call: leave `stop` and `response_format` out")
        return self

    @property
    def tools(self) -> tuple[dict[str, Any], ...]:
        """What the conversation may call."""
        return next((message.tools for message in self.messages if message.tools), ())

    @property
    def characters(self) -> int:
        """Of all its texts together, calls and tools included."""
        return sum(map(len, self.inputs)) + length_of_conversation(self.messages)


def read_request(request: Mapping[str, Any]) -> Request:
    """The request as a record; errors as of `validated`."""
    return validated(Request, request)


def validated(kind: type[Kind], request: Mapping[str, Any]) -> Kind:
    """The request as a record. InputError with every mistake in it, which never repeats the user's text."""
    try:
        return kind.model_validate(request)
    except ValidationError as error:
        problems = [
            Problem(".".join(str(part) for part in detail["loc"]), detail["msg"])
            for detail in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        raise InputError("The request cannot be used.", remedy="correct it", problems=problems) from None
