"""Pairs from Python source: a function without its docstring, and what its docstring says of it.

The answer is the docstring's first sentence on one line, not the whole: what follows (arguments, examples, the markup
of Sphinx) repeats the signature or says what the code cannot show, and takes most of the tokens. The source is
untrusted; it is parsed, never compiled or imported.
"""

import ast
import inspect
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

FUNCTION_REQUEST = "Write a one-line docstring for this function."
METHOD_REQUEST = "Write a one-line docstring for this method of `{}`."
CODE_BEGIN, CODE_END = "```python\n", "\n```"

PYTHON_SUFFIXES = (".py", ".pyi", ".pyw")
MAX_MODULE_CHARACTERS = 1_000_000
MAX_FUNCTION_CHARACTERS = 1_500
"""Of the code alone; some 450 tokens, so that the conversation fits into a sequence of 512."""

MIN_SUMMARY_WORDS, MAX_SUMMARY_CHARACTERS = 4, 200
SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bcf)(?<!\betc)[.!?](?=\s+[A-Z`*:\"'(])")
DEFINITION = re.compile(r"^[ \t]*(?:async )?def \w+\(", re.MULTILINE)
WORD = re.compile(r"[A-Za-z]+")
NAME_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
FILLER = frozenset(
    (
        *("a", "an", "the", "this", "that", "of", "for", "to", "from", "in", "on", "by", "with", "and", "or", "is"),
        *("are", "it", "its", "if", "whether", "given", "all", "as", "be", "return", "returns", "get", "gets", "set"),
        *("sets", "function", "method", "class", "object", "value"),
    )
)
"""Words that add nothing to what a name says."""

SECTION = re.compile(
    r"\s*(?:(?:args|arguments|parameters?|params|returns?|yields?|raises|examples?|notes?|attributes|inputs?|outputs?"
    r"|usage|see also)\s*:?\s*$|:(?:param|returns?|rtype|type|raises)\b|>>>|\.\. |@param\b|-{3}|={3}|\\)",
    re.IGNORECASE,
)
"""A line with which another part of a docstring begins."""

REFERENCE = re.compile(
    r"(?:see|refer to|same as|alias|wrapper for|deprecated|todo|fixme|xxx|overrid|implement(?:s|ation)? (?:of )?[:`]"
    r"|copied from|inherit)",
    re.IGNORECASE,
)
"""Starts of summaries that only point elsewhere."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class FunctionPair:
    """A function of a module. `name` is its qualified name, with its number (`area#2`) where an earlier one has the
    same. `reason` and `value` say why there is no pair; otherwise `question` and `answer` are its turns."""

    name: str
    question: str = ""
    answer: str = ""
    reason: str = ""
    value: str = ""

    def messages(self) -> list[dict[str, str]]:
        """The pair as a conversation."""
        return [{"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}]


class NoFunctionsError(Exception):
    """A text without a function that could be asked about: why, in a word, and the value that decided."""

    def __init__(self, reason: str, value: str) -> None:
        super().__init__(reason)
        self.reason, self.value = reason, value


def is_python(path: str, language: str, text: str) -> bool:
    """Whether a document is Python source: by its language (notebooks were made Python) or the suffix of its path; a
    row of a table, whose path says nothing, where it defines a function and can be parsed."""
    if language == "python" or PurePosixPath(path.lower()).suffix in PYTHON_SUFFIXES:
        return True
    return language in ("", "text") and DEFINITION.search(text) is not None and _is_parsed(text)


def _is_parsed(text: str) -> bool:
    try:
        return bool(_parse(text))
    except NoFunctionsError:
        return False


def function_pairs(text: str) -> list[FunctionPair]:
    """Every function of a module in order, as a pair or with the reason why it is none. Raises NoFunctionsError for a
    text that is too large or not Python, or that defines no function."""
    functions = _functions(_parse(text))
    if not functions:
        raise NoFunctionsError("no_function", "0 functions")
    lines = [line.encode("utf-8", "replace") for line in text.split("\n")]
    pairs: list[FunctionPair] = []
    occurrences: Counter[str] = Counter()
    for node, owner, is_nested in functions:
        name = f"{owner}.{node.name}" if owner else node.name
        occurrences[name] += 1
        label = name if occurrences[name] == 1 else f"{name}#{occurrences[name]}"
        refusal = _refusal(node, owner, is_nested=is_nested)
        pair = FunctionPair(label, reason=refusal[0], value=refusal[1]) if refusal else _pair(node, owner, label, lines)
        pairs.append(pair)
    return pairs


def _parse(text: str) -> ast.Module:
    if len(text) > MAX_MODULE_CHARACTERS:
        raise NoFunctionsError("large_module", f"{len(text)} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" in line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise NoFunctionsError("does_not_parse", f"{type(error).__name__}{line}") from error


def _functions(tree: ast.Module) -> list[tuple[Function, str, bool]]:
    """Functions in order, those under `if`, `try` and `with` too: each with the qualified name of what it stands in,
    and whether that is a function. Without recursion: a long chain of `elif` nests as deep as it is long."""
    functions: list[tuple[Function, str, bool]] = []
    waiting: list[tuple[ast.AST, str, bool]] = [(tree, "", False)]
    while waiting:
        node, owner, is_nested = waiting.pop()
        if isinstance(node, Function):
            functions.append((node, owner, is_nested))
        if isinstance(node, Function | ast.ClassDef):
            owner, is_nested = f"{owner}.{node.name}" if owner else node.name, isinstance(node, Function) or is_nested
        members = [getattr(node, name, None) for name in ("body", "handlers", "cases", "orelse", "finalbody")]
        inner = [member for some in members if isinstance(some, list) for member in some]
        waiting += [(member, owner, is_nested) for member in reversed(inner)]
    return functions


def _refusal(node: Function, owner: str, *, is_nested: bool) -> tuple[str, str] | None:
    """Why a function teaches nothing, and the value that decided, if so."""
    if is_nested:
        return "nested_function", f"inside {owner}"
    if node.name.startswith("test_"):
        return "test", node.name
    if any(_last_name(decorator) == "overload" for decorator in node.decorator_list):
        return "overload", node.name
    docstring = ast.get_docstring(node)
    if not docstring or not docstring.strip():
        return "no_docstring", "0 characters"
    if all(_does_nothing(statement) for statement in node.body[1:]):
        return "no_body", f"{len(node.body) - 1} statements"
    return _summary_refusal(summary_of(docstring), f"{owner}.{node.name}")


def summary_of(docstring: str) -> str:
    """The first sentence of a docstring on one line; its first paragraph ends it, and so does its first section."""
    lines: list[str] = []
    for line in inspect.cleandoc(docstring).split("\n"):
        if SECTION.match(line) or (lines and not line.strip()):
            break
        if line.strip():
            lines.append(line.strip())
    summary = " ".join(" ".join(lines).split())
    end = SENTENCE_END.search(summary)
    return summary[: end.end()] if end else summary


def _summary_refusal(summary: str, name: str) -> tuple[str, str] | None:
    words = WORD.findall(summary)
    if len(words) < MIN_SUMMARY_WORDS:
        return "short_docstring", f"{len(words)} words: {summary[:60]}"
    if len(summary) > MAX_SUMMARY_CHARACTERS:
        return "long_docstring", f"{len(summary)} characters"
    if summary.endswith(":") or REFERENCE.match(summary):
        return "refers_elsewhere", summary[:60]
    in_name = {part.lower().rstrip("s") for part in NAME_PART.findall(name)}
    added = [word for word in words if (low := word.lower()) not in FILLER and low.rstrip("s") not in in_name]
    return None if added else ("trivial_docstring", summary[:60])


def _pair(node: Function, owner: str, label: str, lines: Sequence[bytes]) -> FunctionPair:
    code = _without_docstring(node, lines)
    if len(code) > MAX_FUNCTION_CHARACTERS:
        return FunctionPair(label, reason="long_function", value=f"{len(code)} characters")
    request = METHOD_REQUEST.format(owner) if owner else FUNCTION_REQUEST
    question = f"{request}\n\n{CODE_BEGIN}{code}{CODE_END}"
    return FunctionPair(label, question, summary_of(ast.get_docstring(node) or ""))


def _without_docstring(node: Function, lines: Sequence[bytes]) -> str:
    """The function's own lines, decorators first, dedented, without its docstring. Columns of `ast` are UTF-8 bytes."""
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    docstring, end = node.body[0], node.end_lineno or node.lineno
    first, last = docstring.lineno - 1, (docstring.end_lineno or docstring.lineno) - 1
    before = lines[first][: docstring.col_offset]
    after = lines[last][docstring.end_col_offset :].lstrip(b" \t").removeprefix(b";").lstrip(b" \t")
    rest = list(lines[last + 1 : end])
    if before.strip() or after:
        body = [before + after]
    else:
        body = []
        while rest and not rest[0].strip():
            del rest[0]
    indent = lines[start][: len(lines[start]) - len(lines[start].lstrip(b" \t"))]
    kept = [*lines[start:first], *body, *rest]
    return b"\n".join(line.removeprefix(indent) for line in kept).decode("utf-8", "replace").rstrip()


def _does_nothing(statement: ast.stmt) -> bool:
    """Whether a statement only marks a place: `pass`, `...`, another string, `raise NotImplementedError`."""
    if isinstance(statement, ast.Raise) and statement.exc is not None:
        return _last_name(statement.exc) == "NotImplementedError"
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _last_name(node: ast.expr) -> str:
    """The last part of a name, of an attribute, or of what is called."""
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
