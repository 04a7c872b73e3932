"""The same function over many pieces of work, by a pool of actors that Ray Data keeps; in this process without Ray, and
for the little that is done before a pool would have started.

What comes out does not depend on the number of workers: results come in the order of the pieces. One piece is one block
of Ray Data, so what is repeated after a worker's death is the piece in hand, never a block of Ray's making.
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
"""How many actors read this machine's files where its node offers Ray no CPU, as heads of large clusters do not."""

START_SECONDS = 5.0
"""What the pool takes to start, measured on two cores: work that will be done sooner is done in this process."""

RETRIES = 10
"""How often a piece may lose the worker it is done in before the work fails."""


def map_in_order(
    function: Callable[[Piece], Result],
    pieces: Sequence[Piece],
    tick: Callable[[], None] = lambda: None,
    *,
    here: bool = False,
) -> Iterator[Result]:
    """`function(piece)` for every piece, in order. `tick` is called every TICK_SECONDS that no result comes; it may
    raise to stop the work. `here` keeps the work on this machine, whose files it reads. Errors of ours arrive as they
    were raised; any other is Ray's."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        yield from map(function, pieces)
        return
    spent = 0.0
    for done, piece in enumerate(pieces):
        if done and spent / done * (len(pieces) - done) > START_SECONDS:
            yield from _on_actors(function, pieces[done:], tick, here)
            return
        began = time.monotonic()
        result = next(_while_ticking(map(function, [piece]), tick))
        spent += time.monotonic() - began
        yield result


class Worker:
    """An actor of the pool. It holds nothing between pieces, so one that dies is made anew and its piece repeated."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"result": [self._sealed(piece) for piece in batch["piece"]]}

    def _sealed(self, piece: bytes) -> bytes:
        """The pickled result of a pickled piece; an error of ours is a result too, so it arrives as itself."""
        from ray import cloudpickle

        try:
            return bytes(cloudpickle.dumps((True, self.function(cloudpickle.loads(piece)))))
        except SoldiomError as error:
            return bytes(cloudpickle.dumps((False, error)))


def _on_actors(
    function: Callable[[Any], Any], pieces: Sequence[Any], tick: Callable[[], None], here: bool
) -> Iterator[Any]:
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    node = ray.get_runtime_context().get_node_id()
    usable = [one for one in ray.nodes() if one["Alive"] and (one["NodeID"] == node or not here)]
    cpus = int(sum(one["Resources"].get("CPU", 0) for one in usable))
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
        max_task_retries=RETRIES,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False) if here else "DEFAULT",
    )
    for row in _while_ticking(dataset.iter_rows(), tick):
        good, value = cloudpickle.loads(row["result"])
        if not good:
            raise value
        yield value


def _while_ticking(rows: Iterable[Any], tick: Callable[[], None]) -> Iterator[Any]:
    """The same rows, fetched in a thread, with a `tick` every TICK_SECONDS that no row comes."""
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
