"""The roles of a record's columns or fields (text, question, answer, label, ...): guessed from their names, or set by
the user. What a record says by them is read in `records`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from soldiom_ray.collect.documents.turns import turns_in
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.messages import ROLES

CONVERSATION_NAMES = (
    *("messages", "conversations", "conversation", "dialog", "dialogue", "dialogs", "dialogues", "turns", "chat"),
    *("thread", "items", "utterances", "interactions", "rounds", "chat_history", "message_list"),
)
_NAMES: dict[str, tuple[str, ...]] = {
    "messages": (*CONVERSATION_NAMES, "data"),
    "system": ("system", "system_prompt", "system_message"),
    "tools": ("tools", "functions", "available_tools"),
    "history": ("history",),
    "instruction": ("instruction", "prompt"),
    "input": ("input",),
    "output": ("output", "response", "completion"),
    "question": ("question", "query", "problem", "ctx", "question_stem", "stem"),
    "context": ("context", "contexts", "passage", "paragraph", "background", "support", "story"),
    "choices": ("choices", "options", "endings"),
    "choice_columns": (),
    "answer": ("answer", "answers", "long_answer", "solution", "canonical_solution"),
    "answer_key": ("answer_key", "answerkey", "correct_answer", "answer_idx", "answer_index", "correct_option", "cop"),
    "chosen": ("chosen", "preferred_output", "preferred", "accepted_response"),
    "rejected": ("rejected", "non_preferred_output", "dispreferred", "rejected_response"),
    "steps": ("completions",),
    "step_labels": ("labels",),
    "source": (
        "source",
        "src",
        "source_text",
        "original_text",
        "original",
        "article",
        "document",
        "passage",
        "dialogue",
    ),
    "target": ("target", "tgt", "target_text", "reference_summary", "summary", "highlights", "simplified_text", "note"),
    "prefix": ("prefix", "fim_prefix"),
    "middle": ("middle", "fim_middle"),
    "suffix": ("suffix", "fim_suffix"),
    "text": ("text", "content", "body", "document", "passage", "article", "sentence", "tweet", "review"),
    "correction": ("correction", "corrected", "corrected_answer"),
    "rating": (
        *("rating", "ratings", "stars", "thumbs_up", "thumbs", "thumb", "vote", "is_good", "desirable", "score"),
        *("kto_tag", "feedback", "is_correct", "accepted", "liked", "helpful"),
    ),
    "time": ("time", "timestamp", "created_at", "datetime", "date"),
    "group": (
        "group",
        "group_id",
        "conversation_id",
        "message_tree_id",
        "thread_id",
        "session_id",
        "doc_title",
        "document_id",
        "doc",
    ),
    "license": ("license", "licence"),
    "label": ("label", "labels", "class", "category"),
    "image": ("file_name", "filename", "image_file", "image_path", "image"),
    "split": (),
}
"""A role and the names, best first, that a column for it usually has. A data set's own
split is never guessed: its author and purpose are unknown."""

_SURE_LISTS = ("messages", "conversations", "conversation")
"""Names that hold a conversation; the others of that role do where a value is one."""

_FORMS = (
    "messages chosen rejected",
    "instruction input? context? chosen rejected",
    "question context? chosen rejected",
    "input chosen rejected",
    "chosen rejected",
    "messages",
    *(
        f"question context? {choices} {answer}"
        for choices in ("choices", "choice_columns")
        for answer in ("answer", "answer_key", "label")
    ),
    "instruction steps step_labels",
    *(f"instruction input? context? {answer}" for answer in ("output", "answer", "target")),
    "instruction chosen",
    *(f"question context? {answer}" for answer in ("answer", "output", "target")),
    *(f"input {answer}" for answer in ("output", "answer", "target")),
    "prefix middle suffix",
    *(f"source {answer}" for answer in ("target", "output")),
    "text",
    "question context? answer_key",
    "chosen",
    "image label",
    "instruction input? rejected",
    "question context? rejected",
)
"""The roles of each form of record, "?" where it may lack one. A record has the first form whose roles it has."""

CONVERSATION_ROLES = ("system", "tools", "history")
"""Roles that may accompany a form with an answer: they become part of its conversation."""

ANSWERING = ("answer", "output", "chosen", "target", "answer_key", "steps", "step_labels")
METADATA_ROLES = ("label", "rejected", "correction", "rating", "time", "group", "license", "image", "split")
"""Roles that may accompany any form: they become metadata, not text."""

MARKED = {"output", "steps", "messages"}
"""Roles whose label may say whether they are good."""

_SPEAKER_COLUMNS = (("user", "human"), ("assistant", "gpt", "bot"))
"""Columns named after those who speak in them; they count where both are there."""


@dataclass(frozen=True)
class Columns:
    """How the records of a table or file are read: `by_role` names the column of each role, `speakers` gives roles to
    names in conversations, `middle` is the middle of the ratings' scale. What follows from them is computed once, since
    a table has millions of rows."""

    by_role: dict[str, str] = field(default_factory=dict)
    speakers: dict[str, str] = field(default_factory=dict)
    middle: float | None = None
    label_is_mark: bool = False
    """Whether every label says true or false, or 1 or 0, of an answer (KTO)."""

    @cached_property
    def form(self) -> tuple[str, ...]:
        """The roles that make a record's text, in their order."""
        return text_roles(tuple(self.by_role))

    @cached_property
    def may_converse(self) -> bool:
        """Whether a record of this form can be a conversation or a question with its answer."""
        return bool({*self.form} & {*ANSWERING, "messages", "instruction", "rejected", "label"})

    @cached_property
    def is_plain_pair(self) -> bool:
        """Whether a record is a question and its answer, with nothing beside them that belongs to the conversation."""
        others = {*CONVERSATION_ROLES, "correction", "choices", "choice_columns", "chosen", "steps"}
        return (
            len(self.form) > 1 and self.form[-1] in ("answer", "output", "target") and others.isdisjoint(self.by_role)
        )

    @cached_property
    def in_text(self) -> frozenset[str]:
        """The columns whose values stand in a record's text or its rejected answer."""
        roles = (*self.form, *CONVERSATION_ROLES, "rejected")
        names = [self.by_role[role] for role in roles if role in self.by_role]
        return frozenset([*names, *self.by_role.get("choice_columns", "").split(",")])

    @cached_property
    def with_role(self) -> frozenset[str]:
        """The columns that become metadata."""
        names = [self.by_role[role] for role in METADATA_ROLES if role in self.by_role]
        return frozenset([*names, *(part for name in names for part in name.split(","))])


def guess_columns(names: Iterable[str], examples: Sequence[Mapping[str, Any]] = ()) -> dict[str, str]:
    """Role -> column for the first form that the columns fill, and for what accompanies it; empty when they fill none.
    `examples` are records: names that may hold a conversation are looked at."""
    names = list(names)
    by_name = {name.strip().lower().replace(" ", "_").replace("-", "_"): name for name in reversed(names)}
    by_role: dict[str, str] = {}
    for role, usual_names in _NAMES.items():
        known = (by_name[name] for name in usual_names if name in by_name)
        if role == "messages":
            known = (name for name in known if _holds_conversations(name, examples))
        if (name := next(known, None)) is not None:
            by_role[role] = name
    if columns := _choice_columns(by_name):
        by_role["choice_columns"] = columns
    form = next((form for form in _FORMS if set(_required(form)) <= by_role.keys()), None)
    if form is None:
        return _speakers_as_columns(by_name) or _prompts(by_name)
    roles = [role.removesuffix("?") for role in form.split()]
    if set(roles) & {*ANSWERING, "messages"}:
        roles += CONVERSATION_ROLES
    chosen = {role: by_role[role] for role in (*roles, *METADATA_ROLES) if role in by_role}
    if "steps" in chosen:
        chosen.pop("label", None)
    return chosen


def _choice_columns(by_name: Mapping[str, str]) -> str:
    """The columns of a question's choices where each has its own: a, b, c, d; opa, opb, ...; option_1, option_2, ..."""
    for prefix in ("", "op", "option", "option_", "choice", "choice_", "ans_"):
        for labels in ("abcdefgh", "12345678"):
            names = [by_name[f"{prefix}{label}"] for label in labels if f"{prefix}{label}" in by_name]
            if len(names) >= 2 and (prefix or len(names) >= 3):
                return ",".join(names)
    return ""


def _speakers_as_columns(by_name: Mapping[str, str]) -> dict[str, str]:
    asker, answerer = (next((by_name[n] for n in names if n in by_name), "") for names in _SPEAKER_COLUMNS)
    return {"question": asker, "answer": answerer} if asker and answerer else {}


def _prompts(by_name: Mapping[str, str]) -> dict[str, str]:
    """TRL's type of a data set that has prompts only: nothing can be learnt from it without answers."""
    return {"instruction": by_name["prompt"]} if set(by_name) == {"prompt"} else {}


def _holds_conversations(name: str, examples: Sequence[Mapping[str, Any]]) -> bool:
    if name.strip().lower() in _SURE_LISTS:
        return True
    values = [record[name] for record in examples if record.get(name) not in (None, "", [])]
    return bool(values) and all(turns_in(value) is not None for value in values)


def choose_columns(
    names: Sequence[str], requested: Mapping[str, str], examples: Sequence[Mapping[str, Any]] = ()
) -> Columns:
    """The requested columns by role, or the guess when none are requested. A requested name may differ in case. `label`
    may name several columns, "a,b,c": a record's labels are those whose columns it marks. The roles user, assistant,
    system and tool name speakers of conversations instead ("agent,doctor"). Raises SkippedError: wrong_columns, with
    the missing and the known names."""
    by_folded_name = {name.strip().lower(): name for name in reversed(names)} | {name: name for name in names}

    def spelled(name: str) -> str:
        return by_folded_name.get(name, "") or by_folded_name.get(name.strip().lower(), "")

    named = {
        role: name for role, name in requested.items() if role in ROLES and not (role == "system" and spelled(name))
    }
    speakers = {part.strip().lower(): role for role, name in named.items() for part in name.split(",")}
    wanted = {role: name for role, name in requested.items() if role not in named}
    if not wanted:
        by_role = guess_columns(names, examples)
        return Columns(by_role, speakers, _middle_of_scale(by_role, examples), _label_is_mark(by_role, examples))
    unknown = sorted(set(wanted) - _NAMES.keys())
    if unknown:
        raise SkippedError("wrong_columns", f"no role {_quoted(unknown)}; known roles: {', '.join([*_NAMES, *ROLES])}")
    columns = {role: spelled(name) for role, name in wanted.items()}
    if not columns.get("label", "known") and all(parts := [spelled(name) for name in wanted["label"].split(",")]):
        columns["label"] = ",".join(parts)
    missing = [wanted[role] for role, name in columns.items() if not name]
    if missing:
        raise SkippedError("wrong_columns", f"no column {_quoted(missing)}; known: {_quoted(names)}")
    return Columns(columns, speakers, _middle_of_scale(columns, examples), _label_is_mark(columns, examples))


def _middle_of_scale(by_role: Mapping[str, str], records: Sequence[Mapping[str, Any]]) -> float | None:
    """The middle of the scale of ratings, by the largest of them. Of a column that is not named after ratings the
    largest must be the top of a scale: a score of 30 may be votes, a similarity, anything."""
    if "rating" not in by_role:
        return None
    numbers = [number for record in records if (number := as_number(record.get(by_role["rating"]))) is not None]
    largest = max(numbers, default=0)
    is_rating = any(word in by_role["rating"].lower() for word in ("rating", "stars"))
    for top, middle in ((1, 0.5), (5, 3), (10, 5), (100, 50)):
        if largest == top or (is_rating and 0 < largest <= top <= 10):
            return middle
    return None


def _label_is_mark(by_role: Mapping[str, str], records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the labels of answers are marks and name no classes."""
    if "label" not in by_role or not MARKED & by_role.keys():
        return False
    labels = {plain(value).strip().lower() for record in records if (value := record.get(by_role["label"])) is not None}
    return bool(labels) and labels <= {"true", "false", "1", "0", "1.0", "0.0"}


def as_number(value: Any) -> float | None:
    """A number, or a text that is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


@lru_cache(maxsize=256)
def text_roles(roles: tuple[str, ...]) -> tuple[str, ...]:
    """The roles that make a record's text, in their order."""
    form = next((form for form in _FORMS if set(_required(form)) <= set(roles)), None)
    if form is None:
        chosen = tuple(role for role in roles if role not in CONVERSATION_ROLES)
    else:
        chosen = tuple(role for part in form.split() if (role := part.removesuffix("?")) in roles)
        if form.startswith("question context? choice") and form.endswith(" label"):
            return chosen
    if form is not None and form.endswith(" rejected") and "chosen" not in roles:
        return chosen
    return tuple(role for role in chosen if role not in METADATA_ROLES) or (("image",) if "image" in roles else ())


def _required(form: str) -> tuple[str, ...]:
    return tuple(role for role in form.split() if not role.endswith("?"))


def split_from_name(name: str) -> str:
    """train, validation or test, for a common name of that split; else ""."""
    return next((split for split, names in _SIDES.items() if name.strip().lower() in names), "")


_SIDES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def fields_text(record: Mapping[str, Any]) -> str:
    """Any record as text: a line `name: value` for each field that is not blank."""
    return "\n".join(f"{name}: {text}" for name, value in record.items() if (text := plain(value).strip()))


def plain(value: Any) -> str:
    """One value as text: strings as they are, nested ones as JSON."""
    if isinstance(value, str):
        return value
    if type(value) is int:  # most values of databases: ten times as fast as json
        return str(value)
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name[:60]) for name in list(names)[:40])
