"""Records whose parts stand in lists and objects of their own become records of the usual columns: questions about one
text, rankings, exports of chats. Nothing is done to records that have none of these forms."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from soldiom_ray.collect.documents.chat_exports import (
    chatgpt,
    choices_alone,
    cohere,
    exchange,
    response,
    slack,
    with_rows_joined,
)
from soldiom_ray.collect.documents.formed import FormedRecord, Record
from soldiom_ray.collect.documents.rankings import answers_in_pairs, scored_list, verdict

_Formed = FormedRecord | list[FormedRecord] | None


def formed(records: Sequence[Any]) -> list[Any]:
    """The records, those of a form that is known brought to the usual columns."""
    joined = _better_and_worse(with_rows_joined(slack(list(records))))
    result: list[Any] = []
    for record in joined:
        if type(record) is not dict and (not isinstance(record, Mapping) or isinstance(record, FormedRecord)):
            result.append(record)
            continue
        forms = _forms_of(tuple(record))
        result += _of_record(record, forms) if forms else [record]
    return result


@lru_cache(maxsize=1024)
def _forms_of(names: tuple[Any, ...]) -> list[Callable[[Record], _Formed]]:
    """The forms that a record with these names may have."""
    known = frozenset(map(str, names))
    paired = [verdict] if answers_in_pairs(known) else []
    return paired + [form for needed, form in _FORMS if any(some <= known for some in needed)]


def _of_record(record: Record, forms: Sequence[Callable[[Record], _Formed]]) -> list[Any]:
    for form in forms:
        try:
            found = form(record)
        except (AttributeError, LookupError, TypeError, ValueError):
            continue  # it only has the names of that form
        if found is not None:
            return found if isinstance(found, list) else [found]
    return [record]


def _better_and_worse(records: list[Any]) -> list[Any]:
    """LLaMA-Factory's former preferences, `output: [better, worse]`, where all records are so; others unchanged."""
    if not records or not isinstance(records[0], dict) or not isinstance(records[0].get("output"), list):
        return records
    if not all(isinstance(record, Mapping) and "instruction" in record for record in records):
        return records
    outputs = [record.get("output") for record in records]
    if not all(isinstance(texts, list) and len(texts) == 2 and len(_texts(texts)) == 2 for texts in outputs):
        return records
    result: list[Any] = []
    for record, (better, worse) in zip(records, outputs, strict=True):
        pair = FormedRecord(record, form="outputs of two, the better one first").without("output")
        pair |= {"chosen": better, "rejected": worse}
        result.append(pair)
    return result


def _intents(record: Record) -> list[FormedRecord] | None:
    """An intent of a chat bot: what people may say, and what is answered, of which the first is taken."""
    asked, answers = _texts(record["patterns"]), _texts(record["responses"])
    if not asked or not answers:
        return None
    rows = [
        FormedRecord({"question": text, "answer": answers[0], "group": str(record.get("tag", ""))}, form="intents")
        for text in asked
    ]
    rows[0].notes = ["further responses of an intent"] * (len(answers) - 1)
    return rows


def _verifiable(record: Record) -> FormedRecord | None:
    """Prompts for reinforcement learning as verl writes them, with the right answer beside its way of checking."""
    model = record["reward_model"]
    answer = model.get("ground_truth")
    if isinstance(answer, (list, Mapping)) or answer in (None, ""):
        return None
    known = FormedRecord(record, form="prompts with answers that can be checked").without("reward_model")
    known["answer"] = str(answer)
    return known


def _questions_about_a_text(record: Record) -> FormedRecord | None:
    """CoQA and QuAC: a story, and questions and answers that follow one another, as a conversation."""
    questions, answers = (_texts(record[name]) for name in ("questions", "answers"))
    if not questions or len(questions) != len(answers):
        return None
    name = next(
        (name for name in ("story", "context", "passage", "background") if isinstance(record.get(name), str)), ""
    )
    known = FormedRecord(record, form="questions about one text").without("questions", "answers", name)
    turns = [
        {"role": role, "content": text}
        for pair in zip(questions, answers, strict=True)
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    if name:
        turns[0]["content"] = f"{record[name]}\n\n{questions[0]}"
    known["messages"] = turns
    known.notes = ["second answers to questions"] * (1 if record.get("additional_answers") else 0)
    return known.without("additional_answers")


def _texts(value: Any) -> list[str]:
    """The texts of a list of texts or of objects with one; of {"input_text": [...]}."""
    if isinstance(value, Mapping):
        lists = (value.get(name) for name in ("input_text", "text", "texts", "question"))
        value = next((texts for texts in lists if isinstance(texts, list)), [])
    texts = []
    for entry in value if isinstance(value, list) else ():
        if isinstance(entry, Mapping):
            entry = next((entry[name] for name in ("input_text", "text", "question", "answer") if entry.get(name)), "")
        if isinstance(entry, list) and entry and all(isinstance(text, str) for text in entry):
            (entry, *_) = entry
        if not isinstance(entry, str):
            return []
        texts.append(entry)
    return texts


def _questions_about_a_table(record: Record) -> list[FormedRecord] | None:
    """TAT-QA: each question with the table and the paragraphs that it is about."""
    table: Any = record["table"].get("table") if isinstance(record["table"], Mapping) else record["table"]
    questions, paragraphs = record["questions"], record["paragraphs"]
    if not isinstance(table, list) or not isinstance(questions, list) or not isinstance(paragraphs, list):
        return None
    texts = [text.get("text", "") if isinstance(text, Mapping) else str(text) for text in paragraphs]
    rows = [" | ".join(map(str, row)) if isinstance(row, list) else str(row) for row in table]
    context = "\n\n".join(["\n".join(rows), *texts])
    return [_of_question(question, context, record) for question in questions if isinstance(question, Mapping)]


def _of_question(question: Record, context: str, record: Record) -> FormedRecord:
    answer, scale = question.get("answer"), question.get("scale") or ""
    texts = [str(part) for part in answer] if isinstance(answer, list) else [str(answer)] if answer is not None else []
    unit = f" {scale}" if scale and scale != "percent" else "%" if scale else ""
    uid = record["table"].get("uid") if isinstance(record["table"], Mapping) else None
    return FormedRecord(
        {"context": context, "question": question.get("question"), "answer": ", ".join(texts) + (unit if texts else "")}
        | ({"group": str(uid)} if uid else {})
        | {name: question[name] for name in ("derivation", "answer_type") if question.get(name)},
        form="questions about a table and its text",
    )


def _judged_steps(record: Record) -> FormedRecord | None:
    """PRM800K: a problem and the steps that were taken, each chosen among several or written by a person, with what
    people said of it."""
    problem, steps = record["question"]["problem"], record["label"]["steps"]
    formed = FormedRecord(record, form="solutions judged step by step").without("question", "label")
    texts, are_right = [], []
    for step in steps:
        place = step.get("chosen_completion")
        offered, written = step.get("completions") or [], step.get("human_completion")
        taken = written if written and place is None else offered[place] if place is not None else None
        if taken is None and len(offered) == 1:
            (taken,) = offered
        formed.notes += ["steps that were not taken"] * (len(offered) - any(taken is each for each in offered))
        if taken is None:
            break
        texts.append(taken["text"] if isinstance(taken, Mapping) else str(taken))
        rating = taken.get("rating") if isinstance(taken, Mapping) else None
        are_right.append(rating is None or rating >= 0)
    formed |= {"prompt": problem, "completions": texts, "labels": are_right}
    if not texts:
        formed.refused = ("bad_answer", "none of the steps that were offered was taken")
    elif not all(are_right) or record["label"].get("finish_reason") in ("found_error", "give_up"):
        formed.notes.append("solutions that were not finished")
    return formed


def _instances(record: Record) -> list[FormedRecord] | None:
    """Self-Instruct: one instruction with several inputs and outputs."""
    rows = record["instances"]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) and "output" in row for row in rows):
        return None
    about = {name: value for name, value in record.items() if name != "instances"}
    return [FormedRecord(about | dict(row), form="instructions with instances") for row in rows]


def _nested_question(record: Record) -> FormedRecord | None:
    """QASC and ARC's own files: the question holds its choices; other questions are objects with a text."""
    question = record["question"]
    if not isinstance(question, Mapping):
        return None
    stem = next((question[name] for name in ("stem", "text", "full_text", "question") if question.get(name)), None)
    if stem is None:
        return None
    inner = {name: question[name] for name in ("choices", "options") if name in question}
    return FormedRecord({**record, **inner, "question": stem}, form="questions as objects")


def _true_among_choices(record: Record) -> FormedRecord | None:
    """TruthfulQA: choices with a mark each, of which one is true."""
    targets = record["mc1_targets"]
    choices, marks = targets["choices"], targets["labels"]
    if not isinstance(choices, list) or not isinstance(marks, list) or marks.count(1) != 1:
        return None
    known = FormedRecord(record, form="choices with marks").without("mc1_targets", "mc2_targets")
    # The true one stands first in the files; in the order of the alphabet its place tells nothing.
    return FormedRecord(known | {"choices": sorted(choices), "answer": choices[marks.index(1)]}, form=known.form)


def _translation(record: Record) -> FormedRecord | None:
    """{"translation": {"en": …, "fr": …}}: from the first language to the second."""
    texts = record["translation"]
    if isinstance(texts, list) and len(texts) == 2:
        texts = {_language(each): each["text"] for each in texts}
    if not isinstance(texts, Mapping) or len(texts) != 2 or not all(isinstance(text, str) for text in texts.values()):
        return None
    (first, source), (second, target) = texts.items()
    known = FormedRecord(record, form=f"translations from {first} to {second}").without("translation")
    known |= {"source": source, "target": target}
    return known


def _language(text: Record) -> str:
    return str(next(text[name] for name in ("lang", "language", "locale", "code") if name in text))


def _spans(record: Record) -> FormedRecord | None:
    """DROP: the spans of an answer."""
    spans = record["answers_spans"]
    texts = spans.get("spans") if isinstance(spans, Mapping) else None
    if not isinstance(texts, list):
        return None
    known = FormedRecord(record, form="answers in spans").without("answers_spans")
    known["answer"] = ", ".join(dict.fromkeys(map(str, texts)))
    return known


def _needing(*names: str) -> list[frozenset[str]]:
    return [frozenset(some.split()) for some in names]


_FORMS: tuple[tuple[list[frozenset[str]], Callable[[Record], _Formed]], ...] = (
    (_needing("mapping"), chatgpt),
    (_needing("messages choices", "request response", "body", "custom_id response", "choices object"), exchange),
    (_needing("choices"), choices_alone),
    (_needing("role content type"), response),
    (_needing("chat_history message"), cohere),
    (_needing("table paragraphs questions"), _questions_about_a_table),
    (_needing("questions answers"), _questions_about_a_text),
    (_needing("instances"), _instances),
    (_needing("question label"), _judged_steps),
    (_needing("prompt reward_model"), _verifiable),
    (_needing("patterns responses"), _intents),
    (_needing("mc1_targets"), _true_among_choices),
    (_needing("translation"), _translation),
    (_needing("answers_spans"), _spans),
    (_needing(*("completions", "answers", "responses", "candidates", "summaries", "outputs")), scored_list),
    (_needing("question"), _nested_question),
)
"""Sets of columns of which a record has one, and what makes the usual columns of it."""
