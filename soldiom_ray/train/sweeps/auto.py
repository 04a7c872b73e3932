"""Settings chosen under a time budget: first a training with the defaults, which is measured, then successive halving
among settings around them that the rest of the time allows."""

import json
import random
from collections.abc import Sequence
from typing import Any

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Train
from soldiom_ray.domains.search import Auto, Sweep
from soldiom_ray.records import Manifest
from soldiom_ray.train import methods
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


def train_auto(
    context: Context, dataset: Manifest, declared: Train, auto: Auto
) -> tuple[Manifest, Manifest, list[str]]:
    """(the run, the sweep that found it, why these settings) of a training whose settings are chosen in
    `auto.minutes`. The defaults are one of the candidates: without a gain over them, they stay."""
    usual, measured = run_sweep(context, dataset, declared, Sweep(space={"seed": [declared.seed]}, trials=1))
    first = Trial.model_validate(json.loads(context.artifacts.read(measured, "trials.json"))[0])
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
    candidates = _candidates(declared, usual, passes)
    names = dict.fromkeys(name for settings in candidates for name in settings)
    space = {name: list(dict.fromkeys(each[name] for each in candidates if name in each)) for name in names}
    search = Sweep(space=space, trials=1 + len(candidates), minutes=left / 60)
    run, sweep = run_sweep(context, dataset, declared, search, candidates, first.model_copy(update={"settings": {}}))
    is_better, verdict = _judge(sweep, loss)
    return run if is_better else usual, sweep, [*reasons, *verdict]


def _judge(sweep: Manifest, usual: float) -> tuple[bool, list[str]]:
    """Whether the best trial is certainly better than the defaults, whose validation loss is `usual`, and what was
    tried."""
    trials = sweep.details["trials"]
    best = next(trial for trial in trials if trial["status"] == "best")
    counts = {status: sum(trial["status"] == status for trial in trials) for status in ("pruned", "stopped", "failed")}
    ends = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    tried = f"{len(trials) - 1} other settings were tried" + (f" ({ends})." if ends else ".")
    found = f"{settings_text(best['settings'])}: validation loss {best['loss']:.4f} against {usual:.4f}"
    if best["loss"] > usual * (1 - LEAST_GAIN):
        why = f"The best of them is {found}, which may be chance" if best["settings"] else "None has a lower loss"
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

    def affordable(self, left: float) -> list[float]:
        """Numbers of passes whose training fits FULL_TRAININGS times into `left` seconds."""
        most = 1.0 if self.ends_early else PASSES[-1]  # more passes do not change one that validation has stopped
        passes = [self.epochs * factor for factor in PASSES if factor <= most]
        return [count for count in passes if FULL_TRAININGS * (self.start + count * self.per_pass) <= left]


def _candidates(declared: Train, usual: Manifest, passes: Sequence[float]) -> list[dict[str, Any]]:
    """Settings around the defaults, in a random order that repeats itself."""
    dice = random.Random(declared.seed)
    drawn: dict[str, dict[str, Any]] = {}
    is_small = usual.details["parameters"] <= SMALL_PARAMETERS and declared.architecture is None
    kinds = ("lora", "full") if is_small and declared.method in ("lora", "full") else (declared.method,)
    batch = max(declared.sequence_length, int(usual.details["batch_tokens"]))
    for _ in range(20 * CANDIDATES):
        method, factor = dice.choice(kinds), dice.choice(BATCHES)
        batch_tokens = max(8, int(batch * factor))
        kind = declared.model_copy(update={"method": method, "learning_rate": None, "batch_tokens": None})
        rate = methods.learning_rate(kind, batch_tokens) * dice.choice(RATES)
        settings: dict[str, Any] = {"method": method, "learning_rate": float(f"{rate:.3g}")}
        settings |= {"rank": dice.choice(RANKS)} if method == "lora" else {}
        settings |= {"batch_tokens": batch_tokens, "epochs": dice.choice(list(passes)[-3:])}
        declared_with(declared, settings)  # a combination that the schema refuses is a mistake of ours
        drawn.setdefault(repr(settings), settings)
        if len(drawn) == CANDIDATES:
            break
    return list(drawn.values())


def _defaults(run: Manifest) -> str:
    details = run.details
    return f"{details['method']}, learning rate {details['learning_rate']:.3g}, {details['batch_tokens']} tokens a step"
