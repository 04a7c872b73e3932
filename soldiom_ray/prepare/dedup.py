"""Copies: exact by a hash of the words, near by the Jaccard similarity of word 5-grams.

Near copies are found with MinHash (Broder 1997; signatures by rensa) in locality-sensitive bands, and every candidate
is checked against its true similarity, so that the bands decide speed and recall but never drop a document wrongly.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]

SHINGLE_WORDS = 5
WINDOW_WORDS = 20
PERMUTATIONS = 128
SIGNATURE_SEED = 42
RECALL = 0.999

WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text, lower case; what stands between them does not count."""
    return WORD.findall(text.lower())


def content_digest(words: Sequence[str]) -> str:
    """Equal for texts of the same words in the same order."""
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


def hash_words(words: Iterable[str]) -> "Hashes":
    """64 bits per word, the same in every process."""
    import numpy as np

    return np.fromiter((_word_hashes[word] for word in words), dtype=np.uint64)


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

    return np.unique(runs(hashes, SHINGLE_WORDS))


def signatures(sets: Sequence["Hashes"]) -> list[bytes]:
    """One MinHash signature of 128 32-bit values per set. Empty sets get an empty signature."""
    import numpy as np
    from rensa import RMinHash

    filled = [one for one in sets if len(one)]
    if not filled:
        return [b""] * len(sets)
    offsets = [0, *np.cumsum([len(one) for one in filled]).tolist()]
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(filled), offsets, PERMUTATIONS, SIGNATURE_SEED
    )
    rows = iter(np.array(matrix.to_rows(), dtype=np.uint32))
    return [next(rows).tobytes() if len(one) else b"" for one in sets]


def jaccard(left: "Hashes", right: "Hashes") -> float:
    """Shared over all members of two sorted sets."""
    import numpy as np

    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / max(1, len(left) + len(right) - shared)


def band_rows(threshold: float) -> int:
    """The most rows per band with which a pair at the threshold is still found with probability RECALL."""
    fitting = [r for r in range(1, PERMUTATIONS + 1) if 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= RECALL]
    return max(fitting, default=1)


@dataclass
class Bands:
    """Signatures filed by their bands: `near` gives those filed before that share a band."""

    rows: int
    shelves: dict[tuple[int, bytes], list[int]] = field(default_factory=dict)

    def keys(self, signature: bytes) -> list[tuple[int, bytes]]:
        width = 4 * self.rows
        return [(at, signature[at : at + width]) for at in range(0, len(signature) - width + 1, width)]

    def near(self, signature: bytes) -> list[int]:
        return sorted({item for key in self.keys(signature) for item in self.shelves.get(key, ())})

    def file(self, item: int, signature: bytes) -> None:
        for key in self.keys(signature):
            self.shelves.setdefault(key, []).append(item)


def candidates(all_signatures: Sequence[bytes], rows: int) -> set[int]:
    """Positions whose signature shares a band with another one's."""
    bands = Bands(rows)
    for position, signature in enumerate(all_signatures):
        bands.file(position, signature)
    return {item for shelf in bands.shelves.values() if len(shelf) > 1 for item in shelf}


def near_copies(
    all_signatures: Sequence[bytes], threshold: float, load: Callable[[set[int]], dict[int, Any]]
) -> dict[int, tuple[int, float]]:
    """For each position that is a near copy of an earlier kept one: that one and their similarity.

    The order given decides who stays, and only kept documents are compared with, so a chain of small changes is not
    collapsed into its first member. `load` gives the shingles of the positions asked for.
    """
    rows = band_rows(threshold)
    suspects = candidates(all_signatures, rows)
    sets = load(suspects)
    bands = Bands(rows)
    copies: dict[int, tuple[int, float]] = {}
    for position in sorted(suspects):
        for kept in bands.near(all_signatures[position]):
            similarity = jaccard(sets[position], sets[kept])
            if similarity >= threshold:
                copies[position] = (kept, similarity)
                break
        else:
            bands.file(position, all_signatures[position])
    return copies


def shared_windows(hashes: "Hashes", known: "Hashes") -> tuple[float, int]:
    """Of a text's runs of 20 words: the share that is among the known ones (sorted), and the longest unbroken
    stretch of them in words."""
    import numpy as np

    windows = runs(hashes, WINDOW_WORDS)
    if len(hashes) < WINDOW_WORDS or not len(known):
        return 0.0, 0
    places = np.searchsorted(known, windows)
    places[places == len(known)] = 0
    hits = known[places] == windows
    if not hits.any():
        return 0.0, 0
    edges = np.flatnonzero(np.diff(np.concatenate(([0], hits.view(np.int8), [0]))))
    return float(hits.mean()), int((edges[1::2] - edges[::2]).max()) + WINDOW_WORDS - 1


class _WordHashes(dict[str, int]):
    """Word to hash, remembered: a corpus repeats its words, so a look-up is nearly always enough."""

    def __missing__(self, word: str) -> int:
        if len(self) > 2_000_000:
            self.clear()
        value = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "big")
        self[word] = value
        return value


_word_hashes = _WordHashes()
