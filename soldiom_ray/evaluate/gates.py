"""The gate: a model may be promoted when its whole interval lies on the better side of its baseline."""

from typing import Any

from soldiom_ray.evaluate.compare import Comparison
from soldiom_ray.evaluate.metrics import LOWER_IS_BETTER, UNITS

MIN_DOCUMENTS = 5
"""Below this a percentile bootstrap says nothing: with one document its interval has no width at all."""


def unmeasured_gate(dataset: str, *, metric: str, beat: str, confidence: float) -> dict[str, Any]:
    """As `apply_gate`, of a dataset without a test side: the gate is not passed, and `measured` is false."""
    verdict = (
        f"Not measured: the dataset {dataset} holds no test samples. Prepare it with prepare.split.test above 0 or with"
        " prepare.split.test_groups, or evaluate on another dataset."
    )
    return {
        "metric": metric,
        "passed": False,
        "measured": False,
        "verdict": verdict,
        "beat": beat,
        "confidence": confidence,
        "difference": None,
    }


def apply_gate(comparison: Comparison, *, metric: str, beat: str, confidence: float) -> dict[str, Any]:
    """{metric, passed, verdict, beat, confidence, difference}; the verdict is one sentence for people."""
    interval = comparison.difference[metric]
    base, tuned = comparison.base[metric], comparison.tuned[metric]
    percent = f"{100 * confidence:g} %"
    numbers = (
        f"{metric} {base:.4f} -> {tuned:.4f} ({UNITS[metric]}), difference {interval.mean:+.4f},"
        f" {percent} interval {interval}"
    )
    better = interval.high < 0 if LOWER_IS_BETTER[metric] else interval.low > 0
    worse = interval.low > 0 if LOWER_IS_BETTER[metric] else interval.high < 0
    if comparison.documents < MIN_DOCUMENTS:
        passed = False
        verdict = (
            f"Not passed: only {comparison.documents} held-out document(s), at least {MIN_DOCUMENTS} are needed for an"
            f" interval ({metric} {base:.4f} -> {tuned:.4f})."
        )
    elif better:
        passed, verdict = True, f"Passed: the tuned model beats its {beat} on held-out data: {numbers}."
    elif worse:
        passed, verdict = False, f"Not passed: the tuned model is worse than its {beat}: {numbers}."
    else:
        passed, verdict = (
            False,
            f"Not passed: the interval includes zero, so no difference from the {beat} is shown: {numbers}.",
        )
    return {
        "metric": metric,
        "passed": passed,
        "verdict": verdict,
        "beat": beat,
        "confidence": confidence,
        "difference": interval.as_dict(),
    }
