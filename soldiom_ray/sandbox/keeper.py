"""The side of the sandbox that runs the program, in processes of its own: a keeper, which takes the next into
namespaces; an overseer, whose end is the end of everything there; and the program, with what is left of its rights.

Only the standard library is imported, and all that is needed before the program begins is imported before.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any

from soldiom_ray.sandbox.landlock import read_only
from soldiom_ray.sandbox.namespaces import SYSTEM_FOLDERS, TEMPORARY, enter
from soldiom_ray.sandbox.seccomp import Calls, Flags, refuse

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_NEW_NAMESPACES = 0x7E020000
_CLONE_THREAD = 0x10000
_CREATING = 0o1 | 0o2 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
REPORT_BYTES = 1 << 14
FIRST_USER = 1_000_000_000
"""Users from here up belong to nobody. Each program is one of its own, so that limits per user are its limits."""

# socket execve execveat ptrace mount umount2 pivot_root chroot unshare setns bpf perf_event_open userfaultfd
# io_uring_setup process_vm_readv process_vm_writev keyctl add_key request_key open_by_handle_at pidfd_open
# init_module finit_module delete_module kexec_load personality; clone by its flags; clone3, whose flags are in memory
_HARMFUL = {
    "x86_64": Calls(
        (41, 59, 322, 101, 165, 166, 155, 161, 272, 308, 321, 298, 323, 425, 310, 311, 250, 248, 249, 304, 434,
         175, 313, 176, 246, 135),
        (Flags(56, 0, _NEW_NAMESPACES),),
        (435,),
    ),
    "aarch64": Calls(
        (198, 221, 281, 117, 40, 39, 41, 51, 97, 268, 280, 241, 282, 425, 270, 271, 219, 217, 218, 265, 434,
         105, 273, 106, 104, 92),
        (Flags(220, 0, _NEW_NAMESPACES),),
        (435,),
    ),
}  # fmt: skip
# Without namespaces besides: no other process, and nothing is written. fork vfork kill creat truncate unlink unlinkat
# mkdir mkdirat rmdir rename renameat renameat2 link linkat symlink symlinkat chmod fchmodat chown openat2 and open
_WITHOUT_NAMESPACES = {
    "x86_64": Calls(
        (57, 58, 62, 85, 76, 87, 263, 83, 258, 84, 82, 264, 316, 86, 265, 88, 266, 90, 268, 92, 437),
        (Flags(56, 0, _CLONE_THREAD, if_any=False), Flags(2, 1, _CREATING), Flags(257, 2, _CREATING)),
    ),
    "aarch64": Calls(
        (129, 45, 35, 34, 38, 276, 37, 36, 53, 54, 437),
        (Flags(220, 0, _CLONE_THREAD, if_any=False), Flags(56, 2, _CREATING)),
    ),
}  # fmt: skip


def main() -> None:
    """Run one request from standard input; its result goes to standard output, what the program prints to standard
    error."""
    request: dict[str, Any] = json.load(sys.stdin)
    _die_with_parent(request["parent"])
    os.chdir("/")
    isolated = request["namespaces"]
    try:
        if isolated:
            enter(python_folders(), request["temporary_bytes"])
    except (OSError, KeyError, AttributeError):
        isolated = False
    keeper = os.getpid()
    if overseer := os.fork():
        os.waitpid(overseer, 0)
        os._exit(0)
    _die_with_parent(None if isolated else keeper)  # in its own namespace a process has no parent's number
    _oversee(request, isolated, FIRST_USER + keeper)


def _oversee(request: dict[str, Any], isolated: bool, user: int) -> None:
    """Start the program, wait until it ends or its time is over, and write its result."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    reading, writing = os.pipe()
    overseer = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _become_program(request, isolated, overseer, user)
            _run(request, writing)
        finally:
            os._exit(70)
    os.close(writing)
    deadline = time.monotonic() + request["wall_seconds"]
    status = None
    while status is None and (left := deadline - time.monotonic()) > 0:
        signal.sigtimedwait({signal.SIGCHLD}, left)
        ended, code = os.waitpid(child, os.WNOHANG)
        status = code if ended else None
    result: dict[str, Any] = {"isolated": isolated, "report": ""}
    if status is None:
        os.kill(child, signal.SIGKILL)
        result["end"] = "timeout"
    else:
        result["end"] = os.waitstatus_to_exitcode(status)
        if select.select([reading], [], [], 0)[0]:
            result["report"] = os.read(reading, REPORT_BYTES).decode(errors="replace")
    os.write(1, json.dumps(result).encode())
    os._exit(0)


def _become_program(request: dict[str, Any], isolated: bool, overseer: int, user: int) -> None:
    """Give up every right that the program does not need, as another `user` where this one may choose. What cannot be
    given up ends the process."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    _die_with_parent(None if isolated else overseer)
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    if isolated:
        os.chdir(TEMPORARY)
    os.umask(0o077)
    memory = request["memory_bytes"]
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, request["temporary_bytes"] if isolated else 0),
        (resource.RLIMIT_NOFILE, request["files"]),
        (resource.RLIMIT_CPU, request["cpu_seconds"]),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    if os.geteuid() == 0 and (isolated or _is_public(sys.base_prefix)):
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    if isolated:
        resource.setrlimit(resource.RLIMIT_NPROC, (request["processes"], request["processes"]))
    _drop_capabilities()
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if not isolated:
        read_only([*python_folders(), *SYSTEM_FOLDERS])
    if not refuse(_HARMFUL) or not (isolated or refuse(_WITHOUT_NAMESPACES)):
        os._exit(71)


def _run(request: dict[str, Any], report: int) -> None:
    """The program, then its checks, in one namespace of names. The report says how that ended, and only a program
    whose last line was reached knows the request's secret."""
    secret, sources = request.pop("secret"), (("program", request["program"]), ("checks", request["checks"]))
    names: dict[str, Any] = {"__name__": "__main__"}
    request.clear()
    told: dict[str, Any]
    try:
        for name, source in sources:
            exec(compile(source, f"<{name}>", "exec"), names)  # noqa: S102 (what this process is for)
        told = {"secret": secret}
    except BaseException as error:
        told = {"part": name, "error": type(error).__name__[:100], "message": _message(error)}
    with contextlib.suppress(Exception):  # the program may have closed or replaced it
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(report, json.dumps(told).encode()[:REPORT_BYTES])
    os._exit(0)


def python_folders() -> list[str]:
    """Where this Python and its standard library lie."""
    return list({sys.base_prefix, sys.base_exec_prefix})


def _is_public(path: str) -> bool:
    """Whether every user may go there; a Python in somebody's home is often for that user only."""
    folders = [path]
    while (parent := os.path.dirname(folders[-1])) != folders[-1]:
        folders.append(parent)
    return all(os.stat(folder).st_mode & 0o1 for folder in folders)


def _message(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except BaseException:  # it is the program's own class
        return ""


def _die_with_parent(parent: int | None) -> None:
    """End this process when its parent ends; at once where that has already happened."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(72)


def _drop_capabilities() -> None:
    """None are left where the process was root; a user's own namespace gave it all of them there."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None).capset(header, none) != 0:
        os._exit(73)
