"""Repair of Python code that fails its tests: every single small change is tried in the sandbox until the tests pass
(generate and validate: Weimer and others 2009; the changes are the mistakes of `mutants`, made backwards).

It finds bugs of one place: a wrong comparison, operator, constant, bound or variable. A change that passes the tests
given may still be wrong where they are few (a binary search passes three tests with `<` for `<=`): it goes on for a
while after the first, and others that pass too say that the tests do not tell which is right.
"""

import ast
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from soldiom_ray.errors import InputError
from soldiom_ray.sandbox.run import Limits, run_program
from soldiom_ray.specialists.evidence import text_of
from soldiom_ray.specialists.mutants import Edit, edits_of, is_program
from soldiom_ray.specialists.source_text import Source, parse_source

MOST_TRIED, MOST_SECONDS = 400, 40.0
"""Changes that are run at most, and for how long: with the last one, less than the API waits for a rule."""
MOST_OTHERS, MOST_TRIED_AFTER, SECONDS_AFTER = 5, 100, 10.0
"""Other changes that are shown, and how many are run for them after the first that passes, and for how long."""
MOST_POSSIBLE = 100_000
"""Changes that are looked at: a long text with many variables has millions."""
LIMITS = Limits(wall_seconds=3.0, cpu_seconds=2, memory_bytes=256 << 20)
LIMITS_AFTER = Limits(wall_seconds=0.8, cpu_seconds=1, memory_bytes=256 << 20)
"""Some changes make a loop endless; what passes does so in less."""
KINDS = (
    "comparison",
    "constant",
    "range",
    "operator",
    "logic",
    "variable",
    "arguments",
    "function",
    "negation",
    "loop",
)
"""In the order in which they are tried: what people get wrong most first."""


def repair_code(document: dict[str, Any]) -> dict[str, Any]:
    """`{"code": Python source, "tests": source or list of assertions}` -> `{"found", "code", "line", "before", "after",
    "others", "tried", "possible", "problem"}`.

    `found` says that `code` passes the tests; `line`, `before` and `after` are its one changed line, null and "" where
    it passed as it was; `others` are the lines of further changes that pass, too. Not found, `code` is "" and `problem`
    says why."""
    tests, code = _tests(document), text_of(document, "code")
    source = parse_source(code)
    if isinstance(source, str):
        return _answer(problem=f"this is no Python: {source}")
    began = time.monotonic()
    first = run_program(code, tests, LIMITS)
    if first.status == "passed":
        return _answer(code, problem="the tests pass as it is")
    try:
        edits = chain(edits_of(source), _lengths(source), _other_variables(source))
        changes = list(dict.fromkeys(islice(edits, MOST_POSSIBLE)))
    except RecursionError:
        return _answer(problem="it is nested too deeply")
    changes.sort(key=lambda edit: KINDS.index(edit.kind) if edit.kind in KINDS else len(KINDS))
    tried, passing = _passing(source, changes, tests, began)
    if passing:
        (code, line, before, after), *others = passing
        shown = [{"line": line, "before": before, "after": after} for _, line, before, after in others]
        return _answer(code, line, before, after, shown, tried=tried, possible=len(changes))
    if tried < len(changes) and (tried >= MOST_TRIED or time.monotonic() - began > MOST_SECONDS):
        return _answer(tried=tried, possible=len(changes), problem="none of the changes tried passes the tests")
    detail = (first.detail.strip().splitlines() or [first.status])[-1][:200]
    return _answer(tried=tried, possible=len(changes), problem=f"no single change passes the tests ({detail})")


def _passing(
    source: Source, changes: list[Edit], tests: str, began: float
) -> tuple[int, list[tuple[str, int, str, str]]]:
    """How many of the changes were run, and of those that pass the tests (code, line, that line before and after)."""
    tried, passing = 0, list[tuple[str, int, str, str]]()
    most, until = MOST_TRIED, began + MOST_SECONDS
    for edit in changes:
        if tried >= most or time.monotonic() > until or len(passing) > MOST_OTHERS:
            break
        if not is_program(source, edit):
            continue
        tried += 1
        changed = source.replaced(edit.start, edit.end, edit.written)
        if run_program(changed, tests, LIMITS_AFTER if passing else LIMITS).status != "passed":
            continue
        if not passing:
            most, until = min(most, tried + MOST_TRIED_AFTER), min(until, time.monotonic() + SECONDS_AFTER)
        line = source.data.count(b"\n", 0, edit.start)
        before, after = (text.split("\n")[line] for text in (source.data.decode(errors="replace"), changed))
        passing.append((changed, line + 1, before, after))
    return tried, passing


def _answer(
    code: str = "", line: int | None = None, before: str = "", after: str = "",
    others: Sequence[Mapping[str, Any]] = (), *, tried: int = 0, possible: int = 0, problem: str = "",
) -> dict[str, Any]:  # fmt: skip
    return {
        "found": bool(code),
        "code": code,
        "line": line,
        "before": before,
        "after": after,
        "others": list(others),
        "tried": tried,
        "possible": possible,
        "problem": problem,
    }


def _tests(document: dict[str, Any]) -> str:
    tests = document.get("tests")
    if isinstance(tests, list) and all(isinstance(test, str) for test in tests):
        tests = "\n".join(tests)
    if not isinstance(tests, str) or not tests.strip():
        raise InputError('"tests" is neither a text nor a list of texts', remedy="send assertions that the code fails")
    return tests


def _lengths(source: Source) -> Iterator[Edit]:
    """Every length one less and one more: bounds that are off by one."""
    inner = {id(part) for node in ast.walk(source.tree) if isinstance(node, ast.BinOp | ast.UnaryOp | ast.Attribute)
             for part in ast.iter_child_nodes(node)}  # fmt: skip
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len":
            for change in (" - 1", " + 1"):
                written = source.text(node) + change
                yield Edit("range", *source.span(node), f"({written})" if id(node) in inner else written)


def _other_variables(source: Source) -> Iterator[Edit]:
    """Every variable of a function read in the place of every other one."""
    for function in ast.walk(source.tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        inside = list(ast.walk(function))
        bound = {node.id for node in inside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        arguments = function.args
        bound |= {argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
        for node in inside:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in bound:
                for other in sorted(bound - {node.id, "self", "cls"}):
                    yield Edit("variable", *source.span(node), other)
