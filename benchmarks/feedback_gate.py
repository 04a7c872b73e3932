"""Many simulated months of feedback of which a fifth is malicious and none is read before it is accepted: how often the
gate lets a worse version pass, and how often the watch sends it back.

    python benchmarks/feedback_gate.py [--data FOLDER] [--months 10] [--liars 10]

The same classifier head, gate and evidence as `soldiom retrain` and `soldiom watch` use, without the services
(`feedback_month.py` has one month with them). Of SMS a first version learns 60; each week 500 more are rated by 50
users, of whom 10 always say the opposite; all of it is accepted and learnt from beside what was learnt before, and a
version that passes the gate `beat: previous` on the held-out side, a fifth of which lies too, answers from then on.
After four weeks comes one in which all 50 lie; where that version passes, 500 messages of the next week are rated by
honest users and ten liars. Accuracy is that on 600 messages that nobody touched.
"""

import argparse
import json
import random
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soldiom_ray.domains.schema import Gate
from soldiom_ray.evaluate.gates import apply_gate
from soldiom_ray.metrics.compare import compare
from soldiom_ray.metrics.measurement import HeldOutSample, LabelOutcome, Measurement, PartOutcome
from soldiom_ray.metrics.sequential import Count, rise
from soldiom_ray.models.embedder import Embedder
from soldiom_ray.models.linear_head import LinearHead, Samples, fit_linear_heads
from soldiom_ray.monitor.watch import FALSE_ALARM, MARGINS
from soldiom_ray.settings import load_settings

DATA = Path(__file__).parents[2] / "shared" / "data"
HELD_OUT, FIRST, RATED, USERS, LIARS, WEEKS = 600, 60, 500, 50, 10, 4
SAMPLES = HELD_OUT + FIRST + (WEEKS + 2) * RATED


@dataclass
class Texts:
    """All messages as the head reads them, and their true labels (1: spam)."""

    ids: list[Any]
    vectors: Any
    labels: Any

    def side(self, places: list[int], believed: dict[int, int]) -> Samples:
        labels = np.asarray([believed[place] for place in places], np.int64)
        return Samples([self.ids[place] for place in places], self.vectors[places], labels)


def load(data: Path, count: int) -> Texts:
    with (data / "moderation_sms" / "train.jsonl").open() as lines:
        rows = {row["text"]: int(row["label"] != "ham") for row in map(json.loads, lines) if len(row["text"]) > 20}
    chosen = random.Random(17).sample(sorted(rows), count)
    embedder = Embedder(load_settings())
    tokens = embedder.tokens(chosen, 128)
    vectors = embedder.encode(chosen, max_tokens=128)
    return Texts([np.asarray(row) for row in tokens], vectors, np.asarray([rows[text] for text in chosen]))


def losses(head: LinearHead, side: Samples) -> tuple[Any, Any]:
    logits = head.logits(side.ids, side.vectors)
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    return probabilities, -np.log(probabilities[np.arange(len(side.labels)), side.labels].clip(1e-9))


def train(texts: Texts, places: list[int], believed: dict[int, int]) -> LinearHead:
    """As `train.head: linear`: of six choices, the one with the least loss on a tenth that was kept back."""
    kept = [place for place in places if place % 10 == 9]
    learnt = texts.side([place for place in places if place % 10 != 9], believed)
    validation = texts.side(kept, believed)
    heads = list(fit_linear_heads(learnt, 2, "mean"))
    return min(heads, key=lambda head: float(losses(head, validation)[1].mean()))


def passes(texts: Texts, new: LinearHead, old: LinearHead, places: list[int], believed: dict[int, int]) -> bool:
    """The gate of a retraining, on the held-out side with the labels that users gave it."""
    side = texts.side(places, believed)
    targets = np.eye(2, dtype=bool)[side.labels]
    outcomes = {
        name: LabelOutcome(("ham", "spam"), targets, *losses(head, side))
        for name, head in (("tuned", new), ("base", old), ("previous", old))
    }
    samples = tuple(HeldOutSample(str(place), str(place)) for place in places)
    measurement = Measurement((PartOutcome("labels", samples, outcomes),), [], "base", len(places), len(places), 0)
    comparison = compare(measurement, metrics=["accuracy"], resamples=1000, confidence=0.95, seed=1)
    return bool(apply_gate(comparison, measurement, Gate(beat="previous"))["passed"])


def accuracy(texts: Texts, head: LinearHead, places: list[int]) -> float:
    side = texts.side(places, dict(enumerate(texts.labels.tolist())))
    return float((losses(head, side)[0].argmax(1) == side.labels).mean())


def ratings(texts: Texts, head: LinearHead, places: list[int], liars: int) -> list[bool]:
    """Whether each rating is `down`."""
    side = texts.side(places, dict(enumerate(texts.labels.tolist())))
    wrong = losses(head, side)[0].argmax(1) != side.labels
    return [bool(bad) != (number % USERS < liars) for number, bad in enumerate(wrong)]


def sent_back_after(before: list[bool], since: list[bool]) -> int | None:
    count, error = Count(sum(before), len(before)), FALSE_ALARM / len(MARGINS)
    for trials in range(1, len(since) + 1):
        if rise(count, Count(sum(since[:trials]), trials), margin=MARGINS["bad_ratings"], error=error).shown:
            return trials
    return None


@dataclass
class Month:
    """What happened: accuracies after the first version, each week and the attack; and the versions that passed."""

    accuracies: list[float]
    promoted: int
    worse: int
    attack_passed: bool
    sent_back: int | None
    end: float


def month(texts: Texts, seed: int, usual: int) -> Month:
    order = random.Random(seed).sample(range(len(texts.labels)), len(texts.labels))
    untouched, rest = order[:HELD_OUT], order[HELD_OUT:]
    believed = {place: int(texts.labels[place]) for place in rest[:FIRST]}
    start, serving = FIRST, None
    found, promoted, worse, passed = list[float](), 0, 0, False
    before: list[bool] = []
    previous: LinearHead | None = None
    for week in range(WEEKS + 2):
        liars = USERS if week == WEEKS + 1 else usual
        if week:
            part, start = rest[start : start + RATED], start + RATED
            lies = {place: number % USERS < liars for number, place in enumerate(part)}
            believed |= {place: int(texts.labels[place]) ^ int(lies[place]) for place in part}
            assert serving is not None
            before = ratings(texts, serving, part, usual) if week <= WEEKS else before
        test = [place for place in believed if (place * 2654435761) % 100 < 30]
        new = train(texts, [place for place in believed if place not in set(test)], believed)
        passed = serving is None or passes(texts, new, serving, test, believed)
        if passed:
            was = accuracy(texts, serving, untouched) if serving is not None else 0.0
            previous, serving = serving, new
            promoted += week > 0
            worse += accuracy(texts, serving, untouched) < was - 0.005
        assert serving is not None
        found.append(accuracy(texts, serving, untouched))
    back = None
    if passed and previous is not None:
        assert serving is not None
        back = sent_back_after(before, ratings(texts, serving, rest[start : start + RATED], usual))
        serving = previous if back is not None else serving
    assert serving is not None
    return Month(found, promoted, worse, passed, back, accuracy(texts, serving, untouched))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--months", type=int, default=10)
    parser.add_argument("--liars", type=int, default=LIARS, help="of 50 users, in an ordinary week")
    options = parser.parse_args()
    texts = load(options.data, SAMPLES)
    months = [month(texts, seed, options.liars) for seed in range(options.months)]
    print("| accuracy of what answers, of untouched messages | mean | least | most |\n|---|---|---|---|")
    names = ["the first version", *(f"week {week}" for week in range(1, WEEKS + 1)), "the attack"]
    for place, name in enumerate(names):
        values = [each.accuracies[place] for each in months]
        print(f"| {name} | {statistics.mean(values):.3f} | {min(values):.3f} | {max(values):.3f} |")
    ends = [each.end for each in months]
    print(f"| after a watched week | {statistics.mean(ends):.3f} | {min(ends):.3f} | {max(ends):.3f} |")
    changes = [each.accuracies[WEEKS] - each.accuracies[0] for each in months]
    print(f"\nFrom the first version to week {WEEKS}: {statistics.mean(changes):+.3f}, least {min(changes):+.3f}.")
    print(f"Versions that passed: {sum(each.promoted for each in months)} of {len(months) * (WEEKS + 1)} retrainings;")
    print(f"worse by over half a point on untouched messages: {sum(each.worse for each in months)}.")
    attacked = [each for each in months if each.attack_passed]
    back = [each.sent_back for each in attacked if each.sent_back is not None]
    print(
        f"Attacks that passed the gate: {len(attacked)} of {len(months)}; sent back by the watch: {len(back)}", end=""
    )
    print(f", after {statistics.median(back):.0f} ratings (median), {max(back)} at most." if back else ".")


if __name__ == "__main__":
    main()
