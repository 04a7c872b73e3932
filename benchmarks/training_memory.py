"""Predicted against measured peak memory of trainings on a CPU.

Each case is a whole training in a forked process of its own (`train.driver.run_locally`: tokens, plan, steps,
validation, checkpoints, weights). Measured is VmHWM of that process: the most that it ever had resident, libraries and
mapped files included. Predicted is what the planner says before. Models have random weights, except those of the cases
"SmolLM2", which train the default base; its pairs are conversations of many lengths.

    .venv/bin/python benchmarks/training_memory.py [--quick] [--only NAME]
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from soldiom_ray.domains.schema import Train
from soldiom_ray.train.ray_train import worker_environment

LLAMA = {"model_type": "llama", "tie_word_embeddings": True, "max_position_embeddings": 2048}
SMALL = LLAMA | {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4,
                 "num_key_value_heads": 4, "vocab_size": 4096}  # fmt: skip
MIDDLE = LLAMA | {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6,
                  "num_key_value_heads": 6, "vocab_size": 50257}  # fmt: skip
LARGE = LLAMA | {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
                 "num_key_value_heads": 12, "vocab_size": 32000}  # fmt: skip
BERT = {"model_type": "bert", "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6,
        "num_attention_heads": 12, "vocab_size": 30522, "num_labels": 2}  # fmt: skip
T5 = {"model_type": "t5", "d_model": 256, "d_ff": 1024, "d_kv": 64, "num_layers": 4, "num_decoder_layers": 4,
      "num_heads": 4, "vocab_size": 32000, "pad_token_id": 0, "decoder_start_token_id": 0,
      "dropout_rate": 0.0}  # fmt: skip

CASES: dict[str, tuple[dict[str, Any] | str, dict[str, Any]]] = {
    "4 M full 512": (SMALL, {"method": "full", "sequence_length": 512}),
    "4 M lora 512": (SMALL, {"method": "lora", "sequence_length": 512}),
    "4 M full 512 fp32": (SMALL, {"method": "full", "sequence_length": 512, "precision": "float32"}),
    "4 M prompt 128": (SMALL, {"method": "prompt", "sequence_length": 128}),
    "4 M full 2048": (SMALL, {"method": "full", "sequence_length": 2000}),
    "4 M full 512 recomputed": (SMALL, {"method": "full", "sequence_length": 512, "activation_checkpointing": True}),
    "33 M full 512": (MIDDLE, {"method": "full", "sequence_length": 512}),
    "33 M lora 1024": (MIDDLE, {"method": "lora", "sequence_length": 1024}),
    "33 M lora 1024 recomputed": (
        MIDDLE,
        {"method": "lora", "sequence_length": 1024, "activation_checkpointing": True},
    ),
    "110 M full 256": (LARGE, {"method": "full", "sequence_length": 256, "batch_tokens": 1024}),
    "110 M lora 256": (LARGE, {"method": "lora", "sequence_length": 256, "batch_tokens": 1024}),
    "110 M full 256 recomputed": (
        LARGE,
        {"method": "full", "sequence_length": 256, "batch_tokens": 1024, "activation_checkpointing": True},
    ),
    "BERT 22 M full 128": (BERT, {"task": "text_classification", "method": "full", "sequence_length": 128}),
    "T5 17 M full 128": (T5, {"task": "seq2seq_lm", "method": "full", "sequence_length": 128}),
}
PAIRS = "SmolLM2 lora 512 pairs"
SMOLLM2 = "builtin/smollm2-135m-instruct"
CASES |= {
    f"SmolLM2 {method} {length}": (SMOLLM2, {"method": method, "sequence_length": length, "batch_tokens": 4096})
    for method in ("full", "lora", "prompt")
    for length in (512, 2048)
} | {PAIRS: (SMOLLM2, {"method": "lora", "sequence_length": 512, "batch_tokens": 1024})}
QUICK = ("4 M full 512", "4 M lora 512", "4 M full 512 recomputed", "BERT 22 M full 128")
STEPS, SMOLLM2_STEPS, PAIRS_STEPS = 5, 3, 10


def main() -> None:
    """Every case in a process of its own, with the environment of Ray Train's workers, and the table."""
    environment = worker_environment(len(os.sched_getaffinity(0)), gpu=False)
    if any(os.environ.get(name) != value for name, value in environment.items()):  # malloc reads it at the start
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | environment)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only")
    options = parser.parse_args()
    from transformers.utils import logging

    logging.disable_progress_bar()
    import peft  # noqa: F401  (what every case needs is loaded once; each case is a fork)
    import pyarrow.parquet  # noqa: F401
    import transformers  # noqa: F401
    from torch._subclasses import fake_tensor  # noqa: F401

    print("| case | predicted MiB | measured MiB | predicted / measured |\n|---|---|---|---|", flush=True)
    worst = 0.0
    for name in QUICK if options.quick else CASES:
        if options.only and options.only not in name:
            continue
        with tempfile.TemporaryDirectory(prefix="soldiom-memory-") as folder:
            _in_own_process(make_base, name, Path(folder))
            peaks = _in_own_process(_in_thread, run, name, folder)
        ratio = peaks["predicted"] / peaks["measured"]
        worst = max(worst, abs(ratio - 1))
        print(f"| {name} | {peaks['predicted']} | {peaks['measured']} | {ratio:.2f} |", flush=True)
    print(f"\nfurthest from what was measured: {worst:.0%}")


def make_base(name: str, folder: Path) -> None:
    """The case's model as a folder: one that Soldiom brings, or random weights and the tokenizer of builtin/tiny."""
    import transformers

    from soldiom_ray.domains.builtin_models import BUILTIN_FOLDER
    from soldiom_ray.models.load import load_tokenizer, model_folder
    from soldiom_ray.settings import load_settings

    architecture = CASES[name][0]
    if isinstance(architecture, str):
        with model_folder(load_settings(), None, architecture) as converted:
            shutil.copytree(converted, folder / "base")
        return
    config = transformers.AutoConfig.for_model(**architecture)
    classes = {
        "llama": "AutoModelForCausalLM",
        "t5": "AutoModelForSeq2SeqLM",
        "bert": "AutoModelForSequenceClassification",
    }
    getattr(transformers, classes[config.model_type]).from_config(config).save_pretrained(folder / "base")
    load_tokenizer(BUILTIN_FOLDER / "tiny").save_pretrained(folder / "base")


def run(name: str, folder: str) -> dict[str, Any]:
    """One training here: what was predicted for it, and the most that this process had resident, in MiB."""
    from soldiom_ray.artifacts import Artifacts, Context
    from soldiom_ray.settings import load_settings
    from soldiom_ray.storage import open_storage
    from soldiom_ray.train.driver import run_locally

    settings = load_settings({"SOLDIOM_HOME": f"{folder}/home"})
    context = Context(settings, Artifacts(open_storage(settings)), lambda fraction, message: None)
    declared = Train.model_validate({"base_model": f"{folder}/base", "batch_tokens": 2048, "validations": 1,
                                     "validation_tokens": 2048, "epochs": 100} | CASES[name][1])  # fmt: skip
    steps = PAIRS_STEPS if name == PAIRS else SMOLLM2_STEPS if CASES[name][0] == SMOLLM2 else STEPS
    declared = declared.model_copy(update={"max_tokens": steps * declared.batch_tokens})
    trained = run_locally(context, _dataset(context.artifacts, declared, pairs=name == PAIRS), declared)
    return {"predicted": trained.details["predicted_mib"], "measured": round(_peak_mib())}


def _dataset(artifacts: Any, declared: Any, *, pairs: bool = False) -> Any:
    """Random words, as the task wants them: every sample longer than the sequence, or pairs of many lengths."""
    import random

    from soldiom_ray.records import Sample

    random.seed(1)
    words = ["value", "total", "return", "print", "def", "class", "import", "self", "number", "index"]
    draft = artifacts.draft("dataset", {"task": declared.task, "length": declared.sequence_length})
    for split, count in (("train", 600 if pairs else 48), ("validation", 30 if pairs else 4)):
        rows = []
        for number in range(count):
            text = " ".join(random.choices(words, k=declared.sequence_length))
            row = dict.fromkeys(Sample.model_fields, "") | {"id": f"{split}{number}", "split": split, "text": text}
            row |= {"source": "local", "kind": "other"}
            if declared.task == "text_classification":
                row["metadata"] = json.dumps({"label": "ab"[number % 2]})
            if pairs:
                question, answer = (random.choices(words, k=random.randint(10, most)) for most in (200, 60))
                turns = [
                    {"role": role, "content": " ".join(said)}
                    for role, said in (("user", question), ("assistant", answer))
                ]
                row["messages"] = json.dumps(turns)
            if declared.task == "seq2seq_lm":
                turns = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
                row["messages"] = json.dumps(turns)
            rows.append(row)
        draft.write_rows(f"{split}/00000.parquet", rows, Sample)
    return draft.commit(counts={"train": 48, "validation": 4})


def _in_thread(work: Any, *arguments: Any) -> Any:
    """What a function returns, in a thread, as Ray Train's workers train: its heap can be another one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


def _peak_mib() -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


def _in_own_process(work: Any, *arguments: Any) -> Any:
    """What a function returns, in a forked process whose memory is its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            result = json.dumps(work(*arguments))
            os.write(writing, result.encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    if os.waitpid(child, 0)[1]:
        sys.exit(f"the case {arguments} failed")
    return json.loads(text)


if __name__ == "__main__":
    main()
