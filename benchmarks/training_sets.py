"""Every task, method and strategy on real sets: validation before and after, seconds, and the curves as pictures.

    python benchmarks/training_sets.py --data ../shared/data --folder /tmp/curves
    python benchmarks/training_sets.py --data ../shared/data --only sms --strategies ddp fsdp zero2 zero3

Sets (each folder has its source and licence beside it): SMS spam, hate speech, chest X-rays, English to Moroccan
Arabic, short instructions, preferences, PubMedQA. Bases: all-MiniLM-L6-v2 and stories260k, and small models
from random weights where no pretrained one is at hand (a ViT for the X-rays, a T5 for the translation); LoRA and prompt
training then go on from the model that full training made. Without --strategies a case runs in this process; with them
on a local Ray with two workers of one thread each. Budgets are small: what is shown is that each way learns, not how
far it gets.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.collect import collect
from soldiom_ray.domains.schema import Prepare, Train
from soldiom_ray.domains.sources import FilesSource
from soldiom_ray.prepare import prepare
from soldiom_ray.records import Manifest
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage
from soldiom_ray.train.driver import run_locally

MINILM = "builtin/all-MiniLM-L6-v2"
STORIES = "model_stories260k/hf"
VIT = {"model_type": "vit", "image_size": 28, "patch_size": 7, "hidden_size": 96, "num_hidden_layers": 4}
VIT |= {"num_attention_heads": 4, "intermediate_size": 192}
T5 = {"model_type": "t5", "d_model": 128, "d_ff": 256, "num_layers": 3, "num_heads": 4, "d_kv": 32}
SETS: dict[str, dict[str, Any]] = {
    "sms": {"files": {"paths": ["moderation_sms"]}, "base": MINILM, "task": "text_classification"},
    "hate": {"files": {"paths": ["moderation_hatespeech"]}, "base": MINILM, "task": "text_classification"},
    "xray": {
        "files": {"paths": ["medical_pneumoniamnist"], "pictures": True},
        "scratch": VIT,
        "task": "image_classification",
        "train": {"learning_rate": 1e-3},
    },
    "darija": {
        "files": {"paths": ["translation_darija"], "columns": {"source": "english", "target": "darija"}},
        "scratch": T5,
        "task": "seq2seq_lm",
        "train": {"learning_rate": 3e-3, "vocabulary_size": 2000},
    },
    "instruct": {"files": {"paths": ["instruct_short/train.jsonl"]}, "base": STORIES, "task": "causal_lm"},
    "pubmed": {"files": {"paths": ["medical_pubmedqa"]}, "base": STORIES, "task": "causal_lm"},
    "preferences": {"files": {"paths": ["instruct_short/preferences.jsonl"]}, "base": STORIES, "task": "preference"},
}
METHODS = ("full", "lora", "prompt")
COMMON: dict[str, Any] = {"sequence_length": 256, "batch_tokens": 2048, "validations": 6, "patience": 6, "epochs": 100}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--folder", type=Path, help="where the pictures go")
    parser.add_argument("--only", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--strategies", nargs="*", default=["single"])
    parser.add_argument("--tokens", type=int, default=150_000, help="training tokens of each case")
    parser.add_argument("--quick", action="store_true", help="one set, few tokens")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"skipped: the data sets are not at {options.data}")
        return
    if options.quick:
        options.only, options.methods, options.tokens = ["preferences"], ["full", "lora"], 20_000
    with tempfile.TemporaryDirectory(prefix="training-sets-") as home:
        settings = load_settings({"SOLDIOM_HOME": home})
        context = Context(settings, Artifacts(open_storage(settings)), lambda fraction, message: None)
        if options.strategies != ["single"]:
            import ray

            # Ray Train asks the dashboard at its end: here it hears at once that there is none, instead of after 12 s.
            os.environ["RAY_API_SERVER_ADDRESS"] = "http://127.0.0.1:9"
            ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        print("| set | task | base | method | strategy | validation loss | metrics at best | seconds |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for name in options.only:
            cases(context, name, options)


def cases(context: Context, name: str, options: argparse.Namespace) -> None:
    """All methods and strategies on one set, a line each."""
    chosen = SETS[name]
    files = chosen["files"] | {"paths": [str(options.data / path) for path in chosen["files"]["paths"]]}
    dataset = prepare(
        context, [collect(context, [FilesSource.model_validate(files)])], Prepare(filters=("near_duplicate",))
    )
    from_scratch: str | None = None
    for method in options.methods:
        if method == "prompt" and chosen["task"] == "image_classification":
            continue
        for strategy in options.strategies:
            declared = budget(options.tokens) | {"task": chosen["task"], "method": method}
            if strategy != "single":
                declared |= {"strategy": strategy, "workers": 2}
            if "base" in chosen:
                base = chosen["base"] if chosen["base"].startswith("builtin/") else str(options.data / chosen["base"])
                declared["base_model"] = base
            elif method == "full":
                declared |= {"architecture": chosen["scratch"]} | chosen["train"]
            else:
                declared["base_model"] = from_scratch = from_scratch or train_whole(
                    context, dataset, chosen, options.tokens
                )
            began = time.monotonic()
            run = fit(context, dataset, Train.model_validate(declared))
            show(context, run, name, declared, strategy, time.monotonic() - began, options.folder)


def budget(tokens: int) -> dict[str, Any]:
    """What all cases have in common; the validations together read half as much as the training."""
    return COMMON | {"max_tokens": tokens, "validation_tokens": min(16_384, tokens // 12)}


def train_whole(context: Context, dataset: Manifest, chosen: dict[str, Any], tokens: int) -> str:
    """The model that adapters are trained on where no pretrained one is at hand (made once)."""
    declared = budget(tokens) | {"task": chosen["task"], "method": "full"}
    declared |= {"architecture": chosen["scratch"]} | chosen["train"]
    return run_locally(context, dataset, Train.model_validate(declared)).id


def fit(context: Context, dataset: Manifest, declared: Train) -> Manifest:
    if declared.workers == 1:
        return run_locally(context, dataset, declared)
    from soldiom_ray.train import train

    return train(context, dataset, declared)


def show(
    context: Context,
    run: Manifest,
    name: str,
    declared: dict[str, Any],
    strategy: str,
    seconds: float,
    folder: Path | None,
) -> None:
    curves = json.loads(context.artifacts.read(run, "curves.json"))
    losses = [point["validation_loss"] for point in curves if "validation_loss" in point]
    best = run.details["best_validation"]
    metrics = ", ".join(
        f"{key.removeprefix('validation_')} {value:.3f}" for key, value in best.items() if key != "validation_loss"
    )
    base = Path(declared.get("base_model", "random weights")).name
    base = "model_stories260k" if base == "hf" else "the full run" if base.startswith("run-") else base
    print(
        f"| {name} | {declared['task']} | {base} | {declared['method']} | {strategy}"
        f" | {losses[0]:.4f} -> {run.details['best_validation_loss']:.4f} | {metrics} | {seconds:.0f} |",
        flush=True,
    )
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        picture = context.artifacts.read(run, "curves.png")
        (folder / f"{name}-{declared['method']}-{strategy}.png").write_bytes(picture)


if __name__ == "__main__":
    main()
