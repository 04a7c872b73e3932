"""Filters of system calls (seccomp), which a process puts on itself and cannot take off. They need no root."""

import ctypes
import platform
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ERRNO, the number in its lower half
_EPERM, _ENOSYS = 1, 38
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_CALLS = 0x40000000


@dataclass(frozen=True, slots=True)
class Flags:
    """A system call that is refused by the bits of one of its arguments: `if_any` of the mask is set, or none is."""

    number: int
    argument: int
    mask: int
    if_any: bool = True


@dataclass(frozen=True, slots=True)
class Calls:
    """What one machine's processes are refused. Numbers are those of the kernel's asm/unistd.h; `unknown` calls are
    answered as by an older kernel, so that the C library takes another way."""

    refused: Sequence[int]
    flags: Sequence[Flags] = ()
    unknown: Sequence[int] = ()


def refuse(calls: Mapping[str, Calls]) -> bool:
    """Refuse this process and its children these system calls, by machine, with EPERM. False where the kernel or the
    machine is not known."""
    machine = platform.machine()
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if machine not in calls or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            return False
        program = _program(machine, calls[machine])
        code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in program))
        filter_ = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
        return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def _program(machine: str, calls: Calls) -> list[tuple[int, int, int, int]]:
    """The filter as (code, steps to jump if true, if false, operand); a classic BPF program."""
    refusal = (_RETURN, 0, 0, _ERROR | _EPERM)
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, _AUDIT[machine]),
        refusal,
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_AT_LEAST, 0, 1, _X32_CALLS),
        refusal,
    ]
    for number in calls.refused:
        steps += [(_JUMP_EQUAL, 0, 1, number), refusal]
    for number in calls.unknown:
        steps += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERROR | _ENOSYS)]
    for each in calls.flags:
        steps += [
            (_JUMP_EQUAL, 0, 4, each.number),
            (_LOAD, 0, 0, _ARGUMENTS + 8 * each.argument),
            (_JUMP_ANY_BIT, *((0, 1) if each.if_any else (1, 0)), each.mask),
            refusal,
            (_LOAD, 0, 0, _NUMBER),
        ]
    return [*steps, (_RETURN, 0, 0, _ALLOW)]
