"""How sources hand over their work: a plan, its tasks, what each gathered; run in this process or by Ray Data's actors.

Every file or page that a source meets ends in exactly one counted outcome; "collected" is the one that made documents.
"""

import hashlib
import pickle
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from soldiom_ray.records import Document, Drop

COLLECTED = "collected"
TICK_SECONDS = 2.0
WORKERS_WITHOUT_CPUS = 2
"""How many actors read this machine's files where its node offers Ray no CPU, as heads of large clusters do not."""

TASK_RETRIES = 10
"""How often a task may lose the worker it runs in; a file that kills its parser kills the parser's process only."""


@dataclass
class Gathered:
    """What one task brought: documents in a fixed order, and the outcome of everything it looked at.

    `drops` are the things left out that a person should be able to look up.
    """

    documents: list[Document] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    facts: Counter[str] = field(default_factory=Counter)
    drops: list[Drop] = field(default_factory=list)

    def leave_out(self, source: str, group: str, path: str, outcome: str, detail: str = "") -> None:
        """Count a thing that made no document, and why."""
        self.outcomes[outcome] += 1
        place = document_id(source, f"{group}\0{path}", "")
        self.drops.append(Drop(id=place, source=source, group=group, path=path, reason=outcome, value=detail[:200]))


class Task(Protocol):
    """One unit of work that can travel to another process. `here` keeps it on the machine of the caller."""

    @property
    def here(self) -> bool: ...

    def run(self) -> Gathered: ...


@dataclass
class Todo:
    """The tasks of a source, what was decided before any task runs, and a word on what they wait for, if anything."""

    tasks: Sequence[Task]
    gathered: Gathered = field(default_factory=Gathered)
    status: Callable[[], str] = str


class Plan(Protocol):
    """A source that was looked at: `fingerprint` decides whether an earlier collection is still good. `collected_at` is
    the time its documents will bear; it is moved back to the first try's when an interrupted collection goes on."""

    collected_at: datetime

    @property
    def fingerprint(self) -> Mapping[str, Any]: ...

    def todo(self, report: Callable[[float, str], None]) -> Todo: ...


def document_id(source: str, place: str, sha256: str) -> str:
    """The same text at the same place has the same id on every machine."""
    return hashlib.sha256(f"{source}\0{place}\0{sha256}".encode()).hexdigest()[:32]


def run_tasks(tasks: Sequence[Task], tick: Callable[[], None]) -> Iterator[Gathered]:
    """The result of every task, in the order of the tasks, whatever the number of workers. `tick` is called every few
    seconds while waiting; it may raise to stop the work."""
    import sys

    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized() or len(tasks) < 2:
        for task in tasks:
            yield task.run()
        return
    yield from _run_on_actors(tasks, tick)


class Collector:
    """An actor of the pool that Ray Data keeps. It holds nothing between tasks, so one that dies is made anew and its
    task repeated."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"result": [_run_sealed(task) for task in batch["task"]]}


def _run_sealed(task: bytes) -> bytes:
    """The pickled result of a pickled task; an error raised on purpose is a result too, so it arrives as itself."""
    from soldiom_ray.errors import SoldiomError

    try:
        return pickle.dumps(pickle.loads(task).run())  # noqa: S301 - our own driver made it
    except SoldiomError as error:
        return pickle.dumps(error)


def _run_on_actors(tasks: Sequence[Task], tick: Callable[[], None]) -> Iterator[Gathered]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.data.DataContext.get_current().enable_progress_bars = False
    node, here = ray.get_runtime_context().get_node_id(), any(task.here for task in tasks)
    usable = [one for one in ray.nodes() if one["Alive"] and (one["NodeID"] == node or not here)]
    cpus = int(sum(one["Resources"].get("CPU", 0) for one in usable))
    workers = min(len(tasks), cpus or WORKERS_WITHOUT_CPUS)
    # One task is one block: what is repeated after a kill is the task in hand, never a block of Ray's making.
    dataset = ray.data.from_items([{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks))
    dataset.context.execution_options.preserve_order = True
    dataset.context.print_on_execution_start = False
    dataset = dataset.map_batches(
        Collector,
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, max_tasks_in_flight_per_actor=2),
        num_cpus=1 if cpus else 0,
        max_task_retries=TASK_RETRIES,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False) if here else "DEFAULT",
    )
    for result in _while_ticking(dataset.iter_rows(), tick):
        value = pickle.loads(result["result"])  # noqa: S301 - our own actor made it
        if not isinstance(value, Gathered):
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

    threading.Thread(target=fetch, daemon=True, name="collected").start()
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
