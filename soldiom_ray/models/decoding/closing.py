"""Completions: the text that makes a half-written answer whole and valid, found by trying pieces on its grammar.

A grammar over bytes costs 2 microseconds for a short text, so trying is cheaper than following the schema, and what
was tried is right whatever the schema says."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from soldiom_ray.models.decoding.shortest import Pieces

if TYPE_CHECKING:
    from llguidance import LLMatcher

END = 256
"""The token of a byte grammar that ends a text; the others are the bytes."""
MAX_BYTES = 20_000
QUOTE, BACKSLASH = ord('"'), ord("\\")
_OPENERS = {ord("{"): b"}", ord("["): b"]"}
_CLOSERS = b"}]"
_LITERALS = tuple(word[start:] for word in (b"true", b"false", b"null") for start in range(1, len(word)))
CHOICES = 100
_PREFERRED = b'"0aA1}],: .-/@_' + bytes(range(0x80, 0xC0)) + bytes(range(0x20, 0x7F)) + bytes(range(0xC2, 0xF5))
_PLACE = {byte: place for place, byte in reversed(list(enumerate(_PREFERRED)))}


@dataclass(slots=True)
class Scanner:
    """Where in a JSON text one is: brackets that are open, and the string or number that has begun. With a `mark` the
    text is free, quotes and all, up to each mark and again after the value that follows it."""

    mark: bytes = b""
    open: bytearray = field(default_factory=bytearray)
    word: bytearray = field(default_factory=bytearray)
    in_string: bool = False
    escaped: bool = False
    is_free: bool = True

    def feed(self, text: bytes) -> None:
        """Read on."""
        for byte in text:
            if self.mark and self.is_free:
                self.word.append(byte)
                if self.word.endswith(self.mark):
                    self.is_free = False
                if not self.is_free or len(self.word) > len(self.mark):
                    del self.word[: -len(self.mark) if self.is_free else None]
            elif self.in_string:
                self.word.append(byte)
                ends = byte == QUOTE and not self.escaped
                self.escaped = byte == BACKSLASH and not self.escaped
                if ends:
                    self.in_string = False
                    self.word.clear()
            elif byte == QUOTE:
                self.word[:] = b'"'
                self.in_string = True
            elif byte in _OPENERS:
                self.open.append(byte)
                self.word.clear()
            elif byte in b"}],:":
                self.word.clear()
                if byte in _CLOSERS and self.open:
                    self.open.pop()
                    self.is_free = not self.open
            else:
                self.word.append(byte)

    @property
    def depth(self) -> int:
        """How many brackets and strings are open."""
        return len(self.open) + self.in_string

    def copy(self) -> "Scanner":
        """One to read on with while this one stays."""
        return Scanner(self.mark, self.open[:], self.word[:], self.in_string, self.escaped, self.is_free)


class Closer:
    """Finds completions for texts of one grammar, from the `pieces` of its schema."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.names = tuple(name + b":" for name in pieces.names)

    def close(
        self,
        matcher: "LLMatcher",
        scanner: Scanner,
        former: bytes = b"",
        *,
        longest: int = MAX_BYTES,
        seconds: float = float("inf"),
    ) -> bytes | None:
        """A completion of a text, short but not always the shortest; None where none is found that is not longer than
        `longest`, or not within so many `seconds` of this thread's work. `former` completed it before its last token
        came."""
        deadline = time.thread_time() + seconds
        matcher, scanner = matcher.deep_copy(), scanner.copy()
        uses: Counter[int] = Counter()
        named: Counter[bytes] = Counter()
        completion = b""
        while len(completion) <= longest and time.thread_time() < deadline:
            if matcher.is_accepting():
                return completion
            if not scanner.in_string and (rest := _fitting_end(matcher, former)) is not None:
                return completion + rest
            piece = next((piece for piece in self._options(scanner, named) if _fits(matcher, piece)), None)
            piece = piece or _next_byte(matcher, uses)
            if piece is None:
                return None
            matcher.consume_tokens(list(piece))
            scanner.feed(piece)
            uses.update(piece)
            named[piece.removeprefix(b",")] += 1
            completion += piece
        return None

    def _options(self, scanner: Scanner, named: Counter[bytes]) -> Iterator[bytes]:
        """Pieces that may come next, those first that bring the end near; names that were used come last, since an
        object that takes any would take them for ever."""
        if scanner.mark and scanner.is_free:
            return
        if scanner.in_string:
            if not scanner.escaped:
                yield b'"'
                word = bytes(scanner.word)
                yield from (text[len(word) :] for text in self.pieces.strings if text.startswith(word))
                yield from (run for run in self.pieces.literals if run not in word)
            return
        if scanner.open:
            yield _OPENERS[scanner.open[-1]]
        if scanner.word:
            yield from _LITERALS
            yield from (value[len(scanner.word) :] for value in self.pieces.values if value.startswith(scanner.word))
        for comma in (b",",) if scanner.word else (b"", b","):
            yield from (comma + value for value in self.pieces.values if not value.startswith(b'"'))
            yield from (comma + name for name in sorted(self.names, key=named.__getitem__))
            yield from (comma + value for value in self.pieces.values if value.startswith(b'"'))


def _fits(matcher: "LLMatcher", piece: bytes) -> bool:
    return bool(piece) and matcher.validate_tokens(list(piece)) == len(piece)


def completes(matcher: "LLMatcher", text: bytes) -> bool:
    """Whether a text makes what a matcher has read whole."""
    return matcher.validate_tokens([*text, END]) == len(text) + 1


def _fitting_end(matcher: "LLMatcher", former: bytes) -> bytes | None:
    """The end of an earlier completion that still completes: from one of its first commas or brackets on."""
    places = [place for place, byte in enumerate(former[:2000]) if byte in b",]}"][:8]
    return next((former[place:] for place in places if completes(matcher, former[place:])), None)


def _next_byte(matcher: "LLMatcher", uses: Counter[int]) -> bytes | None:
    """A byte that leads on, where no piece does: into a string with a pattern, or a number. One after which the string
    may end, or at least something else may come than before; else the one that was used least."""
    before = matcher.compute_bitmask()
    allowed = sorted((byte for byte in range(END) if before[byte >> 3] >> (byte & 7) & 1), key=_preference)
    best: tuple[tuple[bool, bool, bool, int], int] | None = None
    for byte in allowed[:CHOICES]:
        matcher.consume_token(byte)
        after = matcher.compute_bitmask()
        matcher.rollback(1)
        ends = bool(after[QUOTE >> 3] >> (QUOTE & 7) & 1)
        rank = (byte == BACKSLASH, not ends, after == before, uses[byte])  # an escape leads on, but nowhere new
        if best is None or rank < best[0]:
            best = rank, byte
    return None if best is None else bytes([best[1]])


def _preference(byte: int) -> int:
    return _PLACE.get(byte, len(_PREFERRED) + byte)
