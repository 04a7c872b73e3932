"""How the seconds of a training divide among what it does."""

import time
from collections.abc import Callable


class Laps:
    """Seconds by part, as one part ends and the next begins."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds: dict[str, float] = {}
        self._clock, self._began = clock, clock()

    def end(self, part: str) -> None:
        """Count the time since the last end, or since the beginning, for this part."""
        now = self._clock()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._began
        self._began = now
