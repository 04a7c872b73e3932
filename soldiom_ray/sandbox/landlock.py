"""Rights to files that a process gives up by itself (Landlock, Linux 5.13 and later). They need no root."""

import ctypes
import os
from collections.abc import Sequence

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every machine
_FOLDER_RULE = 1
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_HANDLED = (1 << 13) - 1
"""Every right of the first version: to execute, read, write, make and remove."""


def is_known() -> bool:
    """Whether the kernel has it."""
    version = 1
    return bool(ctypes.CDLL(None).syscall(_CREATE, None, ctypes.c_size_t(0), version) > 0)


def read_only(folders: Sequence[str]) -> bool:
    """Leave this process and its children nothing but reading below these folders; descriptors that are open stay
    usable. False where the kernel does not know it. The process must not be able to gain rights any more
    (PR_SET_NO_NEW_PRIVS)."""
    libc = ctypes.CDLL(None, use_errno=True)
    handled = (ctypes.c_uint64 * 1)(_HANDLED)
    rules = libc.syscall(_CREATE, handled, ctypes.c_size_t(8), 0)
    if rules < 0:
        return False
    try:
        for folder in folders:
            if not os.path.isdir(folder):
                continue
            descriptor = os.open(folder, os.O_PATH)
            # struct landlock_path_beneath_attr is packed: 8 bytes of rights, 4 of a descriptor.
            rule = (_READ_FILE | _READ_FOLDER).to_bytes(8, "little") + descriptor.to_bytes(4, "little")
            added = libc.syscall(_ADD, rules, _FOLDER_RULE, rule, 0)
            os.close(descriptor)
            if added != 0:
                return False
        return bool(libc.syscall(_RESTRICT, rules, 0) == 0)
    finally:
        os.close(rules)
