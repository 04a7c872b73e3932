"""Passages: pieces of a document that stand for themselves, cut where the text's own structure cuts.

Python is cut at functions, classes and methods, documentation at headings, prose at paragraphs; what is longer than a
passage may be is cut at lines. A passage knows its lines and, in code, its symbol.
"""

import ast
import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

PIECE = re.compile(r"[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]")
LETTERS_PER_TOKEN = 5.0
"""WordPiece cuts identifiers into pieces of about this many letters; with one token per other character the estimate is
within a few percent on code, and what still exceeds the limit is cut off by the embedder, not lost from the passage."""

MIN_TOKENS = 12
MAX_PARSED_CHARACTERS = 400_000
MARKDOWN_HEADING = re.compile(r"#{1,6}\s+\S")
UNDERLINE = re.compile(r"([=\-~^\"'*+#`:.])\1{2,}\s*$")


@dataclass(frozen=True, slots=True)
class Span:
    """Lines [start, end) of a document, what they are (`symbol` or heading), and how telling: 0 documented definition or
    section, 1 other definition, 2 the rest."""

    start: int
    end: int
    symbol: str
    rank: int


@dataclass(frozen=True, slots=True)
class Passage:
    """One row of an index. `embedded` is what the vector is made of: the text, under its symbol where it lacks it."""

    id: str
    text: str
    embedded: str
    symbol: str
    start_line: int
    end_line: int
    rank: int


def passages_of(document_id: str, path: str, text: str, max_tokens: int) -> list[Passage]:
    """The passages of one document in order, each of at most about `max_tokens` tokens. Ids follow from the content, so
    the same document always gives the same."""
    lines = text.split("\n")
    found: list[Passage] = []
    for span in spans(path, text, lines):
        for number, (start, end) in enumerate(windows(lines, span.start, span.end, max_tokens)):
            piece = "\n".join(lines[start:end])
            if cost(piece) < MIN_TOKENS:
                continue
            embedded = piece if not span.symbol or span.symbol in piece else f"{span.symbol}\n{piece}"
            identity = hashlib.sha256(f"{document_id}\0{start}\0{end}\0{piece}".encode("utf-8", "replace")).hexdigest()[:32]
            found.append(Passage(identity, piece, embedded, span.symbol, start + 1, end, span.rank if number == 0 else 2))
    return found


def spans(path: str, text: str, lines: Sequence[str]) -> list[Span]:
    """A document cut by its structure."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in (".py", ".pyi", ".ipynb") and len(text) <= MAX_PARSED_CHARACTERS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return list(python_spans(ast.parse(text), len(lines)))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return [Span(0, len(lines), "", 2)]
    if suffix in (".md", ".markdown", ".rst"):
        return list(section_spans(lines))
    if suffix in ("", ".txt", ".pdf", ".docx", ".html"):
        return list(paragraph_spans(lines))
    return [Span(0, len(lines), "", 2)]


def python_spans(tree: ast.Module, line_count: int) -> Iterator[Span]:
    """Functions, classes up to their first method, methods, and what stands between them."""
    done = 0
    for node, symbol in definitions(tree):
        start = min([node.lineno, *(one.lineno for one in node.decorator_list)]) - 1
        end = node.end_lineno or node.lineno
        if isinstance(node, ast.ClassDef):
            methods = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
            if methods:
                end = min([methods[0].lineno, *(one.lineno for one in methods[0].decorator_list)]) - 1
        if start < done:
            continue
        if start > done:
            yield Span(done, start, "", 2)
        yield Span(start, max(end, start + 1), symbol, 0 if ast.get_docstring(node, clean=False) else 1)
        done = max(end, start + 1)
    if done < line_count:
        yield Span(done, line_count, "", 2)


def definitions(tree: ast.Module) -> Iterator[tuple[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """Top-level functions, classes and their methods, in the order of their lines."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, node.name
        elif isinstance(node, ast.ClassDef):
            yield node, node.name
            for member in node.body:
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    yield member, f"{node.name}.{member.name}"


def section_spans(lines: Sequence[str]) -> Iterator[Span]:
    """Sections of Markdown and reStructuredText under their headings; fenced code holds none."""
    start, heading, fenced = 0, "", False
    for at, line in enumerate(lines):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        underlined = at + 1 < len(lines) and line.strip() and UNDERLINE.match(lines[at + 1]) and len(lines[at + 1].strip()) >= len(line.strip())
        if not fenced and (MARKDOWN_HEADING.match(line) or (underlined and not UNDERLINE.match(line))):
            if at > start:
                yield Span(start, at, heading, 0)
            start, heading = at, line.strip("# \t")
    yield Span(start, len(lines), heading, 0)


def paragraph_spans(lines: Sequence[str]) -> Iterator[Span]:
    """Runs of lines between blank ones."""
    start = 0
    for at in range(len(lines) + 1):
        if at == len(lines) or not lines[at].strip():
            if at > start:
                yield Span(start, at, "", 0)
            start = at + 1


def windows(lines: Sequence[str], start: int, end: int, max_tokens: int) -> Iterator[tuple[int, int]]:
    """Consecutive windows of whole lines within the limit; a line that exceeds it alone is a window."""
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    first, used = start, 0.0
    for at in range(start, end):
        needed = cost(lines[at])
        if at > first and used + needed > max_tokens:
            yield first, at
            first, used = at, 0.0
        used += needed
    if end > first:
        yield first, end


def cost(text: str) -> float:
    """About how many tokens a text has."""
    return sum(1 + (len(piece) - 1) // LETTERS_PER_TOKEN for piece in PIECE.findall(text))


def row_order(passage: dict[str, Any]) -> tuple[str, str, int, str]:
    """Where a passage stands in an index."""
    return passage["group"], passage["path"], passage["start_line"], passage["id"]
