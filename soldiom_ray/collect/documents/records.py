"""A record becomes a text and, where it is a conversation or a question with its answer, messages. One reader for JSON,
tables, Parquet and databases: what it refuses has a reason, what it leaves out is counted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from soldiom_ray.collect.documents.answers import (
    answer_text,
    bad_answer,
    context_text,
    good_steps,
    value_text,
)
from soldiom_ray.collect.documents.cell_values import plain
from soldiom_ray.collect.documents.checks import checks_of, example_check
from soldiom_ray.collect.documents.choices import choices_in, right_choice
from soldiom_ray.collect.documents.column_names import ANSWERING, RECORD_ROLES
from soldiom_ray.collect.documents.columns import (
    Columns,
    split_from_name,
    text_turns,
)
from soldiom_ray.collect.documents.formed import FormedRecord
from soldiom_ray.collect.documents.infill import HEADS as INFILL_HEADS
from soldiom_ray.collect.documents.infill import infill_parts
from soldiom_ray.collect.documents.parsed import ParsedText
from soldiom_ray.collect.documents.tool_calls import parsed_json, read_calls, read_tools
from soldiom_ray.collect.documents.transcripts import REMAINING_MARKS, answer_words, may_be_rendered
from soldiom_ray.collect.documents.turns import (
    Conversation,
    content_text,
    read_conversation,
    read_messages,
    require_answer,
)
from soldiom_ray.collect.documents.written_calls import read_written_calls
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.messages import ASSISTANT, SYSTEM, USER, labelled_text, spoken

CHOICES = {"choices", "choice_columns"}
_MEDIA_COLUMNS = frozenset(name for kind in ("image", "audio", "video") for name in (kind, f"{kind}s", f"{kind}_path"))
_NO_PLAIN_TEXT = ("[{", '{"text"', "{'text'")
"""How messages and SQuAD's answers in a cell of a table begin."""
_CONTENT = itemgetter("content")
_UNMARKED = ("", "0", "false", "no")
MAX_FIELDS_CHARACTERS = 2000
MAX_NAMED = 100


@dataclass(frozen=True, slots=True)
class ReadRecord:
    """`metadata` has `messages`, [{role, content, ...}], of a conversation, and the `rejected` answer; its `label`
    (several as a list); its `time`, `group`, `license`, `image` and `split`; other small `fields`."""

    text: str
    metadata: dict[str, Any]
    speakers: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class Reading:
    """What was read of a file's records, for its mapping: how speakers were named, what was left out of records, and
    which records were refused."""

    speakers: Counter[tuple[tuple[str, str], ...]] = field(default_factory=Counter)
    """(name, role) of the speakers of a conversation -> how many have just these."""
    notes: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    forms: Counter[str] = field(default_factory=Counter)

    def read(self, part: str, record: Mapping[str, Any], columns: Columns) -> ReadRecord | None:
        """A record; None for one without text. A refused one raises its SkippedError after it was noted."""
        notes: list[str] = []
        try:
            if isinstance(record, FormedRecord):
                self.forms[record.form] += 1
                notes = record.notes
                if record.refused:
                    raise SkippedError(*record.refused)
            record_read = self._read(record, columns)
        except SkippedError as skipped:
            self.refused.append((part, skipped.reason, skipped.detail))
            raise
        if record_read is not None:
            for note in (*notes, *record_read.notes) if notes or record_read.notes else ():
                self.notes[note] += 1
            if record_read.speakers:
                self.speakers[tuple(record_read.speakers.items())] += 1
        return record_read

    @staticmethod
    def _read(record: Mapping[str, Any], columns: Columns) -> ReadRecord | None:
        try:
            return read_record(record, columns)
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # one such record costs no file
            raise SkippedError("damaged", f"{type(error).__name__}: {plain(dict(record))[:80]}") from error

    def metadata(self) -> dict[str, Any]:
        """The reading as an entry of a file's first text; empty when there is nothing to say."""
        speakers: Counter[str] = Counter()
        for named, count in self.speakers.items():
            for name, role in named:
                speakers[f"{name} = {role}"] += count
        entries: dict[str, Any] = {
            "speakers": dict(speakers),
            "notes": dict(self.notes),
            "forms": dict(self.forms),
            "refused_counts": dict(Counter(reason for _, reason, _ in self.refused)),
            "refused": [list(entry) for entry in self.refused[:MAX_NAMED]],
        }
        filled = {name: value for name, value in entries.items() if value}
        return {"reading": filled} if filled else {}

    def error(self) -> SkippedError:
        """The error of a file whose records were all refused: its most frequent reason."""
        ((reason, count),) = Counter(reason for _, reason, _ in self.refused).most_common(1)
        detail = next(detail for _, other, detail in self.refused if other == reason)
        return SkippedError(reason, f"{count} of {len(self.refused)} records, such as: {detail}")


def read_record(record: Mapping[str, Any], columns: Columns) -> ReadRecord | None:
    """The text and metadata of a record; None when it has no text. Raises SkippedError with the reason why nothing may
    be learnt from it."""
    conversation, pair, notes, text = None, None, [], ""
    if columns.is_plain_pair and (pair := _plain_pair([record.get(name) for name in columns.pair_columns])):
        conversation = pair
        if not _MEDIA_COLUMNS.isdisjoint(record):
            _refuse_media(conversation, record)
        if columns.has_marks and (why := bad_answer(record, columns)):
            raise SkippedError("bad_answer", why)
    elif columns.may_converse and not _is_blank(record, columns):
        if columns.has_marks and (why := bad_answer(record, columns)):
            raise SkippedError("bad_answer", why)
        conversation = _conversation(record, columns)
    if conversation:
        if "checks" in columns.by_role:
            _show_a_check(conversation, record, columns)
        notes = conversation.notes
        text = "\n\n".join(map(_CONTENT, pair.messages)) if pair else _conversation_text(conversation, columns)
        if ("<|" in text or "INST]" in text) and any(mark in text for mark in REMAINING_MARKS):
            notes.append("texts with marks of a chat template in them")
    else:
        parts = [part for role in columns.form if role not in CHOICES and (part := _role_text(record, columns, role))]
        text = ("" if "prefix" in columns.by_role else "\n\n").join(parts)
        if text and columns.form == ("messages",):
            notes = ["texts among conversations, read as texts"]
        if text and not {*ANSWERING}.isdisjoint(columns.form):
            notes = ["questions or answers that stand alone, read as texts"]
    if not text:
        return None
    infill = None if pair else _infill(record, columns, conversation, text)
    if infill:
        conversation, text = None, "".join(infill)
    metadata, left = _metadata(record, columns, conversation)
    metadata |= {"infill": [len(infill[0]), len(infill[0]) + len(infill[1])]} if infill else {}
    if left:
        notes += [f"column {name}" for name in left]
    return ReadRecord(text, metadata, conversation.speakers if conversation else {}, notes)


def _infill(
    record: Mapping[str, Any], columns: Columns, conversation: Conversation | None, text: str
) -> tuple[str, str, str] | None:
    """Prefix, middle and suffix of a record that is to be filled in."""
    if conversation is None and "middle" in columns.form:
        prefix, middle, suffix = (
            _role_text(record, columns, role) if role in columns.by_role else ""
            for role in ("prefix", "middle", "suffix")
        )
        return (prefix, middle, suffix) if middle and (prefix or suffix) else None
    messages = conversation.messages if conversation else []
    told = messages[0]["content"] if messages else text
    if not told.startswith(INFILL_HEADS) or len(messages) not in (0, 2):
        return None
    return infill_parts("".join(message["content"] for message in messages) if messages else text)


def _show_a_check(conversation: Conversation, record: Mapping[str, Any], columns: Columns) -> None:
    """Add a check to a question in code that does not say what its function is called."""
    asked = next((each for each in reversed(conversation.messages) if each["role"] == USER), None)
    if asked and (check := example_check(checks_of(record, columns.by_role), str(asked["content"]))):
        asked["content"] += f"\nIt has to pass this check: {check}"


def _conversation_text(conversation: Conversation, columns: Columns) -> str:
    """A question and its answer without their roles, any other conversation with them."""
    messages = conversation.messages
    is_pair = len(messages) == 2 and messages[0]["role"] == USER and messages[1]["role"] == ASSISTANT
    if is_pair and columns.form != ("messages",):
        return "\n\n".join(map(spoken, messages))
    return labelled_text(messages)


def _is_blank(record: Mapping[str, Any], columns: Columns) -> bool:
    values = [record.get(name) for name in columns.form_columns]
    return not any(values) and all(value in (None, "", [], {}) for value in values)


def _conversation(record: Mapping[str, Any], columns: Columns) -> Conversation | None:
    """The conversation of a record whose form has an answer; None where its values are no conversation, as texts of a
    column that only has the name of one."""
    form, by_role = columns.form, columns.by_role
    if form == ("messages",):
        written = record.get(by_role["messages"])
        if isinstance(written, str):
            written = text_turns(written) or written
        conversation = read_conversation(written, columns.speakers)
        if conversation is None:
            if not isinstance(written, str):
                raise SkippedError(
                    "no_conversation", f"{by_role['messages']} is no list of turns: {plain(written)[:80]}"
                )
            return None
        if by_role["messages"].lower() == "turns" and "question_id" in record and _is_text_list(written):
            raise SkippedError("no_answer", "its turns are questions alone, as MT-bench's")
        question = Conversation()
    else:
        question, answer = _question(record, columns), _answer(record, columns)
        if answer is None:
            return None
        # Where the chosen conversation begins with the prompt, it is the whole; else it is the answer to the prompt.
        is_whole = len(answer.messages) > 1 and "chosen" in by_role
        conversation = answer if is_whole else _joined(question, answer)
        if not is_whole and not question.messages:
            return None
    if columns.is_accompanied:
        conversation = _accompanied(conversation, record, columns)
    require_answer(conversation)
    _refuse_media(conversation, record)
    if thoughts := value_text(record.get(by_role["reasoning"])).strip() if "reasoning" in by_role else "":
        _last_answer(conversation).setdefault("reasoning_content", thoughts)
    tools = read_tools(record.get(by_role["tools"])) if "tools" in by_role else []
    _add_tools(conversation, tools or conversation.tools)
    return conversation


def _accompanied(conversation: Conversation, record: Mapping[str, Any], columns: Columns) -> Conversation:
    """A conversation with what columns beside it say before it: its history and the system's turn."""
    if "history" in columns.by_role:
        history = read_conversation(record.get(columns.by_role["history"]), columns.speakers)
        conversation = _joined(history, conversation) if history else conversation
    _add_system(conversation, record, columns)
    return conversation


def _add_tools(conversation: Conversation, tools: list[dict[str, Any]]) -> None:
    """Put the definitions of functions on the first message, and read calls that stand in answers as Python."""
    messages = conversation.messages
    told = messages[0]["content"] if messages[0]["role"] == SYSTEM else ""
    if tools or conversation.has_results or "[{" in told:
        tools = read_written_calls(messages, tools)
        if told and messages[0]["content"] != told:
            conversation.notes.append("definitions of functions in a system turn, read as tools")
    if tools:
        messages[0]["tools"] = tools


def _plain_pair(values: Sequence[Any]) -> Conversation | None:
    """The question and answer of a record whose values are all texts, as most are: three times as fast."""
    if len(values) == 2 and type(values[0]) is type(values[1]) is str:
        question, answer = values[0].strip(), values[1].strip()
        if not question or not answer or not _is_plain(question) or not _is_plain(answer):
            return None
        return Conversation([{"role": USER, "content": question}, {"role": ASSISTANT, "content": answer}])
    texts = []
    for value in values:
        text = value if type(value) is str else value_text(value) if _is_text_list(value) else None
        if text is None or not (text == "" or _is_plain(text)):
            return None
        texts.append(text.strip())
    answer = texts.pop()
    question = "\n\n".join(filter(None, texts))
    if not question or not answer or type(values[-1]) is not str:
        return None
    return Conversation([{"role": USER, "content": question}, {"role": ASSISTANT, "content": answer}])


def _is_plain(text: str) -> bool:
    """Whether a text is no conversation, and no marks of a chat template stand around it."""
    return not (text[:1] in ("[", "{") and text.startswith(_NO_PLAIN_TEXT)) and not may_be_rendered(text)


def _is_text_list(value: Any) -> bool:
    return type(value) is list and all(type(part) is str for part in value)


def _joined(first: Conversation, second: Conversation) -> Conversation:
    return Conversation(
        [*first.messages, *second.messages],
        first.speakers | second.speakers,
        first.notes + second.notes,
        tools=first.tools or second.tools,
        has_results=first.has_results or second.has_results,
    )


def _question(record: Mapping[str, Any], columns: Columns) -> Conversation:
    """What comes before the answer: the conversation in the prompt, whose own answers are not taught, or a user's turn
    of all parts."""
    by_role = columns.by_role
    roles = [role for role in columns.form if role not in (*ANSWERING, "rejected", "label", "suffix", "prefix")]
    for role in roles:
        prompt = read_messages(record.get(by_role[role]), columns.speakers)
        if prompt is not None and prompt.messages:
            for message in prompt.messages:
                if message["role"] == ASSISTANT:
                    message["weight"] = 0
            others = [_role_text(record, columns, other) for other in roles if other not in (role, *CHOICES)]
            return _with_texts(prompt, [text for text in others if text])
    texts = [_role_text(record, columns, role) for role in roles if role not in CHOICES]
    if not CHOICES.isdisjoint(roles):
        choices = choices_in(record, by_role)
        texts.append("\n".join(f"{label}. {text}" for label, text in choices))
    content = "\n\n".join(text for text in texts if text)
    return Conversation([{"role": USER, "content": content}] if content else [])


def _with_texts(prompt: Conversation, texts: Sequence[str]) -> Conversation:
    """A prompt with the texts of other columns in its last turn of the user."""
    asked = next((message for message in reversed(prompt.messages) if message["role"] == USER), None)
    if texts and asked is not None:
        asked["content"] = "\n\n".join([asked["content"], *texts])
    elif texts:
        prompt.messages.append({"role": USER, "content": "\n\n".join(texts)})
    return prompt


def _answer(record: Mapping[str, Any], columns: Columns) -> Conversation | None:
    """The answer: a conversation (the chosen one, or a completion as messages), or one turn. None for a form without
    answers. Raises SkippedError: no_answer."""
    form, by_role = columns.form, columns.by_role
    roles = [role for role in form if role in ANSWERING] or [role for role in form if role == "label"]
    if not roles or "middle" in roles:
        if form == ("instruction",):
            raise SkippedError("no_answer", "it holds prompts without answers")
        return None
    value = record.get(by_role[roles[-1]])
    if not CHOICES.isdisjoint(form):
        text = right_choice(choices_in(record, by_role), value, columns.first_place)
    elif "steps" in form:
        steps, notes = good_steps(record, by_role)
        return Conversation([{"role": ASSISTANT, "content": steps}], notes=notes) if steps else None
    elif "tools" in by_role and (calls := read_calls(value)):
        return Conversation([{"role": ASSISTANT, "content": "", "tool_calls": calls}])
    else:
        conversation = read_messages(value, columns.speakers)
        if conversation is not None:
            return conversation
        text = _role_text(record, columns, roles[-1])
        text = answer_words(text) if may_be_rendered(text) else text
    if not text and (isinstance(value, (list, Mapping)) or "tools" in by_role):
        raise SkippedError("no_answer", f"{by_role[roles[-1]]} is empty")
    if not text:
        return None
    return Conversation([{"role": ASSISTANT, "content": text}])


def _last_answer(conversation: Conversation) -> dict[str, Any]:
    return next(message for message in reversed(conversation.messages) if message["role"] == ASSISTANT)


def _refuse_media(conversation: Conversation, record: Mapping[str, Any]) -> None:
    """Raise SkippedError (part_not_text) where a turn names a picture or sound that stands in a column beside it."""
    if _MEDIA_COLUMNS.isdisjoint(record):
        return
    for kind in ("image", "audio", "video"):
        if any(f"<{kind}>" in message["content"] for message in conversation.messages):
            column = next((name for name in (kind, f"{kind}s", f"{kind}_path") if record.get(name)), None)
            if column:
                raise SkippedError("part_not_text", f"<{kind}> in a turn is what stands in the column {column}")


def _add_system(conversation: Conversation, record: Mapping[str, Any], columns: Columns) -> None:
    """Put the text of a column beside the conversation first, as a system turn; before the conversation's own."""
    text = content_text(record.get(columns.by_role["system"])) if "system" in columns.by_role else ""
    if not text:
        return
    first = conversation.messages[0] if conversation.messages else None
    if first is not None and first["role"] == SYSTEM:
        if first["content"] != text:
            first["content"] = f"{text}\n\n{first['content']}"
        return
    conversation.messages.insert(0, {"role": SYSTEM, "content": text})


def _role_text(record: Mapping[str, Any], columns: Columns, role: str) -> str:
    """The stripped text of a role; a correction replaces the answer that it corrects."""
    by_role = columns.by_role
    if role in ("answer", "output") and "correction" in by_role:
        corrected = value_text(record.get(by_role["correction"])).strip()
        if corrected:
            return corrected
    value = record.get(by_role[role])
    if role in ("prefix", "middle", "suffix"):
        return plain(value)
    if role == "context" and not isinstance(value, str):
        return context_text(value)
    return answer_text(value, by_role[role]) if role in ANSWERING else value_text(value).strip()


def _metadata(
    record: Mapping[str, Any], columns: Columns, conversation: Conversation | None
) -> tuple[dict[str, Any], list[str]]:
    """A record's metadata, and the names of columns that are neither in its text nor in its metadata."""
    by_role = columns.by_role
    metadata: dict[str, Any] = {"messages": conversation.messages} if conversation and conversation.messages else {}
    if "label" in by_role and "label" not in columns.form and (label := _label(record, columns)) != "":
        metadata["label"] = label
    if conversation and "rejected" in by_role:
        _add_rejected(metadata, record, columns, conversation)
    if conversation and "checks" in by_role and (checks := checks_of(record, by_role)):
        metadata["checks"] = checks
    for role, name in columns.record_roles:
        value = plain(record.get(name)).strip()
        if role == "split":
            value = split_from_name(value)
        if value:
            metadata[role] = value
    unread = []
    if "rejected" in by_role:
        rejected = record.get(by_role["rejected"])
        may_be_several = type(rejected) is not str or rejected.lstrip()[:1] == "["
        if may_be_several and len(_texts_in(rejected)) > 1:
            unread = [f"{by_role['rejected']}, all but the first"]
    if record.keys() <= columns.in_text:
        return metadata, unread
    others, left = other_fields(record, columns)
    return metadata | others, left + unread


def _add_rejected(
    metadata: dict[str, Any], record: Mapping[str, Any], columns: Columns, conversation: Conversation
) -> None:
    """Add `rejected`, the last message of the conversation that was not chosen; `other_prompt` where the messages
    before it differ from those before the chosen answer."""
    value = record.get(columns.by_role["rejected"])
    if type(value) is str and (text := value.strip()) and _is_plain(text):
        text = answer_words(text) if "<" in text else text
        metadata |= {"rejected": text} if text else {}
        return
    turns = read_messages(value, columns.speakers)
    if turns is None or not turns.messages:
        several = _texts_in(value) if turns is None else []
        text = answer_words(several[0] if several else value_text(value))
        metadata |= {"rejected": text} if text else {}
        return
    before, chosen = turns.messages[:-1], [m for m in conversation.messages[:-1] if m["role"] != SYSTEM]
    asked = [(m["role"], m["content"]) for m in before if m["role"] != SYSTEM]
    differs = bool(asked) and asked != [(m["role"], m["content"]) for m in chosen]
    rejected = spoken(turns.messages[-1])
    metadata |= ({"rejected": rejected} if rejected else {}) | ({"other_prompt": True} if differs else {})


def _texts_in(value: Any) -> list[str]:
    """The texts of a list of nothing else."""
    value = parsed_json(value)
    return value if isinstance(value, list) and all(isinstance(text, str) for text in value) else []


def _label(record: Mapping[str, Any], columns: Columns) -> str | list[str]:
    """A record's label; a list of labels where its column holds a list or several columns are named; none where it says
    that an answer is good."""
    name = columns.by_role.get("label")
    if name is None:
        return ""
    if name not in record and "," in name:
        return [entry for entry in name.split(",") if _as_label(record.get(entry)).lower() not in _UNMARKED]
    value = record.get(name)
    if columns.label_is_mark:
        return ""
    return [_as_label(entry) for entry in value] if isinstance(value, list) else _as_label(value)


def record_labels(record: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """What a record says of the picture in it: `label`, `split`, `group`, `license`, and its `caption`."""
    label = {"label": text} if (text := _label(record, columns)) != "" else {}
    about = {role: plain(record.get(columns.by_role[role])) for role in RECORD_ROLES if role in columns.by_role}
    about["split"] = split_from_name(about.get("split", ""))
    about["caption"] = plain(record.get(columns.by_role["text"])) if "text" in columns.by_role else ""
    return label | {name: value for name, value in about.items() if value}


def _as_label(value: Any) -> str:
    """A label as text. Whole floats lose their ".0": a column of integers with gaps holds floats in Parquet and
    JSON."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else plain(value).strip()


def other_fields(record: Mapping[str, Any], columns: Columns) -> tuple[dict[str, Any], list[str]]:
    """{"fields": ...}, the fields of a record that are not part of its text, or {} when they are long; and the names of
    those that no role has."""
    others, left, characters = {}, [], 0
    in_text, with_role = columns.in_text, columns.with_role
    for name, value in record.items():
        if name in in_text or value is None or value == "":
            continue
        if type(value) is str or (value != [] and value != {}):
            others[name] = value
            characters += len(name) + len(value if type(value) is str else plain(value))
            if name not in with_role:
                left.append(name)
    return ({"fields": others} if others and characters <= MAX_FIELDS_CHARACTERS else {}), left


def refused_texts(texts: Sequence[ParsedText], reading: Reading) -> list[ParsedText]:
    """The texts of a file with its reading on the first; SkippedError when every record was refused."""
    if not texts and reading.refused:
        raise reading.error()
    if not texts:
        return []
    first = texts[0]
    with_reading = ParsedText(
        first.text, first.part, first.metadata | reading.metadata(), first.attachments, first.image
    )
    return [with_reading, *texts[1:]]
