"""What a filter sees of a document: its text and what several filters count in it, computed once, when first asked."""

from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import PurePosixPath

from soldiom_ray.prepare.filters.prose_tokens import Tokens, tokens_of


@dataclass(frozen=True)
class Text:
    """A document's text, whether it is code (by the suffix of its path), and the path when it is known."""

    text: str
    is_code: bool
    path: str = ""

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix.lower()

    @cached_property
    def tokens(self) -> Tokens:
        """Words and punctuation as an English tokenizer splits them."""
        return tokens_of(self.text)

    @cached_property
    def lines(self) -> list[str]:
        """Between line feeds, empty ones too."""
        return self.text.split("\n")

    @cached_property
    def filled_lines(self) -> list[str]:
        """Those of `lines` that hold more than blanks."""
        return list(compress(self.lines, map(str.strip, self.lines)))

    @cached_property
    def any_lines(self) -> list[str]:
        """Between line breaks of every kind (`str.splitlines`)."""
        return self.text.splitlines()
