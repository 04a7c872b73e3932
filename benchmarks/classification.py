"""Texts classified per second of a core: ours, and a plain pipeline of transformers, with the same weights.

    python benchmarks/classification.py                # docstrings of installed packages
    python benchmarks/classification.py --quick

The model is all-MiniLM-L6-v2 with a head of random weights over four labels; texts are cut to 128 tokens by both. The
pipeline runs as people write it: in float32, text by text, and in batches of 32 in the texts' order. Ours is what a
replica computes (`models.classifier` behind `models.batching`), for one caller that waits for each answer and for 64
at once, in the dtype that training stores on this processor. Each has the same threads; they take turns, the best
round counts. Seconds are those of the processor, user and system, of all threads.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from scoring import conversations

from soldiom_ray.models.batching import Batches
from soldiom_ray.models.classifier import Classifier, Reading
from soldiom_ray.models.load import has_bfloat16, load_model
from soldiom_ray.models.minilm import minilm_folder

LENGTH, CALLERS, PLAIN_BATCH = 128, 64, 32
AUTO_CLASS = "AutoModelForSequenceClassification"


def plain(folder: Path, batch: int) -> Callable[[Sequence[str]], list[str]]:
    """A pipeline of transformers."""
    from transformers import pipeline

    asked = pipeline("text-classification", model=str(folder), device="cpu", dtype=torch.float32)
    return lambda texts: [
        each["label"] for each in asked(list(texts), batch_size=batch, truncation=True, max_length=LENGTH)
    ]


def ours(folder: Path, threads: int, callers: int) -> Callable[[Sequence[str]], list[str]]:
    """What a replica computes for so many callers at once."""
    dtype = "bfloat16" if has_bfloat16("cpu") else "float32"
    model, tokenizer = load_model(folder, dtype=dtype, auto_class=AUTO_CLASS)
    classifier = Classifier.taking_over(model, tokenizer, LENGTH)
    batches: Batches[Reading] = Batches(lambda readings: list(classifier.logits(readings)), threads)

    async def ask(texts: Sequence[str]) -> list[str]:
        room = asyncio.Semaphore(callers)

        async def one(text: str) -> str:
            async with room:
                (reading,) = classifier.read([text])
                (logits,) = await batches.run([(reading.size, reading)])
            return classifier.names[int(logits.argmax())]

        return list(await asyncio.gather(*map(one, texts)))

    return lambda texts: asyncio.run(ask(texts))


def measured(classify: Callable[[Sequence[str]], list[str]], texts: Sequence[str]) -> tuple[float, float, list[str]]:
    """(seconds of the processor, seconds by the clock, labels)."""
    cpu, clock = time.process_time(), time.perf_counter()
    labels = classify(texts)
    return time.process_time() - cpu, time.perf_counter() - clock, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few texts, one round")
    options = parser.parse_args()
    count, rounds = (64, 1) if options.quick else (options.texts, options.rounds)
    torch.set_num_threads(options.threads)
    texts = [turns[-1]["content"] for turns in conversations(count)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(3)
        labels: dict[str, Any] = {"id2label": {n: f"label {n}" for n in range(4)}}
        model, tokenizer = load_model(minilm_folder(), dtype="float32", auto_class=AUTO_CLASS, **labels)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        ways = {
            "pipeline, text by text": plain(folder, 1),
            f"pipeline, batches of {PLAIN_BATCH}": plain(folder, PLAIN_BATCH),
            "ours, one caller": ours(folder, options.threads, 1),
            f"ours, {CALLERS} callers": ours(folder, options.threads, CALLERS),
        }
        for classify in ways.values():
            classify(texts[:8])
        results = {way: [measured(classify, texts) for _ in range(rounds)] for way, classify in ways.items()}
    expected = results["pipeline, text by text"][0][2]
    slowest = min(cpu for cpu, _, _ in results["pipeline, text by text"])
    print(f"{len(texts)} texts, {options.threads} thread(s)")
    for way, figures in results.items():
        cpu, clock = min(each[0] for each in figures), min(each[1] for each in figures)
        same = sum(a == b for a, b in zip(figures[0][2], expected, strict=True))
        print(
            f"{way:<26} {len(texts) / cpu:7.0f} texts per second of a core, {len(texts) / clock:6.0f} by the clock,"
            f" {slowest / cpu:5.2f} times the first; {same} labels as there"
        )


if __name__ == "__main__":
    main()
