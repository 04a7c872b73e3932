"""How much work a call is, on a machine that others use: CPU seconds of its thread alone, without the garbage
collector, whose passes grow with what other tests have left in the process."""

import gc
import time
from collections.abc import Callable

ATTEMPTS = 3
LONGER, MOST = 4, 10
"""A text four times as long may take ten times as long: quadratic work takes sixteen times."""
NEGLIGIBLE_SECONDS = 0.5


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU seconds of one call in this thread."""
    gc.disable()
    try:
        began = time.thread_time()
        call()
        return time.thread_time() - began
    finally:
        gc.enable()


def assert_in_proportion(call: Callable[[int], object], length: int) -> None:
    """What `call` does with something of this length and with LONGER times as much is nearly linear in it, in one of
    ATTEMPTS: caches of a busy processor are another's, too."""
    for _ in range(ATTEMPTS):
        short, long = cpu_seconds(lambda: call(length)), cpu_seconds(lambda: call(LONGER * length))
        if long < max(NEGLIGIBLE_SECONDS, MOST * short):
            return
    raise AssertionError(f"{short:.2f} s for {length}, {long:.2f} s for {LONGER * length}")
