"""A deployment's content filter: what it finds in a text, and what becomes of the text.

It fails closed: a text passes only after every check has answered. An error of a check is the caller's, who then has no
checked text to hand on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from soldiom_ray.domains.content_filter import ClassifierCheck, ContentFilter, RuleCheck
from soldiom_ray.redaction import placeholder
from soldiom_ray.safety.normalize import Views, views
from soldiom_ray.safety.rules import Found, Match, find

Side = Literal["input", "output"]
Action = Literal["block", "mask", "flag"]
Classify = Callable[[str, Sequence[str]], Awaitable[list[Mapping[str, float]]]]
"""(model, texts) -> each text's probability by label. It raises where there is no answer, and for a text of which the
model reads a part only."""

WINDOW, OVERLAP = 400, 100
"""Characters of a longer text that a classifier reads at a time, and how many of those it read before: a sentence or
two, as what it learnt from, and within the 128 tokens that the moderation pack's models read."""
SHORT_CHARACTERS = 20_000
"""Rules read so much in 10 ms; longer texts go to a thread."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A category that was found, on which side, and what was done. Of a classifier it is `MODEL:LABEL`."""

    category: str
    side: Side
    action: Action


@dataclass(frozen=True, slots=True)
class Checked:
    """What the filter found in a text, and where `masks` have to go."""

    decisions: tuple[Decision, ...] = ()
    masks: tuple[Match, ...] = ()

    @property
    def blocking(self) -> tuple[Decision, ...]:
        """The decisions for which nothing may pass."""
        return tuple(each for each in self.decisions if each.action == "block")


class Filter:
    """Checks texts as a deployment declares it. `names` are the models of its classifiers: as they are declared, and as
    `classify` takes them."""

    def __init__(
        self, declared: ContentFilter, classify: Classify | None = None, names: Mapping[str, str] = {}
    ) -> None:
        self.declared, self._classify, self._names = declared, classify, dict(names)

    async def check(self, text: str, side: Side, *, masks: bool = True, without: Collection[str] = ()) -> Checked:
        """What is found in a text, `without` looking for these categories of rules. Without `masks` there is no place
        for a placeholder, so what would be masked is blocked; so is what shows only once a disguise is off."""
        rules = [rule for rule in self.declared.rules if rule.on in (side, "both") and rule.category not in without]
        classifiers = [check for check in self.declared.classifiers if check.on in (side, "both")]
        if not text.strip() or not (rules or classifiers):
            return Checked()
        if len(text) <= SHORT_CHARACTERS:
            seen, found = _look(text, rules)
        else:
            seen, found = await asyncio.to_thread(_look, text, rules)
        decisions = [_decide(rule, found, side, masks) for rule in rules if rule.category in found.categories]
        if not any(each.action == "block" for each in decisions):
            decisions += await self._ask(seen, classifiers, side)
        masked = {each.category for each in decisions if each.action == "mask"}
        return Checked(tuple(decisions), tuple(each for each in found.matches if each.category in masked))

    async def _ask(self, seen: Views, checks: Sequence[ClassifierCheck], side: Side) -> list[Decision]:
        """The decisions of classifiers, each model asked once for all of its labels."""
        decisions: list[Decision] = []
        for model in dict.fromkeys(check.model for check in checks):
            if self._classify is None:
                raise RuntimeError(f"the content filter has no way to ask {model}")
            windows = [window for text in (seen.plain, *seen.decoded) for window in windows_of(text)]
            scores = await self._classify(self._names.get(model, model), windows)
            for check in (check for check in checks if check.model == model):
                # KeyError for a label that the model does not have: nothing passes then.
                if any(each[check.label] >= check.threshold for each in scores):
                    decisions.append(Decision(f"{model}:{check.label}", side, check.action))
        return decisions


def windows_of(text: str) -> list[str]:
    """The parts of a text that a classifier reads, none blank; they overlap."""
    step = WINDOW - OVERLAP
    starts = range(0, max(1, len(text) - OVERLAP), step)
    return [part for start in starts if (part := text[start : start + WINDOW]).strip()]


def masked(text: str, masks: Sequence[Match]) -> str:
    """The text with placeholders in place of matches, which are in order."""
    parts: list[str] = []
    last_end = 0
    for match in masks:
        if match.start >= last_end:
            parts += (text[last_end : match.start], placeholder(match.finder))
        last_end = max(last_end, match.end)
    return "".join((*parts, text[last_end:]))


def _look(text: str, rules: Sequence[RuleCheck]) -> tuple[Views, Found]:
    seen = views(text)
    return seen, find(text, (rule.category for rule in rules), seen)


def _decide(rule: RuleCheck, found: Found, side: Side, masks: bool) -> Decision:
    action: Action = rule.action
    if action == "mask" and (rule.category in found.disguised or not masks):
        action = "block"
    return Decision(rule.category, side, action)
