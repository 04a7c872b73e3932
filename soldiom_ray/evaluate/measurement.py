"""The result of scoring, whatever the task: both models' sums per document; and the baselines that stand in for a base
model."""

import hashlib
from dataclasses import dataclass

from soldiom_ray.evaluate.metrics import DocumentSums
from soldiom_ray.examples import Example

UNIFORM = "uniform"
"""Baseline of a model trained from random weights, which has no base: every token is equally likely."""

PRIOR = "label frequencies"
"""Baseline of a classification, whose base model does not know the labels: their frequencies in the training split."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Sums per document for both models, and a few held-out prompts answered by both. `tokens` are predicted tokens of
    all documents, `block_tokens` the longest that were scored together; `base` names the base model or baseline."""

    documents: list[DocumentSums]
    examples: list[Example]
    base: str
    tokens: int
    blocks: int
    block_tokens: int
    seconds: float = 0.0


def hash_order(seed: int, name: str) -> bytes:
    """Sort key by SHA-256: an order that nothing but the seed and the names decide."""
    return hashlib.sha256(f"{seed}:{name}".encode(errors="surrogatepass")).digest()
