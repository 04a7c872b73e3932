"""Definitions in languages that nest by braces: JavaScript, TypeScript, Java, C, C++, C#, Go, Rust and their like.

No grammar: strings and comments are blanked, braces are followed, and what stands before a brace says what it opens.
What is not understood stays text between definitions, so nothing is lost.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

Family = Literal["script", "java", "c", "go", "rust"]
FAMILIES: dict[str, Family] = {
    **dict.fromkeys((".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx"), "script"),
    **dict.fromkeys((".java", ".cs", ".kt", ".scala", ".swift", ".php", ".dart"), "java"),
    **dict.fromkeys((".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".cu", ".cuh", ".m", ".mm"), "c"),
    ".go": "go",
    ".rs": "rust",
}
"""By a path's suffix."""

HEADER_CHARACTERS = 500
"""So much before a brace is read; it bounds the time for text that only looks like code."""

# Every pattern that begins also matches, or within a bound: text made to fail would cost its square otherwise.
_STRING = r"\"(?:\\.|[^\"\\\n])*+\"?"
_COMMENT = r"//[^\n]*+|/\*.*?(?:\*/|\Z)"
_COMMON = f"{_COMMENT}|{_STRING}"
_CHARACTER = r"'(?:\\[^\n]{1,9}?|[^'\\\n])'"
_LITERAL = r"(?<=[=(,:\[!&|?{};])[ \t]{0,4}/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n]){0,99}+\]|[^/\\\n\[]){1,199}+/"
_BLANKED: dict[Family, re.Pattern[str]] = {
    "script": re.compile(rf"{_COMMON}|'(?:\\.|[^'\\\n])*+'?|`(?:\\.|[^`\\])*+`?|{_LITERAL}", re.DOTALL),
    "java": re.compile(rf"\"\"\".*?(?:\"\"\"|\Z)|{_COMMON}|{_CHARACTER}", re.DOTALL),
    "c": re.compile(rf"(?m:^[ \t]*\#(?:\\\n|[^\n])*+)|R\"\(.*?(?:\)\"|\Z)|{_COMMON}|{_CHARACTER}", re.DOTALL),
    "go": re.compile(rf"{_COMMON}|`[^`]*+`?|{_CHARACTER}", re.DOTALL),
    "rust": re.compile(rf"r(#+)\".*?(?:\"\1|\Z)|{_COMMON}|{_CHARACTER}", re.DOTALL),
}
_NAME = r"[A-Za-z_$][\w$]*"
_CONTROL = {
    *(
        "if",
        "for",
        "while",
        "switch",
        "catch",
        "with",
        "synchronized",
        "using",
        "lock",
        "match",
        "return",
        "do",
        "else",
    ),
    *("sizeof", "defined", "function", "foreach", "when", "guard", "fixed", "assert", "throw", "new", "await", "loop"),
}
_CONTAINER = re.compile(
    rf"\b(?:class|interface|struct|union|enum(?:\s+class)?|trait|namespace|module|mod|record|object|extension|protocol)"
    rf"\s+((?:{_NAME})(?:(?:::|\.){_NAME})*)"
)
_IMPL = re.compile(rf"\bimpl\b.*?({_NAME})\s*(?:<[^{{}}]*>)?\s*(?:where\b.*)?\Z", re.DOTALL)
_GO_TYPE = re.compile(rf"\btype\s+({_NAME})\b[^\n]*\b(?:struct|interface)\s*\Z")
_GO_FUNCTION = re.compile(rf"\bfunc\s*(?:\(\s*(?:{_NAME}\s+)?\*?\s*({_NAME})[^)]*\)\s*)?({_NAME})\s*[\[(]")
_RUST_FUNCTION = re.compile(rf"\bfn\s+({_NAME})")
_SCRIPT_FUNCTION = re.compile(rf"\bfunction\s*\*?\s*({_NAME})\s*[<(]")
_SCRIPT_VALUE = re.compile(
    rf"(?:\b(?:const|let|var)\s+|\bexports\.|^\s*(?:static\s+)?)#?({_NAME})\s*(?::[^=;]*)?=\s*(?:async\b\s*)?"
    rf"(?:function\b[^;]*|(?:\([^;]*|{_NAME}\s*)=>\s*)\Z",
    re.MULTILINE,
)
_ARGUMENTS = r"\((?:[^();]|\([^();]*\))*\)"
_CALLABLE = re.compile(
    rf"([~#]?{_NAME}(?:::~?{_NAME})*)\s*(?:<[^<>(){{}};]*>\s*)?{_ARGUMENTS}[^(){{}};=]*(?::\s*{_NAME}\s*\([^;]*)?\Z"
)


@dataclass(slots=True)
class Definition:
    """Lines [start, end) of a definition with the comment and the attributes above it. `is_container`: it may hold
    others."""

    start: int
    end: int
    symbol: str
    is_documented: bool
    is_container: bool


@dataclass(slots=True)
class _Open:
    """A brace that is not closed yet; `found` is None for one that opens nothing of interest."""

    found: Definition | None = None
    path: tuple[str, ...] = field(default=())
    is_container: bool = False


def definitions(text: str, lines: Sequence[str], family: Family) -> list[Definition]:
    """Containers and functions in the order of their lines; none inside a function."""
    code = _BLANKED[family].sub(lambda match: _blank(match.group()), text)
    bare = code.split("\n")
    found: list[Definition] = []
    opened: list[_Open] = [_Open(is_container=True)]
    header, line, last, round_brackets = 0, 0, 0, 0
    for match in re.finditer(r"[{};()]", code):
        at, sign, above = match.start(), match.group(), opened[-1]
        line += code.count("\n", last, at)
        last = at
        if sign in "()":
            if above.is_container:
                round_brackets = max(0, round_brackets + (1 if sign == "(" else -1))
            continue
        if sign == "{":
            one = _Open()
            if above.is_container and not round_brackets:
                one = _opens(code, max(header, at - HEADER_CHARACTERS), at, line, above.path, family, lines, bare)
                if one.found:
                    found.append(one.found)
            opened.append(one)
        elif sign == "}" and len(opened) > 1:
            closed = opened.pop()
            if closed.found:
                closed.found.end = line + 1
                round_brackets = 0
        if opened[-1].is_container and not round_brackets:
            header = at + 1
    for one in opened:
        if one.found:
            one.found.end = len(lines)
    return found


def _blank(text: str) -> str:
    return "\n".join(" " * len(line) for line in text.split("\n"))


def _opens(
    code: str,
    header: int,
    at: int,
    line: int,
    path: tuple[str, ...],
    family: Family,
    lines: Sequence[str],
    bare: Sequence[str],
) -> _Open:
    """What the brace at `at` opens, by the code from `header` on."""
    words = code[header:at].rstrip()
    if named := _function(words, family):
        is_container, name, offset = False, *named
    elif named := _container(words, family):
        is_container, name, offset = True, *named
    else:
        # `extern "C" {` and an anonymous namespace hold definitions without naming anything.
        plain = words.strip() in ("extern", "namespace") and family == "c"
        return _Open(path=path, is_container=plain)
    start = line - words.count("\n", offset) - code.count("\n", header + len(words), at)
    while start > 0 and (bare[start - 1].lstrip().startswith(("@", "#[", "template")) and ";" not in bare[start - 1]):
        start -= 1
    first = start
    while (
        first > 0 and not bare[first - 1].strip() and lines[first - 1].strip() and lines[first - 1].lstrip()[0] != "#"
    ):
        first -= 1
    symbol = ("::" if family in ("c", "rust") else ".").join((*path, name))
    documented = any(one.lstrip().startswith(("//", "/*", "*")) for one in lines[first:start])
    return _Open(Definition(first, line + 1, symbol, documented, is_container), (*path, name), is_container)


def _function(words: str, family: Family) -> tuple[str, int] | None:
    """Name and offset of the function whose header the words are."""
    if family == "go":
        match = _last(_GO_FUNCTION, words)
        return (".".join(part for part in match.groups() if part), match.start()) if match else None
    if family == "rust":
        match = _last(_RUST_FUNCTION, words)
        return (match.group(1), match.start()) if match else None
    if family == "script":
        match = _last(_SCRIPT_FUNCTION, words) or _last(_SCRIPT_VALUE, words)
        if match:
            return match.group(1), match.start(1)
    match = _CALLABLE.search(words)
    if not match or match.group(1) in _CONTROL or words[: match.start()].rstrip().endswith((".", "=", "new", "(", ",")):
        return None
    return match.group(1), match.start(1)


def _container(words: str, family: Family) -> tuple[str, int] | None:
    if family == "go":
        match = _last(_GO_TYPE, words)
    elif family == "rust" and (match := _last(_IMPL, words)):
        return match.group(1), match.start()
    else:
        match = _last(_CONTAINER, words)
    return (match.group(1), match.start()) if match else None


def _last(pattern: re.Pattern[str], words: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(words), maxlen=1)), None)


def outer(found: Sequence[Definition]) -> Iterator[Definition]:
    """Definitions cut so that none covers another: a container ends where its first member starts."""
    for position, one in enumerate(found):
        following = found[position + 1] if position + 1 < len(found) else None
        inside = following is not None and one.is_container and one.start < following.start < one.end
        end = following.start if inside and following is not None else one.end
        yield Definition(one.start, max(end, one.start + 1), one.symbol, one.is_documented, one.is_container)
