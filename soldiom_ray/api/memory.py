"""Give freed memory back to the system: glibc keeps it in heaps of each thread, so a burst of large bodies would stay
in the process's size for good (295 -> 852 MB after 60 uploads)."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Parameters of mallopt (malloc.h)."""


def return_freed_memory() -> None:
    """From now on, blocks of 256 KiB and more are mapped and unmapped one by one, and threads share two heaps.
    Nothing changes where the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for parameter, value in ((ARENA_MAX, 2), (MMAP_THRESHOLD, 256 << 10), (TRIM_THRESHOLD, 1 << 20)):
            library.mallopt(parameter, value)
