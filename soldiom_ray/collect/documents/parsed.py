"""What every parser is told and gives."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ParseOptions:
    """What a user may say of how files are read; JSON-serialisable values, so that they cross to the sandbox.

    `columns` maps a role (text, question, answer, instruction, input, output, ...) to a column's or field's name.
    `ocr` reads scans and images; `speech_model` names what writes transcripts ("" for none). `pictures` takes pictures
    themselves, without their words, and nothing else.
    """

    columns: dict[str, str] = field(default_factory=dict)
    ocr: bool = True
    speech_model: str = ""
    pictures: bool = False


@dataclass(frozen=True, slots=True)
class Attachment:
    """Bytes that a file holds besides its text (a video's keyframe), kept by their hash. `metadata` is
    JSON-serialisable and joins the text's under `attachments`."""

    data: bytes
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ParsedText:
    """One text of a file. `part` names a piece of it ("row 7") that stands for itself, or is "" for the whole file;
    `metadata` is JSON-serialisable. `image` is the picture itself, PNG or JPEG."""

    text: str
    part: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    image: bytes | None = None
