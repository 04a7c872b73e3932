"""Bodies of requests. Their defaults stand in the recipe's schema."""

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from soldiom_ray.records import Record, Role


class TrainingBody(Record):
    """A training: of a dataset that exists (`dataset_id`), or a whole workflow (`recipe`). `config` holds what a
    recipe's `train` heading may hold."""

    model_config = ConfigDict(protected_namespaces=())

    name: str | None = Field(default=None, max_length=100)
    base_model: str | None = Field(default=None, max_length=512)
    training_method: Literal["full", "lora", "prompt"] | None = None
    dataset_id: str | None = Field(default=None, max_length=64)
    recipe: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    specialization: str | None = Field(default=None, max_length=64)

    @model_validator(mode="after")
    def _has_one_source(self) -> "TrainingBody":
        if (self.dataset_id is None) == (self.recipe is None):
            raise ValueError("give either `dataset_id` or `recipe`")
        if self.recipe is None and self.name is None:
            raise ValueError("give the job a `name`")
        return self


class UserInputBody(Record):
    """A text, or a structured value (any JSON)."""

    user_id: str = Field(min_length=1, max_length=128)
    input_type: Literal["text", "structured"]
    content: Any
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _text_is_text(self) -> "UserInputBody":
        if self.input_type == "text" and not (isinstance(self.content, str) and self.content.strip()):
            raise ValueError("`content` of a text must be a text that is not empty")
        if self.input_type == "structured" and self.content is None:
            raise ValueError("`content` is missing")
        return self


class Parameters(Record):
    """How a model answers. Without `max_tokens` its endpoint decides."""

    max_tokens: int | None = Field(default=None, ge=1, le=65536)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: tuple[str, ...] = Field(default=(), max_length=8)


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class InferenceBody(Record):
    """One question: a text to go on with (`input`) or a conversation (`messages`)."""

    input: str | None = Field(default=None, min_length=1, max_length=1_000_000)
    messages: tuple[Message, ...] | None = Field(default=None, min_length=1, max_length=1000)
    parameters: Parameters = Parameters()
    stream: bool = False

    @model_validator(mode="after")
    def _asks_once(self) -> "InferenceBody":
        if (self.input is None) == (self.messages is None):
            raise ValueError("give either `input` or `messages`")
        return self


class BatchBody(Record):
    """Several texts for one model. In this first form at most 64; more is refused with 413."""

    inputs: tuple[str, ...] = Field(min_length=1)
    parameters: Parameters = Parameters()


class SearchBody(Record):
    """Passages that answer `query` best, from the tenant's newest index or the one named. `hybrid` fuses `dense` (by
    meaning) and `lexical` (by words)."""

    query: str = Field(min_length=1, max_length=4000)
    k: int = Field(default=5, ge=1, le=100)
    index: str | None = Field(default=None, max_length=64)
    mode: Literal["hybrid", "dense", "lexical"] = "hybrid"
    filters: dict[str, str] = Field(
        default_factory=dict,
        max_length=8,
        description="what a passage's document must be, such as license, source, kind; what its path begins with",
    )


class KeyBody(Record):
    """A new key. Only an admin of the tenant "default" may name another tenant."""

    name: str = Field(min_length=1, max_length=128)
    role: Role
    tenant: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
