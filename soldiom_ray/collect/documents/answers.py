"""What stands in a record's cells: a question's parts, an answer in its many forms, and whether it is a good one."""

from collections.abc import Mapping
from typing import Any

from soldiom_ray.collect.documents.cell_values import BAD, as_number, plain
from soldiom_ray.collect.documents.columns import Columns
from soldiom_ray.collect.documents.tool_calls import parsed_json
from soldiom_ray.collect.documents.turns import content_text
from soldiom_ray.collect.text import SkippedError

_MARKED = ("true", "1", "1.0", "yes")


def bad_answer(record: Mapping[str, Any], columns: Columns) -> str:
    """Why a record's answer must not be taught as a good one, "" when nothing speaks against it: a rating below the
    middle of its scale, KTO's label false, a mark such as toxic, a step that is marked wrong, or it is the rejected one
    alone."""
    roles = columns.by_role
    if columns.is_rejected_alone:
        return "it is a rejected answer without the chosen one"
    if "rating" in roles and (why := _low_rating(record.get(roles["rating"]), columns.middle)):
        return f"{roles['rating']} is {why}"
    if "bad_mark" in roles and (mark := plain(record.get(roles["bad_mark"])).strip().lower()) in _MARKED:
        return f"{roles['bad_mark']} is {mark}"
    if columns.label_is_mark and plain(record.get(roles["label"])).strip().lower() in BAD | {"0.0"}:
        return f"{roles['label']} is {plain(record[roles['label']])}"
    if not columns.pair_score_names.isdisjoint(record) and (why := _contrary_scores(record, columns)):
        return why
    if "step_labels" in roles:
        marks = record.get(roles["step_labels"])
        if isinstance(marks, list) and marks and _is_wrong(marks[0]):
            return f"step 1 of {len(marks)} is marked wrong"
    return ""


def _contrary_scores(record: Mapping[str, Any], columns: Columns) -> str:
    """What a pair's scores say where they prefer the rejected answer."""
    for names in columns.pair_scores:
        if names[0] in record and names[1] in record:
            chosen, rejected = (as_number(record[name]) for name in names)
            if chosen is not None and rejected is not None and chosen < rejected:
                return f"the chosen answer has the score {chosen:g}, the rejected one {rejected:g}"
    return ""


def good_steps(record: Mapping[str, Any], roles: Mapping[str, str]) -> tuple[str, list[str]]:
    """(the steps of a solution before the first that is marked wrong, what was left out). Later ones build on it."""
    steps, marks = record.get(roles["steps"]) or [], record.get(roles["step_labels"]) or []
    if not isinstance(steps, list) or not isinstance(marks, list):
        raise SkippedError("damaged", f"{roles['steps']} and {roles['step_labels']} are not both lists")
    texts = [content_text(step) for step in steps]
    wrong = next((number for number, mark in enumerate(marks) if _is_wrong(mark)), len(texts))
    notes = ["steps that are marked wrong, or come after one"] * (len(texts) - wrong)
    return "\n".join(texts[:wrong]), notes


def _is_wrong(mark: Any) -> bool:
    number = as_number(mark)
    return mark is False or plain(mark).strip().lower() in BAD or (number is not None and number < 0)


def _low_rating(value: Any, middle: float | None) -> str:
    number = as_number(value)
    if value is False or (isinstance(value, str) and number is None and value.strip().lower() in BAD):
        return str(value).strip().lower()
    if number is not None and (number < 0 or (middle is not None and number < middle)):
        return f"{number:g}" + (f", below {middle:g}" if middle is not None else "")
    return ""


def answer_text(value: Any, column: str) -> str:
    """An answer as text: SQuAD's {"text": [...]} and lists under a plural name are several answers of which the first
    is taken; numbers, other lists and objects are written out."""
    if isinstance(value, str) and value.startswith("{") and "answer_start" in value:
        value = parsed_json(value)  # SQuAD's in a table
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        value = next((text for text in value["text"] if str(text).strip()), "")
    elif isinstance(value, Mapping) and isinstance(value.get("text"), str):
        value = value["text"]
    elif isinstance(value, Mapping) and isinstance(value.get("value"), str):
        value = value["value"]  # TriviaQA, beside its aliases
    elif isinstance(value, list) and column.strip().lower().endswith("answers") and len(value) > 0:
        first = value[0]
        value = answer_text(first, "") if isinstance(first, Mapping) else first
    return value_text(value).strip()


def context_text(value: Any) -> str:
    """What a question is about: a text, or the texts of a list or an object (PubMedQA's `contexts`, HotpotQA's titles
    with their sentences)."""
    if isinstance(value, Mapping):
        titles, parts = value.get("title"), value.get("sentences")
        if isinstance(titles, list) and isinstance(parts, list) and len(titles) == len(parts):
            return "\n\n".join(f"{title}\n{context_text(part)}" for title, part in zip(titles, parts, strict=True))
        inner = next((value[name] for name in ("contexts", "text", "passages", "paragraphs") if value.get(name)), None)
        return value_text(value).strip() if inner is None else context_text(inner)
    if isinstance(value, list) and all(isinstance(part, (str, Mapping)) for part in value):
        joint = "\n\n" if any(isinstance(part, Mapping) or len(part) > 200 for part in value) else "\n"
        return joint.join(part if isinstance(part, str) else context_text(part) for part in value).strip()
    return value_text(value).strip()


def value_text(value: Any) -> str:
    """A value as part of a text: a list of texts paragraph by paragraph, objects as JSON."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n\n".join(value)
    return plain(value)
