"""What parsers take and return. A parser returns ParsedTexts; collect makes a Document of each, prepare a Sample."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_UNPACKED_BYTES = 400 << 20
"""Of one file, together with everything that is packed in it."""


@dataclass(frozen=True, slots=True)
class ParseOptions:
    """A user's choices for reading files; JSON-serialisable values, because they travel to the sandbox.

    `columns` maps a role (text, question, answer, instruction, input, output, ...) to a column's or field's name.
    `ocr` reads scans and images; `speech_model` names the model that writes transcripts ("" for none). `pictures`
    returns pictures themselves, without their words, and nothing else.
    """

    columns: dict[str, str] = field(default_factory=dict)
    ocr: bool = True
    speech_model: str = ""
    pictures: bool = False


@dataclass(frozen=True, slots=True)
class Attachment:
    """Bytes that a file holds besides its text (a video's keyframe), stored under their hash. `metadata` is
    JSON-serialisable and becomes an entry of the text's `attachments`."""

    data: bytes
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ParsedText:
    """One text extracted from a file. `part` names the piece of the file that the text is ("row 7"), or is "" for the
    whole file; `metadata` is JSON-serialisable. `image` is the picture itself, PNG or JPEG."""

    text: str
    part: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    image: bytes | None = None


def skipped_entry(counts: Mapping[str, int]) -> dict[str, Any]:
    """The metadata entry `skipped`: how much of a file was met and left out, by reason; none where that is nothing."""
    left_out = {reason: count for reason, count in sorted(counts.items()) if count}
    return {"skipped": left_out} if left_out else {}
