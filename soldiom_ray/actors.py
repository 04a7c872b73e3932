"""One function over many pieces of work, in a pool of actors that Ray Data runs; in this process where Ray is not
connected, or where all would be done before a pool has started.

The number of workers does not change the results: they come in the order of the pieces. Each piece is one block of Ray
Data, so when a worker dies exactly its piece is repeated.
"""

import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from soldiom_ray.errors import SoldiomError

Piece = TypeVar("Piece")
Result = TypeVar("Result")

TICK_SECONDS = 2.0
WORKERS_WITHOUT_CPUS = 2
"""Actors used to read local files when this node advertises no CPUs to Ray (typical of a cluster head)."""

START_SECONDS = 5.0
"""What the pool takes to start, measured on two cores: work that takes less is done in this process."""

LOST_WORKERS_PER_PIECE = 10
"""How many workers may be lost over one piece before the work fails."""


def map_in_order(
    function: Callable[[Piece], Result],
    pieces: Sequence[Piece],
    tick: Callable[[], None] = lambda: None,
    *,
    local_only: bool = False,
) -> Iterator[Result]:
    """`function(piece)` for every piece, in order. `tick` is called after every TICK_SECONDS without a result; it
    may raise to stop the work. `local_only` keeps the work on this machine, whose files it reads. A SoldiomError
    arrives as it was raised; any other exception as Ray wraps it."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        yield from map(function, pieces)
        return
    spent = 0.0
    for done, piece in enumerate(pieces):
        if done and spent / done * (len(pieces) - done) > START_SECONDS:
            yield from _on_actors(function, pieces[done:], tick, local_only)
            return
        began = time.monotonic()
        result = next(_while_ticking(map(function, [piece]), tick))
        spent += time.monotonic() - began
        yield result


class Worker:
    """An actor of the pool. It has no state between pieces: when it dies, another one repeats its piece."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"result": [self._run(piece) for piece in batch["piece"]]}

    def _run(self, piece: bytes) -> bytes:
        """The pickled (True, result) of a pickled piece, or (False, error): a SoldiomError travels like a result,
        because Ray would wrap it."""
        from ray import cloudpickle

        try:
            return bytes(cloudpickle.dumps((True, self.function(cloudpickle.loads(piece)))))
        except SoldiomError as error:
            return bytes(cloudpickle.dumps((False, error)))


def _on_actors(
    function: Callable[[Any], Any], pieces: Sequence[Any], tick: Callable[[], None], local_only: bool
) -> Iterator[Any]:
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    node = ray.get_runtime_context().get_node_id()
    usable = [other for other in ray.nodes() if other["Alive"] and (other["NodeID"] == node or not local_only)]
    cpus = int(sum(each["Resources"].get("CPU", 0) for each in usable))
    workers = min(len(pieces), cpus or WORKERS_WITHOUT_CPUS)
    rows = [{"piece": cloudpickle.dumps(piece)} for piece in pieces]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    dataset.context.execution_options.preserve_order = True
    dataset.context.print_on_execution_start = False
    dataset = dataset.map_batches(
        Worker,
        fn_constructor_args=(function,),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, max_tasks_in_flight_per_actor=2),
        num_cpus=1 if cpus else 0,
        max_task_retries=LOST_WORKERS_PER_PIECE,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False) if local_only else "DEFAULT",
    )
    for row in _while_ticking(dataset.iter_rows(), tick):
        succeeded, value = cloudpickle.loads(row["result"])
        if not succeeded:
            raise value
        yield value


def _while_ticking(rows: Iterable[Any], tick: Callable[[], None]) -> Iterator[Any]:
    """The same rows, fetched in a thread; `tick` is called after every TICK_SECONDS without a row."""
    arrived: queue.Queue[Any] = queue.Queue(maxsize=2)
    stopped, end = threading.Event(), object()

    def put(value: Any) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                arrived.put(value, timeout=TICK_SECONDS)
                return

    def fetch() -> None:
        try:
            for row in rows:
                put(row)
                if stopped.is_set():
                    return
            put(end)
        except BaseException as error:
            put(error)

    threading.Thread(target=fetch, daemon=True, name="results").start()
    try:
        while True:
            try:
                row = arrived.get(timeout=TICK_SECONDS)
            except queue.Empty:
                tick()
                continue
            if row is end:
                return
            if isinstance(row, BaseException):
                raise row
            yield row
    finally:
        stopped.set()
