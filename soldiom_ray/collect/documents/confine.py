"""What the parsers' process gives up before it sees a file: the network, writing, other programs, unlimited memory.

Each restriction is requested from the kernel and omitted where the kernel refuses; `confine` returns those in force.
"""

import contextlib
import ctypes
import platform
import resource
import struct

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ERRNO with EPERM
_NUMBER, _ARCHITECTURE = 0, 4
_WRITING = 0o1 | 0o2 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC

# System call numbers of the kernel's asm/unistd.h: those that reach the network or other processes, start programs or
# change files; then those that open files, with the offset of their flags in struct seccomp_data.
_REFUSED = {
    "x86_64": (
        41, 42, 44, 49,  # socket connect sendto bind
        59, 322, 101, 62, 311, 434,  # execve execveat ptrace kill process_vm_writev pidfd_open
        85, 76, 87, 263, 83, 258,  # creat truncate unlink unlinkat mkdir mkdirat
        82, 264, 316,  # rename renameat renameat2
        86, 265, 88, 266, 90, 268, 92,  # link linkat symlink symlinkat chmod fchmodat chown
        437, 425,  # openat2 io_uring_setup: they go round a filter
    ),
    "aarch64": (
        198, 203, 206, 200,
        221, 281, 117, 129, 271, 434,
        45, 35, 38, 276, 34, 37, 36, 53, 54,
        437, 425,
    ),
}  # fmt: skip
_OPENING = {"x86_64": ((2, 24), (257, 32)), "aarch64": ((56, 32),)}
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_CALLS = 0x40000000


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
        if _filter_calls(libc):
            restrictions.append("system calls")
    return restrictions


def limit(kind: int, value: int) -> None:
    """Set the soft limit of a resource, which may be raised again; the hard limit stays."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _filter_calls(libc: ctypes.CDLL) -> bool:
    """Refuse system calls with EPERM (seccomp, needs no root). False where the kernel or the machine is not known."""
    machine = platform.machine()
    if machine not in _REFUSED or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    program = _program(machine)
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in program))
    filter_ = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_, 0, 0) == 0)


def _program(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter as (code, steps to jump if true, if false, operand); a classic BPF program."""
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, _AUDIT[machine]),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_AT_LEAST, 0, 1, _X32_CALLS),
        (_RETURN, 0, 0, _REFUSE),
    ]
    for number in _REFUSED[machine]:
        steps += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    for number, flags in _OPENING[machine]:
        steps += [
            (_JUMP_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, flags),
            (_JUMP_ANY_BIT, 0, 1, _WRITING),
            (_RETURN, 0, 0, _REFUSE),
            (_RETURN, 0, 0, _ALLOW),
        ]
    return [*steps, (_RETURN, 0, 0, _ALLOW)]
