"""A text as 64-bit hashes: of its words, of its n-grams of words, and of the set of its 5-grams (its shingles)."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]

SHINGLE_WORDS = 5
CACHED_WORDS = 200_000
LONGEST_CACHED_WORD = 64
"""Characters. Longer words are hashed each time, so that the cache stays below 30 MB."""

WORD = re.compile(r"\w+")
ASCII_WORD_BYTES = bytes(
    ord(chr(code).lower()) if code < 128 and (chr(code).isalnum() or code == ord("_")) else ord(" ")
    for code in range(256)
)
"""Translation table: word characters in lower case, everything else a space."""


def words_of(text: str) -> list[str]:
    """The words of a text (runs of `\\w`) in lower case; punctuation and white space are ignored.

    A line break ends a word, so ASCII lines, which need no regular expression, are split apart from the others.
    """
    if text.isascii():
        return _ascii_words(text)
    words: list[str] = []
    for is_ascii, lines in groupby(text.split("\n"), str.isascii):
        part = "\n".join(lines)
        words += _ascii_words(part) if is_ascii else WORD.findall(part.lower())
    return words


def _ascii_words(text: str) -> list[str]:
    return text.encode("ascii").translate(ASCII_WORD_BYTES).decode("ascii").split()


def content_digest(words: Sequence[str]) -> str:
    """SHA-256 in hexadecimal; equal for texts of the same words in the same order."""
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


def word_hash(word: str) -> int:
    """64 bits of BLAKE2b, the same in every process."""
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def hash_words(words: Iterable[str]) -> "Hashes":
    """`word_hash` of each word: uint64 [words]."""
    import numpy as np

    return np.fromiter(map(_word_hashes.__getitem__, words), dtype=np.uint64)


def ngram_hashes(hashes: "Hashes", length: int) -> "Hashes":
    """The hash of every n-gram of `length` words, in order: uint64 [words - length + 1]. A shorter text is one n-gram,
    an empty one has none. `hashes` is uint64 [words]."""
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
    """The set of word 5-grams, ascending: uint64 [distinct 5-grams]. `hashes` is uint64 [words]."""
    import numpy as np

    # np.unique takes four times as long: it builds a hash table first.
    ordered = np.sort(ngram_hashes(hashes, SHINGLE_WORDS))
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))] if len(ordered) else ordered


def shingles_of(text: str) -> "Hashes":
    """`shingles` of a text."""
    return shingles(hash_words(words_of(text)))


class _WordHashes(dict[str, int]):
    """Cache of `word_hash`: a corpus repeats its words, so a look-up is nearly always enough."""

    def __missing__(self, word: str) -> int:
        if len(self) >= CACHED_WORDS:
            self.clear()
        value = word_hash(word)
        if len(word) <= LONGEST_CACHED_WORD:
            self[word] = value
        return value


_word_hashes = _WordHashes()
