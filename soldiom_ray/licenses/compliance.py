"""Whether a model may be promoted or deployed under the licences of what it was made of, by the table `RULES`.

A sorting of published licences, not legal advice.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from soldiom_ray.errors import ConflictError, Problem
from soldiom_ray.licenses.model_rules import RULES, ModelRule
from soldiom_ray.licenses.names import ALIASES
from soldiom_ray.licenses.uses import CLASSES, UNKNOWN, creative_commons

ModelUse = Literal["any", "commercial"]
KNOWN = frozenset[str]().union(*(names for _, names in CLASSES)) | {""}
"""Licences that a class of `uses` knows; every other one has terms that a person has to read."""


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A base model, or all training data under one licence."""

    part: Literal["base", "data"]
    license: str
    """An SPDX expression; "" is a missing licence."""
    subject: str
    """The base model, or the source and the first record that brought the licence in."""
    documents: int = 0
    sources: int = 0
    accepted: Sequence[str] = ()
    """Licences (and `unknown`) that a person let pass: those that its dataset's policy lists in `allow`."""

    def as_dict(self) -> dict[str, Any]:
        """The ingredient as the lineage of a version keeps it."""
        return asdict(self) | {"accepted": list(self.accepted)}


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that blocks a use, and what brought it up."""

    rule: str
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class Compliance:
    """What the licences of a model's ingredients ask for one use."""

    violations: list[Violation] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    duties: list[tuple[str, str]] = field(default_factory=list)
    """(licence, what it asks), each pair once."""


def judge(name: str, ingredients: Iterable[Ingredient], use: ModelUse) -> Compliance:
    """The compliance of a model called `name` in a use. Of alternatives (OR) the one with the fewest violations counts,
    and only that."""
    result = Compliance()
    for ingredient in ingredients:
        best = min(
            ([*_rules(terms)] for terms in alternatives(ingredient.license)),
            key=lambda rules: len([*_violations(name, ingredient, rules, use)]),
        )
        result.violations.extend(_violations(name, ingredient, best, use))
        for spdx, rule in best:
            if rule.notice and rule.notice not in result.notices:
                result.notices.append(rule.notice)
            duty = (spdx or "no licence", rule.duty)
            if rule.duty and duty not in result.duties:
                result.duties.append(duty)
    return result


def alternatives(license: str) -> list[list[str]]:  # noqa: A002
    """The sets of ids of which one has to be kept to: `A AND (B OR C)` gives [A, B] and [A, C]."""
    import license_expression

    if not license:
        return [[""]]
    try:
        return _expand(license_expression.Licensing().parse(license))
    except license_expression.ExpressionError:
        return [[license]]


def _expand(node: Any) -> list[list[str]]:
    parts = [_expand(part) for part in getattr(node, "args", ())]
    if not parts:
        return [[str(node).strip()]]
    if str(getattr(node, "operator", "")).strip().upper() in ("OR", "|"):
        return [terms for part in parts for terms in part]
    combined: list[list[str]] = [[]]
    for part in parts:
        combined = [[*before, *terms] for before in combined for terms in part][:64]
    return combined


def _rules(terms: Iterable[str]) -> Iterator[tuple[str, ModelRule]]:
    for term in terms:
        spdx = "" if term == "LicenseRef-Unknown" else creative_commons(_bare(term))
        spdx = spdx if spdx in KNOWN else "LicenseRef-Other"
        yield from ((term if spdx else "", rule) for rule in RULES if spdx in rule.licenses)


def _bare(term: str) -> str:
    """The id without its exception (`WITH ...`), in its current spelling."""
    bare = term.partition(" WITH ")[0].strip()
    return ALIASES.get(bare, bare)


def _is_accepted(spdx: str, accepted: Iterable[str]) -> bool:
    """Whether a person listed the licence: as it stands, or without its exception."""
    return not {spdx or UNKNOWN, _bare(spdx) or UNKNOWN}.isdisjoint(accepted)


def _begins_with(name: str, word: str) -> bool:
    """Whether a name's first word is this one, perhaps with a number: `llama3-legal`, not `llamaindex`."""
    return not word or re.match(rf"{re.escape(word)}(?![^\W\d_])", name, re.IGNORECASE) is not None


def _violations(
    name: str, ingredient: Ingredient, rules: Iterable[tuple[str, ModelRule]], use: ModelUse
) -> Iterator[Violation]:
    for spdx, rule in rules:
        if use in rule.blocks and not _is_accepted(spdx, ingredient.accepted):
            what = f"licence {spdx}" if spdx else "no known licence"
            message = f"{ingredient.subject} has {what} ({rule.about}), which blocks {_USES[use]}"
            yield Violation(rule.key, ingredient.subject, message)
        if ingredient.part == "base" and not _begins_with(name, rule.name_starts_with):
            message = (
                f"{ingredient.subject} has licence {spdx}: the name of a model made from it begins with"
                f' "{rule.name_starts_with}", and {name!r} does not'
            )
            yield Violation(rule.key, ingredient.subject, message)


_USES = {"any": "every use", "commercial": "commercial use"}


def compliance_of(name: str, lineage: Mapping[str, Any], license_: str, use: ModelUse | None = None) -> Compliance:
    """The compliance of a version from its row's columns; without `use` that of its dataset's policy. A version that
    was registered before ingredients were kept has one: itself, under its licence, as a base where it was tuned from
    one (a base of the registry, which has a fingerprint, keeps its own name)."""
    stored = lineage.get("ingredients")
    tuned = bool(lineage.get("base_model")) and "fingerprint" not in lineage
    ingredients = (
        [Ingredient(**entry) for entry in stored]
        if stored is not None
        else [Ingredient("base" if tuned else "data", license_, f"what {name} was made of")]
    )
    return judge(name, ingredients, use or lineage.get("use") or "any")


def check_compliance(
    action: str, name: str, lineage: Mapping[str, Any], license_: str, use: ModelUse | None = None
) -> None:
    """ConflictError that names what causes each violation, when a version may not be promoted or deployed."""
    violations = compliance_of(name, lineage, license_, use).violations
    bases = {entry["subject"] for entry in lineage.get("ingredients") or () if entry["part"] == "base"}
    if not violations:
        return
    more = f" and {len(violations) - 3} more" if len(violations) > 3 else ""
    what = "; ".join(violation.message for violation in violations[:3])
    named = any("the name of a model" in violation.message for violation in violations)
    remedy = (
        "register it under a name that its licence asks for (`register.name`)"
        if named
        else "train on another base, or deploy it for a use that the base's licence permits (`deploy.use`)"
        if all(violation.subject in bases for violation in violations)
        else "leave that data out (`prepare.license`), choose another base or use, or, if you hold the rights, list the"
        " licence in `prepare.license.allow`"
    )
    raise ConflictError(
        f"Model {name} may not be {action}: {what}{more}.",
        remedy=remedy,
        problems=[Problem(violation.rule, violation.message) for violation in violations[:50]],
    )
