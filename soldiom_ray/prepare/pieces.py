"""A document as the pieces that stay separate while its text changes: turns of a conversation, pages, or the whole."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from soldiom_ray.domains.messages import WRITTEN_FIELDS, labelled_text, mapped_strings, spoken

PAGE_SEPARATOR = "\n"
_PIECE = ("role", "content")


@dataclass(frozen=True)
class Pieces:
    """`roles` has a role for each piece of a conversation, `fields` what else its message holds (calls, tools);
    `is_paged` says that pieces are pages."""

    pieces: tuple[str, ...]
    roles: tuple[str, ...] = ()
    is_paged: bool = False
    is_infill: bool = False
    fields: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, text: str, metadata: Mapping[str, Any]) -> "Pieces":
        """By a document's metadata: `messages`, or character offsets, `page_starts` or `infill` (where the middle that
        is to be filled in begins and ends)."""
        if messages := metadata.get("messages"):
            contents = tuple(str(message["content"]) for message in messages)
            fields = tuple({n: value for n, value in message.items() if n not in _PIECE} for message in messages)
            return cls(contents, tuple(str(message["role"]) for message in messages), fields=fields)
        if starts := metadata.get("page_starts"):
            return cls(tuple(_cut(text, starts)), is_paged=True)
        if infill := metadata.get("infill"):
            middle, suffix = infill
            return cls((text[:middle], text[middle:suffix], text[suffix:]), is_infill=True)
        return cls((text,))

    def mapped(self, function: Callable[[str], str]) -> "Pieces":
        """The same pieces, each changed by `function`."""
        if self.is_infill:
            return replace(self, pieces=tuple(_within_spaces(piece, function) for piece in self.pieces))
        if not self.roles:
            return replace(self, pieces=tuple(map(function, self.pieces)))

        def stripped(piece: str) -> str:
            return function(piece).strip("\n")

        fields = tuple(
            {name: mapped_strings(value, stripped) if name in WRITTEN_FIELDS else value for name, value in some.items()}
            for some in self.fields
        )
        return replace(self, pieces=tuple(map(stripped, self.pieces)), fields=fields)

    def text(self) -> str:
        """The whole as one text. A question and its answer are joined without roles; a longer conversation, or one that
        begins with a system message, with them."""
        if self.is_infill:
            return "".join(self.pieces)
        if not self.roles:
            return PAGE_SEPARATOR.join(self.pieces)
        messages = self._messages()
        if len(self.roles) == 2 and "system" not in self.roles:
            return "\n\n".join(map(spoken, messages)) + "\n"
        return labelled_text(messages) + "\n"

    def messages(self) -> str:
        """The conversation as JSON; empty for other texts."""
        return json.dumps(self._messages(), ensure_ascii=False) if self.roles else ""

    def _messages(self) -> list[dict[str, Any]]:
        fields = self.fields or ({},) * len(self.roles)
        turns = zip(self.roles, self.pieces, fields, strict=True)
        return [{"role": role, "content": piece, **others} for role, piece, others in turns]

    def metadata(self) -> dict[str, Any]:
        """Where the pages of `text()`, or its middle and its suffix, begin, in characters; empty for other texts."""
        if self.is_infill:
            prefix, middle, _ = map(len, self.pieces)
            return {"infill": [prefix, prefix + middle]}
        if not self.is_paged:
            return {}
        starts, start = [], 0
        for piece in self.pieces:
            starts.append(start)
            start += len(piece) + len(PAGE_SEPARATOR)
        return {"page_starts": starts}


def _within_spaces(piece: str, function: Callable[[str], str]) -> str:
    """A part of a text that another follows at once, its blanks at both ends as they are."""
    words = piece.strip()
    if not words:
        return piece
    start = piece.index(words)
    return piece[:start] + function(words).strip("\n") + piece[start + len(words) :]


def _cut(text: str, starts: Sequence[int]) -> list[str]:
    offsets = [*sorted({min(max(0, int(start)), len(text)) for start in starts} | {0}), len(text)]
    return [text[start:end] for start, end in pairwise(offsets)]
