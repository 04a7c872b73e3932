"""Questions about a table as programs of arithmetic over its cells: what is asked (a value, a change, an average, a
share), of which rows and of which columns. What is not clear is not answered.

On 404 questions about 104 held-out tables of TAT-QA it answers 54 %, 91 % of them as the annotators do
(`benchmarks/table_questions.py`)."""

import re
from typing import Any

from soldiom_ray.specialists.evidence import text_of
from soldiom_ray.specialists.table_cells import Table, read_table
from soldiom_ray.specialists.tables import answer_from_program
from soldiom_ray.specialists.wording import content_words

WORDS_ONLY = re.compile(
    r"(?i)^\s*(?:why|who|how (?:is|are|was|were|did|does|do|has)\b(?! much| many)|what (?:does|do|did)\b|where|when\b"
    r"|which\b|in which|for which|under what|what (?:is|was|are|were) the (?:reason|nature|purpose|definition))"
)
"""Questions that no number answers."""
KINDS = (
    (
        "percent_change",
        r"(?:percent(?:age)?|%|relative) (?:\w+ )?(?:change|increase|decrease|growth)|growth rate|percentage by which",
    ),
    ("share", r"\b(?:as a (?:percent(?:age)?|share|proportion) of|(?:percent(?:age)?|share|proportion) of)\b"),
    ("ratio", r"\bratio (?:of|between)\b"),
    ("average", r"\b(?:average|mean)\b"),
    ("difference", r"\b(?:change|increase|decrease|difference|growth|decline)\b"),
    ("sum", r"\b(?:sum|combined|total of|altogether)\b"),
)
YEAR = re.compile(r"\b((?:19|20)[0-9]{2})\b|\bFY\s?'?([0-9]{2})\b")
MOST_OPERANDS = 6
MOST_REST = 2
"""Words of a question that neither its rows nor the headings have."""
ASKING = frozenset(
    content_words(
        "what was were much many amount value percentage percent change increase decrease difference average mean sum"
        " respectively year years fiscal ended end compared company growth ratio share proportion combined"
    )
)
Place = tuple[int, int]


def ask_table(document: dict[str, Any]) -> dict[str, Any]:
    """`{"question": str, "table": rows}` -> `{"program": str}` and what `answer_from_program` says of it.

    Not found is a question that asks for words, or whose rows or columns are not clear; `problem` says which, and
    `program` is ""."""
    question, table = text_of(document, "question"), read_table(document.get("table"))
    try:
        program = program_of(question, table)
    except UnclearError as error:
        nothing: dict[str, Any] = {
            "found": False,
            "value": None,
            "unit": "",
            "scale": "",
            "cells": [],
            "written": [],
            "unstated": [],
        }
        return {"program": "", **nothing, "problem": str(error), "answer": "not found"}
    return {"program": program, **answer_from_program({"program": program, "table": document["table"]})}


class UnclearError(Exception):
    """Why a question is not a program."""


def program_of(question: str, table: Table) -> str:
    """The program that a question asks for; UnclearError where that is not clear."""
    if WORDS_ONLY.search(question):
        raise UnclearError("the question asks for words, not for a number")
    if re.search(r"(?i)\brespective(?:ly)?\b", question):
        raise UnclearError("the question asks for several values")
    rows = _rows(question, table)
    if not rows or len(rows) > 2:
        names = ", ".join(f'"{table.row_names[row]}"' for row in rows[:4])
        raise UnclearError(
            f"the question could be about the rows {names}" if rows else "no row is named as in the table"
        )
    _check_rest(question, rows, table)
    kind, years = _kind(question, rows, table), years_of(question)
    if len(rows) == 2:
        return _of_two_rows(question, kind, rows, years, table)
    return _of_one_row(question, kind, rows[0], years, table)


def _of_two_rows(question: str, kind: str, rows: list[int], years: list[str], table: Table) -> str:
    if kind not in ("share", "ratio", "difference", "sum", "average") or len(years) > 1:
        names = ", ".join(f'"{table.row_names[row]}"' for row in rows)
        raise UnclearError(f"the question could be about the rows {names}")
    columns = _columns(question, years, table)
    if len(columns) != 1:
        raise UnclearError("the question names several columns")
    if kind == "share" and _is_whole_first(question, rows, table):
        rows = rows[::-1]
    return f"{kind}({', '.join(write_cell(table, row, columns[0]) for row in rows)})"


def _of_one_row(question: str, kind: str, row: int, years: list[str], table: Table) -> str:
    if kind in ("share", "ratio"):
        raise UnclearError(f"the question names one row, and a {kind} needs two")
    if kind in ("difference", "percent_change"):
        new, old = _two_years(question, years, table)
        return f"{kind}({write_cell(table, row, new)}, {write_cell(table, row, old)})"
    from_heads = kind != "value" and not years
    columns = _columns_of_years(table) if from_heads else _columns(question, years, table)
    if kind == "value" and len(columns) != 1:
        raise UnclearError("the question names several columns, and no arithmetic")
    if kind != "value" and len(columns) < 2:
        raise UnclearError(f"the question names one value, and it takes several for: {kind}")
    cells = ", ".join(write_cell(table, row, column) for column in columns)
    return cells if kind == "value" else f"{kind}({cells})"


def _kind(question: str, rows: list[int], table: Table) -> str:
    """What is to be computed; what the names of the rows say (an average price) is not."""
    said = " ".join(_label(table, row) for row in rows)
    kinds = [
        name
        for name, pattern in KINDS
        if re.search(f"(?i){pattern}", question) and not re.search(f"(?i){pattern}", said)
    ]
    if "percent_change" in kinds:
        kinds = [name for name in kinds if name not in ("difference", "share")]
    if kinds in ([], ["difference"], ["sum"]) and "percent" in question.casefold() and not _is_change(said):
        raise UnclearError("the question asks for a percentage, and does not say of what")
    if len(kinds) > 1:
        raise UnclearError(f"the question asks for more than one computation: {', '.join(kinds)}")
    return kinds[0] if kinds else "value"


def _check_rest(question: str, rows: list[int], table: Table) -> None:
    """UnclearError where a question says much that neither rows nor headings say: it asks for something else."""
    known = set(content_words(" ".join([*(table.row_names[row] for row in rows), *table.columns.values()])))
    rest = [word for word in dict.fromkeys(content_words(question)) if word not in known | ASKING]
    if len(rest) > MOST_REST:
        raise UnclearError(f"the table does not say: {', '.join(rest)}")


def _is_whole_first(question: str, rows: list[int], table: Table) -> bool:
    """Whether a share's whole is the first of two rows: "what percentage of the total is X"."""
    totals = ["total" in table.row_names[row].casefold() for row in rows]
    if totals[0] != totals[1]:
        return totals[0]
    return re.search(r"(?i)\bas (?:a|an) \w+ of\b|\bover\b|\bto\b", question) is None


def years_of(text: str) -> list[str]:
    """The years of a text; of a range (2017 to 2019, 2017-2019) all, where an average or a sum is asked for."""
    years = [match[1] or f"20{match[2]}" for match in YEAR.finditer(text)]
    if (span := re.search(r"((?:19|20)\d\d)\s?(?:-|\u2013|to|through)\s?((?:19|20)\d\d)", text)) and re.search(
        "(?i)average|mean|sum|total", text
    ):
        first, last = sorted((int(span[1]), int(span[2])))
        years += [str(year) for year in range(first, min(last, first + 20) + 1)]
    return list(dict.fromkeys(years))


def _rows(question: str, table: Table) -> list[int]:
    """The rows whose names stand in the question, in its order: of those that overlap the ones that say most."""
    asked = content_words(question)
    found: list[tuple[int, int, frozenset[str]]] = []
    for row, name in table.row_names.items():
        words = frozenset(content_words(name)) or frozenset(content_words(_label(table, row)))
        label = frozenset(content_words(_label(table, row)))
        for named in (words, label):
            if named and named <= set(asked) and not named <= ASKING:
                found.append((min(asked.index(word) for word in named - ASKING), row, named))
                break
    best = [each for each in found if not any(each[2] < other[2] for other in found)]
    return list(dict.fromkeys(row for _, row, _ in sorted(best)))[:MOST_OPERANDS]


def _label(table: Table, row: int) -> str:
    """A row's own name, without its section."""
    return table.rows[row][0]


def _columns(question: str, years: list[str], table: Table) -> list[int]:
    """The columns of the years that are named, or those whose names stand in the question, or the only one."""
    if years:
        return [_column_of(question, year, table) for year in years]
    asked = set(content_words(question))
    named = [column for column, name in table.columns.items() if (words := set(content_words(name))) and words <= asked]
    if len(named) == 1:
        return named
    if len(table.columns) == 1:
        return list(table.columns)
    raise UnclearError("the question names no column of the table")


def _columns_of_years(table: Table) -> list[int]:
    """The columns of one year each, where no other columns hold values."""
    columns = [column for column, name in table.columns.items() if len(years_of(name)) == 1 and not _is_change(name)]
    named = [year for column in columns for year in years_of(table.columns[column])]
    if len(columns) < 2 or len(set(named)) != len(columns):
        raise UnclearError("the question names no column of the table")
    return columns


def _column_of(question: str, year: str, table: Table) -> int:
    """The column of a year: of several the one of which most other words are in the question."""
    asked = set(content_words(question))
    alone = [column for column, name in table.columns.items() if years_of(name) == [year] and not _is_change(name)]
    if len(alone) > 1:
        shares = {column: len(asked & set(content_words(table.columns[column]))) for column in alone}
        alone = [column for column in alone if shares[column] == max(shares.values())]
    if len(alone) != 1:
        raise UnclearError(f"{len(alone)} columns are of {year}" if alone else f"no column is of {year}")
    return alone[0]


def _is_change(name: str) -> bool:
    return re.search(r"(?i)change|increase|decrease|%|percent", name) is not None


def _two_years(question: str, years: list[str], table: Table) -> Place:
    """(the later column, the earlier) of a change; with one year named the year before it is the earlier."""
    if not years and len(columns := _columns_of_years(table)) == 2:
        years = [year for column in columns for year in years_of(table.columns[column])]
    if len(years) == 1:
        years = [years[0], str(int(years[0]) - 1)]
    if len(years) != 2:
        raise UnclearError("a change needs two years")
    later, earlier = sorted(years, reverse=True)
    return _column_of(question, later, table), _column_of(question, earlier, table)


def write_cell(table: Table, row: int, column: int) -> str:
    """A cell as a program names it; UnclearError for names that no program can write."""
    names = (table.row_names[row], table.columns[column])
    if any('"' in name or "\n" in name or len(name) > 300 for name in names):
        raise UnclearError("the table's names cannot be written in a program")
    return f'["{names[0]}", "{names[1]}"]'
