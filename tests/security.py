"""Runs the attacks and faults of `security_checks.yaml` and prints the table of docs/security.md: `make security`.

    python tests/security.py              # all but those that last long
    python tests/security.py --long       # those too
    python tests/security.py --level E M  # some levels

Exits with 1 when a test fails or does not exist.
"""

import argparse
import os
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

TESTS = Path(__file__).parent
FUZZ = {"SOLDIOM_FUZZ_EXAMPLES": "20", "SOLDIOM_MACHINE_STEPS": "2000"}


def read_checks() -> list[dict[str, Any]]:
    """The checks, each with `check`, `level` and `tests` or an `answer`."""
    checks: list[dict[str, Any]] = yaml.safe_load((TESTS / "security_checks.yaml").read_text("utf-8"))
    return checks


class Outcomes:
    """A plugin of pytest: the outcomes of each test function, all its parameters together."""

    def __init__(self) -> None:
        self.by_test: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the call, and a set-up that failed or was skipped."""
        if report.when == "call" or report.outcome != "passed":
            name = report.nodeid.partition("[")[0].rpartition("/")[2]
            self.by_test[name][report.outcome] += 1


def cell(check: dict[str, Any], outcomes: Outcomes) -> tuple[str, bool]:
    """What the table says of a check, and whether it holds."""
    if "answer" in check:
        return str(check["answer"]), True
    total = Counter[str]()
    for test in check["tests"]:
        total += outcomes.by_test.get(test, Counter({"not run": 1}))
    words = [f"{total[name]} {name}" for name in ("passed", "failed", "skipped", "not run") if total[name]]
    return ", ".join(words), not total["failed"]


def tried_by(check: dict[str, Any]) -> str:
    """The files of a check's tests, with how many of them."""
    files = Counter(test.partition("::")[0] for test in check.get("tests", ()))
    return ", ".join(f"`{name}` ({count})" for name, count in files.items())


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="also rounds of kills and losses of nodes: an hour more")
    parser.add_argument("--level", nargs="+", choices=["E", "M", "H", "X"], help="only these levels")
    options = parser.parse_args()
    for name, value in FUZZ.items():
        os.environ.setdefault(name, value)
    checks = [check for check in read_checks() if not options.level or check["level"] in options.level]
    ids = list(dict.fromkeys(f"{TESTS}/{test}" for check in checks for test in check.get("tests", ())))
    outcomes, began = Outcomes(), time.monotonic()
    marks = "" if options.long else "not endurance"
    code = pytest.main(["-q", "-p", "no:cacheprovider", "-m", marks, *ids], plugins=[outcomes])
    print("\n| level | attack or fault | tried by | result |\n|---|---|---|---|")
    held = True
    for check in checks:
        words, holds = cell(check, outcomes)
        held &= holds
        print(f"| {check['level']} | {check['check']} | {tried_by(check)} | {words} |")
    print(f"\n{time.monotonic() - began:.0f} s; skipped: a program of Debian or a package is missing here.")
    return 0 if held and code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) else 1


if __name__ == "__main__":
    sys.exit(main())
