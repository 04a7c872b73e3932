"""A watermark in the choice of tokens: SynthID-Text (Dathathri et al. 2024, Nature 634), keyed.

Each token that may come gets one bit per layer from a hash of the key, the four tokens before it and itself; the layers
of a tournament prefer tokens with ones, and over all keys every token stays as likely as the model has it. Bits are
those of transformers' `SynthIDTextWatermarkLogitsProcessor` with the same key, so its detectors read the text too. A
context that an answer has had before is not marked again, or the answer would repeat itself.
"""

import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from soldiom_ray.settings import Settings, private_lock, read_json, write_private

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bits = npt.NDArray[np.float64]

NGRAM = 5
"""A token and those before it that its bits depend on."""
LAYERS = 9
TABLE = 1 << 16
WEIGHTS = tuple(range(LAYERS, 0, -1))
"""Of the layers in the score. What a layer prefers, later ones can no longer choose between, so the first say most (the
paper's weights, as whole numbers, with which the score's distribution can be computed)."""
_MULTIPLIER, _INCREMENT = 6364136223846793005 % TABLE, 1
"""Of transformers' hash. An index takes only its last 16 bits, and those depend on the last 16 bits of all before."""
FILE = "watermark.json"
LEAST_TOKENS = 50
"""Of shorter texts there is no verdict (docs/security.md has how often a watermark is found, by length)."""
SIGNIFICANT = 0.01
LEAST_P = 1e-12
"""Below, the sum of products in floating point is not exact; smaller values are told as this one."""


@dataclass(frozen=True)
class Watermark:
    """`keys` are those of the layers, `seed` that of the table of bits: both together are the secret."""

    keys: tuple[int, ...]
    seed: int

    @cached_property
    def _table(self) -> "Bits":
        import torch

        generator = torch.Generator().manual_seed(self.seed)
        bits: Bits = torch.randint(0, 2, (TABLE,), generator=generator).double().numpy()
        return bits

    def bits(self, context: Sequence[int], tokens: "npt.NDArray[np.int64]") -> "Bits":
        """The bits of tokens [tokens] that may come after a context of NGRAM - 1 tokens: [tokens, layers]."""
        import numpy as np

        state = 1
        for token in context:
            state = ((state + token) * _MULTIPLIER + _INCREMENT) % TABLE
        states = ((state + tokens) * _MULTIPLIER + _INCREMENT) % TABLE
        keys = np.array([key % TABLE for key in self.keys])
        places = ((states[:, None] + keys) * _MULTIPLIER + _INCREMENT) % TABLE
        found: Bits = self._table[places]
        return found

    def tilted(self, chances: "Bits", context: Sequence[int], tokens: "npt.NDArray[np.int64]") -> "Bits":
        """The probabilities of these tokens, which sum to one, after the tournament."""
        for layer in self.bits(context, tokens).T:
            chances = chances * (1 + layer - float(layer @ chances))
        return chances

    def detect(self, tokens: Sequence[int]) -> "Detection":
        """Whether a text, as its tokens, is marked with this key."""
        import numpy as np

        seen: set[tuple[int, ...]] = set()
        scored: list[Bits] = []
        for end in range(NGRAM, len(tokens) + 1):
            context = tuple(tokens[end - NGRAM : end - 1])
            if context not in seen:
                seen.add(context)
                scored.append(self.bits(context, np.array([tokens[end - 1]]))[0])
        if not scored:
            return Detection(1.0, 0, 0.0)
        ones = np.array(scored).sum(0)
        share = float(self._table.mean())
        score = int(ones @ np.array(WEIGHTS))
        return Detection(_tail(score, len(scored), share), len(scored), float(ones.sum() / len(scored) / LAYERS))


@dataclass(frozen=True, slots=True)
class Detection:
    """`p_value`: how likely a text that is not marked has as high a score. `tokens` are those that count: each context
    once. `share` is that of ones among their bits: near a half where there is no mark."""

    p_value: float
    tokens: int
    share: float

    @property
    def verdict(self) -> str:
        """inconclusive: too short to tell; watermarked; or not_found, which an answer without sampling is, too."""
        if self.tokens < LEAST_TOKENS:
            return "inconclusive"
        return "watermarked" if self.p_value <= SIGNIFICANT else "not_found"


def watermark_of(settings: Settings, model_id: str) -> Watermark:
    """The watermark of one model of this home, always the same. Its secret is made on first use, and kept in the
    home."""
    path = settings.keys_folder / FILE
    with private_lock(path.with_name(".watermark.lock")):
        secret = str(read_json(path).get("secret") or "")
        if not secret:
            secret = secrets.token_hex(32)
            write_private(path, json.dumps({"secret": secret}))
    digest = hmac.new(bytes.fromhex(secret), f"watermark:{model_id}".encode(), "sha512").digest()
    numbers = [int.from_bytes(digest[at : at + 4], "little") for at in range(0, 4 * (LAYERS + 1), 4)]
    return Watermark(tuple(numbers[:LAYERS]), numbers[LAYERS])


def _tail(score: int, count: int, share: float) -> float:
    """The probability of at least this score: of each layer a binomial number of ones, times its weight, summed."""
    import numpy as np

    numbers = np.arange(count + 1)
    factorials = np.concatenate(([0.0], np.log(numbers[1:]).cumsum()))
    chosen = factorials[-1] - factorials - factorials[::-1]
    binomial = np.exp(chosen + numbers * np.log(share) + (count - numbers) * np.log1p(-share))
    size = 1 << (count * sum(WEIGHTS) + 1).bit_length()
    product: Any = np.ones(size // 2 + 1, complex)
    for weight in WEIGHTS:
        layer = np.zeros(size)
        layer[: count * weight + 1 : weight] = binomial
        product *= np.fft.rfft(layer)
    chances = np.fft.irfft(product, size)[: count * sum(WEIGHTS) + 1]
    tail = float(np.clip(chances[score:], 0, None).sum())
    return min(1.0, max(tail, LEAST_P))
