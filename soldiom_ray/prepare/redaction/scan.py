"""Where in a text a finder has to look: places of literals, groups of digits, runs of a class of characters.

A text is seen as one byte per character (Latin-1; everything beyond it is "?"), so that places in the bytes are places
in the text, and numpy can look at all of them at once: 350 MB/s for any number of literals on one core, where `in`
takes 0.7 ms per literal and megabyte, and one pattern of alternatives runs at 30 MB/s.
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
"""Knuth's multiplicative hash; its upper 16 bits choose a place in the table."""

_COMMON = "zqxjkvbpygfwmucldrhsnioate "
"""Letters from the rarest to the most common in English prose; marks are rarer still."""

_TOKEN_BYTES = [bytes([code]) for code in b"abcdefghijklmnopqrstuvwxyz0123456789_-/+"]

MAX_GAP = 3
MIN_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Literals:
    """What one finder looks for: `exact` as it stands, `words` in any case. Each has three characters or more; one
    of three must stand before a letter, a digit or one of `_-/+`."""

    exact: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


class Anchors:
    """The literals of several finders, all found in one pass."""

    def __init__(self, finders: Mapping[str, Literals]) -> None:
        self._literals: dict[int, list[tuple[str, bytes, int, bool]]] = {}
        for name, literals in finders.items():
            for literal in literals.exact:
                self._add(name, literal.encode("latin-1"), 0, keeps_case=True)
            for word in literals.words:
                self._add(name, word.encode("latin-1"), _rarest(word), keeps_case=False)
        self._tables: tuple[NDArray[np.bool_], NDArray[np.uint32]] | None = None

    def find(self, data: bytes) -> Iterator[tuple[str, int, str]]:
        """(finder, place, literal) of each literal, by place of its rarest part."""
        import numpy as np

        if len(data) < GRAM or not self._literals:
            return
        table, grams = self._tables = self._tables or self._make_tables()
        folded = np.ndarray((len(data) - GRAM + 1,), "<u4", data, 0, (1,)) | np.uint32(FOLD)
        hashed = folded * np.uint32(HASH)
        hashed >>= np.uint32(16)
        places = np.flatnonzero(table.take(hashed))
        found = folded[places]
        known = grams[np.minimum(np.searchsorted(grams, found), len(grams) - 1)] == found
        lower = data.lower()
        for place, gram in zip(places[known].tolist(), found[known].tolist(), strict=True):
            for name, literal, offset, keeps_case in self._literals[gram]:
                start = place - offset
                if start >= 0 and (data if keeps_case else lower).startswith(literal, start):
                    yield name, start, literal.decode("latin-1")

    def _add(self, name: str, literal: bytes, offset: int, *, keeps_case: bool) -> None:
        gram = literal[offset : offset + GRAM]
        for last in [b""] if len(gram) == GRAM else _TOKEN_BYTES:
            key = int.from_bytes(gram + last, "little") | FOLD
            self._literals.setdefault(key, []).append((name, literal, offset, keeps_case))

    def _make_tables(self) -> "tuple[NDArray[np.bool_], NDArray[np.uint32]]":
        import numpy as np

        grams = np.array(sorted(self._literals), np.uint32)
        table = np.zeros(1 << 16, np.bool_)
        table[(grams * np.uint32(HASH)) >> np.uint32(16)] = True
        return table, grams


def _rarest(word: str) -> int:
    """Where the four characters stand that are least common in English, so that `password` does not stop at `pass`."""
    return min(range(max(1, len(word) - GRAM + 1)), key=lambda at: sum(map(_COMMON.find, word[at : at + GRAM])))


class Scan:
    """One text and what several finders ask about it, computed once."""

    def __init__(self, text: str, anchors: Anchors) -> None:
        self.text = text
        self._anchors = anchors

    def places(self, finder: str) -> list[tuple[int, str]]:
        """(place, literal) of the literals that a finder looks for, by place of their rarest part."""
        return self._found.get(finder, [])

    @cached_property
    def _found(self) -> dict[str, list[tuple[int, str]]]:
        found: dict[str, list[tuple[int, str]]] = {}
        for finder, start, literal in self._anchors.find(self.data):
            found.setdefault(finder, []).append((start, literal))
        return found

    @cached_property
    def data(self) -> bytes:
        """One byte per character."""
        return self.text.encode("latin-1", "replace")

    @cached_property
    def codes(self) -> "NDArray[np.uint8]":
        import numpy as np

        return np.frombuffer(self.data, np.uint8)

    @cached_property
    def digit_runs(self) -> "tuple[NDArray[np.intp], NDArray[np.intp]]":
        """Starts and ends of the runs of ASCII digits."""
        return self.runs(self.codes - _byte("0") < 10)

    @cached_property
    def numbers(self) -> list[tuple[int, int, int]]:
        """(start, end, digits) of groups of digit runs with at most three of `space . - / ( )` between two, and at
        least six digits. A group is a place to look at, not a number: tables of numbers are one long group."""
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
        """For each character, what a table made by `among` says."""
        import numpy as np

        return np.frombuffer(self.data.translate(table), np.bool_)

    def runs(self, inside: "NDArray[np.bool_]") -> "tuple[NDArray[np.intp], NDArray[np.intp]]":
        """Starts and ends of the stretches where `inside` (one per character) holds."""
        import numpy as np

        edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
        if len(inside) and inside[0]:
            edges = np.concatenate(([0], edges))
        if len(inside) and inside[-1]:
            edges = np.concatenate((edges, [len(inside)]))
        return edges[::2], edges[1::2]


def words(text: str) -> tuple[str, ...]:
    """The words of a table written as text."""
    return tuple(text.split())


def among(characters: str) -> bytes:
    """A table for `Scan.inside`: whether a byte is one of these characters."""
    return bytes(chr(code) in characters for code in range(256))


SEPARATORS = among(" .-/()\xa0")


def _byte(character: str) -> "np.uint8":
    import numpy as np

    return np.uint8(ord(character))
