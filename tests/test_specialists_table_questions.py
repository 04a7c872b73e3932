"""Questions about a table become programs that can be checked, or say why they are not clear."""

import pytest

from soldiom_ray.specialists.table_questions import ask_table

TABLE = [
    ["(in thousands)", "2019", "2018", "Change"],
    ["Interest income", "$30,182", "$13,281", "16,901"],
    ["Interest expense", "$17,334", "$6,442", "10,892"],
    ["Total sales", "$90,000", "$60,000", "30,000"],
    ["Average price", "12.5", "10.0", "2.5"],
]
QUESTIONS = [
    ("What was the interest income in 2019?", 30182, '["Interest income", "2019"]'),
    ("What was the change in interest income between 2018 and 2019?", 16901, "difference("),
    ("What was the change in interest income in 2019?", 16901, "difference("),
    ("What was the percentage change in total sales from 2018 to 2019?", 50, "percent_change("),
    ("What was the average interest expense for 2018 and 2019?", 11888, "average("),
    ("What was the average price in 2018?", 10, '["Average price", "2018"]'),
    ("What percentage of total sales is interest income in 2018?", 22.135, "share("),
    ("How much is interest income as a percentage of total sales in 2018?", 22.135, "share("),
    ("What is the difference between interest income and interest expense in FY19?", 12848, "difference("),
]
UNCLEAR = [
    ("Why did interest income increase in 2019?", "asks for words"),
    ("What was the interest income in 2017?", "no column is of 2017"),
    ("What was the goodwill in 2019?", "no row is named"),
    ("What were the interest income in 2018 and 2019 respectively?", "several values"),
    ("What was the average change in interest income between 2018 and 2019?", "more than one computation"),
    ("What was the interest income of the Brazilian subsidiary from leased equipment in 2019?", "does not say"),
    ("", "no row is named"),
]


@pytest.mark.parametrize(("question", "value", "program"), QUESTIONS)
def test_a_question_is_a_program_over_the_cells_that_it_names(question: str, value: float, program: str) -> None:
    answer = ask_table({"question": question, "table": TABLE})
    assert answer["found"], answer["problem"]
    assert answer["value"] == pytest.approx(value, rel=1e-3) and program in answer["program"] and answer["cells"]


@pytest.mark.parametrize(("question", "problem"), UNCLEAR)
def test_a_question_that_is_not_clear_says_why_and_gets_no_number(question: str, problem: str) -> None:
    answer = ask_table({"question": question, "table": TABLE})
    assert not answer["found"] and answer["answer"] == "not found" and problem in answer["problem"]
    assert answer["program"] == "" and answer["cells"] == []
