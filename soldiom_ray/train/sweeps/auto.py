"""Base and settings chosen under a time budget: first a training with the defaults, which is measured, then successive
halving among other bases and settings that the rest of the time allows."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Train
from soldiom_ray.domains.search import Auto, Sweep
from soldiom_ray.domains.training_size import MOST_VALIDATION_TOKENS
from soldiom_ray.errors import CancelledError, SoldiomError
from soldiom_ray.records import Manifest
from soldiom_ray.train import methods
from soldiom_ray.train.sweeps.bases import Base, base_names, look_at
from soldiom_ray.train.sweeps.driver import run_sweep
from soldiom_ray.train.sweeps.trial import declared_with
from soldiom_ray.train.sweeps.trials import Trial, settings_text

CANDIDATES = 48
PASSES = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0)
"""Multiples of the declared number of passes that come into question."""
RATES = (0.3, 1.0, 3.0)
"""Multiples of a method's usual learning rate."""
BATCHES = (0.5, 1.0, 2.0)
RANKS = (8, 16, 32)
SMALL_PARAMETERS = 50_000_000
"""Up to here all weights can be trained in the time of an adapter."""
FULL_TRAININGS = 2
"""The longest candidate must fit into the remaining time so many times."""
LEAST_GAIN = 0.005
"""By what share the validation loss must be lower than with the defaults: the best of many trials is that by chance."""
STEPS_PER_READING = 4
"""A pass by steps takes at least so many times as long as reading the texts once, and its start."""
BASES_VALIDATION_TOKENS = 16_384
"""Of each validation, where bases are compared: their tokenizers do not cut the validation side alike."""


@dataclass(frozen=True)
class _Option:
    """A base and the numbers of passes over the data that it has time for."""

    base: Base
    passes: Sequence[float]


def train_auto(
    context: Context, dataset: Manifest, declared: Train, auto: Auto
) -> tuple[Manifest, Manifest, list[str]]:
    """(the run, the sweep that found it, why these settings) of a training whose base and settings are chosen in
    `auto.minutes`. The defaults are one of the candidates: without a gain over them, they stay."""
    if declared.head == "linear":
        return _beside_a_linear_head(context, dataset, declared, auto)
    names = base_names(declared, auto)
    if len(names) > 1 and declared.validation_tokens is None:
        declared = declared.model_copy(update={"validation_tokens": BASES_VALIDATION_TOKENS})
    usual, measured, first = _with_the_defaults(context, dataset, declared)
    cost = _Cost(usual, declared, first.seconds)
    left = 60 * auto.minutes - cost.seconds
    loss = float(measured.details["best_value"])
    reasons = [
        f"With the defaults ({_defaults(usual)}) the training took {cost.seconds:.0f} s, {cost.start:.0f} s of them its"
        f" start, and read {cost.tokens_per_second:,.0f} tokens/s; validation loss {loss:.4f}."
    ]
    passes = cost.affordable(left)
    if not passes:
        reasons.append(
            f"Of {auto.minutes:g} minutes {max(0.0, left):.0f} s were left, too little to try other settings."
        )
        return usual, measured, reasons
    reasons.append(
        f"The {left:.0f} s that were left allow up to {passes[-1]:g} passes over the data, {FULL_TRAININGS} times."
    )
    options, why_not = _options(context, dataset, declared, names, cost, left)
    reasons += why_not
    candidates = _candidates(declared, usual, options or [_Option(_base_of(usual), passes)])
    search, known, bits = _search(candidates, left), first.model_copy(update={"settings": {}}), _bits_per_loss(options)
    if bits:
        search = search.model_copy(update={"metric": "bits_per_byte"})
        known = known.model_copy(update={"values": tuple(bits[declared.base_model] * each for each in known.values)})
        reasons.append(
            "Losses per token of two tokenizers do not compare: the bases are compared by bits per byte of the"
            " validation side's targets."
        )
    run, sweep = run_sweep(context, dataset, declared, search, candidates, known, bits)
    is_better, verdict = _judge(sweep, search.metric, known.values[-1])
    return run if is_better else usual, sweep, [*reasons, *verdict]


def _with_the_defaults(context: Context, dataset: Manifest, declared: Train) -> tuple[Manifest, Manifest, Trial]:
    """(the run, the sweep of it alone, its trial) of a training as declared."""
    usual, measured = run_sweep(context, dataset, declared, Sweep(space={"seed": [declared.seed]}, trials=1))
    return usual, measured, Trial.model_validate(json.loads(context.artifacts.read(measured, "trials.json"))[0])


def _beside_a_linear_head(
    context: Context, dataset: Manifest, declared: Train, auto: Auto
) -> tuple[Manifest, Manifest, list[str]]:
    """`train_auto` where a linear head is the default: the time that it leaves goes to trainings by steps, the best of
    which is taken where it is certainly better. Both are validated on as much of the validation side."""
    usual, measured, first = _with_the_defaults(context, dataset, declared)
    loss, left = float(measured.details["best_value"]), 60 * auto.minutes - first.seconds
    reading = float(usual.details["seconds_by_part"].get("steps", 0.0))
    reasons = [
        f"A linear head on {usual.details['base_model']} as it is (the default) took {first.seconds:.0f} s; validation"
        f" loss {loss:.4f}."
    ]
    if STEPS_PER_READING * reading > left:
        reasons.append(
            f"Of {auto.minutes:g} minutes {max(0.0, left):.0f} s were left, too little to train by steps as well."
        )
        return usual, measured, reasons
    by_steps = Train.model_validate(
        declared.model_dump(mode="json")
        | {"head": "network", "method": "lora", "validation_tokens": MOST_VALIDATION_TOKENS}
    )
    run, sweep, why = train_auto(context, dataset, by_steps, auto.model_copy(update={"minutes": left / 60}))
    best = float(run.details["best_validation_loss"] or math.inf)
    is_better = best <= loss * (1 - LEAST_GAIN)
    verdict = (
        f"Trained by steps the validation loss is {best:.4f} against {loss:.4f} of the linear head"
        f"{': it is taken' if is_better else '; the linear head stays'}."
    )
    return run if is_better else usual, sweep, [*reasons, "By steps: " + why[0], *why[1:], verdict]


def _search(candidates: Sequence[dict[str, Any]], seconds: float) -> Sweep:
    names = dict.fromkeys(name for each in candidates for name in each)
    space = {name: list(dict.fromkeys(each[name] for each in candidates if name in each)) for name in names}
    return Sweep(space=space, trials=1 + len(candidates), minutes=seconds / 60)


def _options(
    context: Context, dataset: Manifest, declared: Train, names: Sequence[str], cost: "_Cost", left: float
) -> tuple[list[_Option], list[str]]:
    """The bases that can be trained here and have time for it, the declared one first, and why others are left out.
    Nothing where there is only the declared one."""
    options: list[_Option] = []
    reasons: list[str] = []
    for name in names if len(names) > 1 else ():
        try:
            base = look_at(context, dataset, declared_with(declared, {"base_model": name}))
        except CancelledError:
            raise
        except SoldiomError as error:
            reasons.append(f"The base {name} is left out: {error.what}")
            continue
        share = base.pass_operations / options[0].base.pass_operations if options else 1.0
        if passes := cost.affordable(left, share):
            options.append(_Option(base, passes))
            continue
        seconds = FULL_TRAININGS * (cost.start + share * cost.per_pass * PASSES[0])
        reasons.append(
            f"The base {name} is left out: a pass takes {share:.1f} times as long as with {declared.base_model}, so"
            f" that the shortest trainings would take about {seconds:.0f} s."
        )
    if options and options[0].base.name != declared.base_model:
        return [], reasons  # there is no longer what it took to compare with
    return options, reasons


def _base_of(run: Manifest) -> Base:
    return Base(str(run.details["base_model"]), int(run.details["parameters"]), 0.0, None)


def _bits_per_loss(options: Sequence[_Option]) -> dict[str, float]:
    """Of several bases what turns their losses per token into bits per byte; nothing where losses compare as they
    are."""
    bits = {option.base.name: option.base.bits_per_loss for option in options}
    return {name: value for name, value in bits.items() if value is not None} if len(bits) > 1 else {}


def _judge(sweep: Manifest, metric: str, usual: float) -> tuple[bool, list[str]]:
    """Whether the best trial is certainly better than the defaults, whose validation `metric` is `usual`, and what was
    tried."""
    trials = sweep.details["trials"]
    best = next(trial for trial in trials if trial["status"] == "best")
    counts = {status: sum(trial["status"] == status for trial in trials) for status in ("pruned", "stopped", "failed")}
    ends = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    tried = f"{len(trials) - 1} other settings were tried" + (f" ({ends})." if ends else ".")
    name = metric.replace("_", " ")
    found = f"{settings_text(best['settings'])}: validation {name} {best[metric]:.4f} against {usual:.4f}"
    if best[metric] > usual * (1 - LEAST_GAIN):
        why = (
            f"The best of them is {found}, which may be chance"
            if best["settings"]
            else f"None has a lower {'loss' if metric == 'loss' else name}"
        )
        return False, [tried, f"{why}; the defaults stay."]
    return True, [tried, f"The best of them is {found} with the defaults."]


class _Cost:
    """What a training takes, measured on the one with the defaults."""

    def __init__(self, run: Manifest, declared: Train, seconds: float) -> None:
        parts = run.details["seconds_by_part"]
        steps = sum(parts.get(name, 0.0) for name in ("steps", "validations", "checkpoints"))
        self.seconds, self.start = seconds, max(0.0, seconds - steps)
        self.tokens_per_second = run.details["tokens"] / max(steps, 1e-3)
        self.per_pass = steps / declared.epochs
        self.ends_early = bool(run.details["stopped_early"]) or declared.max_tokens is not None
        self.epochs = declared.epochs

    def affordable(self, left: float, share: float = 1.0) -> list[float]:
        """Numbers of passes whose training fits FULL_TRAININGS times into `left` seconds, with a base whose pass takes
        `share` times as long."""
        most = 1.0 if self.ends_early else PASSES[-1]  # more passes do not change one that validation has stopped
        passes = [self.epochs * factor for factor in PASSES if factor <= most]
        return [count for count in passes if FULL_TRAININGS * (self.start + count * share * self.per_pass) <= left]


def _candidates(declared: Train, usual: Manifest, options: Sequence[_Option]) -> list[dict[str, Any]]:
    """The other bases with the defaults, then settings around these, in a random order that repeats itself."""
    dice = random.Random(declared.seed)
    first = [_with_defaults(declared, option) for option in options[1:]]
    drawn = {repr(settings): settings for settings in first}
    batch = max(declared.sequence_length, int(usual.details["batch_tokens"]))
    for _ in range(20 * CANDIDATES):
        option = dice.choice(options) if len(options) > 1 else options[0]
        base = option.base
        is_small = base.parameters <= SMALL_PARAMETERS and declared.architecture is None
        kinds = ("lora", "full") if is_small and declared.method in ("lora", "full") else (declared.method,)
        method, factor = dice.choice(kinds), dice.choice(BATCHES)
        batch_tokens = max(8, int(batch * factor))
        kind = declared.model_copy(update={"method": method, "learning_rate": None, "batch_tokens": None})
        rate = methods.learning_rate(kind, batch_tokens) * dice.choice(RATES)
        settings: dict[str, Any] = {"base_model": base.name} if len(options) > 1 else {}
        settings |= {"method": method, "learning_rate": float(f"{rate:.3g}")}
        settings |= {"rank": dice.choice(RANKS)} if method == "lora" else {}
        settings |= {"batch_tokens": batch_tokens, "epochs": dice.choice(list(option.passes)[-3:])}
        declared_with(declared, settings)  # a combination that the schema refuses is a mistake of ours
        drawn.setdefault(repr(settings), settings)
        if len(drawn) == CANDIDATES:
            break
    return list(drawn.values())


def _with_defaults(declared: Train, option: _Option) -> dict[str, Any]:
    fitting = declared.epochs if declared.epochs in option.passes else option.passes[-1]
    return {"base_model": option.base.name, "epochs": fitting}


def _defaults(run: Manifest) -> str:
    details = run.details
    base, rate = details["base_model"] or "random weights", details["learning_rate"]
    return f"{base}, {details['method']}, learning rate {rate:.3g}, {details['batch_tokens']} tokens a step"
