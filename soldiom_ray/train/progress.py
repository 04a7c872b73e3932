"""Actor through which training workers report progress to the driver and receive the stop signal."""

import threading
import time
from dataclasses import dataclass, replace
from typing import Any

from soldiom_ray.errors import CancelledError, SoldiomError
from soldiom_ray.train.failures import WorkerFailure, repeated
from soldiom_ray.train.state import Metrics

POST_SECONDS = 0.5
WAITING = "waiting for workers"


@dataclass(frozen=True)
class ProgressUpdate:
    """Progress since the driver last asked."""

    fraction: float = 0.0
    message: str = WAITING
    curve_points: tuple[Metrics, ...] = ()
    usage: tuple[tuple[str, Metrics], ...] = ()
    """(worker, sample of what it uses): see `usage`."""
    started: bool = False
    """Whether the workers train: from then on a stop may leave a checkpoint."""
    done: bool = False
    """Whether all workers have ended their work, and wait for another."""
    preempted: bool = False
    """Whether the workers left their node because it is about to be preempted."""
    failures: tuple[WorkerFailure, ...] = ()
    """Unexpected exceptions of workers; Ray Train starts them again."""
    error: SoldiomError | None = None
    """What ended the training."""


class ProgressActor:
    """Runs on the driver's node and ends with the driver. Its methods are called by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._update = ProgressUpdate()
        self._stopping = False
        self._work: Any = None
        self._number = 0
        self._working: set[int] = set()
        self._ended: set[int] = set()
        self._is_unfit = False
        self._worker_seconds: dict[str, float] = {}
        self._last_failures: tuple[WorkerFailure, ...] = ()

    def set_work(self, work: Any) -> None:
        """From the driver: what the workers are to do next. Nothing is left of what was reported of the work before."""
        with self._lock:
            self._work, self._number = work, self._number + 1
            self._update, self._stopping = ProgressUpdate(), False
            self._ended, self._worker_seconds, self._last_failures = set(), {}, ()

    def take_work(self, rank: int, after: int) -> tuple[int, Any] | None:
        """From a worker: what to do and its number, unless it has done that (its number is `after`); None while there
        is nothing."""
        with self._lock:
            if self._work is None or self._number == after:
                return None
            self._working.add(rank)
            return self._number, self._work

    def end_work(self, rank: int, world: int) -> None:
        """From a worker that goes on to the next work: it has ended this one."""
        with self._lock:
            self._working.discard(rank)
            self._ended.add(rank)
            if len(self._ended) == world:
                self._work = None  # a worker that is started anew must not begin it again
                self._change(done=True)

    def withdraw_work(self) -> bool:
        """From the driver: what no worker has begun is not begun any more; whether none works now."""
        with self._lock:
            if not self._working:
                self._work = None
            return not self._working

    def is_unfit(self) -> bool:
        """Whether these workers are to get no other work: some were lost, raised what was not raised on purpose, or are
        on a node that is about to be preempted."""
        return self._is_unfit

    def post_progress(self, fraction: float, message: str, curve_points: list[Metrics]) -> bool:
        """From rank 0: progress and new points of the curves. Returns whether to stop."""
        with self._lock:
            points = (*self._update.curve_points, *curve_points)
            self._change(fraction=fraction, message=message, curve_points=points, started=True)
            return self._stopping

    def post_usage(self, process: str, worker: str, seconds: float, sample: Metrics) -> None:
        """From every worker: what it uses; `seconds` since this process of it began."""
        with self._lock:
            self._worker_seconds[process] = max(seconds, self._worker_seconds.get(process, 0.0))
            self._change(usage=(*self._update.usage, (worker, sample)))

    def post_preemption(self) -> None:
        """From a worker: it has left a checkpoint, because its node is about to be preempted."""
        with self._lock:
            self._is_unfit = True
            self._change(preempted=True)

    def post_error(self, error: SoldiomError) -> None:
        """From a worker: an error that trying again does not cure. The first one counts."""
        with self._lock:
            self._change(error=self._update.error or error)

    def post_failures(self, failures: tuple[WorkerFailure, ...], *, lost: bool) -> None:
        """From Ray Train's controller: how a group of workers failed. `lost`: one of them is gone without an exception
        of its own, which those of the others follow from.

        An exception that comes back, without a new checkpoint since, ends the training."""
        with self._lock:
            self._is_unfit = True
            same = None if lost else repeated(failures, self._last_failures)
            self._last_failures = () if lost else failures
            error = self._update.error or (same.to_error() if same else None)
            self._change(failures=(*self._update.failures, *failures), error=error)

    def take_update(self) -> ProgressUpdate:
        """From the driver: the newest progress; points, usage and failures are handed out once."""
        with self._lock:
            update = self._update
            self._change(curve_points=(), usage=(), failures=())
            return update

    def request_stop(self) -> None:
        """From the driver: ask the workers to stop."""
        self._stopping = True

    def is_ended(self) -> bool:
        """From a worker that starts: whether there is nothing left to do, after a stop or an error."""
        return self._stopping or self._update.error is not None

    def worker_seconds(self) -> float:
        """How long all workers ran, added up, including those that were lost."""
        with self._lock:
            return sum(self._worker_seconds.values())

    def _change(self, **values: Any) -> None:
        self._update = replace(self._update, **values)


class Reporter:
    """Rank 0's connection to the ProgressActor: posts seldom; raises CancelledError when the driver asks to stop."""

    def __init__(self, progress_actor: Any) -> None:
        self.progress_actor = progress_actor
        self._unposted: list[Metrics] = []
        self._posted_at = 0.0

    def report(self, fraction: float, message: str) -> None:
        """Post, but not more often than every POST_SECONDS."""
        if time.monotonic() - self._posted_at >= POST_SECONDS:
            self.flush(fraction, message)

    def flush(self, fraction: float, message: str) -> None:
        """Post now."""
        import ray

        points, self._unposted, self._posted_at = self._unposted, [], time.monotonic()
        if ray.get(self.progress_actor.post_progress.remote(fraction, message, points)):
            raise CancelledError("The training was asked to stop.")

    def observe(self, point: Metrics) -> None:
        """Hold a point of the curves for the next post."""
        self._unposted.append(point)
