"""What is left of the Hub's request limits, for all workers and jobs of a cluster that use one token.

The Hub counts in fixed windows of five minutes, separately for its API, for files ("resolvers") and for pages, and
every answer tells how it stands (huggingface.co/docs/hub/rate-limits). So nobody has to be refused to learn of a limit.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

ACTOR = "soldiom-hub-limits"
BUCKETS = ("api", "resolvers", "pages")
_RESTARTS = 5


class Limits(Protocol):
    """What a caller of the Hub needs. `bucket` is one of BUCKETS."""

    def ask(self, bucket: str) -> float: ...
    def told(self, bucket: str, remaining: int, seconds: float) -> None: ...
    def refused(self, bucket: str, seconds: float) -> None: ...
    def paused_seconds(self) -> float: ...


@dataclass
class Window:
    """Requests that are left, and when the next window begins."""

    remaining: int
    ends: float


@dataclass
class LocalLimits:
    """The limits themselves. `clock` gives seconds."""

    clock: Callable[[], float] = time.time
    windows: dict[str, Window] = field(default_factory=dict)

    def ask(self, bucket: str) -> float:
        """0 when a request may go now (it is counted), else the seconds to wait before asking again."""
        window, now = self.windows.get(bucket), self.clock()
        if window is None or now >= window.ends:
            self.windows.pop(bucket, None)
            return 0.0
        if window.remaining <= 0:
            return window.ends - now
        window.remaining -= 1
        return 0.0

    def told(self, bucket: str, remaining: int, seconds: float) -> None:
        """What an answer said. Answers overtake each other, so within a window the lowest figure counts; the seconds
        are whole, so one more is safe."""
        ends, window = self.clock() + seconds + 1.0, self.windows.get(bucket)
        if window is not None and abs(window.ends - ends) < 3.0:
            remaining = min(remaining, window.remaining)
        self.windows[bucket] = Window(remaining, ends)

    def refused(self, bucket: str, seconds: float) -> None:
        """Nothing goes into this bucket for so long."""
        window, ends = self.windows.get(bucket), self.clock() + seconds
        self.windows[bucket] = Window(0, max(ends, window.ends) if window and window.remaining <= 0 else ends)

    def paused_seconds(self) -> float:
        """How long the bucket that is used up longest waits from now on."""
        now = self.clock()
        return max((window.ends - now for window in self.windows.values() if window.remaining <= 0), default=0.0)


class SharedLimits:
    """The same in a named Ray actor. When the job that made it ends, the next caller makes it anew."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._handle: Any = None

    def __reduce__(self) -> tuple[object, ...]:
        return (SharedLimits, (self.name,))

    def ask(self, bucket: str) -> float:
        """As LocalLimits."""
        return float(self._call("ask", bucket))

    def told(self, bucket: str, remaining: int, seconds: float) -> None:
        """As LocalLimits."""
        self._call("told", bucket, remaining, seconds)

    def refused(self, bucket: str, seconds: float) -> None:
        """As LocalLimits."""
        self._call("refused", bucket, seconds)

    def paused_seconds(self) -> float:
        """As LocalLimits."""
        return float(self._call("paused_seconds"))

    def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        for attempt in range(_RESTARTS):
            try:
                if self._handle is None:
                    made = ray.remote(num_cpus=0)(LocalLimits)
                    named = made.options(name=self.name, namespace="soldiom", get_if_exists=True)
                    self._handle = named.remote()
                return ray.get(getattr(self._handle, method).remote(*arguments))
            except ray.exceptions.ActorDiedError:
                self._handle = None
                if attempt == _RESTARTS - 1:
                    raise
                time.sleep(0.2 * 2**attempt)
        return None


def open_limits(endpoint: str, token: str | None) -> Limits:
    """The limits of a token at an endpoint: shared over the cluster when Ray is connected. The token is seen in the
    actor's name as a part of a hash only."""
    import sys

    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return LocalLimits()
    name = hashlib.sha256(f"{endpoint}\0{token or ''}".encode()).hexdigest()[:12]
    return SharedLimits(f"{ACTOR}-{name}")
