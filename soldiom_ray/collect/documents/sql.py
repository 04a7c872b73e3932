"""SQL dumps of PostgreSQL, MySQL and SQLite: the rows that their statements insert. Nothing is executed."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from soldiom_ray.collect.documents.encodings import read_text
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.documents.rows import Table, header_names, tables_texts

_MYSQL = re.compile(
    r"-- (?:MySQL|MariaDB) dump|\bENGINE\s*=\s*\w+|^INSERT (?:IGNORE )?INTO `|^CREATE TABLE `", re.MULTILINE
)
_PLAIN = r"'[^']*+(?:''[^']*+)*+'"
_ESCAPED = r"'[^'\\]*+(?:(?:''|\\.)[^'\\]*+)*+'"
_PARTS = r"""
    (?P<space>\s+|--[^\n]*|\#(?<=^\#)[^\n]*|/\*.*?\*/)
    |(?P<string>(?:[eE]{escaped}|(?:[nN]|_utf8(?:mb[34])?\s*)?{usual}))
    |(?P<bytes>[xXbB]'[^']*'|0x[0-9A-Fa-f]+|_binary\s*{usual})
    |(?P<dollar>\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    |(?P<quoted>"[^"]*+(?:""[^"]*+)*+"|`[^`]*+(?:``[^`]*+)*+`|\[[^\]\n]*\])
    |(?P<number>[+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?(?!\w))
    |(?P<word>\w++|@++\w*+)
    |(?P<sign>.)
"""
_FLAGS = re.VERBOSE | re.DOTALL | re.MULTILINE
_TOKENS = {
    False: re.compile(_PARTS.format(escaped=_ESCAPED, usual=_PLAIN), _FLAGS),
    True: re.compile(_PARTS.format(escaped=_ESCAPED, usual=_ESCAPED), _FLAGS),
}
_LITERAL = (
    r"(?:(?P<string>[eE]{escaped}|[nN]?{usual})|(?P<number>[+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?)"
    r"|(?P<word>NULL|TRUE|FALSE|null|true|false))\s*(?P<end>[,)])\s*"
)
_LITERALS = {
    False: re.compile(_LITERAL.format(escaped=_ESCAPED, usual=_PLAIN), re.DOTALL),
    True: re.compile(_LITERAL.format(escaped=_ESCAPED, usual=_ESCAPED), re.DOTALL),
}
"""A literal and the sign after it: nearly all rows consist of these, and are read five times as fast this way."""
_DELIMITER = re.compile(r"DELIMITER\s+(\S+)", re.IGNORECASE)
_MYSQL_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "", "b": "\b", "Z": "\x1a"}
_COPY_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{4}|[0-7]{1,3}|.)", re.DOTALL)
_NEXT_ROW = re.compile(r"\s*,\s*(?=\()")
_OPENED = re.compile(r"\(\s*")
_WORDS = {"null": None, "true": True, "false": False}
_NO_COLUMN = {
    "constraint",
    "primary",
    "unique",
    "key",
    "index",
    "foreign",
    "check",
    "fulltext",
    "spatial",
    "exclude",
    "like",
}


@dataclass
class Dump:
    """The tables of a dump. `cut_off` when the dump ends within a statement."""

    columns: dict[str, list[str]] = field(default_factory=dict)
    rows: dict[str, list[list[Any]]] = field(default_factory=dict)
    other_statements: int = 0
    cut_off: bool = False


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The rows of every table; a script that inserts none becomes one text."""
    decoded = read_text(data)
    dump = read_dump(decoded.text)
    if not dump.rows:
        return [ParsedText(decoded.text, metadata=decoded.metadata)]
    tables = []
    for table, rows in dump.rows.items():
        names = header_names(dump.columns.get(table, []), max(map(len, rows)))
        tables.append(Table(table, names, rows))
    metadata = decoded.metadata | {"tables": len(tables), "other_statements": dump.other_statements}
    return tables_texts(tables, options.columns, metadata | ({"cut_off": True} if dump.cut_off else {}))


def read_dump(text: str) -> Dump:
    """The rows of a dump, table by table, in the order of the file."""
    dump = Dump()
    reader = _Reader(text)
    try:
        while word := reader.statement_start():
            if word in ("insert", "replace"):
                _insert(reader, dump)
            elif word == "copy":
                _copy(reader, dump)
            elif word == "create" and reader.word_is(
                "table", skip=("temporary", "temp", "unlogged", "global", "local")
            ):
                _create(reader, dump)
            else:
                dump.other_statements += 1
            reader.end_statement()
    except _CutOffError:
        dump.cut_off = True
    return dump


class _CutOffError(Exception):
    """The text ends within a statement."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int


class _Reader:
    """Tokeniser of a script, without blanks and comments, with one token of lookahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.mysql = bool(_MYSQL.search(text))
        self.pattern = _TOKENS[self.mysql]
        self.ended = False

    def peek(self) -> _Token:
        """The next token, not consumed; kind "end" after the last one."""
        while True:
            match = self.pattern.match(self.text, self.position)
            if match is None:
                return _Token("end", "", self.position)
            kind = str(match.lastgroup if match.lastgroup != "tag" else "dollar")
            if kind != "space":
                if kind == "sign" and (match[0] in "'\"`" or self.text.startswith("/*", match.start())):
                    self.position = len(self.text)
                    raise _CutOffError
                return _Token(kind, match[0], match.start())
            self.position = match.end()

    def next_token(self) -> _Token:
        """The next token, consumed."""
        token = self.peek()
        self.position = token.start + len(token.text)
        return token

    def expect(self) -> _Token:
        """The next token, consumed. Raises _CutOffError at the end of the text."""
        token = self.next_token()
        if token.kind == "end":
            raise _CutOffError
        return token

    def statement_start(self) -> str:
        """The first word of the next statement in lower case, "" at the end. Commands of a client are passed over."""
        self.ended = False
        while True:
            token = self.next_token()
            if token.kind == "end":
                return ""
            if token.text == "\\" or token.text.lower() == "delimiter":
                self._client_command(token)
            elif token.text != ";":
                return token.text.lower()

    def word_is(self, expected: str, skip: tuple[str, ...] = ()) -> bool:
        while self.peek().text.lower() in skip:
            self.next_token()
        if self.peek().text.lower() == expected:
            self.next_token()
            return True
        return False

    def end_statement(self) -> None:
        """Skip the rest of a statement. A last statement without its semicolon is complete."""
        while not self.ended:
            token = self.next_token()
            self.ended = token.text == ";" or token.kind == "end"

    def name(self) -> str:
        """A table's name, without its schema."""
        token = self.expect()
        while self.peek().text == ".":
            self.next_token()
            token = self.expect()
        return _unquoted(token)

    def names(self) -> list[str]:
        """Names between brackets, when there are any."""
        names: list[str] = []
        if self.peek().text == "(":
            self.next_token()
            while (token := self.expect()).text != ")":
                if token.text != ",":
                    names.append(_unquoted(token))
        return names

    def line_end(self) -> int:
        end = self.text.find("\n", self.position)
        return len(self.text) if end < 0 else end + 1

    def _client_command(self, token: _Token) -> None:
        """psql's backslash commands take a line; between mysql's DELIMITER lines stand bodies of triggers."""
        self.position = token.start
        end = self.line_end()
        delimiter = _DELIMITER.match(self.text, token.start)
        self.position = end
        if delimiter and delimiter[1] != ";":
            back = re.compile(r"^DELIMITER\s+;", re.IGNORECASE | re.MULTILINE).search(self.text, end)
            self.position = back.start() if back else len(self.text)


def _insert(reader: _Reader, dump: Dump) -> None:
    while reader.peek().text.lower() in ("into", "ignore", "low_priority", "delayed", "or", "replace", "only"):
        reader.next_token()
    table = reader.name()
    columns = reader.names()
    while (text := reader.peek().text.lower()) not in ("values", "value"):
        if text in (";", "", "select", "with", "("):
            dump.other_statements += 1
            return
        reader.next_token()
    reader.next_token()
    if columns:
        dump.columns.setdefault(table, columns)
    order = _order(dump.columns.get(table, []), columns)
    while reader.text.startswith("(", reader.position) or reader.peek().text == "(":
        row = _row(reader)
        ordered = [row[position] if position < len(row) else None for position in order] if order else row
        dump.rows.setdefault(table, []).append(ordered)
        following = _NEXT_ROW.match(reader.text, reader.position)
        if following is not None:
            reader.position = following.end()
        elif reader.peek().text == ",":
            reader.next_token()


def _order(columns: list[str], row_columns: list[str]) -> list[int]:
    """Positions, in a row with `row_columns`, of the values of `columns`, which new names extend; empty when the order
    is the same."""
    if not row_columns or row_columns == columns:
        return []
    columns.extend(name for name in row_columns if name not in columns)
    positions = {name: number for number, name in enumerate(row_columns)}
    return [positions.get(name, len(row_columns)) for name in columns]


def _simple_row(reader: _Reader) -> list[Any] | None:
    """A row of plain literals, after its opening bracket; None, with nothing consumed, for any other row."""
    literals, text, position = _LITERALS[reader.mysql], reader.text, reader.position
    values: list[Any] = []
    while match := literals.match(text, position):
        string, number, word, end = match.groups()
        if string is not None:
            simple = "\\" not in string and string[0] == "'"
            values.append(string[1:-1].replace("''", "'") if simple else _string(string, reader.mysql))
        else:
            values.append(_number(number) if number is not None else _WORDS[word.lower()])
        position = match.end()
        if end == ")":
            reader.position = position
            return values
    return None


def _row(reader: _Reader) -> list[Any]:
    opened = _OPENED.match(reader.text, reader.position)
    if opened:
        reader.position = opened.end()
    else:
        reader.expect()
    if (simple := _simple_row(reader)) is not None:
        return simple
    values: list[Any] = []
    parts: list[_Token] = []
    start, depth = reader.position, 0
    while True:
        token = reader.expect()
        if depth == 0 and token.text in (",", ")") and token.kind == "sign":
            values.append(_value(parts, reader.text[start : token.start], reader.mysql))
            if token.text == ")":
                return values
            parts, start = [], reader.position
            continue
        if token.kind == "sign":
            depth += (token.text == "(") - (token.text == ")")
        parts.append(token)


def _value(parts: list[_Token], source: str, mysql: bool) -> Any:
    """A literal's value; an expression as its source. A cast (`'x'::text`) is its literal."""
    if not parts:
        return None
    first = parts[0]
    if len(parts) > 1 and parts[1].text != ":":
        return source.strip()
    if first.kind == "string":
        return _string(first.text, mysql)
    if first.kind == "bytes":
        return f"({len(first.text) // 2} bytes)"
    if first.kind == "number":
        return _number(first.text)
    if first.kind == "word":
        return _WORDS.get(first.text.lower(), source.strip())
    return source.strip()


def _number(literal: str) -> Any:
    if any(sign in literal for sign in ".eE"):
        return float(literal)
    return int(literal) if len(literal) < 40 else literal


def _string(literal: str, mysql: bool) -> str:
    mark, _, inner = literal[:-1].partition("'")
    inner = inner.replace("''", "'")
    if not (mysql or mark in ("e", "E")) or "\\" not in inner:
        return inner
    return _ESCAPE.sub(lambda match: _escape(match[1], _MYSQL_ESCAPES if mysql else _COPY_ESCAPES, mysql), inner)


def _escape(sign: str, escapes: dict[str, str], mysql: bool) -> str:
    if sign[0] in escapes:
        return escapes[sign[0]] + sign[1:]
    if mysql:
        return sign
    if len(sign) > 1 and sign[0] in "xu":
        return chr(int(sign[1:], 16))
    return chr(int(sign, 8)) if sign[0] in "01234567" and int(sign, 8) else sign


def _copy(reader: _Reader, dump: Dump) -> None:
    """`COPY table (columns) FROM stdin;` and its lines up to `\\.`."""
    table, columns = reader.name(), reader.names()
    words = []
    while (token := reader.expect()).text != ";":
        words.append(token.text.lower())
    reader.ended = True
    if words[:2] != ["from", "stdin"]:
        dump.other_statements += 1
        return
    if columns:
        dump.columns.setdefault(table, columns)
    reader.position = reader.line_end()
    for line in _copy_lines(reader):
        values = line.split("\t")
        row = [_copied(value) for value in values] if "\\" in line else values
        dump.rows.setdefault(table, []).append(row)


def _copy_lines(reader: _Reader) -> Iterator[str]:
    while reader.position < len(reader.text):
        end = reader.line_end()
        line = reader.text[reader.position : end].rstrip("\r\n")
        reader.position = end
        if line == "\\.":
            return
        yield line
    raise _CutOffError


def _copied(value: str) -> str | None:
    if value == "\\N":
        return None
    return _ESCAPE.sub(lambda match: _escape(match[1], _COPY_ESCAPES, False), value) if "\\" in value else value


def _create(reader: _Reader, dump: Dump) -> None:
    """The column names of a table, for INSERTs that do not name them."""
    while reader.peek().text.lower() in ("if", "not", "exists"):
        reader.next_token()
    table = reader.name()
    if reader.peek().text != "(":
        return
    reader.next_token()
    columns: list[str] = []
    first, depth = True, 0
    while depth >= 0:
        token = reader.expect()
        if first and depth == 0 and token.text.lower() not in _NO_COLUMN and token.kind in ("word", "quoted", "string"):
            columns.append(_unquoted(token))
        first = token.text == "," and depth == 0
        if token.kind == "sign":
            depth += (token.text == "(") - (token.text == ")")
    dump.columns.setdefault(table, columns)


def _unquoted(token: _Token) -> str:
    if token.kind == "quoted":
        quote = token.text[-1]
        return token.text[1:-1].replace(quote * 2, quote)
    return token.text[1:-1] if token.kind == "string" else token.text
