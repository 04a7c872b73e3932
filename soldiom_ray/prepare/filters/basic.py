"""Filters for documents of every kind: words, line length, letters, generated code.

The thresholds follow published corpora: line length and share of letters from StarCoder (Li et al. 2023, section 3.1);
the least number of words is below what Gopher uses for web pages, since notes and small modules are wanted here.
"""

import re

from soldiom_ray.prepare.filters.filter_text import FilterText

MIN_WORDS = 10
MAX_LINE_CHARACTERS = 1000
MAX_MEAN_LINE_CHARACTERS = 100
MIN_LETTERS = 0.4
MAX_DATA_LINES = 0.6
MIN_TABLE_LINES = 50
SAMPLED_LINES = 100

LETTERS = bytes(range(65, 91)) + bytes(range(97, 123))
BLANKS = b" \t\n\r"
NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
GENERATED_MARKER = re.compile(
    r"@generated\b|\bauto(?:matically)?[- ]?generated\b|\bgenerated (?:by|from|using|with)\b.*\b(?:do not|don't)\b"
    r"|\bdo not (?:manually )?(?:edit|modify)\b|\bcode generated\b",
    re.IGNORECASE,
)
COMMENT = re.compile(r"^\s*(?:#|//|/\*|\*|;|--|<!--|\"\"\"|''')")
DATA_LINE = re.compile(r"(?=.*[\d'\"])(?:[-+\d.,:;xXeEa-fA-F\s()\[\]{}]+|[\[({\s]*(?:['\"][^'\"]*['\"][\s,:\])}]*)+)")


def min_words(document: FilterText) -> str | None:
    """Fewer words than MIN_WORDS."""
    words = len(document.text.split(None, MIN_WORDS))
    return f"{words} words" if words < MIN_WORDS else None


def line_length(document: FilterText) -> str | None:
    """Code with very long lines: data, minified or encoded. Prose may have a paragraph on a line."""
    if not document.is_code:
        return None
    lines = document.lines
    longest, mean = max(map(len, lines)), len(document.text) / len(lines)
    if longest > MAX_LINE_CHARACTERS:
        return f"longest line {longest} characters"
    return f"mean line {mean:.0f} characters" if mean > MAX_MEAN_LINE_CHARACTERS else None


def alphabetic(document: FilterText) -> str | None:
    """Too few letters among the characters that are not blank."""
    data = document.text.encode("utf-8", "replace")
    other = data.translate(None, LETTERS + BLANKS)
    visible = len(data) - sum(data.count(blank) for blank in BLANKS)
    letters = visible - len(other)
    if not document.text.isascii():
        not_ascii = "".join(NOT_ASCII.findall(document.text))
        letters += sum(map(str.isalpha, not_ascii))
        visible -= len(not_ascii.encode("utf-8", "replace")) - len(not_ascii)
    share = letters / visible if visible else 0.0
    return f"{share:.2f} letters" if share < MIN_LETTERS else None


def generated(document: FilterText) -> str | None:
    """Code that says in its first comments that a program wrote it, or that is mostly a table of data."""
    if not document.is_code:
        return None
    for line in document.text[:4000].split("\n")[:25]:
        if COMMENT.match(line) and (marker := GENERATED_MARKER.search(line)):
            return f"says {marker[0].lower()[:40]!r}"
    lines = document.filled_lines
    if len(lines) >= MIN_TABLE_LINES:
        sample = lines[:: max(1, len(lines) // SAMPLED_LINES)]
        share = sum(DATA_LINE.fullmatch(line) is not None for line in sample) / len(sample)
        if share > MAX_DATA_LINES:
            return f"{share:.2f} of its lines are data"
    return None
