"""What a sweep searches: the recipe's heading `sweep`, and the values that each setting of the training may take."""

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from soldiom_ray.domains.references import MODEL
from soldiom_ray.errors import suggestion
from soldiom_ray.records import Record

Scheduler = Literal["asha", "halving", "none"]
Searcher = Literal["random", "optuna"]
SweepMetric = Literal["loss", "bits_per_byte", "accuracy", "macro_f1", "token_accuracy", "preference_accuracy"]
FIXED = (
    "task",
    "base_model",
    "architecture",
    "workers",
    "min_workers",
    "strategy",
    "offload",
    "validations",
    "multi_label",
)
"""Settings that all trials share: what is learnt, from which base (losses of two vocabularies do not compare), where it
runs, how often it is validated."""
FORMS = "{choice: [8, 16]}, {uniform: [0, 0.1]}, {loguniform: [1e-5, 1e-3]} or {integers: [4, 64]}"
TRIALS = 8
TRIALS_IN_TIME = 256
"""The most trials of a sweep that is bounded by minutes alone."""
LARGE_RATIO = 10
"""A range A..B whose ends are this far apart is searched by orders of magnitude."""
_RANGE = re.compile(r"\s*([^\s.]\S*?)\s*\.\.\s*(\S+)\s*")


class Auto(Record):
    """The settings of `train` are chosen, starting from those that are declared."""

    minutes: float = Field(gt=0, allow_inf_nan=False, description="how long choosing and training may take together")
    bases: tuple[str, ...] = Field(
        (),
        max_length=8,
        description="base models that come into question besides the one of `train`; unset: where that is the task's"
        " own default, those that come with Soldiom and can learn the task",
        json_schema_extra=MODEL,
    )


@dataclass(frozen=True)
class Domain:
    """The values that one setting may take: `choices`, or all between `low` and `high`."""

    kind: Literal["choice", "uniform", "loguniform", "integers"]
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0

    def draw(self, dice: random.Random) -> Any:
        """One value at random."""
        if self.kind == "choice":
            return dice.choice(self.choices)
        if self.kind == "integers":
            return dice.randint(int(self.low), int(self.high))
        if self.kind == "uniform":
            return dice.uniform(self.low, self.high)
        return float(f"{math.exp(dice.uniform(math.log(self.low), math.log(self.high))):.4g}")

    def extremes(self) -> Sequence[Any]:
        """The values whose validity decides that of all others."""
        if self.kind == "choice":
            return self.choices
        return (int(self.low), int(self.high)) if self.kind == "integers" else (self.low, self.high)


class Sweep(Record):
    """Several trainings with different settings; the best becomes the run."""

    space: dict[str, Any] = Field(description=f"setting of `train` -> its values: {FORMS}")
    trials: int | None = Field(
        None, ge=1, le=1000, description="how many settings are tried; unset: 8, or by `minutes`"
    )
    minutes: float | None = Field(None, gt=0, allow_inf_nan=False, description="no trial runs longer than until then")
    scheduler: Scheduler = Field(
        "asha",
        description="asha: trials that are behind those before them at the same point are stopped early; halving: all"
        " wait there for one another, and the best go on; none: all end",
    )
    searcher: Searcher = Field("random", description="optuna: later settings follow from how earlier ones did (TPE)")
    metric: SweepMetric = Field("loss", description="of the validation split, by which trials are compared")
    reduction: int = Field(4, ge=2, le=16, description="asha, halving: one in so many goes on at each rung")
    concurrent: int | None = Field(None, ge=1, description="trials at the same time; unset: by the CPUs and GPUs")
    seed: int = Field(17, description="seed of the choice of settings")

    @model_validator(mode="after")
    def _space_is_readable(self) -> "Sweep":
        mistakes: list[str] = []
        if not self.space:
            mistakes.append("`space` is empty: name at least one setting of `train` and its values")
        for name, value in self.space.items():
            try:
                read_domain(value)
            except ValueError as error:
                mistakes.append(f"`space.{name}` {error}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    @property
    def domains(self) -> dict[str, Domain]:
        """The settings that are searched and their values, as read."""
        return {name: read_domain(value) for name, value in self.space.items()}

    @property
    def most_trials(self) -> int:
        """How many trials there are at most."""
        return self.trials or (TRIALS if self.minutes is None else TRIALS_IN_TIME)


def read_domain(value: Any) -> Domain:
    """One entry of a space. A list, or a text `a,b,c`, is a choice; a text `low..high` a range. ValueError says what is
    wrong, after the setting's name."""
    if isinstance(value, str):
        value = _read_text(value)
    if isinstance(value, list | tuple):
        value = {"choice": list(value)}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ValueError(f"is {_show(value)}; give one of {FORMS}")
    kind, values = next(iter(value.items()))
    kind = {"integer": "integers", "randint": "integers", "log_uniform": "loguniform"}.get(kind, kind)
    if kind not in ("choice", "uniform", "loguniform", "integers"):
        near = suggestion(str(kind), ("choice", "uniform", "loguniform", "integers"))
        raise ValueError(f"has {str(kind)[:40]!r}; known: choice, uniform, loguniform, integers.{near}")
    if not isinstance(values, list | tuple):
        raise ValueError(f"has a {kind} of {_show(values)}; give a list, as in {FORMS}")
    if kind == "choice":
        if not values:
            raise ValueError("has a choice without values; give at least one")
        return Domain("choice", choices=tuple(values))
    return _read_range(kind, values)


def _read_range(kind: Any, values: Sequence[Any]) -> Domain:
    if len(values) != 2:
        raise ValueError(f"has a {kind} of {len(values)} values; give [low, high]")
    low, high = (_number(bound) for bound in values)
    if low >= high:
        raise ValueError(f"has a {kind} from {low:g} to {high:g}; give the lower bound first, and a higher one")
    if kind == "loguniform" and low <= 0:
        raise ValueError(f"has a loguniform from {low:g}, which has no logarithm; begin above 0, or use uniform")
    if kind == "integers" and (low % 1 or high % 1):
        raise ValueError(f"has integers from {low:g} to {high:g}; give whole numbers, or use uniform")
    return Domain(kind, low=low, high=high)


def _read_text(text: str) -> Any:
    import yaml

    if (match := _RANGE.fullmatch(text)) is not None:
        low, high = (_number(part) for part in match.groups())
        whole = re.fullmatch(r"\d+\.\.\d+", re.sub(r"\s", "", text)) is not None
        kind = "integers" if whole else "loguniform" if low > 0 and high / low >= LARGE_RATIO else "uniform"
        return {kind: [low, high]}
    if text.lstrip().startswith(("{", "[")):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            raise ValueError(f"is {text[:60]!r}, which cannot be read; give one of {FORMS}") from None
    return {"choice": [plain(yaml.safe_load(part)) for part in text.split(",") if part.strip()]}


def plain(value: Any) -> Any:
    """A number that YAML takes for a text (`1e-5`, which has no dot) as the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _number(value: Any) -> float:
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"has the bound {_show(value)}, which is no number")
    return float(value)


def _show(value: Any) -> str:
    return repr(value)[:60]


def mistakes_in(space: Sweep, train: Record) -> list[str]:
    """What is wrong with a space for this training: settings that it does not have, values that they cannot take."""
    known = [name for name in type(train).model_fields if name not in FIXED]
    base, mistakes = train.model_dump(mode="json"), []
    for name, domain in space.domains.items():
        if name in FIXED:
            mistakes.append(f"`space.{name}` is the same for all trials of a sweep: set it below `train`")
        elif name not in known:
            mistakes.append(
                f"`space.{name}` is no setting of `train`; known: {', '.join(known)}.{suggestion(name, known)}"
            )
        else:
            for value in domain.extremes():
                try:
                    type(train).model_validate(base | {name: value})
                except ValidationError as error:
                    reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
                    mistakes.append(f"`space.{name}` may become {_show(value)}: {reason}")
    return mistakes


def draw_trials(sweep: Sweep) -> list[dict[str, Any]]:
    """The settings of a random search, all different: fewer than `most_trials` where the space has no more."""
    dice, domains = random.Random(sweep.seed), sweep.domains
    drawn: dict[str, dict[str, Any]] = {}
    for _ in range(50 * sweep.most_trials):
        settings = {name: domain.draw(dice) for name, domain in domains.items()}
        drawn.setdefault(repr(settings), settings)
        if len(drawn) == sweep.most_trials:
            break
    return list(drawn.values())
