"""A document as the pieces that stay apart while its text changes: turns of a conversation, pages, or the whole."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

PAGES_APART = "\n"


@dataclass(frozen=True)
class Pieces:
    """`roles` has a role for each piece of a conversation; `is_paged` says that pieces are pages."""

    pieces: tuple[str, ...]
    roles: tuple[str, ...] = ()
    is_paged: bool = False

    @classmethod
    def of(cls, text: str, about: Mapping[str, Any]) -> "Pieces":
        """By what a document's metadata tells: `messages`, or `page_starts` (character offsets)."""
        if messages := about.get("messages"):
            return cls(tuple(str(one["content"]) for one in messages), tuple(str(one["role"]) for one in messages))
        if starts := about.get("page_starts"):
            return cls(tuple(_cut(text, starts)), is_paged=True)
        return cls((text,))

    def treated(self, function: Callable[[str], str]) -> "Pieces":
        """The same with `function` of every piece."""
        changed = tuple(function(piece) for piece in self.pieces)
        return replace(self, pieces=tuple(piece.strip("\n") for piece in changed) if self.roles else changed)

    def text(self) -> str:
        """The whole as one text. A question with its answer stands without roles; a longer conversation, or one that a
        system's words begin, with them."""
        if not self.roles:
            return PAGES_APART.join(self.pieces)
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
        starts, at = [], 0
        for piece in self.pieces:
            starts.append(at)
            at += len(piece) + len(PAGES_APART)
        return {"page_starts": starts}


def _cut(text: str, starts: Sequence[int]) -> list[str]:
    borders = [*sorted({min(max(0, int(start)), len(text)) for start in starts} | {0}), len(text)]
    return [text[start:end] for start, end in pairwise(borders)]
