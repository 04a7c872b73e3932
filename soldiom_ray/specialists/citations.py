"""Answers with citations against the passages they cite.

The check is one of words: a claim is supported where the cited passage has its numbers and most of its content words
close together, and denies nothing that the claim does not. It cannot see a contradiction in other words.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from soldiom_ray.errors import InputError
from soldiom_ray.specialists.evidence import text_of
from soldiom_ray.specialists.wording import content_words, directions, has_negation, numbers, sentence_spans

CITATION = re.compile(r"\[(?P<numbers>[0-9]{1,6}(?:(?:, ?|; ?| ?[-\u2013] ?)[0-9]{1,6}){0,32})\]")
SUPPORTED = 0.6
"""Share of a claim's content words that a window of its passage must have."""
WINDOW_SENTENCES = 3
MAX_CHARACTERS = 2 << 20
MAX_PASSAGES = 1000
MIN_WORDS = 2


@dataclass(frozen=True, slots=True)
class Window:
    """Some sentences of a passage that follow one another."""

    words: frozenset[str]
    numbers: frozenset[str]
    negated: bool
    directions: frozenset[str]


def check_citations(document: dict[str, Any]) -> dict[str, Any]:
    """`{"answer": text with [1], [2, 3] or [1-3], "passages": [text or {"text": str}]}` -> `{"claims", "counts",
    "precision", "coverage"}`; passages count from 1.

    A claim is a sentence: `{"text", "start", "end", "cites", "status", "score", "missing", "note"}` with the status
    `supported`, `unsupported` (cited, but the passage does not say it), `uncited`, or `unknown passage`; headings and
    what has fewer than two content words are no claims. `score` is the share of its content words in the best window
    of a cited passage, `missing` what that window lacks. `precision` is supported of cited claims, `coverage` supported
    of all claims; null where there is none."""
    answer = text_of(document, "answer")
    passages = _passages(document.get("passages"))
    if len(answer) + sum(map(len, passages)) > MAX_CHARACTERS:
        raise InputError(
            f"answer and passages have more than {MAX_CHARACTERS} characters", remedy="Give the cited passages only."
        )
    windows = [_windows(passage) for passage in passages]
    claims = [
        claim for start, end in sentence_spans(answer) if (claim := _claim(answer, start, end, windows)) is not None
    ]
    counts = Counter(claim["status"] for claim in claims)
    cited = len(claims) - counts["uncited"]
    return {
        "claims": claims,
        "counts": {status: counts[status] for status in ("supported", "unsupported", "uncited", "unknown passage")},
        "precision": round(counts["supported"] / cited, 4) if cited else None,
        "coverage": round(counts["supported"] / len(claims), 4) if claims else None,
    }


def cited_numbers(sentence: str, most: int) -> list[int]:
    """The numbers that a sentence cites, ranges written out, none above `most` but the ends of a range."""
    cites: list[int] = []
    for match in CITATION.finditer(sentence):
        for part in re.split(r"[,;] ?", match["numbers"]):
            first, *rest = (int(number) for number in re.findall("[0-9]+", part))
            last = rest[-1] if rest else first
            cites += [*range(first, min(last, most) + 1)] if first <= most else [first]
            cites += [last] if last > most and last != first else []
    return list(dict.fromkeys(cites))


def _passages(given: Any) -> list[str]:
    if not isinstance(given, list) or len(given) > MAX_PASSAGES:
        raise InputError(f'"passages" is not a list of at most {MAX_PASSAGES} texts')
    texts = [passage.get("text") if isinstance(passage, dict) else passage for passage in given]
    wrong = [number for number, text in enumerate(texts, 1) if not isinstance(text, str)]
    if wrong:
        raise InputError(f"passage {wrong[0]} is not a text", remedy='Give texts, or objects with "text".')
    return [str(text) for text in texts]


def _windows(passage: str) -> list[Window]:
    sentences = [passage[start:end] for start, end in sentence_spans(passage)]
    words = [frozenset(content_words(sentence)) for sentence in sentences]
    figures = [frozenset(numbers(sentence)) for sentence in sentences]
    negated = [has_negation(sentence) for sentence in sentences]
    ways = [directions(sentence) for sentence in sentences]
    spans = [(at, at + WINDOW_SENTENCES) for at in range(max(1, len(sentences) - WINDOW_SENTENCES + 1))]
    return [
        Window(
            frozenset().union(*words[a:b]),
            frozenset().union(*figures[a:b]),
            any(negated[a:b]),
            frozenset().union(*ways[a:b]),
        )
        for a, b in spans
    ]


def _claim(answer: str, start: int, end: int, windows: list[list[Window]]) -> dict[str, Any] | None:
    written = answer[start:end]
    bare = CITATION.sub(" ", written)
    words, figures = list(dict.fromkeys(content_words(bare))), list(dict.fromkeys(numbers(bare)))
    if len(words) + len(figures) < MIN_WORDS or written.startswith("#"):
        return None
    cites = cited_numbers(written, len(windows))
    claim = {"text": written, "start": start, "end": end, "cites": cites}
    if not cites:
        return claim | {"status": "uncited", "score": 0.0, "missing": [], "note": ""}
    unknown = [number for number in cites if not 1 <= number <= len(windows)]
    if unknown:
        note = f"there is no passage {unknown[0]}"
        return claim | {"status": "unknown passage", "score": 0.0, "missing": [], "note": note}
    return claim | _best_support(bare, words, figures, [window for number in cites for window in windows[number - 1]])


def _best_support(bare: str, words: list[str], figures: list[str], windows: list[Window]) -> dict[str, Any]:
    """Score, status and what is missing by the window that has most of the claim; numbers weigh before words."""
    best = max(
        windows,
        key=lambda window: (sum(n in window.numbers for n in figures), sum(w in window.words for w in words)),
        default=Window(frozenset(), frozenset(), False, frozenset()),
    )
    missing = [word for word in words if word not in best.words]
    lacking = [figure for figure in figures if figure not in best.numbers]
    score = round(1 - (len(missing) + len(lacking)) / (len(words) + len(figures)), 4)
    denies = has_negation(bare) and not best.negated
    way = directions(bare)
    opposed = len(way) == 1 and bool(best.directions) and not way & best.directions
    note = (
        "the claim denies, the passage does not" if denies else "the passage says the opposite way" if opposed else ""
    )
    status = "supported" if score >= SUPPORTED and not (lacking or denies or opposed) else "unsupported"
    return {"status": status, "score": score, "missing": lacking + missing, "note": note}
