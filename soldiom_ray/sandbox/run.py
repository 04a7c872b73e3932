"""A Python program and its checks, run with no network, no file but an empty /tmp, and limits on time, memory and
processes.

Where the kernel gives namespaces the program sees nothing of the machine and ends with its overseer, however many
processes it has started. Where it gives none (most containers), system calls are filtered harder: no other process and
no written file, and only Python's and the system's files can be read (Landlock; on kernels before 5.13 all that this
user may read). Without a filter of system calls nothing is run.

It keeps harm from the machine. It is no proof against a program that sets out to fake the result of its checks, which
run in its own process.
"""

import json
import os
import secrets
import selectors
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from soldiom_ray.errors import UnavailableError

Status = Literal["passed", "failed", "timeout", "memory", "crashed", "unfinished"]

GRACE_SECONDS = 5.0
"""The overseer ends a program by itself; only when it does not within this time is it ended from here."""
OUTPUT_BYTES = 1 << 14
RESULT_BYTES = 1 << 16
_ENVIRONMENT = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
_START = "import sys; sys.path.insert(0, sys.argv[1]); from soldiom_ray.sandbox.keeper import main; main()"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use. Memory is per process, `processes` counts threads too, and what is written to /tmp lies
    in memory."""

    wall_seconds: float = 10.0
    cpu_seconds: int = 5
    memory_bytes: int = 512 << 20
    temporary_bytes: int = 16 << 20
    processes: int = 4
    files: int = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: `passed` means that the last line of its checks was reached. `detail` is the error; `output`
    the end of what was printed. Both are the program's words. `isolated` says whether namespaces were to be had."""

    status: Status
    detail: str
    output: str
    seconds: float
    isolated: bool


def run_program(program: str, checks: str = "", limits: Limits | None = None, *, namespaces: bool = True) -> Outcome:
    """Run a program and its checks, Python source both; without `namespaces` as on a machine that has none.

    UnavailableError where this machine can confine nothing: not Linux, or a kernel without seccomp."""
    limits = limits or Limits()
    secret = secrets.token_hex(16)
    request = {"parent": os.getpid(), "program": program, "checks": checks, "secret": secret, **asdict(limits)}
    request["namespaces"] = namespaces
    began = time.monotonic()
    # -S and -I: neither the environment nor installed packages reach the program.
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", "-c", _START, str(Path(__file__).parents[2])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
        start_new_session=True,
    ) as process:
        try:
            result, output = _follow(process, json.dumps(request).encode(), limits.wall_seconds + GRACE_SECONDS)
        finally:
            process.kill()
    seconds = time.monotonic() - began
    text = output.decode(errors="replace")
    if result is None:
        return Outcome("timeout", "it did not end with its time", text, seconds, isolated=False)
    status, detail = _judge(result, secret, limits)
    return Outcome(status, detail, text, round(seconds, 3), bool(result.get("isolated")))


def _follow(process: subprocess.Popen[bytes], request: bytes, seconds: float) -> tuple[dict[str, Any] | None, bytes]:
    """(the result, the end of the output); the result is None when it did not come in time. A program's output is
    read to its end, but only its end is kept."""
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise TypeError("the process was started without pipes")
    deadline = time.monotonic() + seconds
    written, output = bytearray(), bytearray()
    try:
        process.stdin.write(request)
        process.stdin.close()
    except BrokenPipeError:
        pass  # it says why on standard error
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, written)
        selector.register(process.stderr, selectors.EVENT_READ, output)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                return None, bytes(output)
            for key, _ in ready:
                part = os.read(key.fd, 1 << 16)
                if not part:
                    selector.unregister(key.fileobj)
                key.data.extend(part)
                del output[:-OUTPUT_BYTES]
                if len(written) > RESULT_BYTES:
                    return None, bytes(output)
    try:
        return dict(json.loads(written)), bytes(output)
    except ValueError:
        words = output.decode(errors="replace")[-300:].strip() or "it ended without a word"
        raise _cannot_run(f"this machine does not let a process be confined ({words})") from None


def _cannot_run(why: str) -> UnavailableError:
    return UnavailableError(
        f"Programs that a model wrote cannot be run here: {why}.",
        remedy="run on Linux (x86_64 or aarch64) with seccomp, which Docker's and Kubernetes' defaults allow",
    )


def _judge(result: dict[str, Any], secret: str, limits: Limits) -> tuple[Status, str]:
    """(status, detail) of what the overseer saw. What the program reported is not trusted but for the secret."""
    end = result.get("end")
    if end == "timeout":
        return "timeout", f"more than {limits.wall_seconds:g} s"
    if end == 71:
        raise _cannot_run("the kernel has no filter of system calls (seccomp)")
    try:
        report = dict(json.loads(result.get("report") or "{}"))
    except (ValueError, TypeError):
        report = {}
    if end == 0 and report.get("secret") == secret:
        return "passed", ""
    if end == -24 or (end == -9 and not report):
        return "timeout", f"more than {limits.cpu_seconds} s of a core"
    if isinstance(end, int) and end < 0:
        return "crashed", f"signal {-end}"
    if report.get("error") == "MemoryError":
        return "memory", f"more than {limits.memory_bytes >> 20} MiB"
    if report.get("error"):
        detail = f"{report['error']} in the {report.get('part')}: {report.get('message', '')}"
        return "failed", detail.strip().rstrip(":")[:700]
    return "unfinished", f"it ended with code {end} before its last line"
