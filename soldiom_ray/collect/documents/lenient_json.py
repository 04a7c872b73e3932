"""JSON as people and other programs write it: with comments, a comma after the last element, Python's or JavaScript's
quotes and names. Asked only for what is no JSON."""

import ast
import json
import re
from typing import Any

_PIECE = re.compile(
    r"""(?P<double>"(?:[^"\\]|\\.)*")
    |(?P<single>'(?:[^'\\]|\\.)*')
    |(?P<comment>/\*.*?\*/|//[^\n]*|(?:^|(?<=[\s,\[{]))\#[^\n]*)
    |(?P<word>[A-Za-z_$][\w$]*)(?P<colon>\s*:)?""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
_LAST_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[\]}])', re.DOTALL)
_WORDS = {"True": "true", "False": "false", "None": "null", "undefined": "null"}
_LITERALS = ("true", "false", "null", "NaN", "Infinity")
_COMMENT_LINE = ("//", "#")
DECODER = json.JSONDecoder(parse_constant=lambda _: None)
"""pandas and Python write NaN for a value that is missing."""
_LOOSE_DECODER = json.JSONDecoder(parse_constant=lambda _: None, strict=False)
MAX_CHARACTERS = 64 << 20


def lenient_value(text: str) -> Any:
    """The list or object that a text is. Raises ValueError where more is wrong than how it is written."""
    stripped = text.strip()
    if stripped[:1] not in ("[", "{", "/", "#") or len(text) > MAX_CHARACTERS:
        raise ValueError("no list or object")
    written = _LAST_COMMA.sub(lambda match: match[1] or "", _PIECE.sub(_as_json, stripped))
    try:
        value = _LOOSE_DECODER.decode(written.strip())
    except (ValueError, RecursionError):
        value = _of_python(stripped)
    if not isinstance(value, (list, dict)):
        raise ValueError("no list or object")
    return value


def is_comment(line: str) -> bool:
    """Whether a line of JSON Lines says something to its readers alone."""
    return line.lstrip().startswith(_COMMENT_LINE)


def _as_json(match: re.Match[str]) -> str:
    if match["double"]:
        return match["double"]
    if match["single"]:
        try:
            return json.dumps(ast.literal_eval(match["single"]), ensure_ascii=False)
        except (ValueError, SyntaxError):
            return match["single"]
    if match["comment"]:
        return " "
    word, colon = match["word"], match["colon"] or ""
    if colon:
        return f'"{word}"{colon}'
    return word if word in _LITERALS else _WORDS.get(word, word)


def _of_python(text: str) -> Any:
    if "'" not in text:
        raise ValueError("not Python either")
    try:
        return ast.literal_eval(text)
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError("not Python either") from error
