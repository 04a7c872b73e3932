"""Bodies of requests. What a field of a recipe means, and its default, stands in the recipe's schema."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from soldiom_ray.db.quotas import Period, Resource
from soldiom_ray.domains.door_defaults import MODE, MOST_PASSAGES, PASSAGES, REQUEST_CHARACTERS, Mode
from soldiom_ray.domains.messages import length_of_conversation
from soldiom_ray.domains.response_format import ResponseFormat
from soldiom_ray.domains.schema import Method, Recipe, Register, Train
from soldiom_ray.errors import InputError, Problem
from soldiom_ray.records import Record, Role


def _description(record: type[Record], field: str) -> str | None:
    return record.model_fields[field].description


class TrainingBody(Record):
    """A training on a dataset that exists (`dataset_id`), or a whole workflow (`recipe`)."""

    model_config = ConfigDict(protected_namespaces=())

    name: str | None = Field(None, max_length=100, description="name of the job and the model; unset: the recipe's")
    base_model: str | None = Field(None, max_length=512, description=_description(Train, "base_model"))
    training_method: Method | None = Field(None, description=_description(Train, "method"))
    dataset_id: str | None = Field(None, max_length=64, description=_description(Recipe, "dataset"))
    recipe: dict[str, Any] | None = Field(None, description="a recipe, as in its YAML")
    config: dict[str, Any] | None = Field(None, description="other settings of the recipe's `train` heading")
    sweep: dict[str, Any] | None = Field(
        None, description="the recipe's heading `sweep`: the training becomes several, the best one is registered"
    )
    specialization: str | None = Field(None, max_length=64, description=_description(Register, "specialization"))

    @model_validator(mode="after")
    def _has_one_source(self) -> "TrainingBody":
        if (self.dataset_id is None) == (self.recipe is None):
            raise ValueError("give either `dataset_id` or `recipe`")
        if self.recipe is None and self.name is None:
            raise ValueError("give the job a `name`")
        return self


METADATA_BYTES = 64 << 10
IMAGE_BYTES = 7 << 20
"""In base64 a little less than the largest body."""


def _decoded(value: Any) -> Any:
    """The bytes of a text in base64, which may be a data URL."""
    if not isinstance(value, str):
        return value
    head, mark, data = value.partition(";base64,")
    try:
        return base64.b64decode(data if mark and head.startswith("data:") else value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None


Picture = Annotated[
    bytes, BeforeValidator(_decoded, json_schema_input_type=str), Field(min_length=1, max_length=IMAGE_BYTES)
]
Text = Annotated[str, Field(min_length=1, max_length=REQUEST_CHARACTERS)]
Stop = Annotated[str, Field(max_length=1000)]
"""A text that ends an output; it is looked for after every token."""


def check_metadata(metadata: dict[str, Any]) -> None:
    """InputError for metadata that is larger than a description of an input can be."""
    if len(json.dumps(metadata)) > METADATA_BYTES:
        raise InputError(
            "The metadata cannot be used.",
            problems=[Problem("body.metadata", f"is larger than {METADATA_BYTES >> 10} KiB")],
        )


class UserInputBody(Record):
    """A text, or a structured value (any JSON)."""

    user_id: str = Field(min_length=1, max_length=128, description="who the input is from")
    input_type: Literal["text", "structured"] = Field(description="structured: any JSON value")
    content: Any = Field(description="the text or the value")
    metadata: dict[str, Any] = Field(default_factory=dict, description="stored with the input")

    @model_validator(mode="after")
    def _text_is_text(self) -> "UserInputBody":
        if self.input_type == "text" and not (isinstance(self.content, str) and self.content.strip()):
            raise ValueError("`content` of a text must be a text that is not empty")
        check_metadata(self.metadata)
        if self.input_type == "structured" and self.content is None:
            raise ValueError("`content` is missing")
        return self


class Parameters(Record):
    """How a model generates."""

    max_tokens: int | None = Field(None, ge=1, le=65536, description="most tokens to generate; unset: the endpoint's")
    temperature: float = Field(0.0, ge=0, le=2, description="0: the most likely token, always")
    top_p: float = Field(1.0, gt=0, le=1, description="probability mass of the tokens that are sampled from")
    seed: int | None = Field(None, ge=0, lt=2**63, description="makes sampling reproducible")
    stop: tuple[Stop, ...] = Field((), max_length=8, description="texts that end the output; one text is a list of one")
    response_format: ResponseFormat | None = Field(
        None, description="the form of the answer: free, or JSON by a schema"
    )

    @field_validator("stop", mode="before")
    @classmethod
    def _one_text_is_a_list(cls, value: Any) -> Any:
        return () if value is None else (value,) if isinstance(value, str) else value


class Message(Record):
    """One turn of a conversation, as OpenAI's clients write it."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = Field(None, description="what is said; null beside `tool_calls`")
    tool_calls: tuple[dict[str, Any], ...] = Field((), description="calls that the assistant made")
    tool_call_id: str = Field("", description="the call that a tool answers")
    name: str = Field("", description="the tool that answers")

    @model_validator(mode="after")
    def _says_something(self) -> "Message":
        if self.content is None and not self.tool_calls:
            raise ValueError("give `content`, or `tool_calls` of the assistant's")
        return self


UserId = Annotated[str | None, Field(min_length=1, max_length=128, description="who asks; unset: the name of the key")]
RAW: Any = Field(
    False, description="continue the text as it is, without the chat template that the model was trained with"
)


def check_length(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> None:
    """ValueError for a conversation that is longer than any request may be."""
    if length_of_conversation(messages, tools) > REQUEST_CHARACTERS:
        raise ValueError(f"`messages` and `tools` hold more than {REQUEST_CHARACTERS} characters")


def check_texts(texts: Sequence[str], name: str) -> None:
    """ValueError for texts that are longer than any request may be."""
    if sum(map(len, texts)) > REQUEST_CHARACTERS:
        raise ValueError(f"`{name}` hold more than {REQUEST_CHARACTERS} characters")


class InferenceBody(Record):
    """A text (`input`), several of them, or a conversation (`messages`) for one model."""

    input: Text | Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="a text for the model; several are answered as by /batch"
    )
    image: Picture | None = Field(None, description="a PNG or JPEG file in base64, for an image classifier")
    messages: tuple[Message, ...] | None = Field(None, min_length=1, max_length=1000, description="a conversation")
    tools: tuple[dict[str, Any], ...] = Field((), max_length=128, description="functions that the model may call")
    parameters: Parameters = Parameters()
    stream: bool = Field(False, description="send server-sent events while the model generates")
    raw: bool = RAW
    user_id: UserId = None

    @model_validator(mode="after")
    def _asks_once(self) -> "InferenceBody":
        if [self.input, self.messages, self.image].count(None) != 2:
            raise ValueError("give either `input` or `messages`, or `image`")
        check_length(self.messages or (), self.tools)
        if isinstance(self.input, tuple):
            check_texts(self.input, "input")
            if self.stream:
                raise ValueError("`stream` belongs to one `input`; ask for each on its own")
        if self.raw and self.messages is not None:
            raise ValueError("`raw` belongs to `input`: a conversation is always written by the chat template")
        if self.tools and self.messages is None:
            raise ValueError("`tools` belong to `messages`")
        return self


ANSWERED_AT_ONCE = 64
"""Inputs of a batch; more become a job."""


class BatchBody(Record):
    """Texts for one model. Up to 64 are answered at once, more by a job."""

    inputs: tuple[str, ...] = Field(min_length=1, description="texts, each answered by itself")
    raw: bool = RAW
    parameters: Parameters = Parameters()
    user_id: UserId = None

    @model_validator(mode="after")
    def _is_short(self) -> "BatchBody":
        if len(self.inputs) <= ANSWERED_AT_ONCE:
            check_texts(self.inputs, "inputs")
        else:
            for text in self.inputs:
                check_texts([text], "inputs")
        return self


class FeedbackBody(Record):
    """What a user thinks of an answer."""

    answer_id: str = Field(min_length=1, max_length=64, description="the `id` of the answer")
    rating: Literal["up", "down"] = Field(description="whether the answer is good")
    correction: str = Field("", max_length=100_000, description="what the answer should have been; a label of a class")
    reason: str = Field("", max_length=2000, description="why")
    user_id: str | None = Field(None, min_length=1, max_length=128, description="who rates; unset: who asked")


class AcceptanceBody(Record):
    """How a feedback is accepted."""

    correction: str = Field("", max_length=100_000, description="the reviewer's own correction, in place of the user's")


class RetrainingBody(Record):
    """How a model learns from feedback."""

    method: Literal["sft", "dpo"] = Field(
        "sft", description="sft: corrections as examples beside the former data; dpo: preferred to what they correct"
    )


class PromotionBody(Record):
    """How a version is promoted."""

    force: bool = Field(False, description="promote it although its gate did not pass; for admins")
    reason: str = Field("", max_length=2000, description="why the gate is overridden")


class EvaluationBody(Record):
    """An evaluation of a run, or of the model made from it."""

    run: str = Field(min_length=1, max_length=256, description="a run's id, or a model's id or family/name")
    dataset_id: str | None = Field(None, max_length=64, description="unset: the dataset it was trained on")
    config: dict[str, Any] | None = Field(
        None, description="the recipe's heading `evaluate`: metrics, gate, answers, …"
    )


class SearchBody(Record):
    """A search for the passages that match a query best."""

    query: str = Field(min_length=1, max_length=4000, description="a question, or words to look for")
    k: int = Field(PASSAGES, ge=1, le=MOST_PASSAGES, description="number of passages")
    index: str | None = Field(None, max_length=64, description="id of an index; unset: the newest that you see")
    mode: Mode = Field(MODE, description="dense: by meaning; lexical: by words; hybrid: both, fused")
    filters: dict[str, str] = Field(
        default_factory=dict,
        max_length=8,
        description="properties of a passage's document, such as license, source and kind; `path` matches its start",
    )


class QuotaBody(Record):
    """How much may be used."""

    subject: str = Field("", max_length=133, description="key:ID, user:NAME, or nothing: the whole tenant")
    resource: Resource
    period: Period = Field("month", description="calendar day or month in UTC")
    amount: int | None = Field(None, ge=0, le=10**15, description="unset: without a limit")


class SharingBody(Record):
    """Whether all of the tenant see something."""

    shared: bool = Field(True, description="false: its owner and admins alone")


class KeyBody(Record):
    """A new key."""

    name: str = Field(min_length=1, max_length=128, description="what or who the key is for")
    role: Role
    tenant: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$",
        description="whose data the key sees; only an admin of the tenant `default` may name another than its own",
    )
    user: str | None = Field(
        None,
        max_length=64,
        description="id of another key: this one owns and sees what that one does; unset: a user of its own",
    )


class WatermarkBody(Record):
    """A text whose origin is asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str = Field(min_length=1, max_length=512, description="a deployed model: its id, or family/name")
    text: Text = Field(description="what that model may have written")
