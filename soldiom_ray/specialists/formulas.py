"""A small language of arithmetic over a table: parsed and computed here, nothing of it is ever given to Python.

    expression = sum [(">" | "<" | ">=" | "<=" | "==") sum]
    sum        = product {("+" | "-") product}
    product    = factor {("*" | "/") factor}
    factor     = ["-" | "+"] factor | quantity | "(" expression ")" | "[" expression "]"
               | name "(" [arguments] ")" | "[" text "," text "]"

`["Total sales", "2019"]` is a cell, as is `cell("Total sales", "2019")`; `row("Total sales")` and `column("2019")` are
lists. Functions: sum, average, min, max, count, abs, difference(new, old), ratio(a, b), percent_change(new, old),
share(part, whole). Quantities are written as in tables: $1,234.5, 4.5%, 1.2 million; a number alone in parentheses is
negative, as in accounts: (12.6).
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from soldiom_ray.specialists.quantities import CURRENCIES, SCALE_WORDS, SCALES, Quantity, read_quantity
from soldiom_ray.specialists.table_cells import Cell, Table

MAX_PROGRAM = 4000
MAX_DEPTH = 40
MAX_MAGNITUDE = 1e15
_CURRENCY = "|".join(re.escape(mark) for mark in sorted(CURRENCIES, key=len, reverse=True))
_SCALE = "|".join(word for word in sorted(SCALE_WORDS, key=len, reverse=True) if len(word) > 1)
TOKEN = re.compile(
    rf"(?i)\s*+(?:(?:{_CURRENCY})(?=\s?\())?+(?:(?P<number>(?:(?:{_CURRENCY})\s?)?(?:(?:[0-9]{{1,3}}(?:,[0-9]{{3}})+(?![0-9])|[0-9]{{1,20}})(?:\.[0-9]{{1,12}})?"
    rf"|\.[0-9]{{1,12}})(?:\s?(?:%|(?:{_SCALE})(?!\w)))?)|(?P<name>[a-z_]{{1,32}})"
    r"|(?P<text>\"[^\"\n]{0,300}\"|'[^'\n]{0,300}'|\u201c[^\u201d\n]{0,300}\u201d)"
    r"|(?P<mark>>=|<=|==|[-+*/()\[\],;|<>=\u2212\u2013\u00d7\u00f7]))"
)
SYNONYMS = {"\u2212": "-", "\u2013": "-", "\u00d7": "*", "\u00f7": "/", ";": ",", "|": ",", "=": "=="}


class FormulaError(Exception):
    """The program is no program, or asks for what cannot be computed."""


@dataclass
class Trace:
    """What a program used: its cells, and the quantities that it wrote itself."""

    cells: list[Cell] = field(default_factory=list)
    written: list[Quantity] = field(default_factory=list)


Value = Quantity | list[Quantity] | bool


def evaluate(program: str, table: Table) -> tuple[Quantity | bool, Trace]:
    """The value of a program and what it used; FormulaError or NotFoundInTableError where it has none."""
    if len(program) > MAX_PROGRAM:
        raise FormulaError(f"the program has more than {MAX_PROGRAM} characters")
    parser = _Parser(list(_tokens(program)), table)
    value = parser.expression(0)
    if parser.position < len(parser.tokens):
        raise FormulaError(f'"{parser.tokens[parser.position][1]}" is not expected here')
    if isinstance(value, list):
        raise FormulaError("the result is a list: use sum, average, count, min or max")
    if not isinstance(value, bool) and not math.isfinite(value.value):
        raise FormulaError("the result is not a number")
    return value, parser.trace


def _tokens(program: str) -> Iterator[tuple[str, str]]:
    position = 0
    text = program.rstrip()
    while position < len(text):
        match = TOKEN.match(text, position)
        if not match or match.end() == position or match.lastgroup is None:
            raise FormulaError(f'"{text[position : position + 12].strip()}" is not part of the language')
        kind = match.lastgroup
        written = match[kind].strip()
        yield kind, SYNONYMS.get(written, written)
        position = match.end()


class _Parser:
    """Recursive descent over the tokens, computing as it goes."""

    def __init__(self, tokens: list[tuple[str, str]], table: Table) -> None:
        self.tokens, self.table = tokens, table
        self.position = 0
        self.trace = Trace()

    def expression(self, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise FormulaError(f"brackets are deeper than {MAX_DEPTH}")
        value = self._sum(depth)
        while (mark := self._take("mark", ">", "<", ">=", "<=", "==")) is not None:
            value = _compare(mark, _one(value), _one(self._sum(depth)))
        return value

    def _sum(self, depth: int) -> Value:
        value = self._product(depth)
        while (mark := self._take("mark", "+", "-")) is not None:
            value = _add(_one(value), _one(self._product(depth)), -1 if mark == "-" else 1)
        return value

    def _product(self, depth: int) -> Value:
        value = self._factor(depth)
        while (mark := self._take("mark", "*", "/")) is not None:
            value = (_multiply if mark == "*" else _divide)(_one(value), _one(self._factor(depth)))
        return value

    def _factor(self, depth: int) -> Value:
        if (mark := self._take("mark", "-", "+")) is not None:
            if depth > MAX_DEPTH:
                raise FormulaError("too many signs")
            value = _one(self._factor(depth + 1))
            return _negative(value) if mark == "-" else value
        if (written := self._take("number")) is not None:
            return self._quantity(written)
        if self._take("mark", "(") is not None:
            start = self.position
            inner = self.expression(depth + 1)
            self._expect(")")
            is_alone = self.position == start + 2 and self.tokens[start][0] == "number"
            return _negative(_one(inner)) if is_alone else inner
        if self._take("mark", "[") is not None:
            if self.position < len(self.tokens) and self.tokens[self.position][0] != "text":
                inner = self.expression(depth + 1)
                self._expect("]")
                return inner
            row = self._text()
            self._expect(",")
            column = self._text()
            self._expect("]")
            return self._use([self.table.cell(row, column)])[0]
        if (name := self._take("name")) is not None:
            return self._call(name.lower(), depth)
        raise FormulaError("the program ends too early" if self.position >= len(self.tokens) else self._unexpected())

    def _quantity(self, written: str) -> Quantity:
        quantity = read_quantity(written)
        if quantity is None:
            raise FormulaError(f'"{written}" is not a quantity')
        self.trace.written.append(quantity)
        return quantity

    def _call(self, name: str, depth: int) -> Value:
        self._expect("(")
        if name in ("cell", "row", "column"):
            names = [self._text()]
            while self._take("mark", ",") is not None:
                names.append(self._text())
            self._expect(")")
            return self._lookup(name, names)
        function = FUNCTIONS.get(name)
        if function is None:
            known = ", ".join(FUNCTIONS)
            raise FormulaError(f'there is no function "{name}"; there are: cell, row, column, {known}')
        arguments: list[Quantity] = []
        if self._take("mark", ")") is None:
            while True:
                value = self.expression(depth + 1)
                arguments += value if isinstance(value, list) else [_one(value)]
                if self._take("mark", ",") is None:
                    break
            self._expect(")")
        return function(arguments)

    def _lookup(self, name: str, names: list[str]) -> Value:
        if len(names) != (2 if name == "cell" else 1):
            raise FormulaError(f"{name} takes {'a row and a column' if name == 'cell' else 'one name'}")
        if name == "cell":
            return self._use([self.table.cell(*names)])[0]
        return self._use(self.table.row(names[0]) if name == "row" else self.table.column(names[0]))

    def _use(self, cells: list[Cell]) -> list[Quantity]:
        self.trace.cells += cells
        return [cell.quantity for cell in cells]

    def _text(self) -> str:
        if (text := self._take("text")) is not None:
            return text[1:-1]
        if (text := self._take("number")) is not None or (text := self._take("name")) is not None:
            return text
        raise FormulaError(self._unexpected())

    def _take(self, kind: str, *marks: str) -> str | None:
        if self.position < len(self.tokens):
            found, written = self.tokens[self.position]
            if found == kind and (not marks or written in marks):
                self.position += 1
                return written
        return None

    def _expect(self, mark: str) -> None:
        if self._take("mark", mark) is None:
            raise FormulaError(f'"{mark}" is missing: {self._unexpected()}')

    def _unexpected(self) -> str:
        if self.position >= len(self.tokens):
            return "the program ends too early"
        return f'"{self.tokens[self.position][1]}" is not expected here'


def _one(value: Value) -> Quantity:
    if isinstance(value, Quantity):
        return value
    raise FormulaError(
        "a list is not a number: use sum, average, min or max"
        if isinstance(value, list)
        else "a comparison is not a number"
    )


def _negative(value: Quantity) -> Quantity:
    return Quantity(-value.value, value.unit, value.scale)


def _aligned(first: Quantity, second: Quantity) -> tuple[float, float, str, str]:
    """Two values in one scale and unit: a plain number takes those of the other, and 1 beside a percentage is the
    whole, 100 percent."""
    if "percent" in (first.unit, second.unit):
        first, second = (Quantity(100.0, "percent") if value == Quantity(1.0) else value for value in (first, second))
    if first.unit != second.unit and "percent" in (first.unit, second.unit) and (first.scale or second.scale):
        raise FormulaError("a percentage and an amount do not add up")
    if first.unit and second.unit and first.unit != second.unit:
        raise FormulaError(f"{first.unit} and {second.unit} do not add up")
    unit = first.unit or second.unit
    if first.scale == second.scale or not first.scale or not second.scale:
        return first.value, second.value, unit, first.scale or second.scale
    scale = min(first.scale, second.scale, key=lambda name: SCALES[name])
    return first.plain() / SCALES[scale], second.plain() / SCALES[scale], unit, scale


def _add(first: Quantity, second: Quantity, sign: int) -> Quantity:
    a, b, unit, scale = _aligned(first, second)
    return Quantity(a + sign * b, unit, scale)


def _multiply(first: Quantity, second: Quantity) -> Quantity:
    if "percent" in (first.unit, second.unit) and first.unit != second.unit:
        other = second if first.unit == "percent" else first
        return Quantity(first.value * second.value / 100, other.unit, other.scale)
    if first.scale and second.scale:
        return Quantity(first.plain() * second.plain(), first.unit or second.unit)
    return Quantity(first.value * second.value, first.unit or second.unit, first.scale or second.scale)


def _divide(first: Quantity, second: Quantity) -> Quantity:
    if second.value == 0:
        raise FormulaError("division by zero")
    if second.unit == "percent" and first.unit != "percent":
        return Quantity(first.value / second.value * 100, first.unit, first.scale)
    if first.unit == second.unit and first.scale and second.scale:
        return Quantity(first.plain() / second.plain())
    if first.unit == second.unit and first.unit:
        return Quantity(first.value / second.value)
    return Quantity(first.value / second.value, first.unit, first.scale)


def _compare(mark: str, first: Quantity, second: Quantity) -> bool:
    a, b, _, _ = _aligned(first, second)
    return {">": a > b, "<": a < b, ">=": a >= b, "<=": a <= b, "==": math.isclose(a, b)}[mark]


def _total(values: list[Quantity]) -> Quantity:
    if not values:
        raise FormulaError("there is nothing to add")
    total = values[0]
    for value in values[1:]:
        total = _add(total, value, 1)
    return total


def _average(values: list[Quantity]) -> Quantity:
    total = _total(values)
    return Quantity(total.value / len(values), total.unit, total.scale)


def _extreme(choose: Callable[..., Quantity]) -> Callable[[list[Quantity]], Quantity]:
    def find(values: list[Quantity]) -> Quantity:
        if not values:
            raise FormulaError("there is nothing to choose from")
        return choose(values, key=Quantity.plain)

    return find


def _pair(values: list[Quantity], what: str) -> tuple[Quantity, Quantity]:
    if len(values) != 2:
        raise FormulaError(f"{what} takes two values, not {len(values)}")
    return values[0], values[1]


def _change(values: list[Quantity]) -> Quantity:
    new, old = _pair(values, "percent_change")
    a, b, _, _ = _aligned(new, old)
    if b == 0:
        raise FormulaError("division by zero")
    return Quantity((a - b) / b * 100, "percent")


def _share(values: list[Quantity]) -> Quantity:
    part, whole = _pair(values, "share")
    a, b, _, _ = _aligned(part, whole)
    if b == 0:
        raise FormulaError("division by zero")
    return Quantity(a / b * 100, "percent")


def _ratio(values: list[Quantity]) -> Quantity:
    first, second = _pair(values, "ratio")
    return Quantity(_divide(first, second).value)


def _absolute(values: list[Quantity]) -> Quantity:
    if len(values) != 1:
        raise FormulaError("abs takes one value")
    return Quantity(abs(values[0].value), values[0].unit, values[0].scale)


FUNCTIONS: dict[str, Callable[[list[Quantity]], Quantity]] = {
    "sum": _total,
    "average": _average,
    "mean": _average,
    "min": _extreme(min),
    "max": _extreme(max),
    "count": lambda values: Quantity(float(len(values))),
    "abs": _absolute,
    "difference": lambda values: _add(*_pair(values, "difference"), -1),
    "ratio": _ratio,
    "percent_change": _change,
    "share": _share,
}
