"""Defects that the tree of a program shows, mutants of it, and its tests in the sandbox."""

from typing import Any

import pytest
from cpu_time import assert_in_proportion

from soldiom_ray.errors import InputError
from soldiom_ray.specialists.rules import RULES

DEFECTS = [
    ("def f(a, b=[]):\n    b.append(a)\n    return b\n", "mutable default", 1),
    ("def f(a):\n    return a is 'x'\n", "literal identity", 2),
    ("def f(a):\n    return a == a\n", "same sides", 2),
    ("def f(a):\n    a = a\n    return a\n", "same sides", 2),
    ("def f():\n    return 1\n    print(2)\n", "unreachable", 3),
    ("def f():\n    try:\n        g()\n    except:\n        pass\ndef g(): ...\n", "swallowed error", 4),
    ("D = {'a': 1, 'b': 2, 'a': 3}\n", "repeated key", 1),
    ("def f(a):\n    if a > 1:\n        return 1\n    elif a > 1:\n        return 2\n", "repeated condition", 4),
    ("def f(a):\n    assert (a, 'is there')\n", "assert on tuple", 2),
    ("def f(a):\n    for x in a:\n        if x:\n            a.remove(x)\n", "changed while walked", 4),
    ("def f(a):\n    a.strip()\n    return a\n", "unused result", 2),
    ("def f(a):\n    return '%s and %s' % (a,)\n", "format count", 2),
    ("def f(a):\n    return len(a) >= 0\n", "impossible length", 2),
    ("def f(a):\n    return a + totl\n", "unknown name", 2),
]
SOUND = '''
import os
from contextlib import suppress

def f(a, b=None, c=(), *, d=[]):
    """é is two bytes."""
    e = [x for x in a if x != x]
    for x in list(a):
        a.remove(x)
    for x in a:
        if x:
            a.remove(x)
            break
    match a:
        case [first, *rest]:
            return first, rest, d
        case {"k": 1, **more}:
            return more
    with suppress(OSError) as nothing, open(os.devnull) as file:
        file.read()
    try:
        return "%d%% of %s" % (1, e), nothing, b, c
    except ValueError as error:
        raise RuntimeError(f"{error!r}") from error

def g():
    return
    yield
'''
MEDIAN = """def median(values):
    # the middle of the sorted values
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2 == 1:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
"""
TESTS = "assert median([3, 1, 2]) == 2\nassert median([4, 1, 2, 3]) == 2.5\nassert median([7]) == 7"


@pytest.mark.parametrize(("code", "kind", "line"), DEFECTS)
def test_a_defect_is_found_where_it_is(code: str, kind: str, line: int) -> None:
    result = RULES["find_defects"]({"code": code})
    assert [(defect["kind"], defect["line"]) for defect in result["defects"]] == [(kind, line)]
    assert result["counts"] == {kind: 1}


def test_sound_code_has_no_defects() -> None:
    assert RULES["find_defects"]({"code": SOUND})["defects"] == []


@pytest.mark.parametrize(
    "code", ["def f(:", "\x00", "-" * 100_000 + "1", "a" + ".b" * 60_000, "ignore all rules!", "(" * 500, "\ud800"]
)
def test_what_is_no_python_says_why(code: str) -> None:
    for rule in ("find_defects", "make_mutants"):
        result = RULES[rule]({"code": code})
        assert not result["parsed"] and result["problem"]


def test_an_empty_program_has_nothing() -> None:
    assert RULES["find_defects"]({"code": ""}) == {"parsed": True, "defects": [], "counts": {}, "problem": ""}
    assert RULES["make_mutants"]({"code": "# nothing"})["mutants"] == []


def test_a_mutant_differs_from_its_source_in_one_place() -> None:
    result = RULES["make_mutants"]({"code": MEDIAN, "most": 1000})
    assert result["possible"] == len(result["mutants"]) > 20
    assert {mutant["kind"] for mutant in result["mutants"]} >= {"comparison", "operator", "constant", "variable"}
    for mutant in result["mutants"]:
        lines, changed = MEDIAN.split("\n"), mutant["code"].split("\n")
        different = [number for number, pair in enumerate(zip(lines, changed, strict=True), 1) if pair[0] != pair[1]]
        assert different == [mutant["line"]]
        assert (mutant["before"], mutant["after"]) == (lines[mutant["line"] - 1], changed[mutant["line"] - 1])
        assert "# the middle of the sorted values" in mutant["code"]
    few = RULES["make_mutants"]({"code": MEDIAN, "most": 6, "seed": 3})["mutants"]
    assert few == RULES["make_mutants"]({"code": MEDIAN, "most": 6, "seed": 3})["mutants"] and len(few) == 6
    assert len({mutant["kind"] for mutant in few}) >= 4


def test_a_mutant_of_text_beyond_ascii_stays_whole() -> None:
    code = 'def f(größe):\n    return "é", größe + 1\n'
    mutants = RULES["make_mutants"]({"code": code})["mutants"]
    assert 'return "é", größe - 1' in mutants[0]["after"] or any("größe - 1" in mutant["after"] for mutant in mutants)


def test_tests_in_the_sandbox_kill_mutants_and_pass_the_original() -> None:
    assert RULES["run_tests"]({"code": MEDIAN, "tests": TESTS.split("\n")})["passed"]
    broken = RULES["run_tests"]({"code": MEDIAN.replace("// 2", "// 3"), "tests": TESTS})
    assert (broken["passed"], broken["status"]) == (False, "failed")
    mutants = RULES["make_mutants"]({"code": MEDIAN, "most": 4, "tests": TESTS})["mutants"]
    assert {mutant["outcome"] for mutant in mutants} <= {"killed", "survived"}
    assert sum(mutant["outcome"] == "killed" for mutant in mutants) >= 2


def test_long_source_takes_time_in_proportion() -> None:
    def judge(count: int) -> None:
        code = "\n".join(f"def f{n}(a, b):\n    return a < b and len(a) == {n} or f{n}(b, a)" for n in range(count))
        RULES["find_defects"]({"code": code})
        RULES["make_mutants"]({"code": code})

    assert_in_proportion(judge, 60)


@pytest.mark.parametrize(
    ("rule", "document"),
    [
        ("find_defects", {"code": 1}),
        ("find_defects", {"code": "1\n" * 200_000}),
        ("make_mutants", {"code": "1", "most": 0}),
        ("run_tests", {"code": "1", "tests": None}),
    ],
)
def test_input_of_another_shape_is_refused(rule: str, document: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        RULES[rule](document)
