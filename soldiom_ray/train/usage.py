"""What a worker uses of its machine while it trains."""

import contextlib
import ctypes
import gc
import logging
import os
import resource
import threading
import time
from pathlib import Path
from typing import Any

from soldiom_ray.records import new_id
from soldiom_ray.train.state import Metrics

log = logging.getLogger(__name__)
SAMPLE_SECONDS = 10.0


class UsageSampler(contextlib.AbstractContextManager["UsageSampler"]):
    """Posts to the ProgressActor what this process uses, every SAMPLE_SECONDS and at the end."""

    def __init__(self, progress_actor: Any, rank: int) -> None:
        self.progress_actor, self.worker, self.process = progress_actor, f"worker_{rank}", new_id()
        self._ended = threading.Event()
        self._began = self._sampled_at = time.monotonic()
        self._cpu = cpu_seconds()
        self._thread = threading.Thread(target=self._post, daemon=True, name="usage")

    def __enter__(self) -> "UsageSampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=SAMPLE_SECONDS)

    def sample(self) -> Metrics:
        """CPU (100: one core busy since the last sample), memory, and the GPU's where there is one."""
        now, cpu = time.monotonic(), cpu_seconds()
        share = (cpu - self._cpu) / max(now - self._sampled_at, 1e-3)
        self._sampled_at, self._cpu = now, cpu
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        host = {"cpu_percent": round(100 * share, 1), "resident_mib": pages * os.sysconf("SC_PAGE_SIZE") >> 20}
        return host | _gpu()

    def _post(self) -> None:
        import ray

        last = False
        while not last:
            last = self._ended.wait(SAMPLE_SECONDS)
            try:
                seconds = time.monotonic() - self._began
                posted = self.progress_actor.post_usage.remote(self.process, self.worker, seconds, self.sample())
                ray.get(posted, timeout=SAMPLE_SECONDS)
            except (ray.exceptions.RayError, OSError) as error:
                log.info("usage not reported", extra={"data": {"error": type(error).__name__}})


def release_memory() -> None:
    """Give back what a training has left in this process's memory, and begin its peak anew."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc keeps it
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def cpu_seconds() -> float:
    """Of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _gpu() -> Metrics:
    import torch

    if not torch.cuda.is_available():
        return {}
    sample: Metrics = {"gpu_memory_mib": torch.cuda.memory_reserved() >> 20}
    try:
        sample["gpu_percent"] = torch.cuda.utilization()
    except (ModuleNotFoundError, RuntimeError):  # NVIDIA's management library is missing
        log.debug("the GPU's utilisation cannot be read")
    return sample
