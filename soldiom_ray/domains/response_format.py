"""The form that an answer is to have, as OpenAI's clients ask for it."""

from typing import Any, Literal

from pydantic import Field, model_validator

from soldiom_ray.records import Record


class JsonSchema(Record):
    """A schema by its name. Answers obey it whether it is `strict` or not."""

    name: str = Field("", max_length=64, description="not used")
    description: str | None = Field(None, max_length=10_000, description="not used")
    schema_: dict[str, Any] = Field(alias="schema", description="JSON Schema that the answer obeys")
    strict: bool | None = Field(None, description="not used: answers always obey their schema")


class ResponseFormat(Record):
    """`text` is free, `json_object` any object, `json_schema` what a schema allows."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = Field(None, description="belongs to the type `json_schema`")

    @model_validator(mode="after")
    def _schema_belongs_to_its_type(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("`json_schema` belongs to the type `json_schema`, which needs one")
        return self

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The schema of the answer; None where it is free."""
        if self.json_schema is not None:
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None
