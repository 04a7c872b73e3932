"""Signs of financial risk in a balance sheet and an income statement: the customary ratios, each computed by a program
over cells of the table that it shows. What a table lacks is named, never estimated."""

from typing import Any

from soldiom_ray.specialists.table_cells import Table, read_table
from soldiom_ray.specialists.table_questions import UnclearError, write_cell, years_of
from soldiom_ray.specialists.tables import answer_from_program
from soldiom_ray.specialists.wording import content_words

ITEMS: dict[str, tuple[str, ...]] = {
    "current assets": ("total current assets", "current assets"),
    "current liabilities": ("total current liabilities", "current liabilities"),
    "inventories": ("inventories", "inventory", "inventories net"),
    "total assets": ("total assets",),
    "total liabilities": ("total liabilities",),
    "equity": ("total equity", "total stockholders' equity", "total shareholders' equity", "shareholders' equity"),
    "revenue": ("total revenue", "revenue", "revenues", "total revenues", "net sales", "total net sales", "sales"),
    "operating income": ("operating income", "income from operations", "operating profit", "operating income loss"),
    "interest expense": ("interest expense", "finance costs", "interest expense net"),
    "net income": ("net income", "net earnings", "net income loss", "profit for the year", "net loss"),
}
"""What a row may be called, the surest name first."""
RATIOS: tuple[tuple[str, str, float, str], ...] = (
    ("current ratio", "ratio({current assets}, {current liabilities})", 1, "short-term debts exceed current assets"),
    (
        "quick ratio",
        "({current assets} - {inventories}) / {current liabilities}",
        1,
        "short-term debts exceed current assets without inventories",
    ),
    ("equity share", "share({equity}, {total assets})", 20, "four fifths of the assets or more are financed by debt"),
    ("assets over liabilities", "ratio({total assets}, {total liabilities})", 1.25, "four fifths or more are debt"),
    ("interest coverage", "{operating income} / abs({interest expense})", 2, "operations hardly earn the interest"),
    ("operating margin", "share({operating income}, {revenue})", 0, "operations lose money"),
    ("net margin", "share({net income}, {revenue})", 0, "a loss"),
    ("revenue growth", "percent_change({revenue}, {revenue before})", 0, "revenue falls"),
)
"""(name, program with items in braces, limit, what it means below the limit). The limits are rules of thumb, the
same for all trades, and no norm of any."""


def assess_risk(document: dict[str, Any]) -> dict[str, Any]:
    """`{"table": rows}` -> `{"found", "ratios": [{"name", "period", "value", "unit", "program", "cells", "sign"}],
    "signs": [text], "missing": [item], "problem"}`.

    A ratio for each column of a year that has what it needs; `sign` is "" where its limit is kept. There is no score:
    which signs matter depends on the trade."""
    table = read_table(document.get("table"))
    items = {item: row for item, names in ITEMS.items() if (row := _row_of(names, table)) is not None}
    columns = {years[0]: column for column, name in table.columns.items() if len(years := years_of(name)) == 1}
    ratios = []
    for year in sorted(columns, reverse=True):
        for name, pattern, limit, meaning in RATIOS:
            if program := _program(pattern, year, items, columns, table):
                computed = answer_from_program({"program": program, "table": document["table"]})
                if computed["found"]:
                    ratios.append(_ratio(name, year, limit, meaning, program, computed))
    missing = [item for item in ITEMS if item not in items]
    problem = "" if ratios else "no column is of one year" if not columns else "the table has no two items of a ratio"
    signs = [f"{each['period']}: {each['name']} {each['answer']}, {each['sign']}" for each in ratios if each["sign"]]
    return {"found": bool(ratios), "ratios": ratios, "signs": signs, "missing": missing, "problem": problem}


def _ratio(name: str, year: str, limit: float, meaning: str, program: str, computed: dict[str, Any]) -> dict[str, Any]:
    kept = {key: computed[key] for key in ("value", "unit", "answer", "cells")}
    sign = meaning if computed["value"] < limit else ""
    return {"name": name, "period": year, **kept, "program": program, "sign": sign}


def _program(pattern: str, year: str, items: dict[str, int], columns: dict[str, int], table: Table) -> str:
    """The program of a ratio in a year; "" where the table lacks one of its items."""
    program, before = pattern, columns.get(str(int(year) - 1))
    try:
        for item in ITEMS:
            if f"{{{item} before}}" in program:
                if item not in items or before is None:
                    return ""
                program = program.replace(f"{{{item} before}}", write_cell(table, items[item], before))
            if f"{{{item}}}" in program:
                if item not in items:
                    return ""
                program = program.replace(f"{{{item}}}", write_cell(table, items[item], columns[year]))
    except UnclearError:
        return ""
    return program


def _row_of(names: tuple[str, ...], table: Table) -> int | None:
    """The one row of the surest name that the table has."""
    for name in names:
        wanted = content_words(name)
        rows = [row for row in table.row_names if content_words(table.rows[row][0]) == wanted]
        if len(rows) == 1:
            return rows[0]
    return None
