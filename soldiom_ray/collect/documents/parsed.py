"""What every parser gives, and how a record's fields become one text."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from soldiom_ray.collect.text import LeftOut

_TEXT_FIELDS = ("text", "content", "body", "document", "passage", "article")
_PAIRS = (
    ("instruction", "input", "output"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "context", "answer"),
    ("question", "answer"),
    ("input", "output"),
)


@dataclass(frozen=True, slots=True)
class ParseOptions:
    """What a user may say of how files are read; JSON-serialisable values, so that they cross to the sandbox.

    `columns` maps a role (text, question, answer, instruction, input, output, ...) to a column's or field's name.
    `ocr` reads scans and images; `speech_model` names what writes transcripts ("" for none).
    """

    columns: dict[str, str] = field(default_factory=dict)
    ocr: bool = True
    speech_model: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """Bytes that a file holds besides its text (a video's keyframe), kept by their hash. `metadata` is
    JSON-serialisable and joins the text's under `attachments`."""

    data: bytes
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ParsedText:
    """One text of a file. `part` names a piece of it ("row 7") that stands for itself, or is "" for the whole file;
    `metadata` is JSON-serialisable."""

    text: str
    part: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()


def record_text(record: Mapping[str, Any]) -> str | None:
    """The text of a record whose form is known: a conversation, a question with its answer, or a text field."""
    messages = record.get("messages") or record.get("conversations")
    if isinstance(messages, list) and messages and all(isinstance(turn, dict) for turn in messages):
        turns = [
            (turn.get("role", turn.get("from", "")), turn.get("content", turn.get("value", ""))) for turn in messages
        ]
        return "\n\n".join(f"{role}: {_plain(content)}" for role, content in turns)
    lower = {str(key).strip().lower(): value for key, value in record.items()}
    for pair in _PAIRS:
        if all(name in lower for name in pair):
            return "\n\n".join(text for name in pair if (text := _plain(lower[name]).strip()))
    for name in _TEXT_FIELDS:
        if isinstance(lower.get(name), str):
            return str(lower[name])
    return None


def fields_text(record: Mapping[str, Any]) -> str:
    """Any record, one `name: value` line per field that holds something."""
    return "\n".join(f"{name}: {text}" for name, value in record.items() if (text := _plain(value).strip()))


def read_text(data: bytes) -> tuple[str, str]:
    """Text and encoding of a user's file: marked or UTF-8, else Windows-1252 line by line where UTF-8 does not fit."""
    from soldiom_ray.collect.text import decode

    try:
        return decode(data), "utf-8"
    except LeftOut as left:
        if left.outcome != "undecodable":
            raise
    lines = data.split(b"\n")
    decoded, changed, marked = [], 0, 0
    for line in lines:
        try:
            decoded.append(line.decode("utf-8"))
            marked += not line.isascii()
        except UnicodeDecodeError:
            changed += 1
            decoded.append(_windows_1252(line))
    return "\n".join(decoded), "mixed utf-8 and windows-1252" if marked else "windows-1252"


def _windows_1252(line: bytes) -> str:
    odd = sum(byte < 32 and byte not in (9, 10, 12, 13) for byte in line)
    try:
        if odd:
            raise LeftOut("undecodable", "neither UTF-8 nor text in Windows-1252")
        return line.decode("windows-1252")
    except UnicodeDecodeError as error:
        raise LeftOut("undecodable", "neither UTF-8 nor Windows-1252") from error


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)
