"""Questions about tables answered by rules, on tables of TAT-QA that no rule was written from.

    python benchmarks/table_questions.py --data ../shared/data             # seconds on one core

Four tables in ten are held out; the words and patterns of `specialists/table_questions.py` were chosen on the
others (--side known). Counted are the questions with one number as the answer that TAT-QA says stands in the table, or
in table and text. Trivial baseline: the number in the cell whose row and column have most words of the question.
Intervals: 10,000 draws of tables.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from soldiom_ray.specialists.quantities import read_quantity
from soldiom_ray.specialists.table_cells import Table, read_table
from soldiom_ray.specialists.table_questions import ask_table
from soldiom_ray.specialists.wording import content_words, numbers

ROUNDING = 0.006


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--side", choices=("held-out", "known"), default="held-out")
    options = parser.parse_args()
    path = options.data / "financial_tatqa" / "tatqa_dataset_dev.json"
    if not path.is_file():
        print(f"skipped: the questions are not at {path}")
        return
    contexts = [each for each in json.loads(path.read_text()) if is_held_out(each) is (options.side == "held-out")]
    scored = [list(score(context)) for context in contexts]
    asked = [[row for row in rows if row["in_table"]] for rows in scored]
    print("| questions | answered | right, of all | right, of those answered | trivial, of all | difference, 95 % |")
    print("|---|---|---|---|---|---|")
    counts = np.array(
        [[len(rows), *(sum(r[k] for r in rows) for k in ("answered", "right", "trivial"))] for rows in asked]
    )
    draws = np.random.default_rng(1).integers(0, len(counts), (10_000, len(counts)))
    total, answered, right, trivial = np.moveaxis(counts[draws].sum(1), -1, 0)
    sums = counts.sum(0)
    of_all, of_answered = interval(sums[2] / sums[0], right / total), interval(sums[2] / sums[1], right / answered)
    print(
        f"| {sums[0]} of {len(contexts)} tables | {sums[1] / sums[0]:.3f} | {of_all} | {of_answered}"
        f" | {sums[3] / sums[0]:.3f} | {interval((sums[2] - sums[3]) / sums[0], (right - trivial) / total)} |"
    )
    others = [row for rows in scored for row in rows if not row["in_table"]]
    wrong = sum(row["answered"] for row in others)
    print(f"of {len(others)} other questions (words, several values, numbers of the text) {wrong} got a number")


def is_held_out(context: dict[str, Any]) -> bool:
    """By its table's id: four in ten."""
    return int(hashlib.sha256(context["table"]["uid"].encode()).hexdigest(), 16) % 10 < 4


def score(context: dict[str, Any]) -> Iterator[dict[str, bool]]:
    """Of each question whether its answer is a number that the table states, and whether rule and baseline give it."""
    rows = context["table"]["table"]
    for each in context["questions"]:
        wanted = number_of(each["answer_type"], each["answer"])
        answer = ask_table({"question": each["question"], "table": rows})
        yield {
            "in_table": wanted is not None and "table" in each["answer_from"],
            "answered": answer["found"],
            "right": answer["found"] and is_equal(answer["value"], wanted, each["answer_type"]),
            "trivial": is_equal(likeliest_cell(each["question"], read_table(rows)), wanted, each["answer_type"]),
        }


def number_of(kind: str, answer: Any) -> float | None:
    """The one number that is the answer; None for words and for several."""
    if kind in ("arithmetic", "count"):
        return float(answer)
    quantity = read_quantity(answer[0]) if kind == "span" and len(answer) == 1 else None
    return quantity.value if quantity else None


def is_equal(value: Any, wanted: float | None, kind: str) -> bool:
    """Equal as rounded; of a cell that is quoted the sign is its notation."""
    if wanted is None or value is None or isinstance(value, bool):
        return False
    if kind == "span":
        value, wanted = abs(value), abs(wanted)
    return bool(abs(value - wanted) <= max(ROUNDING, 1e-4 * abs(wanted)))


def likeliest_cell(question: str, table: Table) -> float | None:
    """The number in the cell whose row and column share most words and numbers with the question."""
    asked = {*content_words(question), *numbers(question)}
    best, value = -1.0, None
    for row, name in table.row_names.items():
        words = {*content_words(name), *numbers(name)}
        for column, head in table.columns.items():
            heads = {*content_words(head), *numbers(head)}
            quantity = read_quantity(table.rows[row][column])
            share = len(asked & (words | heads)) - 0.1 * len((words | heads) - asked)
            if quantity and share > best:
                best, value = share, quantity.value
    return value


def interval(value: float, draws: Any) -> str:
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
