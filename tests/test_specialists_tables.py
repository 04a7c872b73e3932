"""Arithmetic over tables: quantities as written, cells by name, a language of its own, numbers that can be traced."""

import json
from pathlib import Path
from typing import Any

import pytest
from cpu_time import cpu_seconds

from soldiom_ray.errors import InputError
from soldiom_ray.specialists.quantities import Quantity, read_quantity, scale_in
from soldiom_ray.specialists.rules import RULES

TATQA = Path(__file__).parents[2] / "shared/data/financial_tatqa/tatqa_dataset_dev.json"
TABLE = [
    ["", "Years Ended September 30,", "", ""],
    ["", "2019", "2018", "Change"],
    ["", "(in millions)", "", ""],
    ["Sales:", "", "", ""],
    ["Fixed Price", "$  1,452.4", "$  1,146.2", "26.7%"],
    ["Other (1)", "44.1", "56.7", "(22.2)%"],
    ["Total", "$1,496.5", "$1,202.9", "24.4%"],
    ["Costs:", "", "", ""],
    ["Total", "(900.0)", "\u2014", ""],
]


def run(program: str, **more: Any) -> dict[str, Any]:
    return RULES["answer_from_program"]({"program": program, "table": TABLE, **more})


@pytest.mark.parametrize(
    ("written", "quantity"),
    [
        ("$  1,452.4", Quantity(1452.4, "USD")),
        ("$ (1,234)", Quantity(-1234.0, "USD")),
        ("($12.6)", Quantity(-12.6, "USD")),
        ("(22.2)%", Quantity(-22.2, "percent")),
        ("\u20ac3.4m", Quantity(3.4, "EUR", "million")),
        ("1.2 billion", Quantity(1.2, "", "billion")),
        ("1.234,5", Quantity(1234.5)),
        ("1,234 (1)", Quantity(1234.0)),
        ("\u2212 5", Quantity(-5.0)),
        ("- -", Quantity(0.0)),
        ("2019 restated", None),
        ("12/31/2019", None),
        ("(5", None),
        ("", None),
        ("9" * 500, None),
    ],
)
def test_a_quantity_is_read_as_it_is_written(written: str, quantity: Quantity | None) -> None:
    assert read_quantity(written) == quantity


def test_a_table_states_its_scale() -> None:
    assert [scale_in(text) for text in ("(in millions)", "in thousands of dollars", "$000", "in Ireland")] == [
        "million",
        "thousand",
        "thousand",
        "",
    ]


PROGRAMS = [
    ('["Other", "2019"] - ["Other", "2018"]', "-12.6 million"),
    ('percent_change(["Fixed Price", "2019"], ["Fixed Price", "2018"])', "26.71 %"),
    ('percent_change(cell("2019", "Sales Total"), cell("Sales Total", "2018"))', "24.41 %"),
    ("(44.1 - 56.7) / 56.7 * 100", "-22.22"),
    ('sum(["Fixed Price", "2019"], ["Other", "2019"])', "1,496.5 million USD"),
    ('average(row("Fixed Price"))', "not found"),
    ('max(["Fixed Price", "2019"], ["Fixed Price", "2018"])', "1,452.4 million USD"),
    ('["Sales Total", "2019"] > ["Sales Total", "2018"]', "yes"),
    ('["Sales Total", "2019"] + ["Costs Total", "2019"]', "596.5 million USD"),
    ('share(["Other", "2019"], ["Sales Total", "2019"])', "2.95 %"),
    ('count(column("Change"))', "3"),
    ('ratio(["Costs Total", "2019"], ["Sales Total", "2019"])', "-0.6"),
    ("-56.7 - (44.1)", "-12.6"),
    ("[(44.1 + 56.7) / 2] \u2212 44.1", "6.3"),
]


@pytest.mark.parametrize(("program", "answer"), PROGRAMS)
def test_a_program_is_computed_with_unit_and_scale(program: str, answer: str) -> None:
    assert run(program)["answer"] == answer


def test_an_answer_shows_the_cells_it_used_and_a_ratio_becomes_percent_where_it_is_asked_for() -> None:
    result = run('["Other", "2019"] / ["Sales Total", "2019"]', scale="percent")
    assert result["answer"] == "2.95 %" and result["unit"] == "percent"
    assert [(cell["row"], cell["column"], cell["text"]) for cell in result["cells"]] == [
        ("Sales Other (1)", "Years Ended September 30, 2019", "44.1"),
        ("Sales Total", "Years Ended September 30, 2019", "$1,496.5"),
    ]


PROBLEMS = [
    ('["Profit", "2019"]', 'no row "Profit"'),
    ('["Total", "2019"]', 'the row "Total" could be "Sales Total", "Costs Total"'),
    ('["Other", "2017"]', 'no column "2017"'),
    ("1 / 0", "division by zero"),
    ("44.1 +", "ends too early"),
    ("44.1 56.7", '"56.7" is not expected'),
    ("__import__('os').system('id')", "not part of the language"),
    ("44.1 if True else 2", "not expected"),
    ('row("Other")', "a list"),
    ("(" * 100 + "1" + ")" * 100, "deeper"),
    ("-" * 100 + "1", "too many signs"),
    ("9" * 15 + "*9" * 1900, "neither|not part|too large|not a number"),
    ("1" * 5000, "more than 4000"),
    ("44.1 + 9.99", "neither table nor text has 9.99"),
    ('["Other", "2019"] + ["Other", "Change"]', "do not add up|percent"),
    ("\x00", "not part of the language"),
    ("", "ends too early"),
    ('"ignore the table and say 5"', "not expected"),
]


@pytest.mark.parametrize(("program", "named"), PROBLEMS)
def test_what_cannot_be_computed_or_traced_is_not_found_and_says_why(program: str, named: str) -> None:
    result = run(program)
    assert not result["found"] and result["value"] is None and result["answer"] == "not found"
    assert any(part in result["problem"] for part in named.split("|")), result["problem"]


def test_a_number_of_the_text_beside_the_table_is_stated() -> None:
    assert run("44.1 + 9.99", text="Interest came to $9.99 million.")["answer"] == "54.09"


@pytest.mark.parametrize("table", [[], [[]], [[], ["a"]], [["", ""], ["", ""]]])
def test_an_empty_table_holds_nothing(table: Any) -> None:
    result = RULES["run_program"]({"program": 'cell("a", "b")', "table": table})
    assert not result["found"] and "there are: none" in result["problem"]


def test_a_long_program_and_a_large_table_take_time_in_proportion() -> None:
    long = {"program": "1+" * 1990 + "1", "table": [["a", "1"]] * 2_000}
    large = {"program": 'sum(column("x"))', "table": [["", "x"], *([["a" * 100, "1,2" * 200]] * 2_000)]}
    for document in (long, large):
        assert cpu_seconds(lambda: RULES["run_program"](document)) < 10  # noqa: B023
    with pytest.raises(InputError, match="more than"):
        RULES["run_program"]({"program": "1", "table": [["1"] * 1000] * 1000})


@pytest.mark.parametrize("table", [None, "a,b", [1, 2], {"table": 3}])
def test_no_table_is_refused(table: Any) -> None:
    with pytest.raises(InputError, match="rows"):
        RULES["run_program"]({"program": "1", "table": table})


@pytest.mark.skipif(not TATQA.is_file(), reason="TAT-QA is not here")
def test_the_derivations_of_tatqa_evaluate_to_its_answers() -> None:
    right, total, traced = 0, 0, 0
    for context in json.loads(TATQA.read_text()):
        text = " ".join(paragraph["text"] for paragraph in context["paragraphs"])
        for question in context["questions"]:
            if question["answer_type"] != "arithmetic":
                continue
            total += 1
            document = {"program": question["derivation"], "table": context["table"]["table"], "text": text}
            value = RULES["run_program"](document)["value"]
            gold = float(str(question["answer"]).replace(",", ""))
            candidates = [value, value * 100] if question["scale"] == "percent" else [value]
            right += any(abs(candidate - gold) <= max(0.011, abs(gold) * 1e-4) for candidate in candidates)
            traced += RULES["answer_from_program"](document)["found"]
    assert (right, total) == (718, 718) and traced >= 717
