"""Tokens of English prose as the published filters count them, in arrays.

The thresholds of Gopher and FineWeb were set on words that a tokenizer splits from their punctuation, so the same
rules are followed here: those of spaCy's blank English pipeline (spaCy 3.8, lang/punctuation.py and
lang/en/tokenizer_exceptions.py, MIT), which datatrove uses. A chunk (what stands between blanks) is split once and its
tokens are cached. Of 430,000 tokens of package files 99.98 % were the same. Left out: emoticons with letters, symbols
inside words, and chunks over MAX_CHUNK_CHARACTERS, which a plain regular expression splits, so that time stays linear
in the text.
"""

import re
import unicodedata
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soldiom_ray.prepare.deduplication.words import word_hash
from soldiom_ray.prepare.filters.contractions import EMOTICONS, SPECIAL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CACHED_CHUNKS = 300_000
CHUNK_BATCH = 100_000
MAX_CHUNK_CHARACTERS = 512

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Gopher (Rae et al. 2021, appendix A.1.1)."""

IS_WORD, HAS_LETTER, ENDS_SENTENCE, IS_PUNCTUATION, FIRST_STOP_WORD = 1, 2, 4, 8, 16
STOP_WORD_FLAGS = {word: FIRST_STOP_WORD << bit for bit, word in enumerate(STOP_WORDS)}

SENTENCE_ENDS = frozenset("!.?։؟۔܀܁܂‼‽।॥၊။።፧፨᙮᜵᜶᠃᠉᥄᥅⁇⁈⁉⸮。꓿．！？｡")
"""The marks that end a sentence for spaCy's sentencizer and stand in a script in wider use."""

PUNCTUATION = SENTENCE_ENDS.union(
    "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
    + "".join(map(chr, (*range(32), *range(127, 160))))
)
"""Characters that do not make a word (datatrove 0.10, utils/text.py; the digit in it is theirs)."""

QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧"
MARKS = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪" + QUOTES + "—–"
CURRENCY = "$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿"
BEFORE = frozenset(MARKS + CURRENCY + "§%=")
AFTER = frozenset(MARKS)
UNITS = re.compile(
    r"(?<=[0-9])(?:[kcdmnµ]?m[²³]?|ha|yd|in|ft|[kmµ]?g|t|lb|oz|m/s|km/h|kmh|mph|hPa|Pa|mbar|[mkgt]b|[MKGT]B|[TGMK]|%)$"
)
MAX_UNIT_CHARACTERS = 4
DOTS_BEFORE, DOTS_AFTER = re.compile(r"\.\.+"), re.compile(r"\.\.+$")
INSIDE = re.compile(
    r"\.\.+|…|(?<=[0-9])[+\-*^](?=[0-9-])"
    r"|(?<=[a-zß-öø-ÿ'\"”“`‘´’‚,„»«])\.(?=[A-ZÀ-ÖØ-Þ'\"”“`‘´’‚,„»«])"
    r"|(?<=[^\W\d_]),(?=[^\W\d_])|(?<=[^\W_])(?:---|--|——|[-–—~])(?=[^\W\d_])|(?<=[^\W_])[:<>=/](?=[^\W\d_])"
)
MAY_SPLIT = re.compile(r"[-,:<>=/+*^~–—…]|\.(?![a-z0-9_])")
ADDRESS = re.compile(
    r"(?:[\w+.-]{2,}://)?(?:[^\s@]+@)?"
    r"(?:(?:[A-Za-z0-9\u00a1-\uffff][A-Za-z0-9\u00a1-\uffff_-]{0,62}\.)+[a-zß-öø-ÿ]{2,63}|\d{1,3}(?:\.\d{1,3}){3})"
    r"(?::\d{2,5})?(?:[/?#]\S*)?"
)
EMOTICON = re.compile("|".join(map(re.escape, sorted(EMOTICONS))))
PLAIN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's tokens in order: their lengths in characters, flags and hashes, each an array [tokens]."""

    lengths: "NDArray[np.int64]"
    flags: "NDArray[np.uint16]"
    hashes: "NDArray[np.uint64]"

    def __len__(self) -> int:
        return len(self.lengths)


def tokens_of(text: str) -> Tokens:
    """Split a text. The result is the same in every process, whatever was split before."""
    import numpy as np

    global _chunks
    chunks = text.split()
    parts = []
    for start in range(0, max(1, len(chunks)), CHUNK_BATCH):
        if len(_chunks) > CACHED_CHUNKS:
            _chunks = _ChunkTable()
        parts.append(_chunks.gather(chunks[start : start + CHUNK_BATCH]))
    if len(parts) == 1:
        return Tokens(*parts[0])
    return Tokens(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def split_chunk(chunk: str) -> list[str]:
    """The tokens of a chunk: of what stands between two blanks."""
    if chunk.isalpha() and chunk not in SPECIAL:
        return [chunk]
    if len(chunk) > MAX_CHUNK_CHARACTERS:
        return PLAIN.findall(chunk) or [chunk]
    before: list[str] = []
    after: list[str] = []
    core = chunk
    while core and core not in SPECIAL:
        start = _before(core)
        if start:
            before.append(core[:start])
            core = core[start:]
            if core in SPECIAL:
                break
        end = _after(core)
        if end:
            after.append(core[-end:])
            core = core[:-end]
        if not start and not end:
            break
    middle = SPECIAL.get(core) or _inside(core)
    tokens = [*before, *middle, *reversed(after)]
    return _joined(tokens) if EMOTICON.search(chunk) else tokens


def _before(core: str) -> int:
    """Characters of the token that a core begins with and that is split off it."""
    first = core[0]
    if first in BEFORE or (first == "+" and not core[1:2].isdigit()):
        return 1
    if first == "." and (dots := DOTS_BEFORE.match(core)):
        return dots.end()
    if first in "USCA" and (length := {"US": 3, "C$": 2, "A$": 2}.get(core[:2], 0)):
        return length if core[length - 1 : length] == "$" else 0
    return int(not first.isascii() and unicodedata.category(first) == "So")


def _after(core: str) -> int:
    """Characters of the token that a core ends with and that is split off it."""
    if not core:
        return 0
    last, before = core[-1], core[-2:-1]
    if last in AFTER:
        return 1
    if last == "." and before:
        if dots := DOTS_AFTER.search(core):
            return len(dots[0])
        lower = before.islower() or before in "%²-+" or before in QUOTES or before in "…,:;!?()[]{}<>_#*&"
        is_end = before.isdigit() or lower or (before.isupper() and core[-3:-2].isupper())
        return int(is_end or (before.isalpha() and not before.isupper()))
    if last in "sS" and before and before in "'’":
        return 2
    if before.isdigit() and (last == "+" or last in CURRENCY):
        return 1
    if (
        (last.isalpha() or last in "%²³")
        and not core.isalpha()
        and (unit := UNITS.search(core[-MAX_UNIT_CHARACTERS - 1 :]))
    ):
        return len(unit[0])
    return int(not last.isascii() and unicodedata.category(last) == "So")


def _inside(core: str) -> list[str]:
    match = INSIDE.search(core) if MAY_SPLIT.search(core) else None
    if match is None:
        return [core] if core else []
    if ADDRESS.fullmatch(core):
        return [core]
    parts = []
    start = 0
    while match is not None:
        parts += [core[start : match.start()], match[0]]
        start = match.end()
        match = INSIDE.search(core, start)
    return [part for part in (*parts, core[start:]) if part]


def _joined(tokens: list[str]) -> list[str]:
    """Tokens that make an emoticon together become one, the longest first."""
    joined: list[str] = []
    position = 0
    while position < len(tokens):
        candidates = (tokens[position : position + length] for length in (4, 3, 2))
        taken = next((some for some in candidates if "".join(some) in EMOTICONS), tokens[position : position + 1])
        joined.append("".join(taken))
        position += len(taken)
    return joined


def _flags(token: str) -> int:
    flags = STOP_WORD_FLAGS.get(token, 0)
    if token.isalpha():
        return flags | IS_WORD | HAS_LETTER
    if not PUNCTUATION.issuperset(token):
        flags |= IS_WORD
    if any(map(str.isalpha, token)):
        return flags | HAS_LETTER
    if token in SENTENCE_ENDS:
        flags |= ENDS_SENTENCE
    if all(unicodedata.category(character)[0] == "P" for character in token):
        flags |= IS_PUNCTUATION
    return flags


class _TokenTable(dict[str, int]):
    """Every distinct token -> its number, which is its row in the columns `lengths`, `flags` and `hashes`."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths, self.flags, self.hashes = array("q"), array("H"), array("Q")

    def __missing__(self, token: str) -> int:
        number = self[token] = len(self.lengths)
        self.lengths.append(len(token))
        self.flags.append(_flags(token))
        self.hashes.append(word_hash(token))
        return number


class _ChunkTable(dict[str, int]):
    """Every distinct chunk -> its number n; its tokens are `tokens[starts[n] : starts[n] + counts[n]]`, numbers in
    `token_table`."""

    def __init__(self) -> None:
        super().__init__()
        self.token_table, self.tokens = _TokenTable(), array("q")
        self.starts, self.counts = array("q"), array("q")

    def __missing__(self, chunk: str) -> int:
        tokens = split_chunk(chunk)
        number = self[chunk] = len(self.starts)
        self.starts.append(len(self.tokens))
        self.counts.append(len(tokens))
        self.tokens.extend(map(self.token_table.__getitem__, tokens))
        return number

    def gather(self, chunks: list[str]) -> tuple[Any, Any, Any]:
        """Lengths (int64), flags (uint16) and hashes (uint64) of the tokens of these chunks, each [tokens]."""
        import numpy as np

        if not chunks:
            return np.empty(0, np.int64), np.empty(0, np.uint16), np.empty(0, np.uint64)
        numbers = np.fromiter(map(self.__getitem__, chunks), dtype=np.int64, count=len(chunks))
        counts = np.frombuffer(self.counts, np.int64)[numbers]
        ends = np.cumsum(counts)
        rows = np.repeat(np.frombuffer(self.starts, np.int64)[numbers] - (ends - counts), counts)
        rows += np.arange(ends[-1])
        tokens = np.frombuffer(self.tokens, np.int64)[rows]
        table = self.token_table
        columns = ((table.lengths, np.int64), (table.flags, np.uint16), (table.hashes, np.uint64))
        lengths, flags, hashes = (np.frombuffer(column, dtype)[tokens] for column, dtype in columns)
        return lengths, flags, hashes


_chunks = _ChunkTable()
