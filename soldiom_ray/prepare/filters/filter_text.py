"""What a filter sees of a document: its text and what several filters count in it, computed once, on first use."""

from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import PurePosixPath

from soldiom_ray.prepare.filters.prose_tokens import Tokens, tokens_of

CODE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("py", "pyi", "pyx", "ipynb", "js", "mjs", "jsx", "ts", "tsx", "c", "h", "cc", "cpp", "hpp", "cu", "cuh"),
        *("java", "go", "rs", "rb", "php", "cs", "swift", "kt", "scala", "sh", "bash", "ps1", "sql", "r", "jl", "lua"),
        *("pl", "yaml", "yml", "toml", "cfg", "ini", "json", "css", "scss", "html", "xml", "proto", "cmake"),
    )
)


def is_code(path: str) -> bool:
    """Whether a path names code, configuration or markup rather than prose."""
    return PurePosixPath(path).suffix.lower() in CODE_SUFFIXES


@dataclass(frozen=True)
class FilterText:
    """A document's text, whether it is code (by the suffix of its path), and the path when it is known."""

    text: str
    is_code: bool
    path: str = ""

    @property
    def suffix(self) -> str:
        """Of the path, in lower case and with its dot."""
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
        """Those of `lines` that are not blank."""
        return list(compress(self.lines, map(str.strip, self.lines)))

    @cached_property
    def any_lines(self) -> list[str]:
        """Between line breaks of every kind (`str.splitlines`)."""
        return self.text.splitlines()
