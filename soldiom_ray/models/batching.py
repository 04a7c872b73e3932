"""Batches across requests: what many callers wait for is computed together, inputs of about one length at a time.

Nothing waits for a batch to fill: a thread that is free takes what is there, and what comes meanwhile makes the next
batch. Each thread computes on one core, since two that share a batch wait for each other at every operation.
"""

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from soldiom_ray.errors import BusyError, UnavailableError
from soldiom_ray.models.embedder import length_batches

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
BATCH_ITEMS, BATCH_POSITIONS = 64, 2048
"""Of one batch, padding included: larger ones leave the cache, smaller ones wait for Python."""
WINDOW = 256
"""Of those that wait longest so many are looked through for some of about one length."""
QUEUED_POSITIONS = 256 * BATCH_POSITIONS
"""More that waits is refused."""
WEDGED_SECONDS = 60.0
"""A batch that takes longer will not end."""


@dataclass(eq=False, slots=True)
class _Waiting(Generic[Item]):
    item: Item
    size: int
    future: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop


class Batches(Generic[Item]):
    """Computes items with `compute`, which takes a batch and gives the results in its order, in `threads` threads.
    Call it from event loops only."""

    def __init__(self, compute: Callable[[Sequence[Item]], Sequence[Any]], threads: int = 1) -> None:
        self._compute = compute
        self._wakeup = threading.Condition()
        self._waiting: deque[_Waiting[Item]] = deque()
        self._positions = 0
        self._closed = False
        self._began: dict[int, float] = {}
        self._running: dict[int, Sequence[_Waiting[Item]]] = {}
        self.sizes: Counter[int] = Counter()
        """How many batches there were of each number of items."""
        self._threads = [threading.Thread(target=self._run, name=f"batches-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    async def run(self, items: Sequence[tuple[int, Item]]) -> list[Any]:
        """The results of items, each given with its size in positions. Cancelling the call leaves out what has not
        begun. BusyError when too much is waiting; otherwise what `compute` raises."""
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(item, size, loop.create_future(), loop) for size, item in items]
        total = sum(size for size, _ in items)
        with self._wakeup:
            if self._positions and self._positions + total > QUEUED_POSITIONS:
                raise BusyError(
                    f"{self._positions} positions of inputs are waiting, this request has {total}; the endpoint takes"
                    f" {QUEUED_POSITIONS}.",
                    remedy="try again, or deploy more replicas",
                )
            self._positions += total
            self._waiting.extend(waiting)
            self._wakeup.notify_all()
        try:
            results = await asyncio.gather(*(each.future for each in waiting), return_exceptions=True)
        finally:
            with self._wakeup:
                self._positions -= total
            for each in waiting:
                each.future.cancel()
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def check(self) -> None:
        """UnavailableError when a thread has ended or a batch does not."""
        if not all(thread.is_alive() for thread in self._threads):
            raise UnavailableError("A thread of the endpoint has ended.", remedy="the replica is started again")
        taken = time.monotonic() - min(list(self._began.values()), default=time.monotonic())
        if taken > WEDGED_SECONDS:
            raise UnavailableError(f"A batch has taken {taken:.0f} s.", remedy="the replica is started again")

    def given_up(self) -> set[int]:
        """For a long `compute`, which calls it now and then in its own thread: the places of its items for which nobody
        waits any more. It also says that the batch goes on."""
        own = threading.get_ident()
        self._began[own] = time.monotonic()
        return {place for place, each in enumerate(self._running[own]) if each.future.cancelled()}

    def close(self) -> None:
        """End the threads once they have computed what waits; nothing more is to be asked."""
        with self._wakeup:
            self._closed = True
            self._wakeup.notify_all()

    def _run(self) -> None:
        import torch

        torch.set_num_threads(1)  # with OpenMP their number belongs to the calling thread
        own = threading.get_ident()
        while True:
            with self._wakeup:
                while not self._waiting:
                    if self._closed:
                        return
                    self._wakeup.wait()
                batch = self._take()
            if not batch:
                continue
            self._began[own] = time.monotonic()
            results = self._results(batch)
            del self._began[own], self._running[own]
            _hand_out(batch, results)

    def _results(self, batch: Sequence[_Waiting[Item]]) -> Sequence[Any]:
        """A result or an error for each; what fails in a batch is tried alone, so that no item fails for another."""
        self._running[threading.get_ident()] = batch
        try:
            return self._compute([each.item for each in batch])
        except Exception as error:
            logger.exception("a batch failed", extra={"data": {"items": len(batch)}})
            return [error] if len(batch) == 1 else [self._results([each])[0] for each in batch]

    def _take(self) -> list[_Waiting[Item]]:
        """The one that waits longest, with others of about its length; those that nobody waits for are left out."""
        window = [each for each in list(self._waiting)[:WINDOW] if not each.future.cancelled()]
        batches = length_batches([each.size for each in window], BATCH_ITEMS, BATCH_POSITIONS)
        batch = [window[place] for places in batches if 0 in places for place in places]
        taken = set(map(id, batch))
        rest = [each for each in self._waiting if id(each) not in taken and not each.future.cancelled()]
        self._waiting = deque(rest)
        if batch:
            self.sizes[len(batch)] += 1
        return batch


def _hand_out(batch: Sequence[_Waiting[Any]], results: Sequence[Any]) -> None:
    """Give each its result, in the event loop where it waits."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for each, result in zip(batch, results, strict=True):
        by_loop.setdefault(each.loop, []).append((each.future, result))
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, pairs)
        except RuntimeError:  # the loop has ended, and its callers with it
            logger.info("an event loop ended before its results")


def _settle(pairs: "Sequence[tuple[asyncio.Future[Any], Any]]") -> None:
    for future, result in pairs:
        if future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
