"""The roles of a record's columns or fields (text, question, answer, label, ...): guessed from their names, or set by
the user. What a record says by them is read in `records`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from itertools import chain
from typing import Any, NamedTuple

from soldiom_ray.collect.documents.cell_values import VERDICTS, as_number, plain
from soldiom_ray.collect.documents.checks import holds_checks
from soldiom_ray.collect.documents.choices import first_place
from soldiom_ray.collect.documents.column_names import (
    ANSWERING,
    CHECK_ROLES,
    CHOICE_PREFIXES,
    CONVERSATION_ROLES,
    FORMS,
    LANGUAGES,
    MARKED,
    METADATA_ROLES,
    NAMES,
    RECORD_ROLES,
    SPEAKER_COLUMNS,
    SUMMARIES,
)
from soldiom_ray.collect.documents.transcripts import holds_turn_marks, labelled_turns, rendered_turns
from soldiom_ray.collect.documents.turns import ANSWERERS, names_speakers, turns_in
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.messages import ROLES

SEARCHED_VALUES = 200
"""Of a column whose texts may be rendered by a chat template so many are looked at: half of them have to be."""
_NO_SUMMARY = {"source", "question", "instruction", "input", "rating"}
_ROLES_IN_ORDER = (*NAMES,)
_ROLES_BY_NAME = {
    name: [(place, NAMES[role].index(name)) for place, role in enumerate(_ROLES_IN_ORDER) if name in NAMES[role]]
    for usual_names in NAMES.values()
    for name in usual_names
}
"""Usual name -> (place of a role, how good the name is for it) for each role that it may have."""
_CHOICE_NAMES = frozenset(f"{prefix}{label}" for prefix in CHOICE_PREFIXES for label in "abcdefgh12345678")
_PAIR_ANSWERS = ("answer", "output", "target", "chosen")
_PAIR_SCORES = ("score_{}", "{}_score", "{}_rating", "{}-rating", "rating_{}")
_SURE_LISTS = ("messages", "conversations", "conversation")
"""Names that hold a conversation; the others of that role do where a value is one."""


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
    first_place: int | None = None
    """Where the right choice is given by its place: the number of the first, 0 or 1."""

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
        """Whether a record is a question and its answer, with nothing beside them that belongs to the conversation but
        an answer that was rejected."""
        others = {*CONVERSATION_ROLES, "messages", "correction", "choices", "choice_columns", "steps"}
        roles = self._pair_roles
        return len(roles) > 1 and roles[-1] in _PAIR_ANSWERS and others.isdisjoint(self.by_role)

    @cached_property
    def _pair_roles(self) -> tuple[str, ...]:
        return tuple(role for role in self.form if role != "rejected")

    @cached_property
    def pair_columns(self) -> tuple[str, ...]:
        """The columns of a question's parts and its answer."""
        return tuple(self.by_role[role] for role in self._pair_roles)

    @cached_property
    def form_columns(self) -> tuple[str, ...]:
        """The columns of `form`."""
        return tuple(self.by_role[role] for role in self.form)

    @cached_property
    def is_accompanied(self) -> bool:
        """Whether columns beside a conversation belong to it."""
        return not {*CONVERSATION_ROLES}.isdisjoint(self.by_role)

    @cached_property
    def pair_scores(self) -> tuple[tuple[str, str], ...]:
        """Columns that may hold the scores of the chosen and the rejected answer: score_chosen, chosen_score,
        chosen-rating."""
        ends = [self.by_role.get(end) for end in ("chosen", "rejected")]
        return tuple((each.format(ends[0]), each.format(ends[1])) for each in _PAIR_SCORES) if all(ends) else ()

    @cached_property
    def pair_score_names(self) -> frozenset[str]:
        """The columns of `pair_scores`."""
        return frozenset(chain.from_iterable(self.pair_scores))

    @cached_property
    def is_rejected_alone(self) -> bool:
        """Whether a record has a rejected answer without a chosen one."""
        answers = {"chosen", "output", "answer", "text", "target", "messages"}
        return "rejected" in self.by_role and answers.isdisjoint(self.by_role)

    @cached_property
    def has_marks(self) -> bool:
        """Whether anything says that an answer is bad: a rating, a mark, that it is the rejected one."""
        return self.label_is_mark or not {"rating", "bad_mark", "rejected", "step_labels"}.isdisjoint(self.by_role)

    @cached_property
    def record_roles(self) -> tuple[tuple[str, str], ...]:
        """(role, column) of what describes the record itself: its time, group, license, picture and original split."""
        return tuple((role, self.by_role[role]) for role in RECORD_ROLES if role in self.by_role)

    @cached_property
    def in_text(self) -> frozenset[str]:
        """The columns whose values stand in a record's text or its rejected answer."""
        roles = (*self.form, *CONVERSATION_ROLES, "rejected")
        names = [self.by_role[role] for role in roles if role in self.by_role]
        return frozenset([*names, *self.by_role.get("choice_columns", "").split(",")])

    @cached_property
    def with_role(self) -> frozenset[str]:
        """The columns that become metadata."""
        names = [self.by_role[role] for role in (*METADATA_ROLES, "bad_mark") if role in self.by_role]
        return frozenset([*names, *(part for name in names for part in name.split(","))])


def guess_columns(names: Iterable[str], examples: Sequence[Mapping[str, Any]] = ()) -> dict[str, str]:
    """Role -> column for the first form that the columns fill, and for what accompanies it; empty when they fill none.
    `examples` are records: names that may hold a conversation are looked at."""
    names = tuple(names)
    return _guess(names, examples) if examples else dict(_guess_by_names(names))


@lru_cache(maxsize=1024)
def _guess_by_names(names: tuple[str, ...]) -> dict[str, str]:
    return _guess(names, ())


def _guess(names: tuple[str, ...], examples: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    by_name, usual_columns, choice_columns = _named(names)
    by_role: dict[str, str] = {}
    for role, known in usual_columns:
        if role == "messages":
            known = [name for name in known if _holds_conversations(name, examples)]
        if known:
            by_role[role] = known[0]
    if by_role.get("chosen", "").strip().lower() == "accepted" and "rejected" not in by_role:
        del by_role["chosen"]  # a mark, and no answer
    if by_role.get("chosen") == by_role.get("rating", ""):
        del by_role["rating"]
    _prefer_whole_answers(by_role, by_name)
    if "checks" not in by_role or not holds_checks([record.get(by_role["checks"]) for record in examples]):
        by_role = {role: name for role, name in by_role.items() if role not in CHECK_ROLES}
    if choice_columns:
        by_role["choice_columns"] = choice_columns
    form = _form_of(frozenset(by_role))
    if form is None:
        return _other_form(by_name, examples)
    if form == "text" and _holds_transcripts(by_role["text"], examples):
        by_role["messages"], form = by_role.pop("text"), "messages"
    roles = [role.removesuffix("?") for role in form.split()]
    if set(roles) & {*ANSWERING, "messages"}:
        roles += (*CONVERSATION_ROLES, "bad_mark")
    chosen = {role: by_role[role] for role in (*roles, *METADATA_ROLES) if role in by_role}
    if "steps" in chosen:
        chosen.pop("label", None)
    return chosen


@lru_cache(maxsize=1024)
def _form_of(roles: frozenset[str]) -> str | None:
    return next((form for form in FORMS if _required(form) <= roles), None)


@lru_cache(maxsize=1024)
def _named(names: tuple[str, ...]) -> tuple[dict[str, str], list[tuple[str, list[str]]], str]:
    """What the names alone say of columns, for the files of a folder, which have the same: the columns by their plain
    names, the columns of each role, and those of choices."""
    by_name = {name.strip().lower().replace(" ", "_").replace("-", "_"): name for name in reversed(names)}
    return by_name, _usual_columns(by_name), _choice_columns(by_name)


def _usual_columns(by_name: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """(role, its columns, best first) for the roles that have some, in the order of `NAMES`. Looked up by the columns'
    names: a table has fewer of them than roles have usual names."""
    ranked = sorted((place, rank, by_name[name]) for name in by_name for place, rank in _ROLES_BY_NAME.get(name, ()))
    columns: dict[int, list[str]] = {}
    for place, _, column in ranked:
        columns.setdefault(place, []).append(column)
    return [(_ROLES_IN_ORDER[place], known) for place, known in columns.items()]


def _prefer_whole_answers(by_role: dict[str, str], by_name: Mapping[str, str]) -> None:
    """A solution rather than the number that it ends with, the SQL that a question became, the summary of a text."""
    if {"problem", "solution", "answer"} <= by_name.keys():
        by_role["answer"] = by_name["solution"]
    if {"question", "query"} <= by_name.keys() and "answer" not in by_role and "output" not in by_role:
        by_role["answer"] = by_name["query"]
    summary = next((by_name[name] for name in SUMMARIES if name in by_name), None)
    if summary is not None and "text" in by_name and not _NO_SUMMARY & by_role.keys():
        by_role |= {"source": by_name["text"], "target": summary}


def _choice_columns(by_name: Mapping[str, str]) -> str:
    """The columns of a question's choices where each has its own: a, b, c, d; opa, opb, ...; option_1, option_2, ..."""
    if len(_CHOICE_NAMES & by_name.keys()) < 2:
        return ""
    for prefix in CHOICE_PREFIXES:
        for labels in ("abcdefgh", "12345678"):
            names = [by_name[f"{prefix}{label}"] for label in labels if f"{prefix}{label}" in by_name]
            if len(names) >= 2 and (prefix or len(names) >= 3):
                return ",".join(names)
    return ""


def _other_form(by_name: Mapping[str, str], examples: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Columns named after those who speak in them, prompts alone, the only column of transcripts or of turns that name
    their speakers, or texts in two languages."""
    by_role, languages = _other_roles(tuple(by_name.items()))
    if by_role:
        return dict(by_role)
    signs = _signs_of_conversations(examples)
    names = by_name.values() if signs.marks or signs.lines else ()
    transcripts = [name for name in names if _holds_transcripts(name, examples, are_marked=signs.marks)]
    if len(transcripts) == 1:
        return {"messages": transcripts[0]}
    names = by_name.values() if signs.lists else ()
    conversations = [name for name in names if _holds_named_turns(name, examples)]
    if len(conversations) == 1:
        return {"messages": conversations[0]}
    return dict(languages)


@lru_cache(maxsize=1024)
def _other_roles(named: tuple[tuple[str, str], ...]) -> tuple[dict[str, str], dict[str, str]]:
    """What the names of columns alone say: the roles of speakers or of prompts, and those of texts in two languages."""
    by_name = dict(named)
    languages = [by_name[name] for name in reversed(list(by_name)) if _is_language(name)]
    if len(languages) > 2:  # a number of the row rather than Indonesian
        languages = [name for name in languages if name.strip().lower() not in ("id", "no")]
    translated = {"source": languages[0], "target": languages[1]} if len(languages) == 2 else {}
    return _speakers_as_columns(by_name) or _prompts(by_name), translated


class _Signs(NamedTuple):
    """What some column may hold: texts with the marks of a chat template, texts of several lines, lists."""

    marks: bool
    lines: bool
    lists: bool


def _signs_of_conversations(examples: Sequence[Mapping[str, Any]]) -> _Signs:
    """What the columns may hold. Few records are searched at once: most tables are small, and to look at each of their
    columns takes as long as to read them."""
    if len(examples) > SEARCHED_VALUES:
        return _Signs(marks=True, lines=True, lists=True)
    try:
        joined, has_lists = "\0".join(chain.from_iterable([record.values() for record in examples])), False
    except TypeError:
        values = [value for record in examples for value in record.values()]
        joined, has_lists = "\0".join([value for value in values if isinstance(value, str)]), True
    return _Signs(holds_turn_marks(joined), "\n" in joined, has_lists)


def _holds_transcripts(name: str, examples: Sequence[Mapping[str, Any]], *, are_marked: bool = True) -> bool:
    """Whether every value of a column is a conversation with an answer, written as one text. `are_marked`: whether
    marks of a template can be among them."""
    first = next((value for record in examples if (value := record.get(name)) is not None and value != ""), None)
    if not isinstance(first, str):
        return False
    if not are_marked and not ("\n" in first and _has_answer(labelled_turns(first))):
        return False
    values = [value for record in examples if (value := record.get(name)) is not None and value != ""]
    some = [value for value in values[:: len(values) // SEARCHED_VALUES + 1] if isinstance(value, str)]
    joined = "\n".join(some)
    rendered = sum([_has_answer(rendered_turns(value)) for value in some]) if holds_turn_marks(joined) else 0
    if 2 * rendered < len(some):
        return all(isinstance(value, str) and _has_answer(labelled_turns(value)) for value in values)
    return all(isinstance(value, str) for value in values)


def text_turns(text: str) -> list[dict[str, Any]] | None:
    """The turns of a text in a column of transcripts."""
    turns = rendered_turns(text)
    return turns if _has_answer(turns) else labelled_turns(text) or turns


def _has_answer(turns: Sequence[Mapping[str, Any]] | None) -> bool:
    roles = [turn.get("role") or turn.get("from") for turn in turns or ()]
    return any(isinstance(role, str) and role in ANSWERERS for role in roles)


def _holds_named_turns(name: str, examples: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every value of a column is a conversation whose turns name their speakers, whatever its name."""
    first = next((value for record in examples if (value := record.get(name))), None)
    if not isinstance(first, (list, dict)):
        return False
    values = [value for record in examples if (value := record.get(name))]
    return all(
        _has_answer(turns_in(value) if isinstance(value, dict) or names_speakers(value) else None) for value in values
    )


def _is_language(name: str) -> bool:
    """Whether a column is named after a language: en, en_US, eng_Latn, sentence_eng_Latn."""
    code, _, rest = name.removeprefix("sentence_").removeprefix("text_").partition("_")
    return code in LANGUAGES and (not rest or len(rest) in (2, 4))


def _speakers_as_columns(by_name: Mapping[str, str]) -> dict[str, str]:
    asker, answerer = (next((by_name[n] for n in names if n in by_name), "") for names in SPEAKER_COLUMNS)
    are_choices = "b" in by_name and answerer in ("a", "A")
    if not asker or not answerer or are_choices:
        return {}
    beside = {
        role: name
        for role in ("system", "tools", "history", "bad_mark", "rating", "label", *RECORD_ROLES)
        if (name := next((by_name[usual] for usual in NAMES.get(role, ()) if usual in by_name), None)) is not None
    }
    return {"question": asker, "answer": answerer} | beside


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
        return _with_scales(by_role, speakers, examples)
    unknown = sorted(set(wanted) - NAMES.keys())
    if unknown:
        raise SkippedError("wrong_columns", f"no role {_quoted(unknown)}; known roles: {', '.join([*NAMES, *ROLES])}")
    columns = {role: spelled(name) for role, name in wanted.items()}
    if not columns.get("label", "known") and all(parts := [spelled(name) for name in wanted["label"].split(",")]):
        columns["label"] = ",".join(parts)
    missing = [wanted[role] for role, name in columns.items() if not name]
    if missing:
        raise SkippedError("wrong_columns", f"no column {_quoted(missing)}; known: {_quoted(names)}")
    return _with_scales(columns, speakers, examples)


def _with_scales(by_role: dict[str, str], speakers: dict[str, str], examples: Sequence[Mapping[str, Any]]) -> Columns:
    """The columns, with what all records together say of their ratings, marks and choices."""
    return Columns(
        by_role,
        speakers,
        _middle_of_scale(by_role, examples),
        _label_is_mark(by_role, examples),
        first_place(by_role, examples),
    )


def _middle_of_scale(by_role: Mapping[str, str], records: Sequence[Mapping[str, Any]]) -> float | None:
    """The middle of the scale of ratings, by the largest of them. Of a column that is not named after ratings the
    largest must be the top of a scale: a score of 30 may be votes, a similarity, anything."""
    if "rating" not in by_role:
        return None
    numbers = [number for record in records if (number := as_number(record.get(by_role["rating"]))) is not None]
    largest, least = max(numbers, default=0), min(numbers, default=0)
    if least == 0 and 1 < largest <= 4 and all(number.is_integer() for number in numbers):
        return 2  # from 0 to 4, as HelpSteer's
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
    return bool(labels) and (labels <= {"true", "false", "1", "0", "1.0", "0.0"} or labels <= VERDICTS)


@lru_cache(maxsize=256)
def text_roles(roles: tuple[str, ...]) -> tuple[str, ...]:
    """The roles that make a record's text, in their order."""
    form = _form_of(frozenset(roles))
    if form is None:
        chosen = tuple(role for role in roles if role not in CONVERSATION_ROLES)
    else:
        chosen = tuple(role for part in form.split() if (role := part.removesuffix("?")) in roles)
        if form.startswith("question context? choice") and form.endswith(" label"):
            return chosen
    if form is not None and form.endswith(" rejected") and "chosen" not in roles:
        return chosen
    return tuple(role for role in chosen if role not in METADATA_ROLES) or (("image",) if "image" in roles else ())


@cache
def _required(form: str) -> frozenset[str]:
    return frozenset(role for role in form.split() if not role.endswith("?"))


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
    lines = [
        f"{name}: {text}"
        for name, value in record.items()
        if (text := (value if type(value) is str else plain(value)).strip())
    ]
    return "\n".join(lines)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name[:60]) for name in list(names)[:40])
