"""Repeated n-grams of words within one document (Gopher, Rae et al. 2021, table A1), on hashes instead of strings.

An n-gram that repeats begins with a shorter n-gram that repeats, so each length only looks where the last one repeated.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from soldiom_ray.prepare.filters.prose_tokens import Tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Positions = NDArray[np.int64]

MAX_TOP_NGRAM = {2: 0.20, 3: 0.18, 4: 0.16}
"""Words -> share of the characters that the most frequent n-gram of so many words may cover."""

MAX_REPEATED_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""Words -> share of the characters that repeated n-grams of so many words may cover."""


def duplicated(pieces: Sequence[str]) -> tuple[int, int]:
    """How many pieces repeat an earlier one, and their characters."""
    distinct = set(pieces)
    if len(distinct) == len(pieces):
        return 0, 0
    return len(pieces) - len(distinct), sum(map(len, pieces)) - sum(map(len, distinct))


def repeated_words(tokens: Tokens, characters: int) -> str | None:
    """The first length of n-gram whose repetition covers too much of a text of so many characters."""
    import numpy as np

    ends = np.concatenate(([0], np.cumsum(tokens.lengths)))
    positions = np.arange(len(tokens))
    hashes = tokens.hashes
    for words in range(2, max(MAX_REPEATED_NGRAMS) + 1):
        if len(tokens) < words:
            return None
        positions, hashes = _extend(positions, hashes, tokens.hashes, words)
        positions, hashes, groups, counts = _repeated(positions, hashes)
        if words in MAX_TOP_NGRAM:
            share = _top_characters(positions, groups, counts, ends, words) / characters
            if share > MAX_TOP_NGRAM[words]:
                return f"{share:.2f} of its characters are one run of {words} words"
        elif len(positions):
            limit = MAX_REPEATED_NGRAMS[words] * characters
            sizes = ends[positions + words] - ends[positions]
            if int(sizes.sum()) > limit and (covered := _covered_characters(positions, groups, sizes, words)) > limit:
                return f"{covered / characters:.2f} of its characters are repeated runs of {words} words"
    return None


def _extend(positions: "Positions", hashes: Any, words: Any, length: int) -> tuple["Positions", Any]:
    """N-grams of one word more at the same positions, where the text is long enough. `positions` is int64 [n-grams],
    `hashes` uint64 [n-grams], `words` uint64 [tokens]."""
    import numpy as np

    fitting = positions <= len(words) - length
    positions, hashes = positions[fitting], hashes[fitting]
    with np.errstate(over="ignore"):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + words[positions + length - 1]
    hashes ^= hashes >> np.uint64(29)
    return positions, hashes


def _repeated(positions: "Positions", hashes: Any) -> tuple["Positions", Any, Any, Any]:
    """The positions whose n-gram occurs elsewhere too, in order, with their hashes and groups; the size of each group.
    A group is all n-grams of one hash: `groups` is int64 [positions], `counts` int64 [groups]."""
    import numpy as np

    order = np.argsort(hashes)
    in_order = hashes[order]
    begins = np.concatenate(([True], in_order[1:] != in_order[:-1]))[: len(order)]
    groups = np.empty(len(order), np.int64)
    groups[order] = np.cumsum(begins) - 1
    counts = np.bincount(groups)
    is_repeated = counts[groups] > 1
    return positions[is_repeated], hashes[is_repeated], groups[is_repeated], counts


def _top_characters(positions: "Positions", groups: Any, counts: Any, ends: Any, words: int) -> int:
    """Characters of the most frequent n-gram, blanks between its words included, times its frequency; of equally
    frequent ones the first counts."""
    first = 0
    most = 1
    if len(positions):
        most = int(counts.max())
        first = int(positions[(counts[groups] == most).argmax()])
    return (int(ends[first + words] - ends[first]) + words - 1) * most


def _covered_characters(positions: "Positions", groups: Any, sizes: Any, words: int) -> int:
    """Characters in n-grams that repeat an earlier one, reading on behind each of them."""
    seen: set[int] = set()
    covered = next_position = 0
    for position, group, size in zip(positions.tolist(), groups.tolist(), sizes.tolist(), strict=True):
        if position < next_position:
            continue
        if group in seen:
            covered += size
            next_position = position + words
        else:
            seen.add(group)
    return covered
