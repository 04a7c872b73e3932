"""How large the steps and the validations of a training are where its recipe leaves that open: they follow from the
tokens that it reads, so that a short training has enough steps and is not validated for longer than it learns."""

import math

from soldiom_ray.domains.schema import Train

LARGEST_BATCH_TOKENS = 8192
STEPS = 64
"""A run has about this many steps, or more once a step has LARGEST_BATCH_TOKENS. In seven steps of 8,192 tokens LoRA
learns less than in five of 1,024, and a prompt nothing."""
VALIDATING_SHARE = 0.1
"""The most that all validations of a run may compute, as a share of what its steps do."""
FORWARD_SHARE = {"full": 1 / 3, "lora": 1 / 2, "prompt": 1 / 2}
"""A forward pass as a share of a training step: a frozen weight's own gradient, a third of the work, is not made."""
VALIDATIONS = {1_000_000: 8, 30_000: 4, 0: 2}
"""Tokens that a run reads -> how often it is validated, besides at its beginning."""
MOST_VALIDATION_TOKENS = 65_536


def tokens_to_read(declared: Train, epoch_tokens: float | None) -> float | None:
    """The tokens of the whole run; None where nothing bounds them. `epoch_tokens` is one pass over the data, None where
    that is not known: then at most so many."""
    bounds = [declared.max_tokens, None if epoch_tokens is None else declared.epochs * epoch_tokens]
    return min((bound for bound in bounds if bound is not None), default=None)


def batch_tokens(declared: Train, run_tokens: float | None) -> int:
    """Tokens per optimiser step over all workers, as declared or as fits a run of `run_tokens` (None: unknown, the
    largest)."""
    if declared.batch_tokens is not None:
        return declared.batch_tokens
    if run_tokens is None:
        return LARGEST_BATCH_TOKENS
    sequences = max(1, round(run_tokens / STEPS / declared.sequence_length))
    least = declared.workers * declared.sequence_length
    return max(least, min(LARGEST_BATCH_TOKENS, sequences * declared.sequence_length))


def validations(declared: Train, run_tokens: float) -> tuple[int, int]:
    """(how often a run is validated besides at its beginning, tokens of each time), as declared or as fits its size."""
    times = declared.validations or next(count for least, count in VALIDATIONS.items() if run_tokens >= least)
    if declared.validation_tokens is not None:
        return times, declared.validation_tokens
    share = VALIDATING_SHARE / FORWARD_SHARE[declared.method] / (times + 1)
    return times, math.floor(max(declared.sequence_length, min(MOST_VALIDATION_TOKENS, share * run_tokens)))
