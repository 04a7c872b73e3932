"""N-grams of 20 words that texts share: those of some texts (a test split) as sorted hashes, looked up for all
others."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from soldiom_ray.prepare.deduplication.words import hash_words, ngram_hashes, words_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]

NGRAM_WORDS = 20
COMMON_NGRAM = 5
"""An n-gram that more texts than this share is boilerplate (a license header) and shows no overlap."""

BITS_PER_NGRAM = 16
MIN_TABLE_BITS, MAX_TABLE_BITS = 13, 28
CHUNK_HASHES = 1 << 18


def ngrams_of(text: str) -> "Hashes":
    """Hashes of a text's n-grams, ascending, each once."""
    import numpy as np

    words = words_of(text)
    if len(words) < NGRAM_WORDS:
        return np.empty(0, np.uint64)
    return np.unique(ngram_hashes(hash_words(words), NGRAM_WORDS))


class NgramSet:
    """Hashes of n-grams, ascending uint64 [n-grams]. A look-up first asks a table of bits, of which one in sixteen is
    set: a binary search among 3 million hashes takes 1.07 ms for a text of 16 kB, the table and a search for the rest
    0.10 ms."""

    def __init__(self, hashes: "Hashes") -> None:
        import numpy as np

        self.hashes = hashes
        bits = min(MAX_TABLE_BITS, max(MIN_TABLE_BITS, (BITS_PER_NGRAM * len(hashes)).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << (bits - 3), np.uint8)
        for start in range(0, len(hashes), CHUNK_HASHES):
            offsets, masks = self._table_bits(hashes[start : start + CHUNK_HASHES])
            np.bitwise_or.at(self._table, offsets, masks)

    @classmethod
    def of(cls, texts: Iterable[str]) -> "NgramSet":
        """The n-grams of these texts, without those that more than COMMON_NGRAM of them share."""
        return cls.union([ngrams_of(text) for text in texts])

    @classmethod
    def union(cls, pieces: "list[Hashes]") -> "NgramSet":
        """`of`, given the n-grams of each text (of several texts one after the other); empties `pieces`."""
        import numpy as np

        hashes = np.empty(sum(map(len, pieces)), np.uint64)
        end = len(hashes)
        while pieces:  # each is freed when it is copied: there are never two copies of a large test split
            piece = pieces.pop()
            hashes[end - len(piece) : end] = piece
            end -= len(piece)
        hashes.sort()
        is_rare = np.ones(len(hashes), np.bool_)
        is_rare[1:] = hashes[1:] != hashes[:-1]
        is_rare[:-COMMON_NGRAM] &= hashes[COMMON_NGRAM:] != hashes[:-COMMON_NGRAM]
        return cls(hashes[is_rare])

    def __len__(self) -> int:
        return len(self.hashes)

    def overlap(self, text: str) -> tuple[float, int]:
        """The share of a text's n-grams that are in the set, and the longest unbroken stretch of them in words."""
        import numpy as np

        words = hash_words(words_of(text))
        if len(words) < NGRAM_WORDS or not len(self):
            return 0.0, 0
        ngrams = ngram_hashes(words, NGRAM_WORDS)
        offsets, masks = self._table_bits(ngrams)
        candidates = np.flatnonzero(self._table.take(offsets) & masks)
        indices = np.searchsorted(self.hashes, ngrams[candidates])
        indices[indices == len(self)] = 0
        hits = np.zeros(len(ngrams), np.int8)
        hits[candidates] = self.hashes[indices] == ngrams[candidates]
        if not hits.any():
            return 0.0, 0
        edges = np.flatnonzero(np.diff(np.concatenate(([0], hits, [0]))))
        return float(hits.mean()), int((edges[1::2] - edges[::2]).max()) + NGRAM_WORDS - 1

    def _table_bits(self, hashes: "Hashes") -> "tuple[NDArray[np.int64], NDArray[np.uint8]]":
        """The bit of each hash in the table: offset of its byte, int64 [hashes], and mask in that byte, uint8
        [hashes]."""
        import numpy as np

        bits = hashes >> self._shift
        masks: Any = np.left_shift(np.uint8(1), (bits & np.uint64(7)).astype(np.uint8))
        return (bits >> np.uint64(3)).astype(np.int64), masks
