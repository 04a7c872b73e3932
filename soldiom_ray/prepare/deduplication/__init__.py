"""Copies: exact by a hash of the words, near by the Jaccard similarity of word 5-grams.

Near copies are found with MinHash (Broder 1997; signatures by rensa) in locality-sensitive bands, and every candidate
is checked against its true similarity. So the bands decide speed and recall, and no document is ever dropped whose
similarity to a kept one is below the threshold: the false-drop rate is 0 but for a collision of 64-bit hashes. The
probability that a pair of similarity s is looked at is `recall(s, threshold)`.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from soldiom_ray.prepare.deduplication.lsh import shared_bands

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]

SHINGLE_WORDS = 5
PERMUTATIONS = 128
SIGNATURE_SEED = 42
RECALL = 0.999
REMEMBERED_WORDS = 200_000
LONGEST_REMEMBERED = 64
"""Longer words are hashed each time, so that what is remembered stays below 30 MB."""

PIECE_DOCUMENTS = 16_384
PIECE_CHARACTERS = 8 << 20
"""Documents, and characters of their texts, whose shingles are in memory at a time while candidates are checked."""

MANY_NEIGHBOURS = 16
ESTIMATE_MARGIN = 0.2
"""Five standard deviations of a similarity of 0.8 that 128 permutations estimate (Broder 1997: binomial)."""

WORD = re.compile(r"\w+")
WORDS_APART = bytes(
    ord(chr(code).lower()) if code < 128 and (chr(code).isalnum() or code == ord("_")) else ord(" ")
    for code in range(256)
)


def words_of(text: str) -> list[str]:
    """The words of a text (runs of `\\w`), lower case; what stands between them does not count.

    A line break ends a word, so lines of ASCII, which need no regular expression, are split apart from the others.
    """
    if text.isascii():
        return _ascii_words(text)
    words: list[str] = []
    for plain, lines in groupby(text.split("\n"), str.isascii):
        part = "\n".join(lines)
        words += _ascii_words(part) if plain else WORD.findall(part.lower())
    return words


def _ascii_words(text: str) -> list[str]:
    return text.encode("ascii").translate(WORDS_APART).decode("ascii").split()


def content_digest(words: Sequence[str]) -> str:
    """Equal for texts of the same words in the same order."""
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


def hash_words(words: Iterable[str]) -> "Hashes":
    """64 bits per word, the same in every process."""
    import numpy as np

    return np.fromiter(map(_word_hashes.__getitem__, words), dtype=np.uint64)


def runs(hashes: "Hashes", length: int) -> "Hashes":
    """The hash of every run of `length` words, in order; a shorter text is one run."""
    import numpy as np

    length = min(length, len(hashes))
    if not length:
        return np.empty(0, np.uint64)
    count = len(hashes) - length + 1
    total = np.zeros(count, np.uint64)
    factor = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        for offset in range(length):
            total = total * factor + hashes[offset : offset + count]
            total ^= total >> np.uint64(29)
    return total


def shingles(hashes: "Hashes") -> "Hashes":
    """The set of word 5-grams, sorted."""
    import numpy as np

    # np.unique takes four times as long: it makes a hash table first.
    found = np.sort(runs(hashes, SHINGLE_WORDS))
    return found[np.concatenate(([True], found[1:] != found[:-1]))] if len(found) else found


def signatures(sets: Sequence["Hashes"]) -> list[bytes]:
    """One MinHash signature of 128 32-bit values (little-endian) per set. Empty sets get an empty signature."""
    import numpy as np
    from rensa import RMinHash

    filled = [one for one in sets if len(one)]
    if not filled:
        return [b""] * len(sets)
    offsets = [0, *np.cumsum([len(one) for one in filled]).tolist()]
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(filled), offsets, PERMUTATIONS, SIGNATURE_SEED
    )
    rows = iter(np.array(matrix.to_rows(), dtype="<u4"))
    return [next(rows).tobytes() if len(one) else b"" for one in sets]


def jaccard(left: "Hashes", right: "Hashes") -> float:
    """Shared over all members of two sorted sets."""
    import numpy as np

    both = np.concatenate((left, right))
    both.sort()
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / max(1, len(left) + len(right) - shared)


def band_rows(threshold: float) -> int:
    """The most rows per band with which a pair at the threshold is still found with probability RECALL."""
    fitting = [r for r in range(1, PERMUTATIONS + 1) if 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= RECALL]
    return max(fitting, default=1)


def recall(similarity: float, threshold: float) -> float:
    """The probability that a pair is compared: 1 - (1 - s^r)^b for b bands of r rows (Leskovec et al., section 3.4)."""
    rows = band_rows(threshold)
    return float(1 - (1 - similarity**rows) ** (PERMUTATIONS // rows))


def near_copies(
    all_signatures: Sequence[bytes],
    threshold: float,
    load: Callable[[set[int]], dict[int, Any]],
    characters: Sequence[int] | None = None,
) -> dict[int, tuple[int, float]]:
    """For each position that is a near copy of an earlier kept one: that one and their similarity.

    The order given decides who stays, and only kept documents are compared with, so a chain of small changes is not
    collapsed into its first member. `load` gives the shingles of the positions asked for. `characters` (of each text)
    bounds what is asked for at a time; without it only the number of documents is bounded.
    """
    index = shared_bands(all_signatures, band_rows(threshold), PERMUTATIONS)
    check = _Check(all_signatures, threshold, load)
    for window, goes_on in index.windows(PIECE_DOCUMENTS, PIECE_CHARACTERS, characters):
        if not goes_on:
            check.kept.clear()
        check.settle(window)
    return check.copies


@dataclass
class _Check:
    """Candidates against their true similarity, one piece of the documents after the other."""

    signatures: Sequence[bytes]
    threshold: float
    load: Callable[[set[int]], dict[int, Any]]
    copies: dict[int, tuple[int, float]] = field(default_factory=dict)
    kept: dict[int, list[int]] = field(default_factory=dict)
    """Shelf of a band -> the positions on it that stay."""

    def settle(self, window: Sequence[tuple[int, list[int]]]) -> None:
        """Decide on these documents (position, shelves), in order; those of earlier pieces are decided."""
        sets = self.load({position for position, _ in window})
        earlier = sorted({one for _, shelves in window for one in self._near(shelves)})
        for start in range(0, len(earlier), PIECE_DOCUMENTS):
            piece = earlier[start : start + PIECE_DOCUMENTS]
            kept_sets = self.load(set(piece))
            for position, shelves in window:
                if position not in self.copies:
                    near = [one for one in self._near(shelves) if piece[0] <= one <= piece[-1]]
                    self._compare(position, near, sets[position], kept_sets)
        for position, shelves in window:
            if position not in self.copies:
                near = [one for one in self._near(shelves) if one in sets]
                self._compare(position, near, sets[position], sets)
            if position not in self.copies:
                for shelf in shelves:
                    self.kept.setdefault(shelf, []).append(position)

    def _near(self, shelves: Sequence[int]) -> list[int]:
        return sorted({one for shelf in shelves for one in self.kept.get(shelf, ())})

    def _compare(self, position: int, near: Sequence[int], own: "Hashes", sets: dict[int, Any]) -> None:
        for kept in self._likely(position, near):
            other = sets[kept]
            if min(len(own), len(other)) < self.threshold * max(len(own), len(other)):
                continue
            similarity = jaccard(own, other)
            if similarity >= self.threshold:
                self.copies[position] = (kept, similarity)
                return

    def _likely(self, position: int, near: Sequence[int]) -> Sequence[int]:
        """Of many neighbours those whose signatures do not rule a copy out: files that share no more than a licence
        header would each be compared with all others."""
        import numpy as np

        if len(near) <= MANY_NEIGHBOURS:
            return near
        others = np.frombuffer(b"".join([self.signatures[one] for one in near]), "<u4").reshape(len(near), -1)
        equal = (others == np.frombuffer(self.signatures[position], "<u4")).mean(axis=1)
        return [near[at] for at in np.flatnonzero(equal >= self.threshold - ESTIMATE_MARGIN).tolist()]


def word_hash(word: str) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "big")


class _WordHashes(dict[str, int]):
    """Word to hash, remembered: a corpus repeats its words, so a look-up is nearly always enough."""

    def __missing__(self, word: str) -> int:
        if len(self) >= REMEMBERED_WORDS:
            self.clear()
        value = word_hash(word)
        if len(word) <= LONGEST_REMEMBERED:
            self[word] = value
        return value


_word_hashes = _WordHashes()
