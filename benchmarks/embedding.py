"""Passages per second of the embedder, and how far its vectors are from float32; ours and sentence-transformers.

    python -m venv /tmp/peers && /tmp/peers/bin/pip install torch==2.13.0 sentence-transformers==6.2.0
    python benchmarks/embedding.py --peers /tmp/peers

Input: passages that our own cutting makes of a seeded choice of Python and Markdown files of the packages installed
beside this interpreter. Both run all-MiniLM-L6-v2 from the same folder on two threads with their defaults
(sentence-transformers: float32, batches of 32 by length), in turns, the model loaded and warm; the best run counts. The
share of the matrix rate is of what two threads reach in the same run with products of the model's own shape.
"""

import argparse
import json
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from soldiom_ray.embed.chunk import passages_of
from soldiom_ray.models.embedder import BATCH, BATCH_TOKENS, Embedder, length_batches
from soldiom_ray.models.minilm import minilm_folder
from soldiom_ray.settings import load_settings

THREADS = 2
WARM = 64
PEER = """
import json, sys, time
import numpy, torch
torch.set_num_threads(int(sys.argv[3]))
from sentence_transformers import SentenceTransformer
texts = json.load(sys.stdin)
model = SentenceTransformer(sys.argv[1], device="cpu")
model.encode(texts[: int(sys.argv[4])], show_progress_bar=False)
wall, core = time.perf_counter(), time.process_time()
vectors = model.encode(texts, show_progress_bar=False)
print(json.dumps([time.perf_counter() - wall, time.process_time() - core]))
numpy.save(sys.argv[2], vectors)
"""


def passages(count: int) -> list[str]:
    files = [path for path in Path(sysconfig.get_path("purelib")).rglob("*") if path.suffix in (".py", ".md")]
    files = sorted(path for path in files if path.is_file() and 500 < path.stat().st_size < 200_000)
    draw, texts = random.Random(5), []
    draw.shuffle(files)
    for path in files:
        texts += [
            passage.embedded for passage in passages_of(path.name, str(path), path.read_text(errors="replace"), 128)
        ]
        if len(texts) > 4 * count:
            break
    return draw.sample(texts, count)


def ours(embedder: Embedder, texts: list[str]) -> tuple[float, float, np.ndarray]:
    embedder.encode(texts[:WARM])
    wall, core = time.perf_counter(), time.process_time()
    vectors = embedder.encode(texts)
    return time.perf_counter() - wall, time.process_time() - core, vectors


def theirs(peers: Path, texts: list[str]) -> tuple[float, float, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "vectors.npy"
        arguments = [peers / "bin/python", "-c", PEER, minilm_folder(), output, str(THREADS), str(WARM)]
        run = subprocess.run(arguments, input=json.dumps(texts), capture_output=True, text=True)
        if run.returncode:
            sys.exit(run.stderr)
        wall, core = json.loads(run.stdout)
        return wall, core, np.load(output)


def matrix_rate(dtype: torch.dtype) -> float:
    """Floating-point operations per second of THREADS threads that each multiply the widest layer of one batch."""
    left, right, rounds = torch.randn(BATCH_TOKENS, 384, dtype=dtype), torch.randn(1536, 384, dtype=dtype), 50

    def multiply(_: int) -> None:
        torch.set_num_threads(1)
        for _ in range(rounds):
            torch.nn.functional.linear(left, right)

    best = float("inf")
    with ThreadPoolExecutor(THREADS) as threads:
        for _ in range(5):
            start = time.perf_counter()
            list(threads.map(multiply, range(THREADS)))
            best = min(best, time.perf_counter() - start)
    return THREADS * rounds * 2 * BATCH_TOKENS * 384 * 1536 / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", type=Path, help="virtual environment with sentence-transformers")
    parser.add_argument("--passages", type=int, default=600)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    texts = passages(100 if options.quick else options.passages)
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        embedder = Embedder(load_settings({"SOLDIOM_HOME": folder}))
    runs: dict[str, list[tuple[float, float, np.ndarray]]] = {}
    for _ in range(1 if options.quick else 3):
        runs.setdefault("ours", []).append(ours(embedder, texts))
        if options.peers:
            runs.setdefault("sentence-transformers", []).append(theirs(options.peers, texts))
    lengths = [len(tokens) for tokens in embedder._tokenizer(texts, truncation=True, max_length=256)["input_ids"]]
    middle, tenth = np.quantile(lengths, [0.5, 0.9])
    print(f"{len(texts)} passages, {sum(lengths)} tokens (median {middle:.0f}, 90 % below {tenth:.0f})\n")
    print("| | passages/s | passages per second of one core |\n|---|---|---|")
    for name, some in runs.items():
        print(f"| {name} | {len(texts) / min(r[0] for r in some):.1f} | {len(texts) / min(r[1] for r in some):.1f} |")
    padded = sum(len(batch) * lengths[batch[0]] for batch in length_batches(lengths, BATCH, BATCH_TOKENS))
    # 2 per weight and token, and 4 * width per pair of tokens and layer.
    work = sum(length * (2 * 10_616_832 + 6 * 4 * 384 * length) for length in lengths)
    reached, rate = work / min(run[0] for run in runs["ours"]), matrix_rate(embedder._model.dtype)
    print(
        f"\npadding: {padded / sum(lengths) - 1:.1%} of the tokens; {embedder._model.dtype} products: {rate / 1e9:.0f}"
    )
    print(f"GFLOP/s, of which ours reach {reached / 1e9:.0f} ({reached / rate:.0%})")
    if not options.peers:
        print("no peer: own figures only")
        return
    wall, core = (
        min(run[clock] for run in runs["sentence-transformers"]) / min(run[clock] for run in runs["ours"])
        for clock in (0, 1)
    )
    distance = 1 - (runs["ours"][0][2] * runs["sentence-transformers"][0][2]).sum(1)
    print(f"ours / sentence-transformers: {wall:.2f} times as fast, by seconds of a core {core:.2f}; largest cosine")
    print(f"distance {distance.max():.1e}, mean {distance.mean():.1e}")


if __name__ == "__main__":
    main()
