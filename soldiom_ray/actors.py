"""One function over many pieces of work, in a pool of actors that Ray Data runs; in this process where Ray is not
connected, or where all would be done before a pool has started.

The number of workers does not change the results: they come in the order of the pieces. Each piece is one block of Ray
Data, so when a worker dies exactly its piece is repeated. A worker takes seconds of a core to start, so a pool has its
full size from its start on, while this process goes on with the piece at hand, and stays for all passes of a stage: its
blocks are numbers, and the piece that one stands for comes from an actor of its own when its pass has begun.
"""

import asyncio
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from soldiom_ray.errors import SoldiomError

Piece = TypeVar("Piece")
Result = TypeVar("Result")

TICK_SECONDS = 2.0
WORKERS_WITHOUT_CPUS = 2
"""Actors used to read local files when this node advertises no CPUs to Ray (typical of a cluster head)."""

START_SECONDS = 5.0
"""What the pool takes to start, measured on two cores: work that takes less is done in this process."""

STOP_SECONDS = 10.0
"""How long the end of a stage waits at most until its workers have given back their CPUs."""

LOST_WORKERS_PER_PIECE = 10
"""How many workers may be lost over one piece before the work fails."""


def map_in_order(
    function: Callable[[Piece], Result],
    pieces: Sequence[Piece],
    tick: Callable[[], None] = lambda: None,
    *,
    local_only: bool = False,
) -> Iterator[Result]:
    """The one pass of a stage, with workers of its own (see `Workers`)."""
    with Workers(local_only=local_only) as workers:
        yield from workers.map_in_order(function, pieces, tick)


class Workers:
    """The workers of a stage, a context: started when a pass is worth it, and kept for those that follow. `passes` is
    about how many there are; `local_only` keeps the work on this machine, whose files it reads."""

    def __init__(self, passes: int = 1, *, local_only: bool = False) -> None:
        self._passes, self._local_only = passes, local_only
        self._pool: _Pool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(STOP_SECONDS if kind is None else 0.0)

    def map_in_order(
        self,
        function: Callable[[Piece], Result],
        pieces: Sequence[Piece],
        tick: Callable[[], None] = lambda: None,
    ) -> Iterator[Result]:
        """`function(piece)` for every piece, in order; one pass after the other. `tick` is called after every
        TICK_SECONDS without a result; it may raise to stop the work. A SoldiomError arrives as it was raised; any other
        exception as Ray wraps it."""
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            yield from map(function, pieces)
            return
        complete = False
        try:
            yield from self._map(function, pieces, tick)
            complete = True
        finally:
            if not complete:
                self._close(0.0)

    def _map(self, function: Callable[[Any], Any], pieces: Sequence[Any], tick: Callable[[], None]) -> Iterator[Any]:
        """In this process until the pieces that are left are worth a pool, then in the pool."""
        if self._pool and self._pool.left < len(pieces):
            self._close(STOP_SECONDS)
        done, spent = 0, 0.0
        while done < len(pieces) and not self._pool:
            began, left = time.monotonic(), len(pieces) - done - 1
            here = _Fetched(map(function, [pieces[done]]))
            done += 1
            # Each piece that is left is taken to last as long as those so far, this one until now included.
            worth = START_SECONDS * done / left - spent if left else 0.0
            if left and (worth <= 0 or not here.wait(worth, tick)):
                self._pool = _Pool(left, self._passes, self._local_only)
                self._pool.begin(function, pieces[done:])
            value = here.take(tick)
            spent += time.monotonic() - began
            yield value
        if self._pool:
            if pieces and not done:
                self._pool.begin(function, pieces)
            for _ in pieces[done:]:
                yield self._pool.take(tick)

    def _close(self, seconds: float) -> None:
        if self._pool:
            self._pool.close(seconds)
            self._pool = None


class _Pool:
    """Actors at work for as long as their blocks last, of which each piece takes one: `passes` times `pieces`. `left`
    counts those to come."""

    def __init__(self, pieces: int, passes: int, local_only: bool) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        logging.getLogger("ray.data").setLevel(logging.WARNING)
        ray.data.DataContext.get_current().enable_progress_bars = False
        node = ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        usable = [other for other in ray.nodes() if other["Alive"] and (other["NodeID"] == node or not local_only)]
        cpus = int(sum(each["Resources"].get("CPU", 0) for each in usable))
        # One waits in it for each worker; Ray's own limit is a thousand.
        options = {"num_cpus": 0, "scheduling_strategy": here, "max_concurrency": 100_000}
        self._supply: Any = ray.remote(**options)(Supply).remote()
        self.left = blocks = pieces * passes
        dataset = ray.data.from_items([{"number": number} for number in range(blocks)], override_num_blocks=blocks)
        dataset.context.execution_options.preserve_order = True
        dataset.context.print_on_execution_start = False
        dataset = dataset.map_batches(
            Worker,
            fn_constructor_args=(self._supply,),
            batch_size=1,
            batch_format="numpy",
            # One piece at a time: a second that waits for its worker would wait while others have nothing to do.
            compute=ray.data.ActorPoolStrategy(
                size=min(pieces, cpus or WORKERS_WITHOUT_CPUS), max_tasks_in_flight_per_actor=1
            ),
            num_cpus=1 if cpus else 0,
            max_task_retries=LOST_WORKERS_PER_PIECE,
            scheduling_strategy=here if local_only else "DEFAULT",
        )
        self._idle = False
        self._results = _Fetched(self._rows(dataset))

    def begin(self, function: Callable[[Any], Any], pieces: Sequence[Any]) -> None:
        """Give these pieces to the workers."""
        import ray
        from ray import cloudpickle

        # In a list, a reference stays one: each node fetches the function once, not the supply for everybody.
        self._supply.add.remote([ray.put(function)], [cloudpickle.dumps(piece) for piece in pieces])

    def take(self, tick: Callable[[], None]) -> Any:
        """The next result."""
        from ray import cloudpickle

        succeeded, value = cloudpickle.loads(self._results.take(tick))
        self.left -= 1
        if not succeeded:
            raise value
        return value

    def _rows(self, dataset: Any) -> Iterator[bytes]:
        # Nothing is fetched ahead: the block after the last of a pass comes with the next pass.
        try:
            for batch in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                yield from batch["result"]
        finally:
            # Ray Data kills actors, and Ray warns of it; those that have nothing to do may end by themselves.
            if self._idle and dataset._current_executor is not None:
                dataset._current_executor.shutdown(force=False)

    def close(self, seconds: float) -> None:
        """End the workers, whose passes have ended unless `seconds` is 0; wait at most so long for it."""
        self._idle = seconds > 0
        self._supply.end.remote()
        self._results.stop(seconds)


class Supply:
    """An actor: the pieces of the pass that was begun last, by their numbers, which count on from pass to pass."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._ended = False
        self._first = 0
        self._function: list[Any] = []
        self._pieces: list[bytes] = []

    async def add(self, function: list[Any], pieces: list[bytes]) -> None:
        """Begin a pass; that before has ended, so nobody asks for its pieces any more."""
        async with self._changed:
            self._first += len(self._pieces)
            self._function, self._pieces = function, pieces
            self._changed.notify_all()

    async def end(self) -> None:
        """Nothing more will come."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def piece(self, number: int) -> tuple[list[Any], bytes] | None:
        """The function's reference and the pickled piece, as soon as its pass has begun; None when there is none."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._ended or number < self._first + len(self._pieces))
        index = number - self._first
        return (self._function, self._pieces[index]) if 0 <= index < len(self._pieces) else None


class Worker:
    """An actor of the pool. It has no state between pieces but the function: when it dies, another one repeats its
    piece."""

    def __init__(self, supply: Any) -> None:
        self._supply = supply
        self._function: tuple[Any, Any] = (None, None)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"result": [self._run(int(number)) for number in batch["number"]]}

    def _run(self, number: int) -> bytes:
        """The pickled (True, result) of a piece, or (False, error): a SoldiomError travels like a result, because Ray
        would wrap it."""
        import ray
        from ray import cloudpickle

        given = ray.get(self._supply.piece.remote(number))
        if given is None:
            return b""
        [reference], piece = given
        known, function = self._function
        if known != reference:
            function = ray.get(reference)
            self._function = (reference, function)
        try:
            return bytes(cloudpickle.dumps((True, function(cloudpickle.loads(piece)))))
        except SoldiomError as error:
            return bytes(cloudpickle.dumps((False, error)))


class _Fetched:
    """The values of an iterator, fetched in a thread: few ahead, and none any more once it is stopped."""

    def __init__(self, values: Iterable[Any]) -> None:
        self._arrived: queue.Queue[Any] = queue.Queue(maxsize=2)
        self._next: list[Any] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fetch, args=(values,), daemon=True, name="results")
        self._thread.start()

    def wait(self, seconds: float, tick: Callable[[], None]) -> bool:
        """Whether the next value, or the error instead of it, arrives within this time."""
        until = time.monotonic() + seconds
        while not self._next:
            left = until - time.monotonic()
            try:
                self._next.append(self._arrived.get(timeout=min(max(left, 0.001), TICK_SECONDS)))
            except queue.Empty:
                if left <= TICK_SECONDS:
                    return False
                tick()
        return True

    def take(self, tick: Callable[[], None]) -> Any:
        """The next value; calls `tick` after every TICK_SECONDS without one. Raises what the iterator raised."""
        while not self.wait(TICK_SECONDS, tick):
            tick()
        value = self._next.pop()
        if isinstance(value, _Raised):
            raise value.error
        return value

    def stop(self, seconds: float) -> None:
        """Fetch no further; wait at most so long until the iterator is closed."""
        self._stopped.set()
        self._thread.join(seconds)

    def _fetch(self, values: Iterable[Any]) -> None:
        try:
            for value in values:
                self._put(value)
                if self._stopped.is_set():
                    return
            self._put(_Raised(RuntimeError("no result is left")))
        except BaseException as error:
            self._put(_Raised(error))

    def _put(self, value: Any) -> None:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._arrived.put(value, timeout=TICK_SECONDS)
                return


class _Raised:
    """An error on its way from the thread."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
