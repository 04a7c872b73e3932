"""Where in a text a finder has to look: positions of literals, groups of digits, runs of a class of characters.

A text is seen as one byte per character (Latin-1; everything beyond it is "?"), so that positions in the bytes are
positions in the text, and numpy can look at all of them at once: 350 MB/s for any number of literals on one core, where
`in` takes 0.7 ms per literal and megabyte, and one pattern of alternatives runs at 30 MB/s.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Span = tuple[int, int]

GRAM = 4
FOLD = 0x20202020
HASH = 2654435761
"""Knuth's multiplicative hash; its upper 16 bits index the table."""

_COMMON = "zqxjkvbpygfwmucldrhsnioate "
"""Letters from the rarest to the most common in English prose; marks are rarer still."""

_TOKEN_BYTES = [bytes([code]) for code in b"abcdefghijklmnopqrstuvwxyz0123456789_-/+"]

MAX_GAP = 3
MIN_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Literals:
    """What a finder looks for: `exact` literals, and `words` in any case. Each has three characters or more; one of
    three must stand before a letter, a digit or one of `_-/+`."""

    exact: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


class LiteralIndex:
    """The literals of several finders, all found in one pass over a text."""

    def __init__(self, finders: Mapping[str, Literals]) -> None:
        self._literals: dict[int, list[tuple[str, bytes, int, bool]]] = {}
        for name, literals in finders.items():
            for literal in literals.exact:
                self._add(name, literal.encode("latin-1"), 0, keeps_case=True)
            for word in literals.words:
                self._add(name, word.encode("latin-1"), _rarest(word), keeps_case=False)
        self._tables: tuple[NDArray[np.bool_], NDArray[np.uint32]] | None = None

    def find(self, data: bytes) -> Iterator[tuple[str, int, str]]:
        """(finder, position, literal) of each literal in a text's bytes, ordered by the position of its rarest part."""
        import numpy as np

        if len(data) < GRAM or not self._literals:
            return
        table, grams = self._tables = self._tables or self._make_tables()
        folded = np.ndarray((len(data) - GRAM + 1,), "<u4", data, 0, (1,)) | np.uint32(FOLD)
        hashed = folded * np.uint32(HASH)
        hashed >>= np.uint32(16)
        positions = np.flatnonzero(table.take(hashed))
        candidates = folded[positions]
        is_gram = grams[np.minimum(np.searchsorted(grams, candidates), len(grams) - 1)] == candidates
        lower = data.lower()
        for position, gram in zip(positions[is_gram].tolist(), candidates[is_gram].tolist(), strict=True):
            for name, literal, offset, keeps_case in self._literals[gram]:
                start = position - offset
                if start >= 0 and (data if keeps_case else lower).startswith(literal, start):
                    yield name, start, literal.decode("latin-1")

    def _add(self, name: str, literal: bytes, offset: int, *, keeps_case: bool) -> None:
        gram = literal[offset : offset + GRAM]
        for last in [b""] if len(gram) == GRAM else _TOKEN_BYTES:
            key = int.from_bytes(gram + last, "little") | FOLD
            self._literals.setdefault(key, []).append((name, literal, offset, keeps_case))

    def _make_tables(self) -> "tuple[NDArray[np.bool_], NDArray[np.uint32]]":
        """Which of 65,536 hashes a gram has, and the grams themselves, ascending."""
        import numpy as np

        grams = np.array(sorted(self._literals), np.uint32)
        table = np.zeros(1 << 16, np.bool_)
        table[(grams * np.uint32(HASH)) >> np.uint32(16)] = True
        return table, grams


def _rarest(word: str) -> int:
    """Offset of the four characters that are least common in English, so that not every `pass` is a candidate for
    `password`."""
    return min(
        range(max(1, len(word) - GRAM + 1)), key=lambda start: sum(map(_COMMON.find, word[start : start + GRAM]))
    )


class Scan:
    """One text and what several finders need to know of it, computed once, on first use."""

    def __init__(self, text: str, literals: LiteralIndex) -> None:
        self.text = text
        self._literals = literals

    def literals(self, finder: str) -> list[tuple[int, str]]:
        """(position, literal) of the literals that a finder looks for, ordered by the position of their rarest part."""
        return self._by_finder.get(finder, [])

    @cached_property
    def _by_finder(self) -> dict[str, list[tuple[int, str]]]:
        by_finder: dict[str, list[tuple[int, str]]] = {}
        for finder, start, literal in self._literals.find(self.data):
            by_finder.setdefault(finder, []).append((start, literal))
        return by_finder

    @cached_property
    def data(self) -> bytes:
        """One byte per character."""
        return self.text.encode("latin-1", "replace")

    @cached_property
    def codes(self) -> "NDArray[np.uint8]":
        """`data` as an array [characters]."""
        import numpy as np

        return np.frombuffer(self.data, np.uint8)

    @cached_property
    def digit_runs(self) -> "tuple[NDArray[np.intp], NDArray[np.intp]]":
        """Starts and ends of the runs of ASCII digits, each [runs]."""
        return self.runs(self.codes - _byte("0") < 10)

    @cached_property
    def numbers(self) -> list[tuple[int, int, int]]:
        """(start, end, digits) of groups of digit runs with at most three of `space . - / ( )` between two, and at
        least six digits. A group is a candidate, not yet a number: a table of numbers is one long group."""
        import numpy as np

        starts, ends = self.digit_runs
        if not len(starts):
            return []
        gaps = starts[1:] - ends[:-1]
        separators = self.inside(SEPARATORS)
        joined = gaps <= MAX_GAP
        for step in range(MAX_GAP):
            joined &= (gaps <= step) | separators[np.minimum(ends[:-1] + step, len(separators) - 1)]
        first = np.flatnonzero(np.concatenate(([True], ~joined)))
        last = np.concatenate((first[1:], [len(starts)])) - 1
        digits = np.add.reduceat(ends - starts, first)
        many = digits >= MIN_DIGITS
        columns = (starts[first][many], ends[last][many], digits[many])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def inside(self, table: bytes) -> "NDArray[np.bool_]":
        """For each character whether it is in a class made by `character_class`: bool [characters]."""
        import numpy as np

        return np.frombuffer(self.data.translate(table), np.bool_)

    def runs(self, inside: "NDArray[np.bool_]") -> "tuple[NDArray[np.intp], NDArray[np.intp]]":
        """Starts and ends, each [stretches], of the stretches where `inside`, bool [characters], is true."""
        import numpy as np

        edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
        if len(inside) and inside[0]:
            edges = np.concatenate(([0], edges))
        if len(inside) and inside[-1]:
            edges = np.concatenate((edges, [len(inside)]))
        return edges[::2], edges[1::2]


def word_table(text: str) -> tuple[str, ...]:
    """The words of a table that is written as text."""
    return tuple(text.split())


def character_class(characters: str) -> bytes:
    """A table for `Scan.inside`: whether a byte is one of these characters."""
    return bytes(chr(code) in characters for code in range(256))


SEPARATORS = character_class(" .-/()\xa0")


def _byte(character: str) -> "np.uint8":
    import numpy as np

    return np.uint8(ord(character))
