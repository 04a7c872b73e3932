"""Every metric of every system on the same samples, and the tuned model's difference from each of the others.

Documents are the units that are drawn, or whole groups where there are enough of them. Tokens are no unit: neighbours
within a document are not independent. Documents of one group are not quite independent either, so with few groups the
interval over whole groups is given beside; that one is rough, and the report says so.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from soldiom_ray.domains.metrics import METRICS, MetricName, Part
from soldiom_ray.metrics.computations import COMPUTATIONS
from soldiom_ray.metrics.measurement import BASE, TUNED, UNCALIBRATED, Measurement, PartOutcome
from soldiom_ray.metrics.resampling import (
    Interval,
    bootstrap_p,
    holm,
    interval_of,
    mcnemar_p,
    needed_units,
    resample,
)
from soldiom_ray.metrics.statistics import NotApplicableError, NotMeasurableError, Statistics

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

ENOUGH_GROUPS = 20
"""With fewer groups an interval over them is rough, and documents are drawn."""

UNDEFINED_SHARE = 0.05
"""A metric that more of the resamples do not define has no interval worth the name."""

CALIBRATED_METRICS = ("loss", "calibration_error")
"""Those that a temperature changes: of one label each, the order of the labels and so all decisions stay."""

HEADLINES: Mapping[Part, MetricName] = {
    "tokens": "loss", "labels": "accuracy", "answers": "rouge_l", "general": "general_loss",
    "verdicts": "judge_win_rate",
}  # fmt: skip
"""The metric that decides where none is named, and that slices and groups show."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The tuned model minus another system. `p` is of "no difference", by the test named, `corrected_p` by Holm for all
    metrics; `needed` is how many units would show it, where it is not shown."""

    interval: Interval
    p: float
    test: str
    corrected_p: float
    needed: int | None
    hits: "tuple[NDArray[np.bool_], NDArray[np.bool_]] | None" = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        values = {"p": self.p, "corrected_p": self.corrected_p, "test": self.test, "needed": self.needed}
        return self.interval.as_dict() | values


@dataclass(frozen=True, slots=True)
class Score:
    """One metric. `values` has each system's, `drawn` those on the resamples, `differences` the tuned model's from each
    other system; `units` are the documents or groups that were drawn. `over_groups` is the difference from the base by
    groups where those are few."""

    part: Part
    samples: int
    unit: str
    units: int
    values: dict[str, Interval]
    drawn: "dict[str, Numbers]" = field(repr=False)
    differences: dict[str, Difference]
    over_groups: Interval | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The metrics by name, why others are missing, and the headline metric by group and by slice."""

    scores: dict[str, Score]
    missing: dict[str, str]
    confidence: float
    groups: list[dict[str, Any]] = field(default_factory=list)
    slices: list[dict[str, Any]] = field(default_factory=list)
    documents: int = 0

    def values(self, system: str) -> dict[str, float]:
        """A system's metrics, those that it has."""
        return {name: score.values[system].mean for name, score in self.scores.items() if system in score.values}

    def differences(self, system: str) -> dict[str, Difference]:
        """The tuned model's differences from a system, by metric."""
        return {name: score.differences[system] for name, score in self.scores.items() if system in score.differences}


def compare(
    measurement: Measurement, *, metrics: Sequence[str] = (), resamples: int, confidence: float, seed: int
) -> Comparison:
    """Compare the tuned model with the other systems; `metrics` are those to show, none: all that the parts have."""
    wanted = tuple(metrics) or tuple(METRICS)
    scores: dict[str, Score] = {}
    missing = dict(measurement.missing)
    for part in measurement.parts:
        own = [name for name, metric in METRICS.items() if part.part in metric.parts and name in wanted]
        if part.part == "general":
            own = ["general_loss"]
        computed, reasons = _scores_of_part(
            part, own, resamples=resamples, confidence=confidence, seed=seed, asked_for=metrics
        )
        scores |= computed
        missing |= reasons
    for name in metrics:
        if name not in scores and name not in missing:
            missing[name] = f"it is measured on {' or '.join(METRICS[cast(MetricName, name)].parts)}, not on this task"
    return Comparison(
        scores=_corrected(scores),
        missing=missing,
        confidence=confidence,
        groups=_by_group(measurement.main, [name for name in scores if scores[name].part == measurement.main.part]),
        slices=list(_slices(measurement, resamples=min(resamples, 1000), confidence=confidence, seed=seed)),
        documents=len(measurement.main.samples),
    )


def _scores_of_part(
    part: PartOutcome,
    metrics: Sequence[MetricName],
    *,
    resamples: int,
    confidence: float,
    seed: int,
    asked_for: Sequence[str] = (),
) -> tuple[dict[str, Score], dict[str, str]]:
    """(the scores by metric, reasons of those that cannot be measured). What does not apply is named only where it was
    asked for."""
    import numpy as np

    statistics: dict[tuple[str, str], Statistics] = {}
    missing: dict[str, str] = {}
    silent: set[str] = set()
    for name in metrics:
        try:
            statistics |= {(name, system): each for system, each in _statistics(part, name).items()}
        except NotMeasurableError as error:
            missing[name] = str(error)
            silent |= {name} if isinstance(error, NotApplicableError) and name not in asked_for else set()
    if not statistics:
        return {}, {name: reason for name, reason in missing.items() if name not in silent}
    documents, groups = np.arange(len(part.samples)), _members([sample.group for sample in part.samples])
    group_count = int(groups.max()) + 1
    unit, members = ("group", groups) if group_count >= ENOUGH_GROUPS else ("document", documents)
    drawn = dict(
        zip(statistics, resample(list(statistics.values()), members, resamples=resamples, seed=seed), strict=True)
    )
    rough = {key: each for key, each in statistics.items() if key[1] in (TUNED, BASE)}
    if unit == "document" and group_count > 1:
        over = dict(zip(rough, resample(list(rough.values()), groups, resamples=resamples, seed=seed), strict=True))
    else:
        over = {}
    units = int(members.max()) + 1
    scores: dict[str, Score] = {}
    for name in (name for name in metrics if name not in missing):
        of_metric = {system: values for (metric, system), values in drawn.items() if metric == name}
        if reason := _undefined(of_metric):
            missing[name] = reason
            continue
        scores[name] = Score(
            part=part.part,
            samples=len(part.samples),
            unit=unit,
            units=units,
            values={
                system: interval_of(value, values, units=units, confidence=confidence)
                for system, (value, values) in of_metric.items()
            },
            drawn={system: values for system, (_, values) in of_metric.items()},
            differences=dict(_differences(part, name, of_metric, units, confidence)),
            over_groups=_over_groups(over, name, group_count, confidence),
        )
    return scores, {name: reason for name, reason in missing.items() if name not in silent}


def _statistics(part: PartOutcome, name: MetricName) -> dict[str, Statistics]:
    """Each system's statistics. NotMeasurableError where the tuned model's are none; another system without the metric,
    such as a baseline without a loss, is left out."""
    import numpy as np
    from scipy import sparse

    statistics = {}
    for system, outcome in part.outcomes.items():
        if system == UNCALIBRATED and name not in CALIBRATED_METRICS:
            continue
        try:
            each = _computed(name, outcome)
            numbers = each.rows.data if sparse.issparse(each.rows) else each.rows
            broken = int((~np.isfinite(numbers)).reshape(len(numbers), -1).any(1).sum())
            if broken:
                raise NotMeasurableError(f"the {system} model gives no number on {broken} of {len(numbers)} samples")
        except NotMeasurableError:
            if system == TUNED:
                raise
            continue
        statistics[system] = each
    return statistics


def _computed(name: MetricName, outcome: Any) -> Statistics:
    """A metric's statistics. One that fails is missing, with the error as its reason: the others took too long to be
    lost with it."""
    try:
        return COMPUTATIONS[name].statistics(outcome)
    except NotMeasurableError:
        raise
    except Exception as error:
        log.exception("a metric failed", extra={"data": {"metric": name}})
        raise NotMeasurableError(f"its computation failed with {type(error).__name__}: {error}") from error


def _undefined(values: "Mapping[str, tuple[float, Numbers]]") -> str | None:
    import numpy as np

    for whole, drawn in values.values():
        share = float(np.isnan(drawn).mean())
        if np.isnan(whole):
            return "it is not defined on these samples"
        if share > UNDEFINED_SHARE:
            return f"too few samples of a class: it is not defined on {share:.0%} of the resamples"
    return None


def _differences(
    part: PartOutcome, name: MetricName, values: "Mapping[str, tuple[float, Numbers]]", units: int, confidence: float
) -> "Iterator[tuple[str, Difference]]":
    tuned, drawn = values[TUNED]
    for system, (other, drawn_other) in values.items():
        if system == TUNED:
            continue
        differences = drawn - drawn_other
        interval = interval_of(tuned - other, differences, units=units, confidence=confidence)
        p, test, hits = bootstrap_p(differences, units=units), "paired bootstrap", None
        if COMPUTATIONS[name].hits and units == len(part.samples):
            hits = (_hits(part, name, TUNED), _hits(part, name, system))
            p, test = max(p, mcnemar_p(*hits)), "McNemar"
        needed = needed_units(interval, units=units, confidence=confidence) if p > 1 - confidence else None
        yield system, Difference(interval, p, test, p, needed, hits)


def _hits(part: PartOutcome, name: MetricName, system: str) -> "NDArray[np.bool_]":
    hits: NDArray[np.bool_] = COMPUTATIONS[name].statistics(part.outcomes[system]).rows[:, 0] > 0
    return hits


def _over_groups(over: Mapping[tuple[str, str], Any], name: str, groups: int, confidence: float) -> Interval | None:
    if (name, TUNED) not in over or (name, BASE) not in over:
        return None
    (tuned, drawn), (base, drawn_base) = over[name, TUNED], over[name, BASE]
    return interval_of(tuned - base, drawn - drawn_base, units=groups, confidence=confidence)


def _corrected(scores: dict[str, Score]) -> dict[str, Score]:
    """The scores with Holm's correction, for each other system over all its metrics."""
    from dataclasses import replace

    by_system: dict[str, list[str]] = defaultdict(list)
    for name, score in scores.items():
        for system in score.differences:
            by_system[system].append(name)
    corrected: dict[tuple[str, str], float] = {}
    for system, names in by_system.items():
        p_values = holm([scores[name].differences[system].p for name in names])
        corrected |= {(name, system): p for name, p in zip(names, p_values, strict=True)}
    return {
        name: replace(
            score,
            differences={
                system: replace(difference, corrected_p=corrected[name, system])
                for system, difference in score.differences.items()
            },
        )
        for name, score in scores.items()
    }


def _members(names: Sequence[str]) -> "NDArray[np.int64]":
    """The number of each sample's group, 0 up."""
    import numpy as np

    return np.unique(np.array(names), return_inverse=True)[1]


def _by_group(part: PartOutcome, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Each group's documents, tokens (of labels: samples), and both models' metrics; None where one is not defined."""
    import numpy as np
    from scipy import sparse

    names = sorted({sample.group for sample in part.samples})
    members = _members([sample.group for sample in part.samples])
    indicator = sparse.csr_matrix((np.ones(len(members)), (members, np.arange(len(members)))))
    sizes = getattr(part.outcomes[TUNED], "tokens", np.ones(len(members)))
    documents, tokens = np.bincount(members), np.bincount(members, weights=sizes)
    groups: list[dict[str, Any]] = [
        {
            "group": name,
            "documents": int(documents[row]),
            "tokens": int(tokens[row]),
            BASE: {},
            TUNED: {},
            "difference": {},
        }
        for row, name in enumerate(names)
    ]
    for metric in metrics:
        values = {}
        for system in part.outcomes.keys() & {BASE, TUNED}:
            with suppress(NotMeasurableError):
                each = COMPUTATIONS[cast(MetricName, metric)].statistics(part.outcomes[system])
                if not sparse.issparse(each.rows):
                    values[system] = each.value(indicator @ each.rows)
        for row, group in enumerate(groups):
            for system, column in values.items():
                group[system][metric] = _number(column[row])
            if len(values) == 2:
                group["difference"][metric] = _number(values[TUNED][row] - values[BASE][row])
    return groups


def _number(value: Any) -> float | None:
    return float(value) if value == value else None


def _slices(measurement: Measurement, *, resamples: int, confidence: float, seed: int) -> Iterator[dict[str, Any]]:
    """The headline metric of each part on the samples that share a fact, both models and their difference."""
    import numpy as np

    for part in measurement.parts:
        by_fact: dict[tuple[str, str], list[int]] = defaultdict(list)
        for place, sample in enumerate(part.samples):
            for fact in sample.facts.items():
                by_fact[fact].append(place)
        values = {name: {value for fact, value in by_fact if fact == name} for name, _ in by_fact}
        metric = HEADLINES[part.part]
        for (name, value), places in sorted(by_fact.items()):
            if not (1 < len(values[name]) <= MAX_SLICES) or len(places) < MIN_SLICE or BASE not in part.outcomes:
                continue
            chosen = _subset(part, np.array(places))
            scores, _ = _scores_of_part(chosen, [metric], resamples=resamples, confidence=confidence, seed=seed)
            if metric in scores and BASE in scores[metric].differences:
                score = scores[metric]
                yield {
                    "fact": name, "value": value, "metric": metric, "samples": len(places),
                    BASE: score.values[BASE].mean, TUNED: score.values[TUNED].mean,
                    "difference": score.differences[BASE].interval.as_dict(),
                }  # fmt: skip


MAX_SLICES, MIN_SLICE = 12, 8
"""A fact with more values makes no readable table; fewer samples say nothing of a slice."""


def _subset(part: PartOutcome, places: "NDArray[np.int64]") -> PartOutcome:
    """The part with both models' outcomes on some of its samples."""
    samples = tuple(part.samples[place] for place in places)
    outcomes = {name: part.outcomes[name].subset(places) for name in (BASE, TUNED)}
    return PartOutcome(part.part, samples, outcomes)
