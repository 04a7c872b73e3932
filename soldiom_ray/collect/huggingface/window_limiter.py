"""When the next request to the Hugging Face Hub may go: what remains of the request limits of one token.

The Hub counts in fixed windows of five minutes, separately for its API, for files ("resolvers") and for pages, and the
headers of every response say how they stand (huggingface.co/docs/hub/rate-limits). So nobody has to be refused to learn
of a limit.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from soldiom_ray.collect.limiter import open_limiter
from soldiom_ray.settings import Settings

BUCKETS = ("api", "resolvers", "pages")


@dataclass
class Window:
    """Requests that remain, and when the next window begins."""

    remaining: int
    ends: float


@dataclass
class WindowLimiter:
    """The limits of one token. `clock` gives seconds; a bucket is one of BUCKETS."""

    clock: Callable[[], float] = time.time
    windows: dict[str, Window] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, bucket: str) -> float:
        """0 when a request may go now (it is counted), else the seconds to wait before acquiring again."""
        with self._lock:
            window, now = self.windows.get(bucket), self.clock()
            if window is None or now >= window.ends:
                self.windows.pop(bucket, None)
                return 0.0
            if window.remaining <= 0:
                return window.ends - now
            window.remaining -= 1
            return 0.0

    def observe(self, bucket: str, remaining: int, seconds: float) -> None:
        """Take over a bucket's state from a response. Responses overtake each other, so within a window the lowest
        figure counts; the seconds are whole, so one more is safe."""
        with self._lock:
            ends, window = self.clock() + seconds + 1.0, self.windows.get(bucket)
            if window is not None and abs(window.ends - ends) < 3.0:
                remaining = min(remaining, window.remaining)
            self.windows[bucket] = Window(remaining, ends)

    def block(self, bucket: str, seconds: float) -> None:
        """Let no request go to this bucket for so many seconds."""
        with self._lock:
            window, ends = self.windows.get(bucket), self.clock() + seconds
            self.windows[bucket] = Window(0, max(ends, window.ends) if window and window.remaining <= 0 else ends)

    def paused_seconds(self) -> float:
        """Seconds until the last of the used-up buckets is refilled."""
        with self._lock:
            now = self.clock()
            return max((window.ends - now for window in self.windows.values() if window.remaining <= 0), default=0.0)


def open_limits(settings: Settings) -> WindowLimiter:
    """The limits of a token at an endpoint. The token is seen in their name as a part of a hash only."""
    digest = hashlib.sha256(f"{settings.hf_endpoint}\0{settings.hf_token or ''}".encode()).hexdigest()[:12]
    return open_limiter(f"huggingface {digest}", WindowLimiter, scope=settings.storage)
