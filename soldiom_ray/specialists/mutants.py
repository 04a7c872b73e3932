"""Mutants of Python functions: each the source with one small mistake in it, as people make them, to teach and to
measure the finding and the repair of defects; and tests of a program, run in the sandbox.

The mistakes are those of mutation testing (DeMillo, Lipton, Sayward 1978; the operators of mutmut and MutPy) and the
misuse of a variable (Allamanis and others 2018). A mutant may mean the same as its original: only tests tell.
"""

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from soldiom_ray.errors import InputError
from soldiom_ray.sandbox.run import Limits, run_program
from soldiom_ray.specialists.evidence import text_of
from soldiom_ray.specialists.source_text import Source, parse_source

COMPARISONS = {
    ast.Lt: ("<", ("<=", ">")), ast.LtE: ("<=", ("<", ">=")), ast.Gt: (">", (">=", "<")), ast.GtE: (">=", (">", "<=")),
    ast.Eq: ("==", ("!=",)), ast.NotEq: ("!=", ("==",)), ast.In: ("in", ("not in",)), ast.NotIn: ("not in", ("in",)),
    ast.Is: ("is", ("is not",)), ast.IsNot: ("is not", ("is",)),
}  # fmt: skip
OPERATORS = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.Div: ("/", "//"), ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"), ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}  # fmt: skip
SWAPPED_CALLS = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "append": "extend",
    "upper": "lower",
    "lower": "upper",
}
MAX_MUTANTS = 1000
MOST = 20
TEST_LIMITS = Limits(wall_seconds=5.0, cpu_seconds=3, memory_bytes=256 << 20)


@dataclass(frozen=True, slots=True)
class Edit:
    """Bytes to replace, what with, and the mistake's kind."""

    kind: str
    start: int
    end: int
    written: str


def make_mutants(document: dict[str, Any]) -> dict[str, Any]:
    """`{"code": Python source, "most"?: 20, "seed"?: 0, "tests"?: source}` -> `{"parsed", "mutants", "possible",
    "problem"}`.

    A mutant is `{"kind", "line", "before", "after", "code", "outcome"}`: `before` and `after` are the changed line,
    `code` the whole text. With `tests` each is run with them in the sandbox, and `outcome` is `killed` or `survived`;
    else it is empty. Of `possible` mutants `most` are drawn by `seed`, spread over their kinds."""
    most, seed = _whole(document, "most", MOST, 1, MAX_MUTANTS), _whole(document, "seed", 0, 0, 2**31)
    source = parse_source(text_of(document, "code"))
    if isinstance(source, str):
        return {"parsed": False, "mutants": [], "possible": 0, "problem": source}
    try:
        edits = list(dict.fromkeys(edits_of(source)))
    except RecursionError:
        return {"parsed": False, "mutants": [], "possible": 0, "problem": "it is nested too deeply"}
    tests = document.get("tests")
    drawn = _drawn(edits, most, random.Random(seed))
    mutants = [_mutant(source, edit) for edit in drawn if is_program(source, edit)]
    if isinstance(tests, str) and tests:
        for mutant in mutants:
            outcome = run_program(mutant["code"], tests, TEST_LIMITS)
            mutant["outcome"] = "survived" if outcome.status == "passed" else "killed"
    return {"parsed": True, "mutants": mutants, "possible": len(edits), "problem": ""}


def run_tests(document: dict[str, Any]) -> dict[str, Any]:
    """`{"code": Python source, "tests": source or list of assertions}` -> `{"passed", "status", "detail", "output"}` of
    the sandbox: `status` is passed, failed, timeout, memory, crashed or unfinished."""
    tests = document.get("tests")
    if isinstance(tests, list) and all(isinstance(test, str) for test in tests):
        tests = "\n".join(tests)
    if not isinstance(tests, str):
        raise InputError('"tests" is neither a text nor a list of texts')
    outcome = run_program(text_of(document, "code"), tests, TEST_LIMITS)
    passed = outcome.status == "passed"
    return {"passed": passed, "status": outcome.status, "detail": outcome.detail, "output": outcome.output}


def edits_of(source: Source) -> Iterator[Edit]:
    """Every small change of the source that a mutant may have."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            yield from _comparison(source, node)
        elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            yield from _between(source, node.left, node.right, *OPERATORS[type(node.op)], "operator")
        elif isinstance(node, ast.BoolOp):
            before, after = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            yield from _between(source, node.values[0], node.values[1], before, after, "logic")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield Edit("negation", source.span(node)[0], source.span(node.operand)[0], "")
        elif isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
            before, after = (f"{mark}=" for mark in OPERATORS[type(node.op)])
            yield from _between(source, node.target, node.value, before, after, "operator")
        elif isinstance(node, ast.Constant):
            yield from _constant(source, node)
        elif isinstance(node, ast.Call):
            yield from _call(source, node)
        elif isinstance(node, ast.Break | ast.Continue):
            yield Edit("loop", *source.span(node), "continue" if isinstance(node, ast.Break) else "break")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _variables(source, node)


def _comparison(source: Source, node: ast.Compare) -> Iterator[Edit]:
    mark, others = COMPARISONS[type(node.ops[0])]
    for other in others:
        yield from _between(source, node.left, node.comparators[0], mark, other, "comparison")


def _between(source: Source, left: ast.AST, right: ast.AST, before: str, after: str, kind: str) -> Iterator[Edit]:
    """The replacement of an operator that stands between two nodes, brackets and spaces beside it."""
    start, end = source.span(left)[1], source.span(right)[0]
    gap = source.data[start:end]
    at = gap.find(before.encode())
    if at >= 0 and b"#" not in gap:
        yield Edit(kind, start + at, start + at + len(before.encode()), after)


def _constant(source: Source, node: ast.Constant) -> Iterator[Edit]:
    span = source.span(node)
    if isinstance(node.value, bool):
        yield Edit("constant", *span, str(not node.value))
    elif isinstance(node.value, int) and abs(node.value) < 10**9 and source.text(node).isdigit():
        yield Edit("constant", *span, str(node.value + 1))
        if node.value > 0:
            yield Edit("constant", *span, str(node.value - 1))


def _call(source: Source, node: ast.Call) -> Iterator[Edit]:
    function = node.func
    name = (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )
    end = source.span(function)[1]
    if name in SWAPPED_CALLS:
        yield Edit("function", end - len(name.encode()), end, SWAPPED_CALLS[name])
    if name == "range" and node.args and not node.keywords:
        stop = node.args[0] if len(node.args) == 1 else node.args[1]
        text = source.text(stop)
        yield Edit(
            "range", *source.span(stop), f"{text} - 1" if isinstance(stop, ast.Name | ast.Call) else f"({text}) - 1"
        )
        yield Edit(
            "range", *source.span(stop), f"{text} + 1" if isinstance(stop, ast.Name | ast.Call) else f"({text}) + 1"
        )
    if len(node.args) >= 2 and not any(isinstance(argument, ast.Starred) for argument in node.args[:2]):
        first, second = node.args[:2]
        (start, _), (_, stop_at) = source.span(first), source.span(second)
        if source.text(first) != source.text(second) and b"#" not in source.data[start:stop_at]:
            yield Edit("arguments", start, stop_at, f"{source.text(second)}, {source.text(first)}")


def _variables(source: Source, function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Edit]:
    """One variable of a function read in the place of another."""
    inside = list(ast.walk(function))
    bound = {node.id for node in inside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    arguments = function.args
    bound |= {argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    names = sorted(bound - {"self", "cls"})
    following = dict(zip(names, [*names[1:], *names[:1]], strict=True)) if len(names) > 1 else {}
    for node in inside:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in following:
            yield Edit("variable", *source.span(node), following[node.id])


def _drawn(edits: list[Edit], most: int, rng: random.Random) -> list[Edit]:
    """As many of each kind as there is room for, in the order of the text."""
    kinds: dict[str, list[Edit]] = {}
    for edit in edits:
        kinds.setdefault(edit.kind, []).append(edit)
    for group in kinds.values():
        rng.shuffle(group)
    chosen: list[Edit] = []
    while len(chosen) < most and any(kinds.values()):
        for group in kinds.values():
            if group and len(chosen) < most:
                chosen.append(group.pop())
    return sorted(chosen, key=lambda edit: (edit.start, edit.end, edit.written))


def is_program(source: Source, edit: Edit) -> bool:
    """Whether the statement of the module that an edit is in still parses with it."""
    for node in source.tree.body:
        start, end = source.span(node)
        if start <= edit.start and edit.end <= end:
            changed = source.data[start : edit.start] + edit.written.encode() + source.data[edit.end : end]
            return not isinstance(parse_source(changed.decode(errors="replace")), str)
    return False


def _mutant(source: Source, edit: Edit) -> dict[str, Any]:
    code = source.replaced(edit.start, edit.end, edit.written)
    line = source.data.count(b"\n", 0, edit.start)
    before = source.data.decode(errors="replace").split("\n")[line]
    return {
        "kind": edit.kind,
        "line": line + 1,
        "before": before,
        "after": code.split("\n")[line],
        "code": code,
        "outcome": "",
    }


def _whole(document: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = document.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f'"{name}" is {value!r}; it takes {least} to {most}')
    return value
