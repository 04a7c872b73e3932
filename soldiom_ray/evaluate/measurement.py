"""What scoring gives, whatever is scored: sums of both models per document; and what a model without a base is compared
with."""

import hashlib
from dataclasses import dataclass

from soldiom_ray.evaluate.metrics import DocumentSums

UNIFORM = "uniform"
"""Baseline of a model trained from random weights, which has no base: a guess, every token equally likely."""

PRIOR = "label frequencies"
"""Baseline of a classification: its base model knows nothing of the labels."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Sums per document for both models, and a few texts continued by both."""

    documents: list[DocumentSums]
    completions: list[dict[str, str]]
    base: str
    tokens: int
    blocks: int
    block_tokens: int
    seconds: float = 0.0


def hash_order(seed: int, name: str) -> bytes:
    """Sort key by SHA-256: an order that nothing but the seed and the names decide."""
    return hashlib.sha256(f"{seed}:{name}".encode(errors="surrogatepass")).digest()
