"""Each method with its defaults against the base that it began from, on three real sets: loss with its interval.

    python benchmarks/methods.py --data ../shared/data                     # nine trainings, some half hour on two cores
    python benchmarks/methods.py --data ../shared/data --only legal --methods prompt --home /tmp/methods

Base: builtin/smollm2-135m-instruct. Collect, prepare, train and evaluate have their defaults, but for the method, at
most `--tokens` tokens of training and no judged answers; everything runs in this process. A set's columns are not
named: what is asked and what is answered is guessed as for any user. The difference of the losses per token of the
held-out answers has its 95 % interval by paired bootstrap. "Outside the loop" is everything of the training but its
steps. A kept `--home` converts the base and prepares each set once.
"""

import argparse
import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.collect import collect
from soldiom_ray.domains.schema import Evaluate, Prepare, Train
from soldiom_ray.domains.sources import FilesSource
from soldiom_ray.evaluate import evaluate
from soldiom_ray.prepare import prepare
from soldiom_ray.records import Manifest
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage
from soldiom_ray.train.driver import run_locally

SETS = {"instruct": "instruct_short/train.jsonl", "legal": "legal_plain_english", "pubmed": "medical_pubmedqa"}
METHODS = ("full", "lora", "prompt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--only", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--tokens", type=int, default=60_000, help="training tokens of each case at most")
    parser.add_argument("--home", type=Path, help="kept, so that another call finds base and sets")
    parser.add_argument("--quick", action="store_true", help="one set, few tokens")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"skipped: the data sets are not at {options.data}")
        return
    if options.quick:
        options.only, options.methods, options.tokens = ["instruct"], ["lora", "prompt"], 6_000
    print("| set (held out) | method | tokens, steps | loss | difference, 95 % | token accuracy | ", end="")
    print("seconds of steps | outside the loop |\n|---|---|---|---|---|---|---|---|", flush=True)
    with _home(options.home) as home:
        settings = load_settings({"SOLDIOM_HOME": str(home)})
        context = Context(settings, Artifacts(open_storage(settings)), lambda fraction, message: None)
        for name in options.only:
            files = FilesSource.model_validate({"paths": [str(options.data / SETS[name])]})
            dataset = prepare(context, [collect(context, [files])], Prepare())
            for method in options.methods:
                print(case(context, name, dataset, method, options.tokens), flush=True)


@contextlib.contextmanager
def _home(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="methods-") as home:
        yield Path(home)


def case(context: Context, name: str, dataset: Manifest, method: str, tokens: int) -> str:
    """One set with one method: its row of the table."""
    run = run_locally(context, dataset, Train.model_validate({"method": method, "max_tokens": tokens}))
    scored = evaluate(context, run, dataset, Evaluate(answers=0, examples=0))
    scores: dict[str, Any] = json.loads(context.artifacts.read(scored, "scores.json"))
    seconds = run.details["seconds_by_part"]
    outside = (seconds["total"] - seconds["steps"]) / seconds["steps"]
    unit = scores["units"]["loss"]
    cells = [
        f"{name} ({unit['samples']} {unit['unit']}s)",
        method,
        f"{run.counts['tokens']:,}, {run.counts['steps']}",
        "{} -> {}".format(*(f"{scores[model]['loss']:.3f}" for model in ("base", "tuned"))),
        "{mean:+.3f} [{low:+.3f}, {high:+.3f}]".format(**scores["difference"]["loss"]),
        "{} -> {}".format(*(f"{scores[model]['token_accuracy']:.3f}" for model in ("base", "tuned"))),
        f"{seconds['steps']:.0f}",
        f"{outside:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
