"""What a deployment's content filter looks for, and what it does then: the part of `deploy` that says so."""

from typing import Literal

from pydantic import Field, model_validator

from soldiom_ray.domains.references import VERSION
from soldiom_ray.records import Record

RuleCategory = Literal["secret", "personal_data", "prompt_injection", "self_harm", "violence", "sexual_minors"]
Sides = Literal["input", "output", "both"]
MASKED: tuple[RuleCategory, ...] = ("secret", "personal_data")
"""Categories whose matches have a place in the text, where a placeholder can stand."""


class RuleCheck(Record):
    """A category that rules find (`safety/rules.yaml`)."""

    category: RuleCategory
    on: Sides = Field("both", description="what is checked: questions, answers, or both")
    action: Literal["block", "mask", "flag"] = Field(
        "block", description="block: nothing passes; mask: a placeholder stands there; flag: it is only counted"
    )

    @model_validator(mode="after")
    def _has_a_place(self) -> "RuleCheck":
        if self.action == "mask" and self.category not in MASKED:
            raise ValueError(f"`mask` is for {' and '.join(MASKED)}; {self.category} is blocked or flagged")
        return self


class ClassifierCheck(Record):
    """A label of a deployed text classifier, such as the moderation pack's."""

    model: str = Field(
        min_length=1,
        max_length=512,
        description="a text classifier of the registry that is deployed: its id, or family/name",
        json_schema_extra=VERSION,
    )
    label: str = Field(min_length=1, max_length=256, description="the label that is looked for")
    threshold: float = Field(0.5, gt=0, le=1, description="the label's probability from which on it counts")
    on: Sides = Field("both", description="what is checked: questions, answers, or both")
    action: Literal["block", "flag"] = Field("block", description="block: nothing passes; flag: it is only counted")


STANDARD_RULES = (
    RuleCheck(category="secret", action="mask"),
    RuleCheck(category="personal_data", on="output", action="mask"),
    RuleCheck(category="prompt_injection", on="input"),
    RuleCheck(category="self_harm"),
    RuleCheck(category="violence"),
    RuleCheck(category="sexual_minors"),
)


class ContentFilter(Record):
    """Checks of what a model is asked and answers."""

    rules: tuple[RuleCheck, ...] = Field(STANDARD_RULES, description="categories that rules find")
    classifiers: tuple[ClassifierCheck, ...] = Field(
        (), max_length=8, description="labels that classifiers find; while one does not answer, nothing passes"
    )
