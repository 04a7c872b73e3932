"""Filters for code with the thresholds of the published code corpora. Each looks at one document, lets prose through,
and returns the value that refuses it. Long lines and generated code are the business of `basic`.

Sources: The Stack (Kocetkov et al. 2022), SantaCoder (Allal et al. 2023, arXiv 2301.03988), StarCoder (Li et al. 2023,
arXiv 2305.06161, section 3.1), StarCoder2 (Lozhkov et al. 2024, arXiv 2402.19173, appendix A), and their code,
bigcode-project/bigcode-dataset, preprocessing/filtering.py.
"""

import re

from soldiom_ray.prepare.filters.filter_text import FilterText

MIN_ALPHANUMERIC = 0.25
XML_DECLARATION_WITHIN = 100
HTML_BEGIN_WITHIN = 1000
MIN_VISIBLE, MIN_VISIBLE_CHARACTERS = 0.2, 100
DATA_SUFFIXES = (".json", ".yaml", ".yml")
MIN_DATA_CHARACTERS, MAX_DATA_CHARACTERS = 50, 5000
MAX_ENCODED_RUN, MAX_ENCODED_SHARE = 1024, 0.5
MIN_COMMENTS, MAX_COMMENTS = 0.01, 0.8

HTML_BEGIN = re.compile(r"<!doctype\s+html|<html\b", re.IGNORECASE)
INVISIBLE_MARKUP = re.compile(
    r"<(script|style)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)|<[^<>]*>", re.IGNORECASE | re.DOTALL
)
ENCODED = (
    ("base64", re.compile(r"[a-zA-Z0-9+/\n=]{64,}")),
    ("hexadecimal", re.compile(r"(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|\b\s*)){8,}")),
    ("escapes", re.compile(r"(?:\\u[0-9a-fA-F]{4}){8,}")),
)
STRING = r"""(?:"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?)"""
PYTHON_COMMENT = re.compile(
    r'(?P<first>^[ \t]*[rRuU]?)?(?:(?P<quotes>"""|\'\'\')(?P<text>(?:[^\\]|\\.)*?)(?:(?P=quotes)|\Z)|'
    + STRING
    + r")|#(?P<comment>[^\n]*)",
    re.MULTILINE | re.DOTALL,
)
C_STYLE_COMMENT = re.compile(r"(?P<comment>//[^\n]*|/\*.*?(?:\*/|\Z))|" + STRING + r"|`(?:[^`\\]|\\.)*`?", re.DOTALL)
COMMENT_PATTERNS = dict.fromkeys((".py", ".pyi", ".pyx"), PYTHON_COMMENT) | dict.fromkeys(
    (".js", ".mjs", ".jsx", ".ts", ".tsx", ".java", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".cuh", ".go", ".rs"),
    C_STYLE_COMMENT,
)


def alphanumeric(document: FilterText) -> str | None:
    """Too few letters and digits among all characters (The Stack, StarCoder: 0.25)."""
    if not document.is_code or not document.text:
        return None
    share = sum(map(str.isalnum, document.text)) / len(document.text)
    return f"{share:.2f} letters and digits" if share < MIN_ALPHANUMERIC else None


def xml(document: FilterText) -> str | None:
    """An XML declaration within the first 100 characters, whatever the suffix says (StarCoder)."""
    return (
        "XML declaration" if document.is_code and "<?xml version=" in document.text[:XML_DECLARATION_WITHIN] else None
    )


def html(document: FilterText) -> str | None:
    """HTML of which less than a fifth, or no more than 100 characters, is text that a reader sees (StarCoder)."""
    text = document.text
    if not document.is_code or not HTML_BEGIN.search(text[:HTML_BEGIN_WITHIN]):
        return None
    visible = len(INVISIBLE_MARKUP.sub("", text))
    share = visible / len(text)
    return None if share > MIN_VISIBLE and visible > MIN_VISIBLE_CHARACTERS else f"{share:.2f} visible text"


def data_size(document: FilterText) -> str | None:
    """JSON and YAML below 50 or above 5,000 characters: nothing, or data rather than configuration (StarCoder)."""
    size = len(document.text)
    if document.suffix not in DATA_SUFFIXES or MIN_DATA_CHARACTERS <= size <= MAX_DATA_CHARACTERS:
        return None
    return f"{size} characters of data"


def encoded_data(document: FilterText) -> str | None:
    """Data inside code as base64, hexadecimal numbers or escapes: one run over 1,024 characters or half of the file
    (StarCoder2)."""
    if not document.is_code:
        return None
    total = 0
    for name, pattern in ENCODED:
        for match in pattern.finditer(document.text):
            length = match.end() - match.start()
            total += length
            if length > MAX_ENCODED_RUN:
                return f"{length} characters of {name}"
    return f"{total / len(document.text):.2f} encoded data" if total > MAX_ENCODED_SHARE * len(document.text) else None


def comments(document: FilterText) -> str | None:
    """Hardly any comments, or hardly anything else (SantaCoder: share of characters below 0.01 or above 0.8;
    docstrings count). Applies to the suffixes of COMMENT_PATTERNS."""
    share = comment_share(document.text, document.suffix) if document.is_code else None
    return f"{share:.3f} comments" if share is not None and not MIN_COMMENTS <= share <= MAX_COMMENTS else None


def comment_share(text: str, suffix: str) -> float | None:
    """Characters in comments and docstrings over all; None for an unknown language or an empty text."""
    pattern = COMMENT_PATTERNS.get(suffix)
    if pattern is None or not text:
        return None
    total = 0
    for match in pattern.finditer(text):
        if match["comment"] is not None:
            total += len(match["comment"])
        elif pattern is PYTHON_COMMENT and match["first"] is not None and match["text"] is not None:
            total += len(match["text"])
    return total / len(text)
