"""Seconds of the whole stage `evaluate` in a new process: a LoRA of SmolLM2 and its base on short held-out documents.

    python benchmarks/evaluation.py                     # 240 functions of installed packages and their docstrings
    python benchmarks/evaluation.py --documents 60 --home /tmp/evaluation

The process imports, loads base and adapter, scores both, writes the report; with `answers` it also has both models
answer as many prompts as a recipe that says nothing, and judges them. `--home` is kept: base, dataset and run are made
once. The run is a few steps long: its scores mean nothing here.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scoring import conversations

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.domains.schema import Evaluate, Train
from soldiom_ray.records import Manifest, Sample
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage

DECLARED = {"as a recipe that says nothing": {}, "three answers, none judged": {"answers": 0}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=240)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--quick", action="store_true", help="few documents")
    parser.add_argument("--evaluate", nargs=3, metavar=("RUN", "DATASET", "DECLARED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.evaluate:
        run_stage(context_in(options.home), *options.evaluate)
        return
    with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:
        home = options.home or Path(folder)
        dataset, run = prepared(context_in(home), 24 if options.quick else options.documents)
        print("| evaluate | seconds | seconds of the cores |\n|---|---|---|", flush=True)
        for name, declared in DECLARED.items():
            command = [sys.executable, __file__, "--home", str(home)]
            command += ["--evaluate", run.id, dataset.id, json.dumps(declared | {"seed": time.time_ns() % 10**6})]
            began, used = time.monotonic(), os.times()
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            after = os.times()
            cores = after.children_user + after.children_system - used.children_user - used.children_system
            print(f"| {name} | {time.monotonic() - began:.1f} | {cores:.1f} |", flush=True)


def context_in(home: Path) -> Context:
    settings = load_settings({"SOLDIOM_HOME": str(home)})
    return Context(settings, Artifacts(open_storage(settings)), lambda fraction, message: None)


def prepared(context: Context, documents: int) -> tuple[Manifest, Manifest]:
    """A dataset whose test side has so many documents, and a run."""
    from soldiom_ray.train.driver import run_locally

    draft = context.artifacts.draft("dataset", {"benchmark": "evaluation", "documents": documents})
    if (dataset := draft.finished()) is None:
        pairs, counts = conversations(documents + 60), {}
        for split, part in (("test", pairs[60:]), ("train", pairs[10:60]), ("validation", pairs[:10])):
            empty = dict.fromkeys(Sample.model_fields, "") | {"split": split, "source": "local", "kind": "other"}
            draft.write_rows(
                f"{split}/00000.parquet",
                [
                    empty
                    | {"id": f"{split}{n}", "path": f"{split}{n}.py", "text": "\n".join(t["content"] for t in pair)}
                    | {"messages": json.dumps(pair), "group": f"{split}{n}", "language": "en"}
                    for n, pair in enumerate(part)
                ],
                Sample,
            )
            counts[split] = len(part)
        dataset = draft.commit(counts=counts)
    return dataset, run_locally(context, dataset, Train.model_validate({"method": "lora", "max_tokens": 2048}))


def run_stage(context: Context, run: str, dataset: str, declared: str) -> None:
    from soldiom_ray.evaluate import evaluate

    artifacts = context.artifacts
    evaluate(context, artifacts.get(run), artifacts.get(dataset), Evaluate.model_validate(json.loads(declared)))


if __name__ == "__main__":
    main()
