"""Repair of code by trying single changes in the sandbox."""

import pytest

from soldiom_ray.errors import InputError
from soldiom_ray.specialists.repair import repair_code

TESTS = "assert total([1, 2, 3]) == 6\nassert total([]) == 0\nassert total([5]) == 5"
CODE = """def total(values):
    result = 0
    for place in range(len(values)):
        result += values[place]
    return result
"""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("result += values", "result -= values"),
        ("range(len(values))", "range(len(values) - 1)"),
        ("return result", "return values"),
    ],
)
def test_a_small_mistake_is_repaired_and_shown(right: str, wrong: str) -> None:
    answer = repair_code({"code": CODE.replace(right, wrong), "tests": TESTS})
    assert answer["found"] and answer["before"] != answer["after"] and wrong in answer["before"]
    scope: dict[str, object] = {}
    exec(answer["code"] + TESTS, scope)  # the sandbox has run it before
    assert 0 < answer["tried"] <= answer["possible"]


def test_what_is_not_repaired_says_why() -> None:
    passing = repair_code({"code": CODE, "tests": TESTS})
    assert passing["found"] and passing["line"] is None and passing["tried"] == 0
    broken = repair_code({"code": "def total(values:\n", "tests": TESTS})
    assert not broken["found"] and "no Python" in broken["problem"]
    far = repair_code({"code": "def total(values):\n    return 7\n", "tests": TESTS.splitlines()})
    assert not far["found"] and far["code"] == "" and "no single change" in far["problem"]
    with pytest.raises(InputError, match="tests"):
        repair_code({"code": CODE, "tests": " "})
