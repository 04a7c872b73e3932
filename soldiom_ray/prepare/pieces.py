"""A document as the pieces that stay separate while its text changes: turns of a conversation, pages, or the whole."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

PAGE_SEPARATOR = "\n"


@dataclass(frozen=True)
class Pieces:
    """`roles` has a role for each piece of a conversation; `is_paged` says that pieces are pages."""

    pieces: tuple[str, ...]
    roles: tuple[str, ...] = ()
    is_paged: bool = False

    @classmethod
    def of(cls, text: str, metadata: Mapping[str, Any]) -> "Pieces":
        """By a document's metadata: `messages`, or `page_starts` (character offsets)."""
        if messages := metadata.get("messages"):
            contents = tuple(str(message["content"]) for message in messages)
            return cls(contents, tuple(str(message["role"]) for message in messages))
        if starts := metadata.get("page_starts"):
            return cls(tuple(_cut(text, starts)), is_paged=True)
        return cls((text,))

    def mapped(self, function: Callable[[str], str]) -> "Pieces":
        """The same pieces, each changed by `function`."""
        changed = tuple(function(piece) for piece in self.pieces)
        return replace(self, pieces=tuple(piece.strip("\n") for piece in changed) if self.roles else changed)

    def text(self) -> str:
        """The whole as one text. A question and its answer are joined without roles; a longer conversation, or one that
        begins with a system message, with them."""
        if not self.roles:
            return PAGE_SEPARATOR.join(self.pieces)
        if len(self.roles) == 2 and "system" not in self.roles:
            return "\n\n".join(self.pieces) + "\n"
        return "\n\n".join(f"{role}: {piece}" for role, piece in zip(self.roles, self.pieces, strict=True)) + "\n"

    def messages(self) -> str:
        """The conversation as JSON; empty for other texts."""
        turns = [{"role": role, "content": piece} for role, piece in zip(self.roles, self.pieces, strict=False)]
        return json.dumps(turns, ensure_ascii=False) if turns else ""

    def metadata(self) -> dict[str, Any]:
        """Where the pages of `text()` begin, in characters; empty for other texts."""
        if not self.is_paged:
            return {}
        starts, start = [], 0
        for piece in self.pieces:
            starts.append(start)
            start += len(piece) + len(PAGE_SEPARATOR)
        return {"page_starts": starts}


def _cut(text: str, starts: Sequence[int]) -> list[str]:
    offsets = [*sorted({min(max(0, int(start)), len(text)) for start in starts} | {0}), len(text)]
    return [text[start:end] for start, end in pairwise(offsets)]
