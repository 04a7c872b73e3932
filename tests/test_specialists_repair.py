"""Repair of code by trying single changes in the sandbox."""

import asyncio

import pytest

from soldiom_ray.api.auth import Caller
from soldiom_ray.api.routes import specialists
from soldiom_ray.errors import InputError
from soldiom_ray.specialists.repair import MOST_POSSIBLE, repair_code

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


def test_tests_that_do_not_tell_which_change_is_right_are_told_by_the_others_that_pass() -> None:
    code = "def largest(a, b):\n    return a if a < b else b\n"
    few = repair_code({"code": code, "tests": "assert largest(1, 2) == 2"})
    assert few["found"] and few["others"] and few["others"][0]["after"] != few["after"]
    assert all(other["before"] == "    return a if a < b else b" for other in few["others"])
    more = (
        "assert largest(1, 2) == 2\nassert largest(5, 3) == 5\nassert largest(4, 4) == 4\nassert largest(-2, -9) == -2"
    )
    assert len(repair_code({"code": code, "tests": more})["others"]) < len(few["others"])


def test_what_is_not_repaired_says_why() -> None:
    passing = repair_code({"code": CODE, "tests": TESTS})
    assert passing["found"] and passing["line"] is None and passing["tried"] == 0
    broken = repair_code({"code": "def total(values:\n", "tests": TESTS})
    assert not broken["found"] and "no Python" in broken["problem"]
    far = repair_code({"code": "def total(values):\n    return 7\n", "tests": TESTS.splitlines()})
    assert not far["found"] and far["code"] == "" and "no single change" in far["problem"]
    with pytest.raises(InputError, match="tests"):
        repair_code({"code": CODE, "tests": " "})


def test_a_text_of_many_variables_is_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soldiom_ray.specialists.repair.MOST_TRIED", 2)
    names = [f"v{number}" for number in range(500)]
    code = f"def total({', '.join(names)}):\n    return {' + '.join(names)}\n"
    answer = repair_code({"code": code, "tests": "assert total(*range(500)) == 7"})
    assert not answer["found"] and answer["tried"] == 2 and answer["possible"] <= MOST_POSSIBLE


def test_the_api_runs_no_repair_beside_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = []

    async def run_apart(*arguments: object) -> str:
        apart.append(arguments)
        return "{}"

    monkeypatch.setattr(specialists, "_run_apart", run_apart)
    value = {"code": CODE, "tests": TESTS}
    caller = Caller("key", "key", "user", "default", "key")
    asyncio.run(specialists.ask_specialist("code", "repair", value, caller, None, None))  # type: ignore[arg-type]
    assert apart == [("code", "repair", value)]
