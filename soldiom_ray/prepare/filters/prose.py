"""Filters for prose with the thresholds of the published web corpora. Each looks at one document, lets code through,
and returns the first value that refuses it. They are meant for English.

The order of rules and the counts follow datatrove 0.10 (pipeline/filters), so that a corpus made here compares with
FineWeb. C4's line rules only judge the document here: no filter changes a text.
"""

import re

from soldiom_ray.prepare.filters.filter_text import FilterText
from soldiom_ray.prepare.filters.prose_tokens import (
    ENDS_SENTENCE,
    FIRST_STOP_WORD,
    HAS_LETTER,
    IS_PUNCTUATION,
    IS_WORD,
    SENTENCE_ENDS,
    tokens_of,
)
from soldiom_ray.prepare.filters.repetition import duplicated, repeated_words

MIN_WORDS, MAX_WORDS = 50, 100_000
MIN_MEAN_WORD_CHARACTERS, MAX_MEAN_WORD_CHARACTERS = 3, 10
MAX_SYMBOLS_PER_WORD = 0.1
MAX_BULLET_LINES = 0.9
MAX_ELLIPSIS_LINES = 0.3
MIN_WORDS_WITH_LETTERS = 0.8
MIN_STOP_WORDS = 2

MAX_DUPLICATE_LINES = MAX_DUPLICATE_PARAGRAPHS = 0.3
MAX_DUPLICATE_LINE_CHARACTERS = MAX_DUPLICATE_PARAGRAPH_CHARACTERS = 0.2

C4_LINE_ENDS = (".", "?", "!", '"', "'")
MIN_SENTENCES = 5
MIN_WORDS_IN_LINE = 3
MAX_WORD_CHARACTERS = 1000
CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
POLICY = re.compile("terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")
SENTENCE_END_INSIDE = re.compile(f"[{re.escape(''.join(SENTENCE_ENDS))}]\\W*\\s")

MIN_PUNCTUATED_LINES = 0.12
SHORT_LINE_CHARACTERS = 30
MAX_SHORT_LINES = 0.67
MAX_REPEATED_LINE_CHARACTERS = 0.01
MAX_LINES_PER_WORD = 0.3


def gopher_quality(document: FilterText) -> str | None:
    """Gopher's quality rules (Rae et al. 2021, arXiv 2112.11446, appendix A.1.1): words, their mean length, symbols,
    bullets, ellipses, letters, stop words."""
    if document.is_code:
        return None
    text, tokens = document.text, document.tokens
    is_word = (tokens.flags & IS_WORD).astype(bool)
    words = int(is_word.sum())
    if not MIN_WORDS <= words <= MAX_WORDS:
        return f"{words} words"
    mean = int(tokens.lengths[is_word].sum()) / words
    if not MIN_MEAN_WORD_CHARACTERS <= mean <= MAX_MEAN_WORD_CHARACTERS:
        return f"mean word {mean:.2f} characters"
    for name, count in (("hashes", text.count("#")), ("ellipses", text.count("...") + text.count("…"))):
        if count / len(tokens) > MAX_SYMBOLS_PER_WORD:
            return f"{count / len(tokens):.2f} {name} per word"
    return _gopher_lines(document.any_lines) or _gopher_words(document)


def _gopher_lines(lines: list[str]) -> str | None:
    bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines)
    if bullets > MAX_BULLET_LINES:
        return f"{bullets:.2f} of its lines are bullets"
    ellipses = sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines)
    return f"{ellipses:.2f} of its lines end in an ellipsis" if ellipses > MAX_ELLIPSIS_LINES else None


def _gopher_words(document: FilterText) -> str | None:
    import numpy as np

    flags = document.tokens.flags
    share = np.count_nonzero(flags & HAS_LETTER) / len(flags)
    if share < MIN_WORDS_WITH_LETTERS:
        return f"{share:.2f} of its words have letters"
    stop_words = (int(np.bitwise_or.reduce(flags)) // FIRST_STOP_WORD).bit_count()
    return f"{stop_words} stop words" if stop_words < MIN_STOP_WORDS else None


def gopher_repetition(document: FilterText) -> str | None:
    """Gopher's repetition rules (Rae et al. 2021, table A1): repeated paragraphs, lines, and runs of words, by number
    and by characters."""
    if document.is_code:
        return None
    text = document.text
    paragraphs = re.split(r"\n{2,}", text.strip())
    repeated, characters = duplicated(paragraphs)
    if repeated / len(paragraphs) > MAX_DUPLICATE_PARAGRAPHS:
        return f"{repeated / len(paragraphs):.2f} of its paragraphs are repeated"
    if characters > MAX_DUPLICATE_PARAGRAPH_CHARACTERS * len(text):
        return f"{characters / len(text):.2f} of its characters are repeated paragraphs"
    # Split at runs of line feeds, a text that begins or ends with one has an empty first or last line.
    edges = [""] * (text.startswith("\n") + text.endswith("\n"))
    lines = [*filter(None, document.lines), *edges]
    repeated, characters = duplicated(lines)
    if lines and repeated / len(lines) > MAX_DUPLICATE_LINES:
        return f"{repeated / len(lines):.2f} of its lines are repeated"
    if characters > MAX_DUPLICATE_LINE_CHARACTERS * len(text):
        return f"{characters / len(text):.2f} of its characters are repeated lines"
    return repeated_words(document.tokens, len(text))


def c4(document: FilterText) -> str | None:
    """C4's rules (Raffel et al. 2020, section 2.2, and its code, tensorflow_datasets text/c4_utils.py): at least five
    sentences in lines that end like sentences; no lorem ipsum and no curly bracket in them. Lines about javascript,
    cookies and terms of use, with two words or with a word over 1,000 characters do not count."""
    if document.is_code:
        return None
    sentences = 0
    for line in map(str.strip, document.any_lines):
        uncited = CITATION.sub("", line) if "[" in line else line
        if not uncited.endswith(C4_LINE_ENDS) or uncited.endswith("...") or not _has_c4_words(line):
            continue
        lower = uncited.lower()
        if "lorem ipsum" in lower:
            return "lorem ipsum"
        if "javascript" in lower:
            continue
        if "{" in uncited:
            return "curly bracket"
        if not POLICY.search(lower) and sentences < MIN_SENTENCES:
            sentences += count_sentences(uncited)
    return f"{sentences} sentences" if sentences < MIN_SENTENCES else None


def _has_c4_words(line: str) -> bool:
    if len(line.split(None, MIN_WORDS_IN_LINE)) < MIN_WORDS_IN_LINE:
        return False
    return len(line) <= MAX_WORD_CHARACTERS or max(map(len, line.split())) <= MAX_WORD_CHARACTERS


def count_sentences(line: str) -> int:
    """Sentences as spaCy's sentencizer counts them: after a token that ends one, the next that is no punctuation begins
    another."""
    if not SENTENCE_END_INSIDE.search(line):
        return 1
    count, has_ended = 1, False
    for flags in tokens_of(line).flags.tolist():
        if flags & ENDS_SENTENCE:
            has_ended = True
        elif has_ended and not flags & IS_PUNCTUATION:
            count, has_ended = count + 1, False
    return count


def fineweb(document: FilterText) -> str | None:
    """FineWeb's own rules (Penedo et al. 2024, arXiv 2406.17557, section 3.6): lines that end in punctuation, short
    lines, characters in repeated lines, line breaks per word."""
    if document.is_code:
        return None
    lines = document.filled_lines
    if not lines:
        return "no lines"
    punctuated = sum(map(SENTENCE_ENDS.__contains__, [line[-1] for line in lines])) / len(lines)
    if punctuated < MIN_PUNCTUATED_LINES:
        return f"{punctuated:.2f} of its lines end in punctuation"
    short = sum(map(SHORT_LINE_CHARACTERS.__ge__, map(len, lines))) / len(lines)
    if short > MAX_SHORT_LINES:
        return f"{short:.2f} of its lines are short"
    breaks = len(document.lines) - 1
    repeated = duplicated(lines)[1] / (len(document.text) - breaks)
    if repeated > MAX_REPEATED_LINE_CHARACTERS:
        return f"{repeated:.3f} of its characters are repeated lines"
    words = len(document.tokens)
    return f"{breaks / words:.2f} line breaks per word" if breaks > MAX_LINES_PER_WORD * words else None
