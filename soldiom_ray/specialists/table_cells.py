"""Cells of a table by the names of their row and column, headings over several columns and sections included."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from soldiom_ray.errors import InputError
from soldiom_ray.specialists.quantities import Quantity, read_quantity, scale_in

MAX_CELLS = 200_000
YEAR = re.compile(r"(?:19|20)[0-9]{2}(?:[/-][0-9]{2,4})?")
FOOTNOTE = re.compile(r"\s?(?:\((?:[0-9]{1,2}|[a-z])\)|\*{1,3})(?=\s|\Z)")


class NotFoundInTableError(Exception):
    """No cell of that name, or several."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: its place (from 0), the names it was found by, its text and what that is."""

    row: int
    column: int
    row_name: str
    column_name: str
    text: str
    quantity: Quantity


class Table:
    """Rows of texts. The rows above the first with a number (years are none) are headings; the first column holds the
    names of rows, and a name without values begins a section."""

    def __init__(self, rows: list[list[str]]) -> None:
        width = max((1, *map(len, rows)))
        self.rows = [[*row, *[""] * (width - len(row))] for row in rows]
        self._head = next((n for n, row in enumerate(self.rows) if _has_value(row)), len(self.rows))
        while (
            self._head and self.rows[self._head - 1][0].strip() and all(map(_is_blank, self.rows[self._head - 1][1:]))
        ):
            self._head -= 1  # a section before the first row with values
        self.scale = scale_in(" \n ".join(cell for row in self.rows[: self._head + 2] for cell in row))
        self.columns = self._column_names(width)
        self.row_names = self._row_names()

    def cell(self, row_name: str, column_name: str) -> Cell:
        """The cell of a row and a column, in either order; NotFoundInTableError where there is none or several."""
        try:
            row, column = find_name(row_name, self.row_names, "row"), find_name(column_name, self.columns, "column")
        except NotFoundInTableError as error:
            try:
                row, column = find_name(column_name, self.row_names, "row"), find_name(row_name, self.columns, "column")
            except NotFoundInTableError:
                raise error from None
        return self._cell(row, column)

    def row(self, name: str) -> list[Cell]:
        """The cells of a row that hold quantities."""
        number = find_name(name, self.row_names, "row")
        return self._valued((number, column) for column in sorted(self.columns))

    def column(self, name: str) -> list[Cell]:
        """The cells of a column that hold quantities, below the headings."""
        number = find_name(name, self.columns, "column")
        return self._valued((row, number) for row in sorted(self.row_names))

    def quantities(self) -> set[float]:
        """The absolute values of all cells, years among the headings too."""
        values = (read_quantity(cell) for row in self.rows for cell in row)
        return {abs(value.value) for value in values if value}

    def _valued(self, places: Any) -> list[Cell]:
        cells = []
        for row, column in places:
            if read_quantity(self.rows[row][column]):
                cells.append(self._cell(row, column))
        return cells

    def _cell(self, row: int, column: int) -> Cell:
        text = self.rows[row][column].strip()
        quantity = read_quantity(text)
        if quantity is None:
            raise NotFoundInTableError(f'the cell "{self.row_names[row]}", "{self.columns[column]}" holds no number')
        scale = quantity.scale or ("" if quantity.unit == "percent" else self.scale)
        quantity = Quantity(quantity.value, quantity.unit, scale)
        return Cell(row, column, self.row_names[row], self.columns[column], text, quantity)

    def _column_names(self, width: int) -> dict[int, str]:
        """Names of the columns after the first: the headings above each, one over several repeated to the right."""
        names: dict[int, list[str]] = {column: [] for column in range(1, width)}
        for row in self.rows[: self._head]:
            spread = sum(bool(cell.strip()) for cell in row[1:]) < sum(map(_is_blank, row[1:])) + 1
            last = ""
            for column in names:
                cell = "" if scale_in(row[column]) else row[column].strip()
                last = cell or (last if spread else "")
                if last and last not in names[column]:
                    names[column].append(last)
        joined = {column: " ".join(parts) for column, parts in names.items()}
        return _distinct(
            {
                column: name or f"column {column + 1}"
                for column, name in joined.items()
                if name or self._has_values(column)
            }
        )

    def _row_names(self) -> dict[int, str]:
        names: dict[int, str] = {}
        section = ""
        for number, row in enumerate(self.rows[self._head :], self._head):
            label = row[0].strip() if row else ""
            if label and all(map(_is_blank, row[1:])):
                section = label.rstrip(": ")
            elif label or _has_value(row):
                names[number] = f"{section} {label}".strip() if label else f"row {number + 1}"
        return _distinct(names)

    def _has_values(self, column: int) -> bool:
        return any(read_quantity(row[column]) for row in self.rows[self._head :])


def find_name(name: str, names: dict[int, str], what: str) -> int:
    """The number of the one that is meant: equal, or the end of its name (after its section), or all words in it."""
    wanted = _plain(name)
    if not wanted:
        raise NotFoundInTableError(f"a {what} without a name")
    plain = {number: _plain(known) for number, known in names.items()}
    tests = (
        lambda known: known == wanted,
        lambda known: f" {known}".endswith(f" {wanted}"),
        lambda known: set(wanted.split()) <= set(known.split()),
    )
    for test in tests:
        numbers = [number for number, known in plain.items() if test(known)]
        if len(numbers) == 1:
            return numbers[0]
        if numbers:
            meant = ", ".join(f'"{names[number]}"' for number in numbers[:5])
            raise NotFoundInTableError(f'the {what} "{name}" could be {meant}')
    known = ", ".join(f'"{known}"' for known in list(names.values())[:12])
    raise NotFoundInTableError(f'there is no {what} "{name}"; there are: {known or "none"}')


def _distinct(names: dict[int, str]) -> dict[int, str]:
    """Names with a number behind those that are there more than once: Total #1, Total #2."""
    counts = Counter(_plain(name) for name in names.values())
    seen: Counter[str] = Counter()
    distinct = {}
    for number, name in names.items():
        seen[_plain(name)] += 1
        distinct[number] = f"{name} #{seen[_plain(name)]}" if counts[_plain(name)] > 1 else name
    return distinct


def read_table(given: Any) -> Table:
    """The table of a list of rows, or of {"table": rows} as TAT-QA writes it; InputError for another shape."""
    rows = given.get("table") if isinstance(given, dict) else given
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise InputError('"table" is not a list of rows', remedy='Give [["", "2019"], ["Sales", "12.5"]].')
    if len(rows) * max((len(row) for row in rows), default=0) > MAX_CELLS:
        raise InputError(f"the table has more than {MAX_CELLS} cells", remedy="Give the part that is asked about.")
    return Table([["" if cell is None else str(cell) for cell in row] for row in rows])


def _has_value(row: list[str]) -> bool:
    return any(read_quantity(cell) and not YEAR.fullmatch(cell.strip()) for cell in row[1:])


def _is_blank(cell: str) -> bool:
    return not cell.strip()


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[^\w%&/+-]+", " ", FOOTNOTE.sub("", name.casefold())).split())
