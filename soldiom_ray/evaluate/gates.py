"""The gate: a model may be promoted when what its recipe demands is shown, not when it merely was not refuted."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from soldiom_ray.domains.metrics import METRICS, Metric, MetricName
from soldiom_ray.domains.schema import Condition, Gate
from soldiom_ray.evaluate.ask import QUESTIONS
from soldiom_ray.metrics.compare import HEADLINES, Comparison, Score
from soldiom_ray.metrics.measurement import BASE, PREVIOUS, PRIOR, TUNED, UNCALIBRATED, UNIFORM, Measurement
from soldiom_ray.metrics.resampling import Interval, bootstrap_p, holm, interval_of, needed_units

MIN_UNITS = 5
"""Below this a bootstrap says nothing: with one document its interval has no width at all."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one condition against one system: the difference (with `beat: value`, the tuned model's own
    value), and how sure it is to be beyond the margin. `sign` is -1 where lower is better."""

    score: Score
    name: str
    before: float
    interval: Interval
    margin: float
    p: float
    sign: int
    exact_test: str = "McNemar's test"
    """What `p` is of where that says more than the interval."""

    @property
    def shown(self) -> bool:
        """Whether the whole interval is beyond the margin."""
        return self.worst > self.sign * self.margin

    @property
    def refuted(self) -> bool:
        """Whether the whole interval is on the wrong side of it."""
        return max(self.sign * self.interval.low, self.sign * self.interval.high) < self.sign * self.margin

    @property
    def worst(self) -> float:
        """The interval's worse end; larger is better."""
        return min(self.sign * self.interval.low, self.sign * self.interval.high)


def gate_metrics(gate: Gate, measurement: Measurement) -> list[MetricName]:
    """The metrics that decide."""
    return [each.metric or HEADLINES[measurement.main.part] for each in (gate.all or gate.any or (gate,))]


def unmeasured_gate(reason: str, gate: Gate) -> dict[str, Any]:
    """As `apply_gate`, where nothing was measured: the gate is not passed, and `measured` is false."""
    first = next(iter((*gate.all, *gate.any)), gate)
    return _outcome(first, first.metric or "loss", passed=False, verdict=f"Not measured: {reason}") | {
        "measured": False
    }


def apply_gate(comparison: Comparison, measurement: Measurement, gate: Gate) -> dict[str, Any]:
    """{metric, passed, verdict, beat, by, confidence, difference}; the verdict is a sentence for people. With several
    conditions also {combine, conditions}, and the rest is of the condition that decides. `measured` is false where the
    gate does not pass because something could not be measured."""
    conditions = gate.all or gate.any
    if not conditions:
        return _held_to_baselines(_judge(comparison, measurement, gate), comparison, measurement, gate)
    results = [_judge(comparison, measurement, each) for each in conditions]
    combine = "all" if gate.all else "any"
    if gate.any:
        _correct(results)
    passed = (all if gate.all else any)(result["passed"] for result in results)
    deciding = next((result for result in results if result["passed"] == passed), results[0])
    count = sum(result["passed"] for result in results)
    lines = " ".join(f"({number}) {result['verdict']}" for number, result in enumerate(results, 1))
    verdict = (
        f"{'Passed' if passed else 'Not passed'}: {count} of {len(results)} conditions hold, {combine} needed. {lines}"
    )
    unmeasured = not passed and any(result.get("measured") is False for result in results)
    combined = deciding | {"passed": passed, "verdict": verdict, "combine": combine, "conditions": results}
    combined.pop("measured", None)
    return combined | ({"measured": False} if unmeasured and not count else {})


def _judge(comparison: Comparison, measurement: Measurement, condition: Condition) -> dict[str, Any]:
    """One condition. It has to hold against every system that it names: for `baseline` against each of them."""
    name = condition.metric or HEADLINES[measurement.main.part]
    score, metric = comparison.scores.get(name), METRICS[name]
    if score is None:
        unasked = comparison.missing.get(QUESTIONS) if "answers" in metric.parts else None
        reason = comparison.missing.get(name) or unasked or "it was not computed"
        return _outcome(condition, name, passed=False, verdict=f"Not measured: {name}: {reason}.") | {"measured": False}
    systems = _systems(condition, measurement, score)
    if not systems:
        if condition.beat == PREVIOUS:
            verdict = "Passed: there is no earlier version to beat."
            return _outcome(condition, name, passed=True, verdict=verdict)
        verdict = f"Not measured: there is no {condition.beat} with {name}."
        return _outcome(condition, name, passed=False, verdict=verdict) | {"measured": False}
    findings = [_find(score, metric, system, condition, name) for system in systems]
    if name == "judge_win_rate" and measurement.judge:
        findings = [_with_sign_test(finding, measurement.judge) for finding in findings]
    finding = min(findings, key=lambda each: each.worst - each.sign * each.margin)
    what = {"base": "its base", "previous": "the version before", "value": f"the value {condition.value}"}
    beaten = what.get(condition.beat) or f"the best trivial baseline ({systems[findings.index(finding)]})"
    return _verdict(condition, finding, metric, beaten)


def _held_to_baselines(
    result: dict[str, Any], comparison: Comparison, measurement: Measurement, gate: Gate
) -> dict[str, Any]:
    """The result of a gate that asks to beat the base; not passed where a trivial baseline is shown to be better and
    what stands in for the base is a guess of labels, which says nothing of the texts."""
    score = comparison.scores.get(result["metric"])
    if not result["passed"] or score is None or gate.beat != BASE or measurement.base != PRIOR:
        return result
    metric, level = METRICS[result["metric"]], 1 - gate.confidence
    equal = Condition(confidence=gate.confidence)
    names = _systems(equal.model_copy(update={"beat": "baseline"}), measurement, score)
    found = {name: _find(score, metric, name, equal, result["metric"]) for name in names}
    better = {name: finding for name, finding in found.items() if finding.refuted and finding.p <= level}
    if not better:
        return result
    best = min(better, key=lambda name: better[name].worst)
    finding = better[best]
    verdict = (
        f"Not passed: a trivial baseline ({best}) is better: {result['metric']} {finding.before:.4f} against"
        f" {score.values[TUNED].mean:.4f} ({metric.unit}), difference {finding.interval.mean:+.4f},"
        f" {100 * gate.confidence:g} % interval {finding.interval}. The {PRIOR} are beaten."
    )
    return result | {"passed": False, "verdict": verdict, "difference": finding.interval.as_dict(), "p": finding.p}


def _systems(condition: Condition, measurement: Measurement, score: Score) -> list[str]:
    """The systems that have to be beaten; the tuned model's own name stands for a value."""
    if condition.beat == "value":
        return [TUNED]
    if condition.beat != "baseline":
        return [condition.beat] if condition.beat in score.differences else []
    stands_in = measurement.base in (UNIFORM, PRIOR)
    models = {PREVIOUS, UNCALIBRATED} | (set() if stands_in else {BASE})
    return [name for name in score.differences if name not in models]


def _find(score: Score, metric: Metric, system: str, condition: Condition, name: str) -> Finding:
    sign = -1 if metric.lower_is_better else 1
    tuned, units = score.values[TUNED].mean, score.units
    if system == TUNED:
        margin, before, drawn = (
            float(condition.value or 0) + sign * condition.by,
            float(condition.value or 0),
            score.drawn[TUNED],
        )
        mean, p = tuned, bootstrap_p(drawn, units=units, margin=margin)
    else:
        margin, before, drawn = sign * condition.by, score.values[system].mean, score.drawn[TUNED] - score.drawn[system]
        mean = tuned - before
        p = bootstrap_p(drawn, units=units, margin=margin) if condition.by else score.differences[system].p
    interval = interval_of(mean, drawn, units=units, confidence=condition.confidence)
    return Finding(score, name, before, interval, margin, p, sign)


def _with_sign_test(finding: Finding, judge: Mapping[str, Any]) -> Finding:
    """With the p-value, if larger, of the exact test that of the pairs which the judge decides the tuned model wins the
    share to beat: where every pair has one winner, a bootstrap draws nothing else."""
    from scipy import stats

    decided = judge["wins"] + judge["losses"]
    share = min(1.0, max(0.0, finding.margin))
    p = float(stats.binomtest(judge["wins"], decided, share).pvalue) if decided else 1.0
    return replace(finding, p=max(p, finding.p), exact_test="the sign test")


def _verdict(condition: Condition, finding: Finding, metric: Metric, beaten: str) -> dict[str, Any]:
    level = 1 - condition.confidence
    score, interval, name = finding.score, finding.interval, finding.name
    numbers = f"{name} {finding.before:.4f} -> {score.values[TUNED].mean:.4f} ({metric.unit})"
    label = "value" if condition.beat == "value" else "difference"
    by = f" by {abs(condition.by):g}" if condition.by > 0 else ""
    interval_text = f"{label} {interval.mean:+.4f}, {100 * condition.confidence:g} % interval {interval}"
    passed = False
    if score.units < MIN_UNITS:
        verdict = (
            f"Not passed: only {score.units} held-out document(s), at least {MIN_UNITS} are needed for an interval"
            f" ({numbers})."
        )
    elif finding.shown and finding.p <= level:
        passed = True
        if condition.by < 0:
            verdict = (
                f"Passed: the tuned model is not worse than {beaten} by {-condition.by:g}: {numbers}, {interval_text}."
            )
        else:
            verdict = f"Passed: the tuned model beats {beaten}{by} on held-out data: {numbers}, {interval_text}."
    elif finding.refuted:
        worse = (
            "is worse than" if not condition.by else f"does not beat {beaten} by {condition.by:g}; it is compared with"
        )
        verdict = f"Not passed: the tuned model {worse} {beaten}: {numbers}, {interval_text}."
    else:
        margin = "zero" if not finding.margin else f"{finding.margin:g}"
        why = (
            f"the interval includes {margin}"
            if not finding.shown
            else f"{finding.exact_test} gives p = {finding.p:.3f}"
        )
        verdict = f"Not passed: {why}, so no difference from {beaten} is shown: {numbers}, {interval_text}."
        verdict += _needed_text(finding, condition)
    outcome = _outcome(condition, name, passed=passed, verdict=verdict)
    return outcome | {"difference": interval.as_dict(), "p": finding.p, "needed": _needed(finding, condition)}


def _needed(finding: Finding, condition: Condition) -> int | None:
    """How many units in all would show it; None where it is shown, or the mean is on the wrong side."""
    on_right_side = finding.sign * (finding.interval.mean - finding.margin) > 0
    if finding.shown or not on_right_side:
        return None
    return needed_units(
        finding.interval, units=finding.score.units, confidence=condition.confidence, margin=finding.margin
    )


def _needed_text(finding: Finding, condition: Condition) -> str:
    needed = _needed(finding, condition)
    if needed is None or needed <= finding.score.units:
        return ""
    more = needed - finding.score.units
    return f" A difference of this size would be shown by about {more:,} more held-out {finding.score.unit}s."


def _correct(results: list[dict[str, Any]]) -> None:
    """Of conditions of which one is enough, those hold that do after Holm's correction."""
    judged = [result for result in results if result.get("p") is not None]
    for result, p in zip(judged, holm([result["p"] for result in judged]), strict=True):
        if result["passed"] and p > 1 - result["confidence"]:
            result["passed"] = False
            result["verdict"] = result["verdict"].replace("Passed:", "Not passed, corrected for all conditions:", 1)


def _outcome(condition: Condition, name: str, *, passed: bool, verdict: str) -> dict[str, Any]:
    return {
        "metric": name,
        "passed": passed,
        "verdict": verdict,
        "beat": condition.beat,
        "by": condition.by,
        "confidence": condition.confidence,
        "difference": None,
    }
