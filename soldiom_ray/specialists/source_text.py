"""Python source as a tree whose nodes can be found, and replaced, in the text."""

import ast
from dataclasses import dataclass

from soldiom_ray.errors import InputError

MAX_SOURCE = 200_000


@dataclass(frozen=True, slots=True)
class Source:
    """A text and its tree. Offsets of the tree count bytes of UTF-8, so the text is kept as bytes."""

    data: bytes
    tree: ast.Module
    starts: tuple[int, ...]

    def span(self, node: ast.AST) -> tuple[int, int]:
        """The node's bytes."""
        first, last = getattr(node, "lineno", 1), getattr(node, "end_lineno", 1)
        start = self.starts[first - 1] + getattr(node, "col_offset", 0)
        return start, self.starts[last - 1] + getattr(node, "end_col_offset", 0)

    def text(self, node: ast.AST) -> str:
        """The node as it is written."""
        start, end = self.span(node)
        return self.data[start:end].decode(errors="replace")

    def replaced(self, start: int, end: int, written: str) -> str:
        """The whole text with these bytes replaced."""
        return (self.data[:start] + written.encode() + self.data[end:]).decode(errors="replace")


def parse_source(code: str) -> Source | str:
    """The source, or why it is none; InputError where it is too long to look at."""
    if len(code) > MAX_SOURCE:
        what = f"the code has {len(code)} characters; {MAX_SOURCE} are read"
        raise InputError(what, remedy="Give one module at a time.")
    text = code.replace("\r\n", "\n").replace("\r", "\n")
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return str(error) or "it is nested too deeply"  # MemoryError is the parser's own stack, not the machine's
    data = text.encode(errors="replace")
    starts = [0]
    for line in data.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    return Source(data, tree, tuple(starts))
