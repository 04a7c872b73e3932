"""Programs of the tests that kill: a process of its own runs a stage, may die on the way, and prints its result."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from soldiom_ray.artifacts import Context

MOMENTS = (0.2, 0.5, 0.8)
"""How far a stage is when it is killed; `make endurance` kills it at random moments."""
KILLED_AT = "KILLED_AT"


def start(code: str, *arguments: str, killed_at: float | None = None) -> subprocess.Popen[str]:
    """A process with this code, which finds the tests' modules and prints one JSON object at its end."""
    folder = Path(__file__).parent
    variables = {"PYTHONPATH": f"{folder}{os.pathsep}{folder.parent}", "OMP_NUM_THREADS": "1"}
    variables |= {} if killed_at is None else {KILLED_AT: str(killed_at)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def mortal(context: Context) -> Context:
    """In such a process: the context with which it dies, as by kill -9, where `start` said; a moment after the report,
    so that this happens in the midst of the work that follows."""
    report, limit = context.report, float(os.environ.get(KILLED_AT, "inf"))

    def report_and_die(fraction: float, message: str) -> None:
        report(fraction, message)
        if fraction >= limit:
            threading.Timer(0.01, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()

    return replace(context, report=report_and_die)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return result_in(out)


def result_in(out: str) -> dict[str, Any]:
    """What the program printed, among Ray's own lines."""
    result: dict[str, Any] = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    return result


def expect_death(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, errors[-3000:]
