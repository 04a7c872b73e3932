"""The generated answers, one by one: which came closer to the author's by tuning, and which went further off."""

from typing import Any

from soldiom_ray.examples import examples_as_dicts
from soldiom_ray.metrics.compare import HEADLINES
from soldiom_ray.metrics.computations import COMPUTATIONS
from soldiom_ray.metrics.measurement import BASE, TUNED, Measurement

NOTICEABLE = 0.05
"""A smaller difference of an answer's ROUGE-L counts as the same."""

SHOWN_EACH_WAY = 3


def judge_answers(measurement: Measurement) -> dict[str, Any] | None:
    """{metric, count, better, worse, same, answers, improved, worsened}, the last two the largest changes first;
    None where no answers were judged. `better`, `worse` and `same` are None where no base model answers."""
    part = next((part for part in measurement.parts if part.part == "answers"), None)
    if part is None or TUNED not in part.outcomes:
        return None
    metric = HEADLINES["answers"]
    values = {
        system: COMPUTATIONS[metric].statistics(part.outcomes[system]).rows[:, 0].tolist()
        for system in (BASE, TUNED)
        if system in part.outcomes
    }
    answers = examples_as_dicts(measurement.examples[: len(part.samples)])
    for number, each in enumerate(answers):
        each["scores"] = {system: round(column[number], 4) for system, column in values.items()}
    judged: dict[str, Any] = {"metric": metric, "count": len(answers), "answers": answers}
    if BASE not in values:
        return judged | {"better": None, "worse": None, "same": None, "improved": [], "worsened": []}
    changes = [after - before for before, after in zip(values[BASE], values[TUNED], strict=True)]
    order = sorted(range(len(changes)), key=changes.__getitem__)
    better = [number for number in reversed(order) if changes[number] > NOTICEABLE]
    worse = [number for number in order if changes[number] < -NOTICEABLE]
    return judged | {
        "better": len(better),
        "worse": len(worse),
        "same": len(changes) - len(better) - len(worse),
        "improved": [answers[number] for number in better[:SHOWN_EACH_WAY]],
        "worsened": [answers[number] for number in worse[:SHOWN_EACH_WAY]],
    }
