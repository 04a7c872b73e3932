"""Tokens per second and peak memory of the training loop on two CPU cores; ours, a plain loop, and TRL's SFTTrainer.

    python -m venv /tmp/trl
    /tmp/trl/bin/pip install torch==2.13.0 transformers==5.23.0 peft==0.21.2 'trl==1.16.*' datasets accelerate numpy
    python benchmarks/training.py --peers /tmp/trl

Model: Llama, 8 layers, 384 wide, 50,257 pieces (33 M parameters), first trained for some steps on Python source; text:
PubMedQA abstracts, or the standard library's source where they are not at hand. Both sides pass once over the same
documents with the same optimiser, learning rates and tokens per step, each in a fresh process, in turns; the best run
counts. Tokens are real ones, padding is not counted. The loss is taken by one and the same code on held-out documents.
Tokens per second of a core (the process's CPU time; waiting threads sleep) say more where other work runs beside it.
`--base FOLDER` takes a Llama of yours instead, such as SmolLM2 where `SOLDIOM_HOME/models` holds it; `--quick` begins
from random weights. `--workers` compares two workers with one of two threads.
TRL's peer settings are in `training_peer.py`: SFTConfig untouched, and the fastest one found. Ours runs in the peer's
environment, which has only torch, transformers and peft of what Soldiom needs.
"""

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from training_work import SHAPE, Clock, documents, held_out_loss, plain_model, with_lora

PUBMED = Path(__file__).parents[2] / "shared" / "data" / "medical_pubmedqa" / "train.jsonl"
PIECES, END = 50_257, "<|endoftext|>"
LENGTH, BLOCKS, DOCUMENTS = 512, 6, 8
"""Positions of a packed row, rows of a packed step, documents of a step that is not: both about 3,000 tokens."""
RATES = {"full": 5e-4, "lora": 1e-3}
HELD_OUT = 40
PARAMETERS = 33.5e6
"""Each is multiplied with in a pass over a token: the embeddings are the output matrix too."""


def texts() -> tuple[list[str], str]:
    """Documents to learn from, and what they are."""
    if PUBMED.is_file():
        rows = [json.loads(line) for line in PUBMED.open(encoding="utf-8")]
        abstracts = [f"{row['QUESTION']}\n\n{' '.join(row['CONTEXTS'])}\n\n{row['LONG_ANSWER']}" for row in rows]
        return abstracts, "PubMedQA abstracts"
    pieces = [text[start : start + 1500] for text in sources() for start in range(0, len(text), 1500)]
    return random.Random(1).sample(pieces, 1000), "pieces of the standard library's source"


def sources() -> Iterator[str]:
    """The standard library's files."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in path.parts and "test" not in path.parts:
            yield path.read_text(errors="replace")


def prepare(folder: Path, steps: int, base: Path | None) -> dict[str, Any]:
    """The tokenizer and the documents of all sides; what they have in common."""
    import numpy as np
    from tokenizers import ByteLevelBPETokenizer, Tokenizer

    learnable, description = texts()
    random.Random(5).shuffle(learnable)
    parameters, tokenizer, end_token, shape = PARAMETERS, ByteLevelBPETokenizer(), END, SHAPE
    if base is None:
        tokenizer.train_from_iterator([*learnable, *sources()], vocab_size=PIECES, special_tokens=[END])
    else:
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        end_token = json.loads((base / "tokenizer_config.json").read_text())["eos_token"]
        from soldiom_ray.models.planning.headers import weight_headers

        shape = json.loads((base / "config.json").read_text())
        parameters = sum(weight_headers(base)["parameters"].values())
    tokenizer.save(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id(end_token)

    def encoded(texts: list[str]) -> list[Any]:
        return [np.array([*encoding.ids, end]) for encoding in tokenizer.encode_batch(texts)]

    splits = {
        "held_out": encoded(learnable[:HELD_OUT]),
        "train": encoded(learnable[HELD_OUT : HELD_OUT + steps * DOCUMENTS]),
    }
    splits["before"] = encoded([text[:4000] for text in sources()])[:150]
    arrays = {name: np.concatenate(rows) for name, rows in splits.items()}
    ends = {f"{name}_ends": np.cumsum([len(row) for row in rows]) for name, rows in splits.items()}
    np.savez(folder / "documents.npz", **arrays, **ends)
    lengths = [len(row) for row in splits["train"]]
    print(f"{len(lengths)} documents ({description}), {sum(lengths)} tokens, median {statistics.median(lengths):.0f}\n")
    return {
        "documents": str(folder / "documents.npz"), "tokenizer": str(folder / "tokenizer.json"), "end": end_token,
        "parameters": parameters, "widths": [shape["hidden_size"], shape["intermediate_size"]],
        "base": str(base) if base else None,
        "pieces": tokenizer.get_vocab_size(), "length": LENGTH, "longest": 1024, "blocks_per_step": BLOCKS,
        "documents_per_step": DOCUMENTS, "warmup_steps": 2, "weight_decay": 0.01, "seed": 17, "threads": 2,
    }  # fmt: skip


def train(job: dict[str, Any]) -> None:
    """Our side: the project's loop, run in this process without anything else of the project."""
    import numpy as np
    import torch

    from soldiom_ray.models.layers import causal_blocks
    from soldiom_ray.models.loss import CausalLoss
    from soldiom_ray.train.blocks import Blocks
    from soldiom_ray.train.loop import Loop, Schedule
    from soldiom_ray.train.strategies import Optimization, open_strategy

    torch.set_num_threads(job["threads"])
    if job.get("workers", 1) > 1:
        torch.distributed.init_process_group("gloo")
    model = plain_model(job)
    if job["method"] == "lora":
        model = with_lora(model)
    train = Blocks(np.concatenate(documents(job, job.get("split", "train"))), job["length"])
    steps = -(-len(train) // job["blocks_per_step"])
    schedule = Schedule(
        steps=steps,
        units_per_step=job["blocks_per_step"],
        positions_at_once=8192,
        learning_rate=job["learning_rate"],
        warmup_steps=job["warmup_steps"],
        validate_every=steps,
        validation_tokens=1,
        patience=9,
        seed=job["seed"],
    )
    clock = Clock()
    with causal_blocks(model):
        optimization = Optimization(job["learning_rate"], job["weight_decay"], 1.0, bfloat16=True)
        strategy = open_strategy(
            "ddp" if job.get("workers", 1) > 1 else "single", CausalLoss(model.train()), optimization
        )
        loop = Loop(strategy, train, Blocks(train.stream[:0], job["length"]), schedule, Nowhere(), _silent, _silent)
        step = loop._step

        def timed(number: int) -> tuple[float, int, int]:
            result = step(number)
            clock.tick()
            return result

        loop._step = timed  # type: ignore[method-assign]
        clock.begin()
        outcome = loop.run()
        clock.finish(outcome.tokens)
    result = clock.result()
    if loop.rank:
        torch.distributed.destroy_process_group()
        return
    if job.get("keep"):
        model.save_pretrained(job["keep"])
    else:
        result["loss"] = held_out_loss(model, job)
    Path(job["result"]).write_text(json.dumps(result))


class Nowhere:
    """Keeps no checkpoint: the peer keeps none either."""

    def write(self, *_: Any) -> None: ...

    def newest(self) -> None:
        return None

    def best_weights(self, _: Any) -> None:
        return None


def _silent(*_: Any) -> None: ...


def run(python: Path, script: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One side in a fresh process."""
    path, result = folder / "job.json", folder / "result.json"
    path.write_text(json.dumps(job | {"result": str(result), "folder": str(folder / "peer")}))
    environment = os.environ | {
        "OMP_NUM_THREADS": str(job["threads"]),
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if job["side"] == "ours":
        # The first as our workers set it, the second because the peer's environment does not hold Soldiom.
        environment |= {"THP_MEM_ALLOC_ENABLE": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    workers = job.get("workers", 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    started = []
    for rank in range(workers):
        variables = environment | {"RANK": str(rank), "WORLD_SIZE": str(workers)}
        command = [python, Path(__file__).parent / script, path]
        started.append(
            subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
    errors = [process.communicate()[1] for process in started]
    if any(process.returncode for process in started):
        sys.exit("\n".join(error[-4000:] for error in errors))
    measured: dict[str, Any] = json.loads(result.read_text())
    return measured


def matrix_rate(kind: str, widths: list[int]) -> float:
    """Floating-point operations per second of the model's own widest layer on a step's positions, two threads."""
    import torch

    torch.set_num_threads(2)
    left = torch.randn(LENGTH * BLOCKS, widths[0]).to(getattr(torch, kind))
    right = torch.randn(widths[1], widths[0]).to(getattr(torch, kind))
    return _fastest(lambda: torch.nn.functional.linear(left, right), 2 * left.numel() * len(right))


def _fastest(work: Callable[[], Any], operations: int) -> float:
    best, rounds = float("inf"), 20
    for _ in range(8):
        start = time.perf_counter()
        for _ in range(rounds):
            work()
        best = min(best, (time.perf_counter() - start) / rounds)
    return operations / best


def compare(common: dict[str, Any], options: argparse.Namespace, folder: Path) -> None:
    """All sides in turns, and the table."""
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    rates: dict[str, float] = {"float32": 0.0, "bfloat16": 0.0}
    for _ in range(options.rounds):
        rates = {kind: max(rate, matrix_rate(kind, common["widths"])) for kind, rate in rates.items()}
        for method in options.methods:
            job = common | {"method": method, "learning_rate": RATES[method]}
            for side in options.sides:
                python = Path(sys.executable) if options.peers is None else options.peers / "bin" / "python"
                script = {"ours": "training.py", "plain": "training_plain.py"}.get(side, "training_peer.py")
                if script != "training_peer.py" or options.peers:
                    measured = run(python, script, job | {"side": side}, folder)
                    runs.setdefault((method, side), []).append(measured)
                    print(f"{method} {side}: {measured}", file=sys.stderr, flush=True)
    print(
        "| | tokens/s | ours is | tokens per second of a core | ours is | of the bf16 products | peak MiB | ours is |",
        end="",
    )
    print(" held-out loss |\n|---|---|---|---|---|---|---|---|---|")
    for (method, side), results in runs.items():
        ours = runs.get((method, "ours"), results)
        cells = [f"{method}, {side}"]
        for key in ("tokens_per_second", "tokens_per_core_second"):
            best, own = (max(result[key] for result in group) for group in (results, ours))
            cells += [f"{best:,.0f}", f"{own / best:.2f} times"]
        fastest = max(result["tokens_per_second"] for result in results)
        work = fastest * common["parameters"] * (6 if method == "full" else 4)
        peak, own = (min(result["peak_mib"] for result in group) for group in (results, ours))
        cells += [f"{work / rates['bfloat16']:.0%}", f"{peak:,.0f}", f"{own / peak:.2f} times"]
        print(f"| {' | '.join(cells)} | {statistics.mean(result['loss'] for result in results):.4f} |")
    print(f"\nmatrix products: {rates['float32'] / 1e9:.0f} GFLOP/s float32, {rates['bfloat16'] / 1e9:.0f} bfloat16")


def compare_workers(common: dict[str, Any], options: argparse.Namespace, folder: Path) -> None:
    """One process with two threads, and two with one each, at the tokens per step of a recipe that says nothing."""
    by_workers: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    python = Path(sys.executable) if options.peers is None else options.peers / "bin" / "python"
    job = common | {"method": "full", "learning_rate": RATES["full"], "side": "ours", "blocks_per_step": 8192 // LENGTH}
    for _ in range(options.rounds):
        for workers, results in by_workers.items():
            results.append(run(python, "training.py", job | {"workers": workers, "threads": 2 // workers}, folder))
    print("\n| workers | tokens/s | tokens per second of a core | held-out loss |\n|---|---|---|---|")
    for workers, results in by_workers.items():
        wall = max(result["tokens_per_second"] for result in results)
        core = max(result["tokens_per_core_second"] for result in results) / workers
        print(f"| {workers} x {2 // workers} threads | {wall:,.0f} | {core:,.0f} | {results[0]['loss']:.4f} |")


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        train(json.loads(Path(sys.argv[1]).read_text()))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", type=Path, help="virtual environment with trl")
    parser.add_argument("--sides", nargs="*", default=["ours", "plain", "trl-default", "trl-best"])
    parser.add_argument("--base", type=Path, help="folder of a Llama with its tokenizer, instead of the one of 33 M")
    parser.add_argument("--methods", nargs="*", default=["full", "lora"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--workers", action="store_true", help="two workers against one with two threads")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, help="kept, so that another call finds the base")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.steps = 1, 2
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        stored = folder / "common.json"
        if not stored.is_file():
            folder.mkdir(exist_ok=True, parents=True)
            common = prepare(folder, options.steps, options.base)
            if not options.quick and options.base is None:
                first = common | {"method": "full", "learning_rate": 1e-3, "side": "ours", "split": "before"}
                run(Path(sys.executable), "training.py", first | {"keep": str(folder / "base")}, folder)
                common["base"] = str(folder / "base")
            stored.write_text(json.dumps(common))
        common = json.loads(stored.read_text())
        if options.sides:
            compare(common, options, folder)
        if options.workers:
            compare_workers(common, options, folder)


if __name__ == "__main__":
    main()
