"""Several answers to one prompt with scores, ranks or a verdict: the best becomes the chosen one, the worst the
rejected one. A record in which none is better is refused, so that no bad answer is taught."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from soldiom_ray.collect.documents.cell_values import as_number
from soldiom_ray.collect.documents.formed import FormedRecord, Record

PROMPTS = ("prompt", "instruction", "question", "query", "history", "context", "input", "title", "post", "info")
_LISTS = ("completions", "answers", "responses", "candidates", "summaries", "outputs", "generations", "replies")
_TEXTS = ("response", "answer", "text", "completion", "output", "content", "body", "summary")
_SCORES = (
    *("overall_score", "score", "pm_score", "rating", "reward", "upvotes", "votes", "likes", "helpfulness"),
    *("fine-grained_score", "quality"),
)
_RANKS = ("rank", "ranking", "position")
_SCORE_LISTS = ("scores", "ratings", "rewards", "votes", "upvotes")
_RANK_LISTS = ("ranks", "ranking", "rankings")
_PAIRED = re.compile(
    r"(response|answer|output|completion|conversation|human_ref|summary|generation)_?([ab012])", re.IGNORECASE
)
_VERDICTS = (
    "winner",
    "preferred",
    "preference",
    "better_response_id",
    "overall_preference",
    "choice",
    "better",
    "chosen",
)
_SIGNED = ("overall_preference",)
"""Verdicts below 0 for the first answer, above for the second."""


def scored_list(record: Record) -> FormedRecord | None:
    """`completions: [{response, overall_score}, …]` (UltraFeedback, Nectar, Stack Exchange), {text: […], score: […]}
    (ELI5), or lists of answers and of scores beside one another."""
    name = next((name for name in _LISTS if isinstance(record.get(name), (list, Mapping))), None)
    prompt = _prompt_name(record)
    if name is None or prompt is None:
        return None
    value, used = record[name], {name, prompt}
    answers = _rows(value)
    for lists, sign in ((_SCORE_LISTS, 1), (_RANK_LISTS, -1)):
        scores = next((other for other in lists if _is_numbers(record.get(other), len(value))), None)
        if answers is None and scores and isinstance(value, list) and all(isinstance(text, str) for text in value):
            answers = [(text, sign * float(number)) for text, number in zip(value, record[scores], strict=True)]
            used.add(scores)
    if answers is None and isinstance(record.get("choice"), int) and isinstance(value, list):
        texts = [_text_of(entry) for entry in value]
        answers = [(text or "", float(place == record["choice"])) for place, text in enumerate(texts)]
        used.add("choice")
        return _compared(record, prompt, answers, used, is_rated=False)
    if not answers:
        return None
    return _compared(record, prompt, answers, used, is_rated=all(score >= 0 for _, score in answers))


def answers_in_pairs(names: Iterable[str]) -> dict[str, re.Match[str]]:
    """The names of two answers of one kind, response_a and response_b; none where there are none, or more."""
    found = {name: match for name in names if (match := _PAIRED.fullmatch(name))}
    return found if len(found) == 2 and len({match[1].lower() for match in found.values()}) == 1 else {}


def verdict(record: Record) -> FormedRecord | None:
    """Two answers in columns of their own and which is better: by name (`winner: model_a`), by number, or by a score
    each (`answer_0`, `score_0`, …)."""
    found = answers_in_pairs(record)
    prompt = _prompt_name(record)
    if not found:
        return None
    first, second = sorted(found, key=lambda name: found[name][2].lower())
    if prompt is None and not found[first][1].lower().startswith("conversation"):
        return None
    ends = (found[first][2], found[second][2])
    scores = _scores_of(record, ends)
    decided = next((name for name in _VERDICTS if record.get(name) is not None), None)
    used = {first, second, *([prompt] if prompt else [])}
    if scores is not None:
        better, used = scores[0] - scores[1], {*used, *(f"score_{end}" for end in ends), "labels"}
    elif decided is not None:
        preference = _preference(decided, record[decided], ends)
        if preference is None:
            return None
        better, used = preference, {*used, decided}
    elif found[first][1].lower() == "human_ref" and record.get("labels") in (0, 1):
        better, used = (1.0 if record["labels"] else -1.0), {*used, "labels"}
    else:
        return None
    answers = [(record[first], better), (record[second], -better)]
    formed = _compared(record, prompt, answers, used, is_rated=False)
    if scores is not None and max(scores) < 0 and not formed.refused:
        formed.refused = ("bad_answer", f"the better answer has the score {max(scores):g}")
    return formed


def _compared(
    record: Record, prompt: str | None, answers: Sequence[tuple[Any, float]], used: set[str], *, is_rated: bool
) -> FormedRecord:
    """The record of a prompt with its best and its worst answer; `used` are the columns that went into it."""
    ordered = sorted(answers, key=lambda answer: -answer[1])
    formed = FormedRecord({name: value for name, value in record.items() if name not in used}, form="ranked answers")
    if prompt is not None:
        formed["prompt"] = _prompt_text(record[prompt])
    if len(ordered) == 1:
        formed["completion"] = ordered[0][0]
    elif ordered[0][1] == ordered[-1][1]:
        formed.refused = ("no_preference", f"none of its {len(ordered)} answers is better than another")
    else:
        formed |= {"chosen": ordered[0][0], "rejected": ordered[-1][0]}
        formed.notes = ["answers between the best and the worst"] * (len(ordered) - 2)
    if is_rated and not formed.refused:
        formed["rating"] = ordered[0][1]
    return formed


def _rows(value: Any) -> list[tuple[Any, float]] | None:
    """(answer, score, higher is better) of a list of answers with a score each."""
    if isinstance(value, Mapping):
        lists = {name: column for name, column in value.items() if isinstance(column, list)}
        if not lists or len({len(column) for column in lists.values()}) != 1:
            return None
        value = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    rows: list[tuple[Any, float]] = []
    for entry in value if isinstance(value, list) else ():
        text = _text_of(entry) if isinstance(entry, Mapping) else None
        score, rank = (None, None) if text is None else (_first_number(entry, names) for names in (_SCORES, _RANKS))
        if text is None or (score is None and rank is None):
            return None
        rows.append((text, score if score is not None else -(rank or 0.0)))
    return rows or None


def _text_of(entry: Any) -> str | None:
    if isinstance(entry, str):
        return entry
    texts = (entry.get(name) for name in _TEXTS) if isinstance(entry, Mapping) else ()
    return next((text for text in texts if isinstance(text, str)), None)


def _first_number(entry: Mapping[str, Any], names: Sequence[str]) -> float | None:
    return next((number for name in names if (number := as_number(entry.get(name))) is not None), None)


def _is_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(as_number(number) is not None for number in value)


def _scores_of(record: Record, ends: tuple[str, str]) -> tuple[float, float] | None:
    numbers = [as_number(record.get(f"score_{end}")) for end in ends]
    return (numbers[0], numbers[1]) if numbers[0] is not None and numbers[1] is not None else None


def _preference(name: str, value: Any, ends: tuple[str, str]) -> float | None:
    """Above 0 for the first answer, below for the second, 0 for neither; None where it cannot be told."""
    number = as_number(value)
    if name in _SIGNED:
        return -number if number is not None else None
    written = str(value).strip().lower()
    if "tie" in written or written in ("both", "neither", "equal", "same", "none"):
        return 0.0
    for end, sign in zip(ends, (1.0, -1.0), strict=True):
        if written == end.lower() or written.endswith((f"_{end.lower()}", f" {end.lower()}")):
            return sign
    return None


def _prompt_name(record: Record) -> str | None:
    return next((name for name in PROMPTS if record.get(name)), None)


def _prompt_text(value: Any) -> Any:
    """A prompt as text or messages; of an object its fullest text."""
    if isinstance(value, Mapping):
        texts = [str(value[name]) for name in ("full_text", "text", "post", "title", "article") if value.get(name)]
        return texts[0] if texts else value
    return value
