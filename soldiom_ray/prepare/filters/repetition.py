"""Repeated runs of words within one document (Gopher, Rae et al. 2021, table A1), on hashes instead of strings.

A run that repeats begins with a shorter run that repeats, so each length only looks where the one before repeated.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from soldiom_ray.prepare.filters.prose_tokens import Tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Positions = NDArray[np.int64]

MAX_TOP_RUN = {2: 0.20, 3: 0.18, 4: 0.16}
"""Words -> share of the characters that the most frequent run of so many words may cover."""

MAX_REPEATED_RUNS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""Words -> share of the characters that repeated runs of so many words may cover."""


def duplicated(pieces: Sequence[str]) -> tuple[int, int]:
    """How many pieces have stood before, and their characters."""
    different = set(pieces)
    if len(different) == len(pieces):
        return 0, 0
    return len(pieces) - len(different), sum(map(len, pieces)) - sum(map(len, different))


def repeated_words(tokens: Tokens, characters: int) -> str | None:
    """The first length of run whose repetition covers too much of a text of so many characters."""
    import numpy as np

    ends = np.concatenate(([0], np.cumsum(tokens.lengths)))
    places = np.arange(len(tokens))
    hashes = tokens.hashes
    for words in range(2, max(MAX_REPEATED_RUNS) + 1):
        if len(tokens) < words:
            return None
        places, hashes = _longer(places, hashes, tokens.hashes, words)
        places, hashes, groups, counts = _repeated(places, hashes)
        if words in MAX_TOP_RUN:
            share = _top(places, groups, counts, ends, words) / characters
            if share > MAX_TOP_RUN[words]:
                return f"{share:.2f} of its characters are one run of {words} words"
        elif len(places):
            limit = MAX_REPEATED_RUNS[words] * characters
            sizes = ends[places + words] - ends[places]
            if int(sizes.sum()) > limit and (covered := _covered(places, groups, sizes, words)) > limit:
                return f"{covered / characters:.2f} of its characters are repeated runs of {words} words"
    return None


def _longer(places: "Positions", hashes: Any, words: Any, length: int) -> tuple["Positions", Any]:
    """Runs of one word more at the same places, where the text is long enough."""
    import numpy as np

    fitting = places <= len(words) - length
    places, hashes = places[fitting], hashes[fitting]
    with np.errstate(over="ignore"):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + words[places + length - 1]
    hashes ^= hashes >> np.uint64(29)
    return places, hashes


def _repeated(places: "Positions", hashes: Any) -> tuple["Positions", Any, Any, Any]:
    """The places whose run stands elsewhere too, in order, with hashes; the group of each; the size of each group."""
    import numpy as np

    order = np.argsort(hashes)
    in_order = hashes[order]
    begins = np.concatenate(([True], in_order[1:] != in_order[:-1]))[: len(order)]
    groups = np.empty(len(order), np.int64)
    groups[order] = np.cumsum(begins) - 1
    counts = np.bincount(groups)
    again = counts[groups] > 1
    return places[again], hashes[again], groups[again], counts


def _top(places: "Positions", groups: Any, counts: Any, ends: Any, words: int) -> int:
    """Characters of the most frequent run, blanks between its words included, times its frequency; of equally
    frequent ones the first counts."""
    first = 0
    most = 1
    if len(places):
        most = int(counts.max())
        first = int(places[(counts[groups] == most).argmax()])
    return (int(ends[first + words] - ends[first]) + words - 1) * most


def _covered(places: "Positions", groups: Any, sizes: Any, words: int) -> int:
    """Characters in runs that have stood before, reading on behind each such run."""
    seen: set[int] = set()
    covered = reading_at = 0
    for place, group, size in zip(places.tolist(), groups.tolist(), sizes.tolist(), strict=True):
        if place < reading_at:
            continue
        if group in seen:
            covered += size
            reading_at = place + words
        else:
            seen.add(group)
    return covered
