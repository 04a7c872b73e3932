"""The sandbox: programs that do harm, or try to, end with their reason, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from process_title import title_of

from soldiom_ray.errors import UnavailableError
from soldiom_ray.evaluate.programs import program_of, with_checks_run
from soldiom_ray.metrics.answers import pass_at_1, pass_at_k
from soldiom_ray.metrics.measurement import AnswerOutcome
from soldiom_ray.metrics.statistics import NotApplicableError
from soldiom_ray.sandbox import landlock
from soldiom_ray.sandbox.run import Limits, Outcome, run_program

LIMITS = Limits(wall_seconds=3, cpu_seconds=1)
PATIENT = Limits(wall_seconds=60, cpu_seconds=20)
"""Of programs that end by themselves: on a crowded machine they take long."""
FORKS = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
PROGRAMS = {
    "right": ("def double(x): return 2 * x", "assert double(2) == 4"),
    "wrong": ("def double(x): return x", "assert double(2) == 4, double(2)"),
    "no Python": ("def double(x: return", ""),
    "leaves before its checks": ("import os; os._exit(0)", "assert False"),
    "exits before its checks": ("raise SystemExit(0)", "assert False"),
    "loops": ("while True: pass", ""),
    "sleeps": ("import time; time.sleep(60)", ""),
    "prints without end": ("while True: print('x' * 1000)", ""),
    "takes memory": ("x = bytearray(10 ** 10)", ""),
    "takes memory by and by": ("x = []\nwhile True: x.append(bytearray(10 ** 7))", ""),
    "forks": (FORKS, ""),
    "reads": ("open('/etc/passwd').read()", ""),
    "writes elsewhere": ("open('/usr/x', 'w')", ""),
    "connects": ("import socket; socket.create_connection(('127.0.0.1', 80), 1)", ""),
    "starts a shell": ("import os; os.execv('/bin/sh', ['sh', '-c', 'true'])", ""),
    "kills its overseer": ("import os; os.kill(os.getppid(), 9)", ""),
    "leaves its namespaces": ("import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == -1", ""),
    "ends by a signal": ("import ctypes; ctypes.string_at(0)", ""),
    "recurses": ("def f(): return f()\nf()", ""),
    "an error that cannot be printed": ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", ""),
}
EXPECTED = {
    "right": "passed",
    "leaves its namespaces": "passed",
    "leaves before its checks": "unfinished",
    "takes memory": "memory",
    "takes memory by and by": "memory",
    "ends by a signal": "crashed",
} | dict.fromkeys(("loops", "sleeps", "prints without end", "forks"), "timeout")


@pytest.fixture(scope="module", params=[True, False], ids=["namespaces", "without"])
def outcomes(request: pytest.FixtureRequest) -> dict[str, Outcome]:
    with ThreadPoolExecutor(6) as pool:
        runs = {
            name: pool.submit(
                run_program, *program, LIMITS if EXPECTED.get(name) == "timeout" else PATIENT, namespaces=request.param
            )
            for name, program in PROGRAMS.items()
        }
        return {name: run.result() for name, run in runs.items()}


def test_programs_end_as_they_should_and_harm_nothing(outcomes: dict[str, Outcome]) -> None:
    expected = {name: EXPECTED.get(name, "failed") for name in PROGRAMS}
    if not outcomes["reads"].isolated and not landlock.is_known():
        expected["reads"] = "passed"
    assert {name: each.status for name, each in outcomes.items()} == expected
    assert outcomes["wrong"].detail == "AssertionError in the checks: 2"
    assert outcomes["no Python"].detail.startswith("SyntaxError in the program")
    assert 0 < len(outcomes["prints without end"].output) <= 1 << 14
    assert not Path("/usr/x").exists()


def test_a_program_sees_nothing_of_the_machine() -> None:
    look = "import os\nopen('mine', 'w').write('kept')\nprint(os.getcwd(), os.listdir('/tmp'), sorted(os.listdir('/')))"
    outcome = run_program(look, "assert open('mine').read() == 'kept' and not os.path.exists('/proc/1')", LIMITS)
    if not outcome.isolated:
        pytest.skip("this kernel gives no namespaces")
    assert outcome.status == "passed" and outcome.output.startswith("/tmp ['mine']")
    assert not {"etc", "home", "var", "work", "srv"} & set(outcome.output.split("'"))
    filling = "n = 0\nwhile True:\n    open(f'/tmp/{n}', 'w').write('x' * 10 ** 6)\n    n += 1"
    assert "No space left" in run_program(filling, "", LIMITS).detail


def test_what_a_program_has_started_ends_with_it() -> None:
    leaving = "import os, time\nfor _ in range(2):\n    if os.fork() == 0:\n        time.sleep(60)"
    before = {process.pid for process in psutil.process_iter()}
    outcome = run_program(leaving, "", LIMITS)
    if outcome.isolated:
        assert outcome.status == "passed"
    assert not [each for each in _started_since(before) if "keeper" in title_of(each)]


def test_a_program_ends_when_its_parent_is_killed() -> None:
    source = (
        "from soldiom_ray.sandbox.run import run_program, Limits;"
        "run_program('import time; time.sleep(60)', '', Limits(wall_seconds=60))"
    )
    parent = subprocess.Popen([sys.executable, "-c", source], env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    children: list[psutil.Process] = []
    while len(children) < 3 and parent.poll() is None:  # the keeper, the overseer and the program
        children = psutil.Process(parent.pid).children(recursive=True)
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert len(gone) == 3 and not alive


def _started_since(before: set[int]) -> list[psutil.Process]:
    return [each for each in psutil.process_iter() if each.pid not in before and title_of(each)]


def test_the_share_of_programs_that_pass() -> None:
    right, wrong = "```python\ndef f(x):\n    return x\n```", "def f(x):\n    return 0"
    checks = ["assert f(1) == 1", "assert f(2) == 2", "assert f(3) == 4", ""]
    answered = {
        "tuned": AnswerOutcome((right, wrong, right, right), (right,) * 4),
        "base": AnswerOutcome(("no program",) * 4, (right,) * 4),
    }
    run = with_checks_run(answered, checks)
    # The author's own program fails the third, and the fourth has none.
    assert run["tuned"].passed == (True, False, None, None) and run["base"].passed == (False, False, None, None)
    statistics = pass_at_1(run["tuned"])
    assert statistics.value(statistics.rows.sum(0)) == 0.5
    with pytest.raises(NotApplicableError):
        pass_at_1(answered["tuned"])
    tried = with_checks_run(answered, checks, {"tuned": [(wrong, wrong, wrong, wrong), (right, wrong, right, wrong)]})
    assert tried["tuned"].solved == (True, False, None, None) and tried["base"].solved == ()
    assert pass_at_k(tried["tuned"]).rows.sum(0).tolist() == [1, 2]


def test_the_program_in_an_answer() -> None:
    assert program_of("Here:\n```python\nx = 1\n```\nand ```y```") == "x = 1"
    assert program_of("```\nx = 1") == "x = 1"
    assert program_of("x = 1") == "x = 1"


def test_where_nothing_can_be_confined_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soldiom_ray.sandbox.run._START", "import os; os._exit(1)")
    with pytest.raises(UnavailableError, match="does not let a process be confined"):
        run_program("print(1)")
