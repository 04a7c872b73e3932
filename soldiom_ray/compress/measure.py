"""How fast two models answer, one answer at a time, and what their weights take in memory."""

import time
from typing import Any

from soldiom_ray.errors import InputError
from soldiom_ray.models.decoding.llama import LlamaModel
from soldiom_ray.models.generate import Generator

PROMPT = "The answer to the question is that"
TOKENS, ROUNDS = 32, 4


def compare_engines(before: tuple[Any, Any], after: tuple[Any, Any]) -> dict[str, Any]:
    """{weight_bytes, tokens_per_second: {before, after}, threads} of two models with their tokenizers, in the engine of
    endpoints; of several rounds in turns the best counts. Both are of no other use afterwards.
    InputError where the engine does not multiply with such weights."""
    import torch

    generators = {"before": Generator.taking_over(*before), "after": Generator.taking_over(*after)}
    held: dict[str, int] = {}
    for name, each in generators.items():
        if not isinstance(each.forward, LlamaModel):
            raise InputError(
                f"This {each.model.config.model_type} is decoded by transformers' modules, which int8 and int4 do"
                " not make faster.",
                remedy="serve the model as it is",
            )
        held[name] = each.forward.weight_bytes
    seconds = dict.fromkeys(generators, float("inf"))
    for _ in range(ROUNDS):
        for name, generator in generators.items():
            generator.ends = frozenset()  # every answer is as long as the others
            # Reading the prompt and the first token are left out.
            taken = [_seconds(generator, tokens) for tokens in (1, TOKENS)]
            seconds[name] = min(seconds[name], max(taken[1] - taken[0], 1e-9) / (TOKENS - 1))
    return {
        "weight_bytes": held,
        "tokens_per_second": {name: round(1 / each, 1) for name, each in seconds.items()},
        "threads": torch.get_num_threads(),
    }


def _seconds(generator: Generator, tokens: int) -> float:
    started = time.perf_counter()
    generator.generate([PROMPT], max_new_tokens=tokens)
    return time.perf_counter() - started
