"""What a worker uses of its machine while it trains."""

import contextlib
import logging
import os
import resource
import threading
import time
from pathlib import Path
from typing import Any

from soldiom_ray.records import new_id
from soldiom_ray.train.progress import Point

log = logging.getLogger(__name__)
SAMPLE_SECONDS = 10.0


class UsageSampler(contextlib.AbstractContextManager["UsageSampler"]):
    """Posts to the board what this process uses, every SAMPLE_SECONDS and at the end."""

    def __init__(self, board: Any, rank: int) -> None:
        self.board, self.worker, self.life = board, f"worker_{rank}", new_id()
        self._ended = threading.Event()
        self._began = self._at = time.monotonic()
        self._cpu = _cpu_seconds()
        self._thread = threading.Thread(target=self._post, daemon=True, name="usage")

    def __enter__(self) -> "UsageSampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=SAMPLE_SECONDS)

    def sample(self) -> Point:
        """CPU (100: one core busy since the last sample), memory, and the GPU's where there is one."""
        at, cpu = time.monotonic(), _cpu_seconds()
        share = (cpu - self._cpu) / max(at - self._at, 1e-3)
        self._at, self._cpu = at, cpu
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        taken = {"cpu_percent": round(100 * share, 1), "resident_mib": pages * os.sysconf("SC_PAGE_SIZE") >> 20}
        return taken | _gpu()

    def _post(self) -> None:
        import ray

        last = False
        while not last:
            last = self._ended.wait(SAMPLE_SECONDS)
            try:
                seconds = time.monotonic() - self._began
                ray.get(self.board.use.remote(self.life, self.worker, seconds, self.sample()), timeout=SAMPLE_SECONDS)
            except (ray.exceptions.RayError, OSError) as error:
                log.info("usage not told", extra={"data": {"error": type(error).__name__}})


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _gpu() -> Point:
    import torch

    if not torch.cuda.is_available():
        return {}
    found: Point = {"gpu_memory_mib": torch.cuda.memory_reserved() >> 20}
    try:
        found["gpu_percent"] = torch.cuda.utilization()
    except (ModuleNotFoundError, RuntimeError):  # NVIDIA's management library is not there
        log.debug("the GPU's utilisation cannot be read")
    return found
