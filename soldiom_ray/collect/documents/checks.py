"""Checks that come with a task in code: statements that hold for a right answer, as MBPP and HumanEval write them. They
are kept beside the sample, so that an evaluation can run a model's answer against them."""

import ast
import builtins
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

CHECKING = re.compile(r"^\s*(assert\b|def check\()", re.MULTILINE)
MAX_CHARACTERS = 20_000
"""Of a task's checks; HumanEval's longest have 3,000. Longer ones are left out, which is counted."""


def holds_checks(values: Sequence[Any]) -> bool:
    """Whether every value of a column is Python that checks something."""
    sources = [_source(value) for value in values if value not in (None, "", [])]
    return bool(sources) and all(CHECKING.search(source) for source in sources)


def checks_of(record: Mapping[Any, Any], by_role: Mapping[str, str]) -> str:
    """A record's checks as one piece of Python; "" where it has none, or too many characters of them."""
    # A table that pandas wrote has a column without a name, so a role that is missing is None, not "".
    checks, setup = (_source(record.get(by_role.get(role))) for role in ("checks", "check_setup"))
    if not checks.strip():
        return ""
    entry = record.get(by_role.get("entry_point"))
    if isinstance(entry, str) and entry.isidentifier() and "def check(" in checks:
        checks += f"\n\ncheck({entry})"
    whole = "\n".join(part for part in (setup, checks) if part.strip()).replace("\r\n", "\n")
    return whole if len(whole) <= MAX_CHARACTERS else ""


def example_check(checks: str, question: str) -> str:
    """The first check, where the question names no function that the checks call: a program cannot pass by another
    name. MBPP is asked so."""
    try:
        tree = ast.parse(checks)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    names = {each.id for each in calls if isinstance(each, ast.Name)} - vars(builtins).keys()
    if not names or any(re.search(rf"\b{re.escape(name)}\b", question) for name in names):
        return ""
    return next((ast.unparse(node) for node in tree.body if isinstance(node, ast.Assert)), "")


def _source(value: Any) -> str:
    """Source from a text, a list of statements, or a list written as text, as in CSV files."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        for read in (json.loads, ast.literal_eval):
            try:
                value = read(value)
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    if isinstance(value, list | tuple):
        return "\n".join(str(part) for part in value)
    return value if isinstance(value, str) else ""
