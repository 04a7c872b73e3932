"""Answers from tables by arithmetic that is written down and checked: a program names its cells, the language of
`formulas.py` computes it, and numbers that stand neither in the table nor in the text are named."""

import re
from typing import Any

from soldiom_ray.specialists.evidence import text_of
from soldiom_ray.specialists.formulas import FormulaError, Trace, evaluate
from soldiom_ray.specialists.quantities import Quantity, read_quantity, write_quantity
from soldiom_ray.specialists.table_cells import NotFoundInTableError, Table, read_table

MAX_TEXT = 1 << 20
CONSTANTS = frozenset({*map(float, range(13)), 52.0, 100.0, 365.0, 1000.0, 1_000_000.0})
"""Numbers that a program may write though nothing states them: small counts, months, weeks, days, percent, scales."""


def run_program(document: dict[str, Any]) -> dict[str, Any]:
    """`{"program": str, "table": rows of cells}` -> `{"found", "value", "unit", "scale", "cells", "written",
    "problem"}`.

    `value` is a number, true or false, null where `found` is false and `problem` says why; `unit` is percent, a
    currency's code or empty; `scale` thousand, million, billion, trillion or empty. `cells` are `{"row", "column",
    "text", "value"}` as used, `written` the numbers that the program itself holds. The language: `formulas.py`."""
    program, table = text_of(document, "program"), read_table(document.get("table"))
    outcome = _run(program, table)
    if isinstance(outcome, str):
        return {"found": False, "value": None, "unit": "", "scale": "", "cells": [], "written": [], "problem": outcome}
    value, trace = outcome
    return {
        "found": True,
        "value": value if isinstance(value, bool) else value.value,
        "unit": "" if isinstance(value, bool) else value.unit,
        "scale": "" if isinstance(value, bool) else value.scale,
        "cells": _cells(trace),
        "written": [quantity.value for quantity in trace.written],
        "problem": "",
    }


def answer_from_program(document: dict[str, Any]) -> dict[str, Any]:
    """`{"program": str, "table": rows, "text"?: paragraphs beside the table, "scale"?: that is asked for,
    "decimals"?: 2}` -> what `run_program` gives, and `{"answer": str, "unstated": [number]}`.

    `unstated` are numbers of the program that stand neither in the table nor in the text; with one, `found` is false:
    what cannot be traced is no answer. A ratio is given in percent where `scale` asks for it."""
    table = read_table(document.get("table"))
    result = run_program(document)
    unstated = _unstated(result["written"], table, str(document.get("text") or ""))
    if result["found"] and unstated:
        names = ", ".join(write_quantity(value, "", "", 6) for value in unstated)
        result |= {"found": False, "value": None, "problem": f"neither table nor text has {names}"}
    if not result["found"]:
        return result | {"answer": "not found", "unstated": unstated}
    if isinstance(result["value"], bool):
        return result | {"answer": "yes" if result["value"] else "no", "unstated": unstated}
    if document.get("scale") == "percent" and result["unit"] != "percent":
        result |= {"value": result["value"] * 100, "unit": "percent", "scale": ""}
    decimals = document.get("decimals", 2)
    decimals = decimals if isinstance(decimals, int) and 0 <= decimals <= 12 else 2
    result["value"] = round(result["value"], 10)
    answer = write_quantity(result["value"], result["unit"], result["scale"], decimals)
    return result | {"answer": answer, "unstated": unstated}


def _run(program: str, table: Table) -> tuple[Quantity | bool, Trace] | str:
    try:
        return evaluate(program, table)
    except (FormulaError, NotFoundInTableError) as error:
        return str(error)
    except OverflowError:
        return "the result is too large"


def _cells(trace: Trace) -> list[dict[str, Any]]:
    return [
        {"row": cell.row_name, "column": cell.column_name, "text": cell.text, "value": cell.quantity.value}
        for cell in trace.cells
    ]


def _unstated(written: list[float], table: Table, text: str) -> list[float]:
    stated = table.quantities() | CONSTANTS
    if any(value not in stated for value in written):
        stated |= {abs(quantity.value) for quantity in _quantities_of(text)}
    return sorted({value for value in written if abs(value) not in stated})


def _quantities_of(text: str) -> list[Quantity]:
    written = (match[0] for match in re.finditer(r"[0-9]{1,20}+(?:,[0-9]{3})*(?:\.[0-9]{1,12})?", text[:MAX_TEXT]))
    return [quantity for number in written if (quantity := read_quantity(number))]
