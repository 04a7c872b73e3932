"""Pairs from Python source: which functions are asked about, what the answer is, and where the pairs go."""

import ast
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from preparing import context_in, document, documents_of, package_documents

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Prepare, SplitRule
from soldiom_ray.prepare import prepare
from soldiom_ray.prepare.docstrings import NoFunctionsError, function_pairs, summary_of
from soldiom_ray.records import Manifest

MODULE = '''"""A module."""
import functools
from typing import overload

class Account:
    """What a customer owns."""

    @functools.cached_property
    def balance(self):
        """Sum up every booking
        of the year. More is said of it here.

        Args:
            nothing
        """

        # the sum
        total = "é"; return total

    @overload
    def pay(self, amount: int) -> None:
        """Pay an amount of whole euros."""
        amount += 1

    def pay(self, amount):
        """Pay an amount
        :param amount: in euros
        """
        return amount

    def lock(self): "Keep everyone away from it."; return True

    def close(self):
        """Close the account and forget whose it was."""
        raise NotImplementedError

if True:
    async def fetch_rate(of):
        """Fetch the rate of it."""
        return 1

    async def convert(of):
        r"""Ask the bank what a foreign coin is worth."""
        def inner():
            """Say nothing at all to anyone."""
            return of
        return inner

def lazy():
    return 2

def test_it():
    """Check that nothing is ever broken."""
    assert True
'''
REASONS = {
    "Account.pay": "overload",
    "Account.pay#2": "short_docstring",
    "Account.close": "no_body",
    "fetch_rate": "trivial_docstring",
    "convert.inner": "nested_function",
    "lazy": "no_docstring",
    "test_it": "test",
}
ANSWERS = {
    "Account.balance": "Sum up every booking of the year.",
    "Account.lock": "Keep everyone away from it.",
    "convert": "Ask the bank what a foreign coin is worth.",
}


def made(folder: Path, rows: list[dict[str, Any]], shard: int = 20, **how: Any) -> tuple[Context, Manifest]:
    context = context_in(folder)
    declared = Prepare(**{"pairs": "docstrings", "filters": (), "split": SplitRule(test=0, validation=0)} | how)
    return context, prepare(context, [documents_of(context, rows, shard)], declared)


def read(context: Context, dataset: Manifest, split: str = "train") -> dict[str, list[dict[str, str]]]:
    return {row["path"]: json.loads(row["messages"]) for row in context.artifacts.rows(dataset, f"{split}/")}


def dropped(context: Context, dataset: Manifest) -> dict[str, str]:
    return {row["path"]: row["reason"] for row in context.artifacts.rows(dataset, "dropped/")}


def test_a_function_is_asked_about_without_its_docstring_and_its_first_sentence_answers() -> None:
    pairs = {pair.name: pair for pair in function_pairs(MODULE)}
    assert {name: pair.reason for name, pair in pairs.items() if pair.reason} == REASONS
    assert {name: pair.answer for name, pair in pairs.items() if not pair.reason} == ANSWERS
    assert pairs["Account.balance"].question == (
        "Write a one-line docstring for this method of `Account`.\n\n```python\n"
        '@functools.cached_property\ndef balance(self):\n    # the sum\n    total = "é"; return total\n```'
    )
    assert "def lock(self): return True\n```" in pairs["Account.lock"].question
    assert pairs["convert"].question.startswith("Write a one-line docstring for this function.\n\n```python\nasync def")
    assert "Say nothing at all" in pairs["convert"].question


@pytest.mark.parametrize(
    ("docstring", "summary"),
    [
        ("\n    Load a file, e.g. A picture.\n    And more.\n", "Load a file, e.g. A picture."),
        ("Load it\n    >>> load()\n", "Load it"),
        ("Load version 1.5 of it\n\n    Returns:\n", "Load version 1.5 of it"),
        ("\n\n", ""),
    ],
)
def test_the_answer_is_the_first_sentence_on_one_line(docstring: str, summary: str) -> None:
    assert summary_of(docstring) == summary


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def f(:", "does_not_parse"),
        ("x = 1\0", "does_not_parse"),
        ("x = " + "(" * 5000, "does_not_parse"),
        ("x = " + "-" * 200_000 + "1", "does_not_parse"),
        ("x = 1\n", "no_function"),
        ("x" * 1_000_001, "large_module"),
    ],
)
def test_what_cannot_be_read_as_python_names_its_reason(text: str, reason: str) -> None:
    with pytest.raises(NoFunctionsError) as caught:
        function_pairs(text)
    assert caught.value.reason == reason


def test_a_long_chain_of_branches_is_followed_without_recursion() -> None:
    chain = "if x == 0:\n    pass\n" + "".join(f"elif x == {n}:\n    pass\n" for n in range(1, 800))
    assert [pair.name for pair in function_pairs(f"{chain}else:\n    def f(): return 1\n")] == ["f"]


def test_every_function_and_document_without_a_pair_is_counted_with_its_reason(tmp_path: Path) -> None:
    rows = [
        document(MODULE, "bank", "bank/account.py", language="python"),
        document("# Accounts\n\nOf a bank.\n", "bank", "README.md", language="markdown"),
        document("def f(:\n", "bank", "bank/broken.py", language="python"),
        document(MODULE, "bank", "tests/helpers.py", language="python", kind="test"),
    ]
    context, dataset = made(tmp_path, rows)
    assert {
        path.partition("::")[2]: messages[1]["content"] for path, messages in read(context, dataset).items()
    } == ANSWERS
    assert dropped(context, dataset) == {
        "README.md": "not_python",
        "bank/broken.py": "does_not_parse",
        "tests/helpers.py": "test",
    } | {f"bank/account.py::{name}": reason for name, reason in REASONS.items()}
    counts = dataset.counts
    assert (counts["documents"], counts["functions"], counts["kept"], counts["dropped"]) == (4, 10, 3, 10)
    samples = list(context.artifacts.rows(dataset, "train/"))
    assert {(row["group"], row["license"], row["url"]) for row in samples} == {("bank", "MIT", rows[0]["url"])}
    assert len({row["id"] for row in samples}) == 3
    card = context.artifacts.read(dataset, "card.md").decode()
    assert "3 of 10 functions in 4 documents were kept" in card and "| no_docstring | 1 |" in card


def test_code_in_rows_of_a_table_and_in_notebooks_is_found_and_prose_about_code_is_not(tmp_path: Path) -> None:
    code = "def {0}(a):\n    'Tell how far {0} is from here.'\n    return a - {1}\n"
    rows = [
        document(code.format("rome", 1), "rows", "train.parquet", language="text"),
        document(code.format("oslo", 2), "notes", "study.ipynb", language="python"),
        document("So we write\n\n" + code.format("bern", 3), "rows", "talk.txt", language="text"),
        document("x: 1\n", "rows", "a.yaml", language="yaml"),
    ]
    context, dataset = made(tmp_path, rows)
    assert set(read(context, dataset)) == {"train.parquet::rome", "study.ipynb::oslo"}
    assert dropped(context, dataset) == {"talk.txt": "not_python", "a.yaml": "not_python"}


def test_a_licence_refuses_a_document_before_its_functions_are_looked_at(tmp_path: Path) -> None:
    rows = [
        document(MODULE, "free", "free/account.py", language="python"),
        document(MODULE.replace("Ask", "Beg"), "viral", "viral/account.py", language="python", license="GPL-3.0-only"),
    ]
    context, dataset = made(tmp_path, rows, license={"use": "commercial"})
    assert dropped(context, dataset)["viral/account.py"] == "license_denied" and len(read(context, dataset)) == 3


def test_a_function_that_two_packages_hold_is_on_the_test_side_only(tmp_path: Path) -> None:
    other = MODULE.replace("Ask the bank what a foreign coin is worth.", "Tell how much another currency is worth.")
    rows = [
        document(MODULE, "bank", "bank/account.py", language="python"),
        document(other, "shop", "shop/vendored.py", language="python"),
        document(
            "def own(a):\n    '''Add one to what was there.'''\n    return a + 1\n",
            "shop",
            "shop/a.py",
            language="python",
        ),
    ]
    context, dataset = made(tmp_path, rows, split=SplitRule(test=0, validation=0, test_groups=("bank",)))
    assert list(read(context, dataset)) == ["shop/a.py::own"]
    assert {path.partition("::")[2] for path in read(context, dataset, "test")} == set(ANSWERS)
    assert Counter(dropped(context, dataset).values())["exact_duplicate"] == 3


def test_functions_of_one_document_are_never_divided(tmp_path: Path) -> None:
    context, dataset = made(
        tmp_path, package_documents(["httpx"], 30), split=SplitRule(by="document", test=0.3, validation=0.2)
    )
    files = [
        {path.partition("::")[0] for path in read(context, dataset, split)} for split in ("train", "validation", "test")
    ]
    assert all(files) and not files[0] & files[1] and not files[0] & files[2] and not files[1] & files[2]


def test_pairs_of_real_packages_are_the_same_in_any_number_of_parts(tmp_path: Path) -> None:
    rows = package_documents(["rich", "peft"], 12)
    how = {"filters": ("near_duplicate",), "max_characters": 1000, "split": SplitRule(test=0, test_groups=("peft",))}
    context, dataset = made(tmp_path / "one", rows, shard=100, **how)
    _, other = made(tmp_path / "many", rows, shard=3, **how)
    assert [file.sha256 for file in dataset.files] == [file.sha256 for file in other.files]
    pairs = {
        path: turns
        for split in ("train", "validation", "test")
        for path, turns in read(context, dataset, split).items()
    }
    assert len(pairs) == dataset.counts["kept"] > 40 and dataset.counts["dropped_too_long"] > 0
    assert all(path.startswith("peft/") for path in read(context, dataset, "test"))
    for question, answer in pairs.values():
        code = question["content"].partition("```python\n")[2].removesuffix("\n```")
        (function,) = ast.parse(code).body
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(function) is None
        assert question["role"] == "user" and answer["role"] == "assistant" and "\n" not in answer["content"]
