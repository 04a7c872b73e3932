"""How many requests it takes until a shift of the inputs is noticed, and how often one is that is none, on real sets.

    python benchmarks/drift.py [--data FOLDER] [--runs 200]

A stream of texts is compared with a sample of what a model was trained on, as `soldiom_ray/monitor/drift.py` does it.
"""

import argparse
import json
import math
import random
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from soldiom_ray.metrics.two_sample import Features, Game, features
from soldiom_ray.monitor.drift import FALSE_ALARM, REFERENCE_TEXTS, round_error

DATA = Path(__file__).parents[2] / "shared" / "data"
MOST_PAIRS = 2000
SHARES = (0.1, 0.25, 0.5, 1.0)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as lines:
        yield from map(json.loads, lines)


def load(data: Path) -> dict[str, list[Features]]:
    sms = list(rows(data / "moderation_sms" / "train.jsonl"))
    texts = {
        "SMS": [row["text"] for row in sms if row["label"] == "ham"],
        "spam SMS": [row["text"] for row in sms if row["label"] != "ham"],
        "tweets": [row["tweet"] for row in rows(data / "moderation_hatespeech" / "train.jsonl")],
        "instructions": [row["instruction"] for row in rows(data / "instruct_short" / "train.jsonl")],
        "medical questions": [row["QUESTION"] for row in rows(data / "medical_pubmedqa" / "train.jsonl")],
        "contract clauses": [row["text"] for row in rows(data / "legal_legalbench" / "tasks.jsonl")],
    }
    return {name: [features(text) for text in dict.fromkeys(values)] for name, values in texts.items()}


def noticed_after(reference: Sequence[Features], live: Sequence[Features]) -> int | None:
    """After how many requests; None: not within these."""
    game, needed = Game(), -math.log(round_error(0))
    for number, (new, known) in enumerate(zip(live[:MOST_PAIRS], reference, strict=False), 1):
        if game.play(new, known) >= needed:
            return number
    return None


def same(texts: Sequence[Features], runs: int) -> list[int | None]:
    """One set, divided by chance into what was learnt and what comes."""
    found = []
    for run in range(runs):
        mixed = random.Random(run).sample(texts, len(texts))
        half = len(mixed) // 2
        found.append(noticed_after(mixed[:half][:REFERENCE_TEXTS], mixed[half:]))
    return found


def shifted(texts: Sequence[Features], others: Sequence[Features], share: float, runs: int) -> list[int | None]:
    """The same, but that a share of what comes is of another set."""
    found = []
    for run in range(runs):
        drawn = random.Random(run)
        mixed = drawn.sample(texts, len(texts))
        half = len(mixed) // 2
        live = [drawn.choice(others) if drawn.random() < share else text for text in mixed[half:]]
        found.append(noticed_after(mixed[:half][:REFERENCE_TEXTS], live))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    sets = load(options.data)
    print(f"| unchanged | texts | runs | noticed (stated: at most {FALSE_ALARM:.0%}) |\n|---|---|---|---|")
    for name in ("SMS", "tweets", "contract clauses", "instructions"):
        alarms = sum(each is not None for each in same(sets[name], options.runs))
        print(f"| {name} | {len(sets[name])} | {options.runs} | {alarms} |", flush=True)
    print("\n| learnt from | what comes | share of it | noticed after (median; 90 of 100) | not within the stream |")
    print("|---|---|---|---|---|")
    pairs = (("SMS", "spam SMS"), ("SMS", "tweets"), ("instructions", "medical questions"), ("contract clauses", "SMS"))
    for name, other in pairs:
        for share in SHARES:
            found = shifted(sets[name], sets[other], share, max(20, options.runs // 10))
            after = sorted(each for each in found if each is not None)
            missed = len(found) - len(after)
            shown = f"{statistics.median(after):.0f}; {after[math.ceil(0.9 * len(after)) - 1]}" if after else "-"
            print(f"| {name} | {other} | {share:.0%} | {shown} | {missed} of {len(found)} |", flush=True)


if __name__ == "__main__":
    main()
