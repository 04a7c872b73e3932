"""Formulas of spreadsheets whose values the file does not hold: arithmetic, and the commonest functions over ranges of
the same sheet. Everything else raises FormulaError, and the value counts as missing."""

import re
from collections.abc import Callable, Iterator
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

MAX_DEPTH = 40
MAX_CELL_READS = 500_000
"""Of one sheet: a column of sums over growing ranges takes quadratic time."""
_TOKEN = re.compile(
    r'\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)|"((?:[^"]|"")*)"|(\$?[A-Za-z]{1,3}\$?\d{1,7})(?![\w(!])'
    r"|([A-Za-z]{2,12})\s*(?=\()|([-+*/^&%():,;]))\s*"
)


class FormulaError(Exception):
    """A formula that is not computed here."""


class Formulas:
    """The formulas of one sheet by (row, column), counted from 0, and what computes their values. `value` gives the
    stored value of any other cell."""

    def __init__(self, sources: dict[tuple[int, int], str], value: Callable[[int, int], Any]) -> None:
        self._sources, self._value = sources, value
        self._results: dict[tuple[int, int], Any] = {}
        self._reads = 0
        self._depth = 0

    def result(self, row: int, column: int) -> float | str:
        """The value of a formula. Raises FormulaError."""
        return self._cell(row, column)  # type: ignore[no-any-return]

    def _cell(self, row: int, column: int) -> Any:
        self._reads += 1
        if self._reads > MAX_CELL_READS:
            raise FormulaError
        place = (row, column)
        if place not in self._sources:
            return self._value(row, column)
        if place not in self._results:
            self._results[place] = None  # a circle meets this
            self._depth += 1
            try:
                if self._depth > MAX_DEPTH:
                    raise FormulaError
                self._results[place] = _Expression(self._sources[place], self._cell).value()
            finally:
                self._depth -= 1
        if self._results[place] is None:
            raise FormulaError
        return self._results[place]


class _Expression:
    """One formula, computed by recursive descent; operators bind as in Excel: % - ^ */ +- &."""

    def __init__(self, source: str, cell: Callable[[int, int], Any]) -> None:
        self._tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(source):
            match = _TOKEN.match(source, position)
            if match is None:
                raise FormulaError
            kinds = ("number", "string", "cell", "function", "sign")
            self._tokens += [(kind, text) for kind, text in zip(kinds, match.groups(), strict=True) if text is not None]
            position = match.end()
        self._at = 0
        self._nested = 0
        self._cell = cell

    def value(self) -> float | str:
        try:
            result = self._joined()
        except (ArithmeticError, ValueError) as error:
            raise FormulaError from error
        if self._at != len(self._tokens) or isinstance(result, complex):
            raise FormulaError
        return result

    def _take(self, *signs: str) -> str:
        if self._at < len(self._tokens) and self._tokens[self._at][0] == "sign" and self._tokens[self._at][1] in signs:
            self._at += 1
            return self._tokens[self._at - 1][1]
        return ""

    def _joined(self) -> float | str:
        left = self._sum()
        while self._take("&"):
            left = _as_text(left) + _as_text(self._sum())
        return left

    def _sum(self) -> float | str:
        left = self._product()
        while sign := self._take("+", "-"):
            right = _as_number(self._product())
            left = _as_number(left) + (right if sign == "+" else -right)
        return left

    def _product(self) -> float | str:
        left = self._power()
        while sign := self._take("*", "/"):
            right = _as_number(self._power())
            left = _as_number(left) * right if sign == "*" else _as_number(left) / right
        return left

    def _power(self) -> float | str:
        left = self._unary()
        while self._take("^"):
            exponent = _as_number(self._unary())
            if abs(exponent) > 100:
                raise FormulaError
            left = _as_number(left) ** exponent
        return left

    def _unary(self) -> float | str:
        negative = False
        while sign := self._take("-", "+"):
            negative ^= sign == "-"
        value = self._primary()
        while self._take("%"):
            value = _as_number(value) / 100
        return -_as_number(value) if negative else value

    def _primary(self) -> float | str:
        if self._take("("):
            return self._in_brackets(self._joined)
        if self._at >= len(self._tokens):
            raise FormulaError
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "number":
            return float(text)
        if kind == "string":
            return text.replace('""', '"')
        if kind == "cell":
            value = self._cell(*_place(text))
            if not isinstance(value, (float, int, str)) and value is not None:
                raise FormulaError  # dates count days only with their sheet's epoch
            return "" if value is None else value
        if kind == "function" and self._take("("):
            return self._in_brackets(lambda: self._function(text.upper()))
        raise FormulaError

    def _in_brackets(self, read: Callable[[], float | str]) -> float | str:
        self._nested += 1
        if self._nested > MAX_DEPTH:
            raise FormulaError
        value = read()
        self._nested -= 1
        if not self._take(")"):
            raise FormulaError
        return value

    def _function(self, name: str) -> float | str:
        if name == "ROUND":
            number, places = self._joined(), self._joined() if self._take(",", ";") else 0.0
            return _rounded(_as_number(number), int(_as_number(places)))
        if name not in ("SUM", "AVERAGE", "MIN", "MAX", "COUNT"):
            raise FormulaError
        numbers = list(self._arguments())
        while self._take(",", ";"):
            numbers += self._arguments()
        if name == "AVERAGE" and not numbers:
            raise FormulaError
        results = {"SUM": sum, "MIN": min, "MAX": max, "COUNT": len, "AVERAGE": lambda n: sum(n) / len(n)}
        return float(results[name](numbers)) if numbers else 0.0  # type: ignore[operator]

    def _arguments(self) -> Iterator[float]:
        """The numbers of a range, without its blank and textual cells; or one value."""
        following = self._tokens[self._at : self._at + 3]
        if [kind for kind, _ in following] == ["cell", "sign", "cell"] and following[1][1] == ":":
            self._at += 3
            (top, left), (bottom, right) = _place(following[0][1]), _place(following[2][1])
            if (bottom - top + 1) * (right - left + 1) > MAX_CELL_READS:
                raise FormulaError
            for row in range(top, bottom + 1):
                for column in range(left, right + 1):
                    value = self._cell(row, column)
                    if isinstance(value, (int, float)) and not isinstance(value, bool):
                        yield value
                    elif value is not None and not isinstance(value, str):
                        raise FormulaError
        else:
            yield _as_number(self._joined())


def column_number(letters: str) -> int:
    """A column's number, counted from 1, of its letters."""
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - 64
    return number


def column_letters(column: int) -> str:
    """The letters of a column, counted from 0."""
    letters = ""
    while column >= 0:
        column, letter = divmod(column, 26)
        letters, column = chr(65 + letter) + letters, column - 1
    return letters


def _place(reference: str) -> tuple[int, int]:
    letters = re.sub(r"[^A-Za-z]", "", reference)
    return int(re.sub(r"\D", "", reference)) - 1, column_number(letters) - 1


def _rounded(number: float, places: int) -> float:
    """Half goes away from zero, by the digits that a sheet shows: ROUND(2.675, 2) is 2.68."""
    if abs(places) > 15:
        raise FormulaError
    return float(Decimal(repr(number)).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP))


def _as_number(value: float | str) -> float:
    if value == "":
        return 0.0
    if isinstance(value, str):
        raise FormulaError
    return value


def _as_text(value: float | str) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
