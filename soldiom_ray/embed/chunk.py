"""Passages: pieces of a document that stand for themselves, cut where the text's own structure cuts.

Code is cut at functions, classes and methods, documentation at headings, paged documents at pages, prose and rows of
tables at blank lines; what is longer than a passage may be is cut at lines. A passage knows its lines, its symbol or
heading, and its page.
"""

import ast
import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

from soldiom_ray.embed import definitions

PIECE = re.compile(r"[A-Za-z]{1,5}|[0-9]|[^\sA-Za-z0-9]")
"""About one WordPiece token each: over 2,500 passages of code the sum is within 1 % of the tokenizer's."""

FILL = 0.85
"""Passages are filled to this share of the limit, because single ones cost more than estimated; the embedder does not
see what still exceeds it, the passage keeps it."""

MIN_TOKENS = 12
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
MAX_PARSED_CHARACTERS = 400_000
DULL = ("#", "import ", "from ", "//", "/*", "*/", "* ", "package ", "use ", "using ")
"""Lines that begin so between definitions are comments and imports, or nearly always."""

SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")
BREAK = re.compile(r"\s+")
MARKDOWN_HEADING = re.compile(r"#{1,6}\s+\S")
UNDERLINE = re.compile(r"([=\-~^\"'*+#`:.])\1{2,}\s*$")


@dataclass(frozen=True, slots=True)
class Span:
    """Lines [start, end) of a document, their symbol or heading, and how telling they are: 0 a documented definition or
    a section, 1 another definition, 2 the rest."""

    start: int
    end: int
    symbol: str
    rank: int


@dataclass(frozen=True, slots=True)
class Passage:
    """One row of an index. `embedded` is what the vector is made of: the text, under its symbol where it lacks it.
    `page` counts from 1; 0 where there are no pages."""

    id: str
    text: str
    embedded: str
    symbol: str
    start_line: int
    end_line: int
    rank: int
    page: int = 0


def passages_of(
    document_id: str, path: str, text: str, max_tokens: int, page_starts: Sequence[int] = ()
) -> list[Passage]:
    """The passages of one document in order, each of at most about `max_tokens` tokens. Ids follow from the content, so
    the same document always gives the same, and none twice. Scraps are left out unless the document is nothing else.
    `page_starts` are the offsets at which its pages begin."""
    lines = text.split("\n")
    limit = int(FILL * max_tokens)
    found: dict[str, Passage] = {}
    paged = page_spans(text, lines, page_starts, limit) if len(page_starts) > 1 else None
    for page, span in paged or ((0, span) for span in spans(path, text, lines, limit)):
        pieces = [
            (start, end, piece)
            for start, end in windows(lines, span.start, span.end, limit)
            for piece in broken("\n".join(lines[start:end]), limit)
        ]
        for number, (start, end, piece) in enumerate(pieces):
            embedded = piece if not span.symbol or span.symbol in piece else f"{span.symbol}\n{piece}"
            seed = f"{document_id}\0{start}\0{end}\0{piece}"
            identity = hashlib.sha256(seed.encode("utf-8", "replace")).hexdigest()[:32]
            rank = span.rank if number == 0 else 2
            found[identity] = Passage(identity, piece, embedded, span.symbol, start + 1, end, rank, page)
    telling = [passage for passage in found.values() if cost(passage.text) >= MIN_TOKENS]
    return telling or list(found.values())[:1]


def spans(path: str, text: str, lines: Sequence[str], max_tokens: int) -> list[Span]:
    """A document cut by its structure; by paragraphs where it has no other, or none that tells anything."""
    return _structure(path, text, lines) or list(paragraph_spans(lines, max_tokens, 0 if _is_prose(path) else 2))


def _is_prose(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in ("", ".txt", ".pdf", ".docx", ".html")


def _structure(path: str, text: str, lines: Sequence[str]) -> list[Span]:
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in (".py", ".pyi", ".ipynb") and len(text) <= MAX_PARSED_CHARACTERS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return list(python_spans(ast.parse(text), lines))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return []
    if suffix in definitions.FAMILIES and len(text) <= MAX_PARSED_CHARACTERS:
        return list(brace_spans(text, lines, definitions.FAMILIES[suffix]))
    if suffix in (".md", ".markdown", ".rst"):
        return list(section_spans(lines))
    return []


def page_spans(
    text: str, lines: Sequence[str], page_starts: Sequence[int], max_tokens: int
) -> Iterator[tuple[int, Span]]:
    """The paragraphs of each page under its number; a page without text begins where the next does. A page that begins
    within a line begins with the next."""
    offsets = [0, *sorted(min(max(0, start), len(text)) for start in page_starts)[1:]]
    firsts, at, line = [], 0, 0
    for offset in offsets:
        line += text.count("\n", at, offset)
        at = offset
        firsts.append(line if offset == 0 or text[offset - 1] == "\n" else line + 1)
    for page, (first, following) in enumerate(pairwise([*firsts, len(lines)]), 1):
        for span in paragraph_spans(lines[first:following], max_tokens):
            yield page, Span(first + span.start, first + span.end, span.symbol, span.rank)


def brace_spans(text: str, lines: Sequence[str], family: definitions.Family) -> Iterator[Span]:
    """As `python_spans`, for languages that nest by braces."""
    done = 0
    for one in definitions.outer(definitions.definitions(text, lines, family)):
        if one.start < done:
            continue
        yield from _between(lines, done, one.start)
        done = one.end
        yield Span(one.start, one.end, one.symbol, 0 if one.is_documented else 1)
    yield from _between(lines, done, len(lines))


def python_spans(tree: ast.Module, lines: Sequence[str]) -> Iterator[Span]:
    """Functions, classes up to their first method, methods, and what stands between them, when that is more than
    comments (a licence header) and imports."""
    done = 0
    for node, symbol in python_definitions(tree):
        start, end = _first_line(node), node.end_lineno or node.lineno
        if isinstance(node, ast.ClassDef):
            methods = [one for one in node.body if isinstance(one, Definition)]
            end = _first_line(methods[0]) if methods else end
        if start < done:
            continue
        yield from _between(lines, done, start)
        done = max(end, start + 1)
        yield Span(start, done, symbol, 0 if ast.get_docstring(node, clean=False) else 1)
    yield from _between(lines, done, len(lines))


def _between(lines: Sequence[str], start: int, end: int) -> Iterator[Span]:
    while start < end and (not lines[start].strip() or lines[start].startswith(DULL)):
        start += 1
    telling = [line for line in lines[start:end] if not line.lstrip().startswith(DULL)]
    if cost("\n".join(telling)) >= MIN_TOKENS:
        yield Span(start, end, "", 2)


def _first_line(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min([node.lineno, *(one.lineno for one in node.decorator_list)]) - 1


def python_definitions(tree: ast.Module) -> Iterator[tuple[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """Top-level functions, classes and their methods, in the order of their lines."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, node.name
        elif isinstance(node, ast.ClassDef):
            yield node, node.name
            for member in node.body:
                if isinstance(member, Definition):
                    yield member, f"{node.name}.{member.name}"


def section_spans(lines: Sequence[str]) -> Iterator[Span]:
    """Sections of Markdown and reStructuredText under their headings; fenced code holds none."""
    start, heading, fenced = 0, "", False
    for at, line in enumerate(lines):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        underlined = (
            at + 1 < len(lines)
            and line.strip()
            and UNDERLINE.match(lines[at + 1])
            and len(lines[at + 1].strip()) >= len(line.strip())
        )
        if not fenced and (MARKDOWN_HEADING.match(line) or (underlined and not UNDERLINE.match(line))):
            if at > start:
                yield Span(start, at, heading, 0)
            start, heading = at, line.strip("# \t")
    yield Span(start, len(lines), heading, 0)


def paragraph_spans(lines: Sequence[str], max_tokens: int, rank: int = 0) -> Iterator[Span]:
    """Paragraphs (what blank lines part), as many together as fit into a passage."""
    first, end, used = 0, 0, 0
    for start, stop in _paragraphs(lines):
        needed = cost("\n".join(lines[start:stop]))
        if end > first and used + needed > max_tokens:
            yield Span(first, end, "", rank)
            used = 0
        if used == 0:
            first = start
        end, used = stop, used + needed
    if end > first:
        yield Span(first, end, "", rank)


def _paragraphs(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    start = 0
    for at in range(len(lines) + 1):
        if at == len(lines) or not lines[at].strip():
            if at > start:
                yield start, at
            start = at + 1


def windows(lines: Sequence[str], start: int, end: int, max_tokens: int) -> Iterator[tuple[int, int]]:
    """Consecutive windows of whole lines within the limit; a line that exceeds it alone is a window."""
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    first, used = start, 0
    for at in range(start, end):
        needed = cost(lines[at])
        if at > first and used + needed > max_tokens:
            yield first, at
            first, used = at, 0
        used += needed
    if end > first:
        yield first, end


def broken(text: str, max_tokens: int) -> Iterator[str]:
    """A text in pieces within the limit, broken after sentences, else between words. Whole when it fits."""
    if cost(text) <= max_tokens:
        yield text
        return
    waiting: list[str] = []
    used = 0
    for sentence in SENTENCE_END.split(text):
        fits = cost(sentence) <= max_tokens
        for unit in [sentence] if fits else BREAK.split(sentence):
            needed = cost(unit)
            if waiting and used + needed > max_tokens:
                yield " ".join(waiting)
                waiting, used = [], 0
            waiting.append(unit)
            used += needed
    if waiting:
        yield " ".join(waiting)


def cost(text: str) -> int:
    """About how many tokens a text has."""
    return len(PIECE.findall(text))
