"""What the parsers' process gives up before it sees a file: the network, writing, other programs, unlimited memory.

Each restriction is requested from the kernel and omitted where the kernel refuses; `confine` returns those in force.
"""

import contextlib
import ctypes
import resource

from soldiom_ray.sandbox.seccomp import Calls, Flags, refuse

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_WRITING = 0o1 | 0o2 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC

# System calls that reach the network or other processes, start programs or change files; then those that open files.
_REFUSED = {
    "x86_64": Calls(
        (
            41, 42, 44, 49,  # socket connect sendto bind
            59, 322, 101, 62, 311, 434,  # execve execveat ptrace kill process_vm_writev pidfd_open
            85, 76, 87, 263, 83, 258,  # creat truncate unlink unlinkat mkdir mkdirat
            82, 264, 316,  # rename renameat renameat2
            86, 265, 88, 266, 90, 268, 92,  # link linkat symlink symlinkat chmod fchmodat chown
            437, 425,  # openat2 io_uring_setup: they go round a filter
        ),
        (Flags(2, 1, _WRITING), Flags(257, 2, _WRITING)),
    ),
    "aarch64": Calls(
        (
            198, 203, 206, 200,
            221, 281, 117, 129, 271, 434,
            45, 35, 38, 276, 34, 37, 36, 53, 54,
            437, 425,
        ),
        (Flags(56, 2, _WRITING),),
    ),
}  # fmt: skip


def confine(memory_bytes: int) -> list[str]:
    """Restrict this process to what a parser needs, before any thread starts. Returns the restrictions in force."""
    limit(resource.RLIMIT_AS, memory_bytes)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, 0)
    restrictions = ["memory", "file size"]
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
            restrictions.append("network namespace")
    if refuse(_REFUSED):
        restrictions.append("system calls")
    return restrictions


def limit(kind: int, value: int) -> None:
    """Set the soft limit of a resource, which may be raised again; the hard limit stays."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
