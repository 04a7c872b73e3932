"""Passages: self-contained pieces of a document, cut along the structure of the text.

Code is cut at functions, classes and methods, documentation at headings, paged documents at pages, prose and rows of
tables at blank lines; what exceeds the length of a passage is cut at lines. A passage has its lines, its symbol or
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

TOKEN = re.compile(r"[A-Za-z]{1,5}|[0-9]|[^\sA-Za-z0-9]")
"""Each match is about one WordPiece token: over 2,500 passages of code the sum is within 1 % of the tokenizer's."""

FILL = 0.85
"""Passages are filled to this share of the limit, because the estimate is too low for some. The embedder truncates what
still exceeds the limit; the text of the passage does not lose it."""

MIN_TOKENS = 12
PythonDefinition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
MAX_PARSED_CHARACTERS = 400_000
COMMENT_OR_IMPORT = ("#", "import ", "from ", "//", "/*", "*/", "* ", "package ", "use ", "using ")
"""Lines between definitions that begin so are nearly always comments and imports."""

SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")
BREAK = re.compile(r"\s+")
MARKDOWN_HEADING = re.compile(r"#{1,6}\s+\S")
UNDERLINE = re.compile(r"([=\-~^\"'*+#`:.])\1{2,}\s*$")


@dataclass(frozen=True, slots=True)
class LineSpan:
    """Lines [start, end) of a document, their symbol or heading, and how informative they are: 0 a documented
    definition or a section, 1 another definition, 2 the rest."""

    start: int
    end: int
    symbol: str
    rank: int


@dataclass(frozen=True, slots=True)
class Passage:
    """One row of an index. `embedded` is the text that the vector is made of: `text`, preceded by the symbol when it
    does not contain it. `page` counts from 1 and is 0 where there are no pages."""

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
    """The passages of one document in order, each of at most about `max_tokens` tokens. Ids are hashes of the content,
    so the same document always has the same passages, and none twice. Passages below MIN_TOKENS are left out unless
    the document has no other. `page_starts` are the character offsets at which its pages begin."""
    lines = text.split("\n")
    limit = int(FILL * max_tokens)
    passages: dict[str, Passage] = {}
    paged = page_spans(text, lines, page_starts, limit) if len(page_starts) > 1 else None
    for page, span in paged or ((0, span) for span in document_spans(path, text, lines, limit)):
        pieces = [
            (start, end, piece)
            for start, end in line_windows(lines, span.start, span.end, limit)
            for piece in split_long("\n".join(lines[start:end]), limit)
        ]
        for number, (start, end, piece) in enumerate(pieces):
            embedded = piece if not span.symbol or span.symbol in piece else f"{span.symbol}\n{piece}"
            seed = f"{document_id}\0{start}\0{end}\0{piece}"
            identity = hashlib.sha256(seed.encode("utf-8", "replace")).hexdigest()[:32]
            rank = span.rank if number == 0 else 2
            passages[identity] = Passage(identity, piece, embedded, span.symbol, start + 1, end, rank, page)
    long_enough = [passage for passage in passages.values() if estimate_tokens(passage.text) >= MIN_TOKENS]
    return long_enough or list(passages.values())[:1]


def document_spans(path: str, text: str, lines: Sequence[str], max_tokens: int) -> list[LineSpan]:
    """A document cut by its structure, or by paragraphs where it has no other structure."""
    return _structure(path, text, lines) or list(paragraph_spans(lines, max_tokens, 0 if _is_prose(path) else 2))


def _is_prose(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in ("", ".txt", ".pdf", ".docx", ".html")


def _structure(path: str, text: str, lines: Sequence[str]) -> list[LineSpan]:
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
) -> Iterator[tuple[int, LineSpan]]:
    """Page numbers and the paragraphs of each page. A page without text begins where the next does; a page that begins
    within a line begins with the next line."""
    offsets = [0, *sorted(min(max(0, start), len(text)) for start in page_starts)[1:]]
    firsts, counted, line = [], 0, 0
    for offset in offsets:
        line += text.count("\n", counted, offset)
        counted = offset
        firsts.append(line if offset == 0 or text[offset - 1] == "\n" else line + 1)
    for page, (first, following) in enumerate(pairwise([*firsts, len(lines)]), 1):
        for span in paragraph_spans(lines[first:following], max_tokens):
            yield page, LineSpan(first + span.start, first + span.end, span.symbol, span.rank)


def brace_spans(text: str, lines: Sequence[str], family: definitions.Family) -> Iterator[LineSpan]:
    """As `python_spans`, for languages that nest by braces."""
    done = 0
    for definition in definitions.without_overlap(definitions.find_definitions(text, lines, family)):
        if definition.start < done:
            continue
        yield from _between(lines, done, definition.start)
        done = definition.end
        yield LineSpan(definition.start, done, definition.symbol, 0 if definition.is_documented else 1)
    yield from _between(lines, done, len(lines))


def python_spans(tree: ast.Module, lines: Sequence[str]) -> Iterator[LineSpan]:
    """Functions, classes up to their first method, methods, and what stands between them if it is more than comments
    (a license header) and imports."""
    done = 0
    for node, symbol in python_definitions(tree):
        start, end = _first_line(node), node.end_lineno or node.lineno
        if isinstance(node, ast.ClassDef):
            methods = [member for member in node.body if isinstance(member, PythonDefinition)]
            end = _first_line(methods[0]) if methods else end
        if start < done:
            continue
        yield from _between(lines, done, start)
        done = max(end, start + 1)
        yield LineSpan(start, done, symbol, 0 if ast.get_docstring(node, clean=False) else 1)
    yield from _between(lines, done, len(lines))


def _between(lines: Sequence[str], start: int, end: int) -> Iterator[LineSpan]:
    while start < end and (not lines[start].strip() or lines[start].startswith(COMMENT_OR_IMPORT)):
        start += 1
    informative = [line for line in lines[start:end] if not line.lstrip().startswith(COMMENT_OR_IMPORT)]
    if estimate_tokens("\n".join(informative)) >= MIN_TOKENS:
        yield LineSpan(start, end, "", 2)


def _first_line(node: PythonDefinition) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1


def python_definitions(tree: ast.Module) -> Iterator[tuple[PythonDefinition, str]]:
    """Top-level functions, classes and their methods with their symbols, in the order of their lines."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, node.name
        elif isinstance(node, ast.ClassDef):
            yield node, node.name
            for member in node.body:
                if isinstance(member, PythonDefinition):
                    yield member, f"{node.name}.{member.name}"


def section_spans(lines: Sequence[str]) -> Iterator[LineSpan]:
    """Sections of Markdown and reStructuredText with their headings; fenced code has none."""
    start, heading, fenced = 0, "", False
    for number, line in enumerate(lines):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        underlined = (
            number + 1 < len(lines)
            and line.strip()
            and UNDERLINE.match(lines[number + 1])
            and len(lines[number + 1].strip()) >= len(line.strip())
        )
        if not fenced and (MARKDOWN_HEADING.match(line) or (underlined and not UNDERLINE.match(line))):
            if number > start:
                yield LineSpan(start, number, heading, 0)
            start, heading = number, line.strip("# \t")
    yield LineSpan(start, len(lines), heading, 0)


def paragraph_spans(lines: Sequence[str], max_tokens: int, rank: int = 0) -> Iterator[LineSpan]:
    """Paragraphs (separated by blank lines), as many together as fit into a passage."""
    first, end, used = 0, 0, 0
    for start, stop in _paragraphs(lines):
        needed = estimate_tokens("\n".join(lines[start:stop]))
        if end > first and used + needed > max_tokens:
            yield LineSpan(first, end, "", rank)
            used = 0
        if used == 0:
            first = start
        end, used = stop, used + needed
    if end > first:
        yield LineSpan(first, end, "", rank)


def _paragraphs(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    start = 0
    for number in range(len(lines) + 1):
        if number == len(lines) or not lines[number].strip():
            if number > start:
                yield start, number
            start = number + 1


def line_windows(lines: Sequence[str], start: int, end: int, max_tokens: int) -> Iterator[tuple[int, int]]:
    """Consecutive windows of whole lines within the limit; a line that exceeds the limit is a window of its own."""
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    first, used = start, 0
    for number in range(start, end):
        needed = estimate_tokens(lines[number])
        if number > first and used + needed > max_tokens:
            yield first, number
            first, used = number, 0
        used += needed
    if end > first:
        yield first, end


def split_long(text: str, max_tokens: int) -> Iterator[str]:
    """A text in pieces within the limit, split after sentences, else between words. Whole when it fits."""
    if estimate_tokens(text) <= max_tokens:
        yield text
        return
    pending: list[str] = []
    used = 0
    for sentence in SENTENCE_END.split(text):
        fits = estimate_tokens(sentence) <= max_tokens
        for unit in [sentence] if fits else BREAK.split(sentence):
            needed = estimate_tokens(unit)
            if pending and used + needed > max_tokens:
                yield " ".join(pending)
                pending, used = [], 0
            pending.append(unit)
            used += needed
    if pending:
        yield " ".join(pending)


def estimate_tokens(text: str) -> int:
    """About how many WordPiece tokens a text has."""
    return len(TOKEN.findall(text))
