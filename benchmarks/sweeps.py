"""Early stops (ASHA, halving) against training every trial to its end: the same trials, their seconds, the best loss.

    python benchmarks/sweeps.py --data ../shared/data                 # SMS spam with all-MiniLM-L6-v2
    python benchmarks/sweeps.py --data ../shared/data --trials 16 --tokens 120000
    python benchmarks/sweeps.py --data ../shared/data --schedulers none

All sweeps draw the same settings (learning rate over three orders of magnitude, rank) with the same seed, one trial
after the other, each sweep in a home of its own: a run of the same settings would be found again. "validations reached"
are those of all trials together, which says how much was trained whatever else the machine does; seconds are those of
the trials, their start included; "start-up" is until a trial's first step, of the first trial and the median of the
others. The best run of each is scored on the held-out texts.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.collect import collect
from soldiom_ray.domains.schema import Evaluate, Prepare, Train
from soldiom_ray.domains.search import Sweep
from soldiom_ray.domains.sources import FilesSource
from soldiom_ray.evaluate import evaluate
from soldiom_ray.prepare import prepare
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage
from soldiom_ray.train import sweep
from soldiom_ray.train.sweeps.trials import settings_text

SPACE = {"learning_rate": "1e-5..1e-2", "rank": [4, 8, 16, 32]}
COLUMNS = (
    "| scheduler | trials to their end | validations reached | seconds of the trials"
    " | start-up of the first, of the others | by the clock | best validation loss, settings | held out |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=60_000, help="of each trial at most")
    parser.add_argument(
        "--schedulers", nargs="+", choices=("asha", "halving", "none"), default=("asha", "halving", "none")
    )
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--quick", action="store_true", help="few trials, few tokens")
    options = parser.parse_args()
    files = options.data / "moderation_sms"
    if not files.is_dir():
        print(f"skipped: the data sets are not at {options.data}")
        return
    if options.quick:
        options.trials, options.tokens = 3, 4_000
    import ray

    os.environ.setdefault("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")  # no dashboard is looked for
    ray.init(address="local", include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    print(COLUMNS + "\n|---|---|---|---|---|---|---|---|", flush=True)
    for scheduler in options.schedulers:
        with tempfile.TemporaryDirectory(prefix="sweeps-") as home:
            print(case(Path(home), files, scheduler, options), flush=True)
    ray.shutdown()


def case(home: Path, files: Path, scheduler: str, options: argparse.Namespace) -> str:
    """One sweep: its row of the table."""
    settings = load_settings({"SOLDIOM_HOME": str(home)})
    context = Context(settings, Artifacts(open_storage(settings)), lambda fraction, message: None)
    source = FilesSource.model_validate({"paths": [str(files)]})
    dataset = prepare(context, [collect(context, [source])], Prepare(filters=("near_duplicate",)))
    declared = {"base_model": "builtin/all-MiniLM-L6-v2", "task": "text_classification", "max_tokens": options.tokens}
    search = {"space": SPACE, "trials": options.trials, "scheduler": scheduler, "seed": options.seed}
    began = time.monotonic()
    run, made = sweep(context, dataset, Train.model_validate(declared), Sweep.model_validate(search))
    clock = time.monotonic() - began
    scores = json.loads(context.artifacts.read(evaluate(context, run, dataset, Evaluate(examples=0)), "scores.json"))
    interval = scores["intervals"]["accuracy"]
    trials: list[dict[str, Any]] = made.details["trials"]
    ended = sum(trial["status"] in ("best", "completed") for trial in trials)
    first, *others = (trial["start_seconds"] for trial in trials)
    return (
        f"| {scheduler} | {ended} of {len(trials)} | {sum(trial['validations'] for trial in trials)}"
        f" | {sum(trial['seconds'] for trial in trials):.0f}"
        f" | {first:.1f}, {median(others or [first]):.1f} (at most {max(others or [first]):.1f}) | {clock:.0f}"
        f" | {made.details['best_value']:.4f}, {settings_text(made.details['best_settings'])}"
        f" | {scores['tuned']['loss']:.4f}, accuracy {interval['mean']:.3f}"
        f" [{interval['low']:.3f}, {interval['high']:.3f}] |"
    )


if __name__ == "__main__":
    main()
