"""How sources hand over their work: a plan, its tasks, what each gathered; run in this process or by Ray Data's actors.

Every file or page that a source meets ends in exactly one counted outcome; "collected" is the one that made documents.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from soldiom_ray.actors import map_in_order
from soldiom_ray.records import Document, Drop

COLLECTED = "collected"


@dataclass
class TaskResult:
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
        self.tell(source, group, path, outcome, detail)

    def tell(self, source: str, group: str, path: str, outcome: str, detail: str = "") -> None:
        """Tell of a thing that made no document and is counted already."""
        place = document_id(source, f"{group}\0{path}", "")
        self.drops.append(Drop(id=place, source=source, group=group, path=path, reason=outcome, value=detail[:200]))


class Task(Protocol):
    """One unit of work that can travel to another process. `here` keeps it on the machine of the caller."""

    @property
    def here(self) -> bool: ...

    def run(self) -> TaskResult: ...


@dataclass
class TaskList:
    """The tasks of a source, what was decided before any task runs, and a word on what they wait for, if anything."""

    tasks: Sequence[Task]
    gathered: TaskResult = field(default_factory=TaskResult)
    status: Callable[[], str] = str


class Plan(Protocol):
    """A source that was looked at: `fingerprint` decides whether an earlier collection is still good. `collected_at` is
    the time its documents will bear; it is moved back to the first try's when an interrupted collection goes on."""

    collected_at: datetime

    @property
    def fingerprint(self) -> Mapping[str, Any]: ...

    def todo(self, report: Callable[[float, str], None]) -> TaskList: ...


def document_id(source: str, place: str, sha256: str) -> str:
    """The same text at the same place has the same id on every machine."""
    return hashlib.sha256(f"{source}\0{place}\0{sha256}".encode()).hexdigest()[:32]


def run_tasks(tasks: Sequence[Task], tick: Callable[[], None]) -> Iterator[TaskResult]:
    """The result of every task, in the order of the tasks, whatever the number of workers. `tick` is called every few
    seconds while waiting; it may raise to stop the work."""
    return map_in_order(_run_one, tasks, tick, here=any(task.here for task in tasks))


def _run_one(task: Task) -> TaskResult:
    return task.run()
