"""The tables on a sheet: where each begins, which of its rows names the columns, and the title above it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from soldiom_ray.collect.documents.cell_values import plain
from soldiom_ray.collect.documents.columns import guess_columns

MAX_TITLE_ROWS = 10
_MAX_NAME = 40


class Shown(str):
    """A number or a date as its format shows it. It names no column."""

    __slots__ = ()


@dataclass
class SheetTable:
    """A piece of a sheet: `titles` stand above the `header`, which is None where no row names the columns."""

    titles: list[str] = field(default_factory=list)
    header: list[Any] | None = None
    rows: list[list[Any]] = field(default_factory=list)


def sheet_tables(rows: Sequence[list[Any]]) -> Iterator[SheetTable]:
    """The tables of a sheet, given all its rows in order, blank ones included. A further table begins after a blank
    row with a row that names columns: other columns than before, usual names, or names above numbers."""
    numbered = [(number, row) for number, row in enumerate(rows) if _filled(row)]
    start = _header(numbered)
    if start is None:
        if numbered:
            yield SheetTable(rows=[row for _, row in numbered])
        return
    table = SheetTable([_line(row) for _, row in numbered[:start]], numbered[start][1])
    at = start + 1
    while at < len(numbered):
        first = numbered[at][0] > numbered[at - 1][0] + 1 and _further_header(numbered, at, table)
        if first:
            yield table
            table = SheetTable([_line(row) for _, row in numbered[at:first]], numbered[first][1])
            at = first + 1
        else:
            table.rows.append(numbered[at][1])
            at += 1
    yield table


def _header(numbered: Sequence[tuple[int, list[Any]]]) -> int | None:
    """The index of the first row that names columns. Rows above it are titles: they fill at most half as many cells, or
    a blank row follows them and they fill fewer."""
    widest_above = 0
    for index, (number, row) in enumerate(numbered[: MAX_TITLE_ROWS + 1]):
        count = len(_filled(row))
        is_apart = index and number > numbered[index - 1][0] + 1
        if (
            count > 1
            and _names_columns(row)
            and not _is_title(numbered[index:])
            and (widest_above * 2 <= count or (is_apart and widest_above < count))
        ):
            return index
        widest_above = max(widest_above, count)
    return 0 if len(numbered) > 1 and _names_columns(numbered[0][1]) and widest_above == 1 else None


def _is_title(numbered: Sequence[tuple[int, list[Any]]]) -> bool:
    """Whether the first row names no columns: nothing follows, it is far narrower than the rows below and names nothing
    usual, or it reads "Name: value"."""
    first = numbered[0][1]
    cells = [plain(first[place]) for place in _filled(first)]
    if len(numbered) < 2 or (cells[0].rstrip().endswith(":") and not cells[-1].rstrip().endswith(":")):
        return True
    widths = [len(_filled(row)) for _, row in numbered[1:4]]
    return len(cells) * 2 <= min(widths) and not guess_columns(cells)


def _further_header(numbered: Sequence[tuple[int, list[Any]]], at: int, before: SheetTable) -> int:
    """The index of a row from `at` on that begins a further table, after at most three titles; 0 where none does."""
    for index in range(at, min(at + 4, len(numbered) - 1)):
        row, below = numbered[index][1], numbered[index + 1][1]
        places = _filled(row)
        if len(places) == 1:
            continue
        names = [row[place] for place in places]
        if not _names_columns(row) or any(len(n) > _MAX_NAME or n.rstrip().endswith((".", "?", "!")) for n in names):
            return 0
        above_numbers = any(place < len(below) and _is_number(below[place]) for place in places)
        repeated = before.header is not None and names == [before.header[place] for place in _filled(before.header)]
        return index if len(_filled(below)) > 1 and (above_numbers or repeated or guess_columns(names)) else 0
    return 0


def _filled(row: Sequence[Any]) -> list[int]:
    return [place for place, cell in enumerate(row) if cell not in ("", None)]


def _names_columns(row: Sequence[Any]) -> bool:
    """Whether a row may name the columns: distinct texts, no numbers."""
    cells = [row[place] for place in _filled(row)]
    names = {cell.strip() for cell in cells if isinstance(cell, str) and not isinstance(cell, Shown) and cell.strip()}
    return bool(names) and len(names) == len(cells)


def _is_number(cell: Any) -> bool:
    return isinstance(cell, (int, float, Shown)) and not isinstance(cell, bool)


def _line(row: Sequence[Any]) -> str:
    return " | ".join(text for cell in row if (text := plain(cell).strip()))
