"""`soldiom train --auto --minutes N` against the defaults, on one real set, scored on the same held-out samples.

    python benchmarks/auto.py sms --data ../shared/data --minutes 10        # SMS spam, all-MiniLM-L6-v2
    python benchmarks/auto.py legal --data ../shared/data --minutes 20      # contracts in plain English, SmolLM2
    python benchmarks/auto.py instruct --data ../shared/data --minutes 20   # short instructions, SmolLM2
    python benchmarks/auto.py sms --quick                                   # whether it runs

Each takes its minutes, and some more to start, to end the last trial and to score: on two free cores 15, 35 and 35 in
all. Collect, prepare, train and evaluate have their defaults; a kept `--home` goes on where it was stopped. The first
trial of `--auto` is the training with the defaults, so both runs come from the same call: the chosen one is compared
with it as with a version before it, by paired bootstrap (loss, for which below 0 is better) or McNemar's test and its
interval (accuracy, for which above 0 is better). Where nothing was better on the validation side both are the same run.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.collect import collect
from soldiom_ray.domains.schema import Evaluate, Prepare, Train
from soldiom_ray.domains.search import Auto, Sweep
from soldiom_ray.domains.sources import FilesSource
from soldiom_ray.evaluate import evaluate
from soldiom_ray.prepare import prepare
from soldiom_ray.records import Manifest
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage
from soldiom_ray.train import train_auto
from soldiom_ray.train.sweeps.driver import run_sweep

SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "sms": ("moderation_sms", {"task": "text_classification"}),
    "legal": ("legal_plain_english", {}),
    "instruct": ("instruct_short/train.jsonl", {}),
}
METRICS = ("loss", "accuracy", "token_accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", nargs="?", default="sms", choices=list(SETS))
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--tokens", type=int, help="of each training at most")
    parser.add_argument("--home", type=Path, help="kept, so that another call goes on")
    parser.add_argument("--quick", action="store_true", help="few tokens, two minutes")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"skipped: the data sets are not at {options.data}")
        return
    if options.quick:
        options.tokens, options.minutes = options.tokens or 4_000, 2
    import ray

    os.environ.setdefault("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")  # no dashboard is looked for
    ray.init(address="local", include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    with _home(options.home) as home:
        case(home, options)
    ray.shutdown()


@contextlib.contextmanager
def _home(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="auto-") as home:
        yield Path(home)


def case(home: Path, options: argparse.Namespace) -> None:
    """Choose, score, and print why and a table."""
    settings = load_settings({"SOLDIOM_HOME": str(home)})
    context = Context(settings, Artifacts(open_storage(settings)), lambda fraction, message: None)
    path, declared = SETS[options.set]
    files = FilesSource.model_validate({"paths": [str(options.data / path)]})
    dataset = prepare(context, [collect(context, [files])], Prepare())
    train = Train.model_validate(declared | ({"max_tokens": options.tokens} if options.tokens else {}))
    began = time.monotonic()
    chosen, sweep, reasons = train_auto(context, dataset, train, Auto(minutes=options.minutes))
    seconds = time.monotonic() - began
    for reason in reasons:
        print(f"- {reason}")
    usual, _ = run_sweep(context, dataset, train, Sweep(space={"seed": [train.seed]}, trials=1))  # made before
    print(f"\n| set | minutes | chosen | trials | {' | '.join(METRICS)} |\n|{'---|' * (4 + len(METRICS))}")
    is_same = chosen.id == usual.id
    cells = ["the defaults stay"] * len(METRICS) if is_same else compared(context, dataset, chosen, usual)
    settings_text = "the defaults" if is_same else json.dumps(sweep.details["best_settings"])
    trials = len(sweep.details["trials"])
    print(f"| {options.set} | {seconds / 60:.1f} | {settings_text} | {trials} | {' | '.join(cells)} |", flush=True)


def compared(context: Context, dataset: Manifest, chosen: Manifest, usual: Manifest) -> list[str]:
    """For each metric what the defaults and the chosen run reach, and the difference with its interval."""
    scored = evaluate(context, chosen, dataset, Evaluate(answers=0, examples=0), previous=usual)
    scores: dict[str, Any] = json.loads(context.artifacts.read(scored, "scores.json"))
    differences = scores["comparisons"].get("previous", {})
    cells = []
    for metric in METRICS:
        if metric not in differences:
            cells.append(scores["missing"].get("previous", "-") if metric == "loss" else "-")
            continue
        before, after = scores["systems"]["previous"][metric], scores["tuned"][metric]
        interval = "{mean:+.4f} [{low:+.4f}, {high:+.4f}]".format(**differences[metric])
        cells.append(f"{before:.4f} -> {after:.4f}, {interval}")
    return cells


if __name__ == "__main__":
    main()
