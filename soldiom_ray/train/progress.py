"""Where a training's workers and its driver meet: progress goes one way, the wish to stop the other."""

import threading
import time
from dataclasses import dataclass
from typing import Any

from soldiom_ray.errors import CancelledError, SoldiomError

Point = dict[str, float | int]
POST_SECONDS = 0.5
WAITING = "waiting for workers"


@dataclass(frozen=True)
class ProgressUpdate:
    """What has come in since it was last asked for."""

    fraction: float
    message: str
    records: list[Point]
    usage: list[tuple[str, Point]]
    """(worker, what it uses): see `usage`."""
    begun: bool
    """Whether the workers train: there may be something to keep when they are stopped."""
    leaving: bool
    """Whether the workers gave up their places because a machine is taken away."""


class ProgressActor:
    """The actor, on the driver's node and gone with the driver. Its methods are called by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._news = ProgressUpdate(0.0, WAITING, [], [], begun=False, leaving=False)
        self._stopping = False
        self._work: Any = None
        self._error: SoldiomError | None = None
        self._lives: dict[str, float] = {}

    def give(self, work: Any) -> None:
        """From the driver: what the workers are to do."""
        self._work = work

    def work(self) -> Any:
        """From a worker: what to do, None as long as that is not known."""
        return self._work

    def post(self, fraction: float, message: str, records: list[Point]) -> bool:
        """From rank 0: progress and new points of the curves. Returns whether to stop."""
        with self._lock:
            self._change(fraction=fraction, message=message, records=self._news.records + records, begun=True)
            return self._stopping

    def use(self, life: str, worker: str, seconds: float, sample: Point) -> None:
        """From every worker: what it uses; `seconds` since this life of it began."""
        with self._lock:
            self._lives[life] = max(seconds, self._lives.get(life, 0.0))
            self._change(usage=[*self._news.usage, (worker, sample)])

    def leave(self) -> None:
        """From a worker: its machine is taken away, the state is kept."""
        with self._lock:
            self._change(leaving=True)

    def fail(self, error: SoldiomError) -> None:
        """From a worker: an error that trying again does not cure."""
        with self._lock:
            self._error = self._error or error

    def take(self) -> ProgressUpdate:
        """From the driver: the newest progress, and what has not been taken yet."""
        with self._lock:
            news = self._news
            self._change(records=[], usage=[])
            return news

    def stop(self) -> None:
        """From the driver: ask the workers to stop."""
        self._stopping = True

    def verdict(self) -> tuple[bool, SoldiomError | None]:
        """(whether to stop, the error that ended the training)."""
        return self._stopping, self._error

    def worker_seconds(self) -> float:
        """How long workers were there, all together, those that were lost too."""
        with self._lock:
            return sum(self._lives.values())

    def _change(self, **values: Any) -> None:
        self._news = ProgressUpdate(**(self._news.__dict__ | values))


class Reporter:
    """Rank 0's side of the board: few calls, and CancelledError when the driver wants to stop."""

    def __init__(self, board: Any) -> None:
        self.board = board
        self.waiting: list[Point] = []
        self.posted = 0.0

    def report(self, fraction: float, message: str) -> None:
        """Post when the last post is some time ago."""
        if time.monotonic() - self.posted >= POST_SECONDS:
            self.flush(fraction, message)

    def flush(self, fraction: float, message: str) -> None:
        """Post now."""
        import ray

        records, self.waiting, self.posted = self.waiting, [], time.monotonic()
        if ray.get(self.board.post.remote(fraction, message, records)):
            raise CancelledError("The training was asked to stop.")

    def observe(self, record: Point) -> None:
        """Keep a point of the curves for the next post."""
        self.waiting.append(record)
