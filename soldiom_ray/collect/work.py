"""How sources hand over their work: a plan, its tasks, what each gathered; run in this process or spread over Ray.

Every file or page that a source meets ends in exactly one counted outcome; "collected" is the one that made documents.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from soldiom_ray.records import Document, Drop

COLLECTED = "collected"


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
    """A source that was looked at: `fingerprint` decides whether an earlier collection is still good."""

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
    yield from _run_on_ray(ray, tasks, tick)


def _run_on_ray(ray: Any, tasks: Sequence[Task], tick: Callable[[], None]) -> Iterator[Gathered]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=1, max_retries=3)(_run_one)
    here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
    window = max(4, 2 * int(ray.cluster_resources().get("CPU", 1)))
    waiting: list[Any] = []
    try:
        for task in tasks:
            waiting.append(remote.options(scheduling_strategy=here if task.here else "DEFAULT").remote(task))
            if len(waiting) >= window:
                yield _result(ray, waiting.pop(0), tick)
        while waiting:
            yield _result(ray, waiting.pop(0), tick)
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)


def _run_one(task: Task) -> Gathered:
    return task.run()


def _result(ray: Any, reference: Any, tick: Callable[[], None]) -> Gathered:
    from soldiom_ray.errors import SoldiomError

    while not ray.wait([reference], timeout=2.0)[0]:
        tick()
    try:
        gathered: Gathered = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SoldiomError):
            raise error.cause from None
        raise
    return gathered
