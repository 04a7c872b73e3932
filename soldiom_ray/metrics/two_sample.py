"""Do texts that arrive one after the other differ from a sample of others? Judged after every one of them, without
spending more than the stated error on all looks together.

A linear classifier learns, as the texts come, to tell a new one from one of the sample, and bets on each pair before
it sees which is which. Where both are drawn alike, a bet wins as likely as it loses, whatever the classifier has
learnt, so the wealth is a supermartingale and ever reaches 1/error with a chance of at most `error` (Podkopaev and
Ramdas 2023; the stakes as in Cutkosky and Orabona 2018). Of a text only counts of hashed words stay, in the weights.
"""

import base64
import math
import re
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

DIMENSIONS = 2048
FIRST_CHARACTERS = 1000
"""Of a text, those that are looked at."""
RATE = 0.5
"""Of learning (AdaGrad)."""
ONS = 2 / (2 - math.log(3))
"""The step of the stakes' Newton method, from the curvature of the logarithm on the stakes that are allowed."""
_WORDS = re.compile(r"[^\W\d_]+|\d|[^\w\s]")

Features = Mapping[int, float]


def features(text: str) -> dict[int, float]:
    """A text as numbers: its words by their hashes, how long it is, and what its characters are; of length 1 each."""
    first = text[:FIRST_CHARACTERS]
    words = Counter(crc32(word.encode()) % DIMENSIONS for word in _WORDS.findall(first.lower()))
    norm = math.sqrt(sum(count * count for count in words.values())) or 1.0
    found = {place: count / norm for place, count in words.items()}
    length = min(15, int(2 * math.log2(len(text) + 1)) - 1)
    upper = int(10 * sum(character.isupper() for character in first) / max(1, len(first)))
    foreign = int(10 * sum(not character.isascii() for character in first) / max(1, len(first)))
    for kind, value in (("length", length), ("upper", upper), ("foreign", foreign)):
        found[DIMENSIONS + crc32(f"{kind} {value}".encode()) % 128] = 0.5
    return found


@dataclass(slots=True)
class Game:
    """The state of one test: what the classifier has learnt, its wealth, and how many pairs were played."""

    weights: "array[float]" = field(default_factory=lambda: array("f", bytes(4 * (DIMENSIONS + 128))))
    squares: "array[float]" = field(default_factory=lambda: array("f", bytes(4 * (DIMENSIONS + 128))))
    log_wealth: float = 0.0
    best_log_wealth: float = 0.0
    stake: float = 0.0
    curvature: float = 1.0
    pairs: int = 0

    def play(self, new: Features, known: Features) -> float:
        """One pair; the logarithm of the wealth after it."""
        scores = self._score(new), self._score(known)
        payoff = (math.tanh(scores[0]) - math.tanh(scores[1])) / 2
        self.log_wealth += math.log1p(self.stake * payoff)
        self.best_log_wealth = max(self.best_log_wealth, self.log_wealth)
        gradient = payoff / (1 + self.stake * payoff)
        self.curvature += gradient * gradient
        self.stake = min(0.5, max(0.0, self.stake + ONS * gradient / self.curvature))
        self._learn(new, 1.0, scores[0])
        self._learn(known, -1.0, scores[1])
        self.pairs += 1
        return self.log_wealth

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        names = ("log_wealth", "best_log_wealth", "stake", "curvature", "pairs")
        arrays = {name: base64.b64encode(getattr(self, name).tobytes()).decode() for name in ("weights", "squares")}
        return {name: getattr(self, name) for name in names} | arrays

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> "Game":
        """What `to_dict` made."""
        game = Game(**{name: value for name, value in stored.items() if not isinstance(value, str)})
        for name in ("weights", "squares"):
            values = array("f")
            values.frombytes(base64.b64decode(stored[name]))
            setattr(game, name, values)
        return game

    def _score(self, text: Features) -> float:
        return sum(self.weights[place] * value for place, value in text.items())

    def _learn(self, text: Features, side: float, score: float) -> None:
        """One step of logistic regression."""
        error = side / (1 + math.exp(min(50.0, side * score)))
        for place, value in text.items():
            gradient = error * value
            self.squares[place] += gradient * gradient
            self.weights[place] += RATE * gradient / math.sqrt(self.squares[place] + 1e-6)
