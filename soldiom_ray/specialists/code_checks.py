"""Defects of Python source that its tree shows for certain, without running it.

Each check is a mistake in nearly every program that has it; style is none of them. What needs types or values to be
seen is left to tests (`mutants.py`, `run_tests`) and to a model.
"""

import ast
import builtins
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from soldiom_ray.specialists.evidence import text_of
from soldiom_ray.specialists.source_text import Source, parse_source

Defect = tuple[ast.AST, str]
"""Where, and what is wrong."""

MAX_DEFECTS = 1000
MUTABLE_CALLS = frozenset({"list", "dict", "set", "bytearray"})
UNUSED_RESULTS = frozenset({"strip", "lstrip", "rstrip", "upper", "title", "splitlines", "casefold", "swapcase"})
MODULE_NAMES = frozenset(
    {"__file__", "__name__", "__doc__", "__package__", "__spec__", "__path__", "__class__", "__builtins__"}
)
LEAVING = (ast.Return, ast.Raise, ast.Break, ast.Continue)
SHRINKING = frozenset({"remove", "pop", "append", "insert", "clear"})
CHANGING = SHRINKING | {"add", "update", "extend", "setdefault", "discard", "popitem", "sort", "reverse"}
DYNAMIC = frozenset({"globals", "vars", "exec", "locals", "NameError"})
"""Names with which a module may bind others unseen, or expects them unbound."""


def find_defects(document: dict[str, Any]) -> dict[str, Any]:
    """`{"code": Python source}` -> `{"parsed", "defects", "counts", "problem"}`.

    A defect is `{"kind", "line", "column" (both from 1), "text", "message"}`, ordered by line; kinds are the names in
    `CHECKS`. `parsed` is false where this is no Python, and `problem` says why."""
    source = parse_source(text_of(document, "code"))
    if isinstance(source, str):
        return {"parsed": False, "defects": [], "counts": {}, "problem": source}
    defects = []
    try:
        for kind, check in CHECKS.items():
            defects += [_described(source, kind, node, message) for node, message in check(source.tree)]
    except RecursionError:
        return {"parsed": False, "defects": [], "counts": {}, "problem": "it is nested too deeply"}
    defects.sort(key=lambda defect: (defect["line"], defect["column"], defect["kind"]))
    counts = dict(sorted(Counter(defect["kind"] for defect in defects).items()))
    return {"parsed": True, "defects": defects[:MAX_DEFECTS], "counts": counts, "problem": ""}


def _described(source: Source, kind: str, node: ast.AST, message: str) -> dict[str, Any]:
    text = source.text(node)
    return {
        "kind": kind,
        "line": getattr(node, "lineno", 1),
        "column": getattr(node, "col_offset", 0) + 1,
        "text": text if len(text) <= 200 else text[:199] + "\u2026",
        "message": message,
    }


def _mutable_defaults(tree: ast.Module) -> Iterator[Defect]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args]
            paired = [*zip(arguments[::-1], node.args.defaults[::-1], strict=False)]
            paired += [
                (a, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is not None
            ]
            for argument, default in paired:
                if _is_fresh(default) and _is_changed(argument.arg, node):
                    yield default, f"{argument.arg} is made once, and what is done to it stays for later calls"


def _is_fresh(default: ast.expr) -> bool:
    called = isinstance(default, ast.Call) and isinstance(default.func, ast.Name) and default.func.id in MUTABLE_CALLS
    return called or isinstance(default, ast.List | ast.Dict | ast.Set)


def _is_changed(name: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function changes what an argument holds, and has not first bound the name to something else."""
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store):
            return False
    for node in ast.walk(function):
        owner = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGING:
            owner = node.func.value
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            owner = node.value
        if isinstance(owner, ast.Name) and owner.id == name:
            return True
    return False


def _literal_identity(tree: ast.Module) -> Iterator[Defect]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for operator, right in zip(node.ops, node.comparators, strict=True):
                sides = (node.left, right)
                literal = any(
                    isinstance(side, ast.Constant)
                    and isinstance(side.value, str | bytes | int | float)
                    and not isinstance(side.value, bool)
                    for side in sides
                )
                if isinstance(operator, ast.Is | ast.IsNot) and literal:
                    yield node, "identity of a literal: == compares values"


def _same_sides(tree: ast.Module) -> Iterator[Defect]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and not isinstance(node.ops[0], ast.NotEq):
            right = node.comparators[0]
            if _is_plain(node.left) and ast.dump(node.left) == ast.dump(right):
                yield node, "both sides are the same"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in node.body:
                targets = [_dotted(target) for target in inner.targets] if isinstance(inner, ast.Assign) else []
                if isinstance(inner, ast.Assign) and targets == [_dotted(inner.value)] != [""]:
                    yield inner, "it is assigned to itself"


def _unreachable(tree: ast.Module) -> Iterator[Defect]:
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                for before, after in pairwise(block):
                    if isinstance(before, LEAVING) and not _is_generator_mark(after):
                        yield after, "never reached"
                        break


def _swallowed_errors(tree: ast.Module) -> Iterator[Defect]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None and isinstance(node.body[0], ast.Pass):
            yield node, "every error is swallowed, KeyboardInterrupt and SystemExit too"


def _repeated_keys(tree: ast.Module) -> Iterator[Defect]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            seen: set[tuple[type, Any]] = set()
            for key in node.keys:
                if isinstance(key, ast.Constant):
                    mark = (type(key.value), key.value)
                    if mark in seen:
                        yield key, "this key stands twice, the last value wins"
                    seen.add(mark)


def _repeated_conditions(tree: ast.Module) -> Iterator[Defect]:
    later = {id(node.orelse[0]) for node in ast.walk(tree) if isinstance(node, ast.If) and len(node.orelse) == 1}
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and id(node) not in later:
            seen: set[str] = set()
            branch: ast.stmt | None = node
            while isinstance(branch, ast.If):
                test = ast.dump(branch.test)
                if test in seen and not any(
                    isinstance(inner, ast.Call | ast.NamedExpr) for inner in ast.walk(branch.test)
                ):
                    yield branch.test, "an earlier branch has the same condition"
                seen.add(test)
                branch = branch.orelse[0] if len(branch.orelse) == 1 else None


def _assert_on_tuple(tree: ast.Module) -> Iterator[Defect]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.Tuple) and node.test.elts:
            yield node.test, "a tuple is always true: the parentheses are too many"


def _changed_while_walked(tree: ast.Module) -> Iterator[Defect]:
    for node in ast.walk(tree):
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Name | ast.Attribute):
            walked = _dotted(node.iter)
            for statement in node.body:
                call = statement.value if isinstance(statement, ast.Expr) else None
                for inner in [call] if call else _calls_without_leaving(statement):
                    if (
                        isinstance(inner, ast.Call)
                        and isinstance(inner.func, ast.Attribute)
                        and inner.func.attr in SHRINKING
                        and _dotted(inner.func.value) == walked != ""
                    ):
                        yield inner, "the list is changed while it is walked"


def _calls_without_leaving(statement: ast.stmt) -> Iterator[ast.AST]:
    """Calls in a branch that goes on with the loop: one that leaves after its change is no mistake."""
    if isinstance(statement, ast.If) and not any(
        isinstance(inner, ast.Break | ast.Return) for inner in ast.walk(statement)
    ):
        yield from (inner.value for inner in statement.body if isinstance(inner, ast.Expr))


def _unused_results(tree: ast.Module) -> Iterator[Defect]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = node.value.func
            if isinstance(function, ast.Attribute) and function.attr in UNUSED_RESULTS and not node.value.args:
                yield node, f"{function.attr} changes nothing, and its result is not used"
            elif isinstance(function, ast.Name) and function.id in ("sorted", "reversed"):
                yield node, f"{function.id} changes nothing, and its result is not used"


def _format_counts(tree: ast.Module) -> Iterator[Defect]:
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and isinstance(node.right, ast.Tuple):
            text = node.left.value if isinstance(node.left, ast.Constant) else None
            if isinstance(text, str) and "*" not in text and "%(" not in text and not _has_star(node.right):
                fields = text.replace("%%", "").count("%")
                if fields != len(node.right.elts):
                    yield node, f"{fields} fields, {len(node.right.elts)} values"


def _impossible_lengths(tree: ast.Module) -> Iterator[Defect]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.comparators[0], ast.Constant):
            left, zero = node.left, node.comparators[0].value
            is_length = isinstance(left, ast.Call) and isinstance(left.func, ast.Name) and left.func.id == "len"
            if is_length and zero == 0 and isinstance(node.ops[0], ast.Lt | ast.GtE):
                yield node, "a length is never below zero"


def _unknown_names(tree: ast.Module) -> Iterator[Defect]:
    bound = set(dir(builtins)) | MODULE_NAMES
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return
        if isinstance(node, ast.Name) and node.id in DYNAMIC:
            return
        bound |= set(_bound_by(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in bound:
            bound.add(node.id)  # said once
            yield node, f"nothing here is called {node.id}"


def _bound_by(node: ast.AST) -> Iterator[str]:
    """Names that a node binds, in whatever scope."""
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.alias):
        yield (node.asname or node.name).partition(".")[0]
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name
    elif isinstance(node, ast.Global | ast.Nonlocal):
        yield from node.names
    elif isinstance(node, ast.MatchAs | ast.MatchStar) and node.name:
        yield node.name
    elif isinstance(node, ast.MatchMapping) and node.rest:
        yield node.rest
    elif type(node).__name__ in ("TypeVar", "ParamSpec", "TypeVarTuple"):  # of Python 3.12 on
        yield str(getattr(node, "name", ""))


def _is_plain(node: ast.AST) -> bool:
    return _dotted(node) != ""


def _dotted(node: ast.AST) -> str:
    """`a.b.c` of names and members, empty for others."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _has_star(node: ast.Tuple) -> bool:
    return any(isinstance(element, ast.Starred) for element in node.elts)


def _is_generator_mark(node: ast.stmt) -> bool:
    """A yield after a return, which makes an empty generator on purpose."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Yield | ast.YieldFrom)


CHECKS: dict[str, Callable[[ast.Module], Iterator[Defect]]] = {
    "mutable default": _mutable_defaults,
    "literal identity": _literal_identity,
    "same sides": _same_sides,
    "unreachable": _unreachable,
    "swallowed error": _swallowed_errors,
    "repeated key": _repeated_keys,
    "repeated condition": _repeated_conditions,
    "assert on tuple": _assert_on_tuple,
    "changed while walked": _changed_while_walked,
    "unused result": _unused_results,
    "format count": _format_counts,
    "impossible length": _impossible_lengths,
    "unknown name": _unknown_names,
}
