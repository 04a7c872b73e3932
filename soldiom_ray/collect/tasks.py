"""The interface of a source: a plan, its tasks and their results; run in this process or by Ray Data's actors.

Every file or page of a source is counted under exactly one outcome: "collected" when it made documents, else the reason
why it was skipped.
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
    """The documents of one task, in a fixed order, and how many files or pages ended in each outcome. `drops` are
    the skipped ones that a person should be able to look up."""

    documents: list[Document] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    facts: Counter[str] = field(default_factory=Counter)
    drops: list[Drop] = field(default_factory=list)

    def skip(self, source: str, group: str, path: str, reason: str, detail: str = "") -> None:
        """Count a file, row or page that made no document under its reason, and record it as a drop."""
        self.outcomes[reason] += 1
        self.record_drop(source, group, path, reason, detail)

    def record_drop(self, source: str, group: str, path: str, reason: str, detail: str = "") -> None:
        """Record a drop without counting it, where its count is kept elsewhere."""
        drop_id = document_id(source, f"{group}\0{path}", "")
        self.drops.append(Drop(id=drop_id, source=source, group=group, path=path, reason=reason, value=detail[:200]))


class Task(Protocol):
    """One unit of work that can travel to another process; `local_only` keeps it on the machine of the caller."""

    @property
    def local_only(self) -> bool:
        """Whether it reads files of the caller's machine."""

    def run(self) -> TaskResult:
        """Do the work. What goes wrong with one document is counted in the result; an error ends the collection."""


@dataclass
class TaskList:
    """The tasks of a source, the result of what was decided before any of them runs, and `status`: what they wait for,
    to be shown beside the progress."""

    tasks: Sequence[Task]
    result: TaskResult = field(default_factory=TaskResult)
    status: Callable[[], str] = str


class SourcePlan(Protocol):
    """A source that was listed. `fingerprint` decides whether an earlier collection can be reused. `collected_at` is
    the time its documents get; when an interrupted collection is resumed it is set to that of the first attempt."""

    collected_at: datetime

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What decides the content, as JSON. Stored in the manifest: the same fingerprint is the same collection."""

    def list_tasks(self, report: Callable[[float, str], None]) -> TaskList:
        """The work to do. `report` gets shares and messages of the listing and may raise CancelledError."""


def document_id(source: str, location: str, sha256: str) -> str:
    """The same text at the same location has the same id on every machine."""
    return hashlib.sha256(f"{source}\0{location}\0{sha256}".encode()).hexdigest()[:32]


def run_tasks(tasks: Sequence[Task], tick: Callable[[], None]) -> Iterator[TaskResult]:
    """The result of every task, in the order of the tasks, whatever the number of workers. `tick` is called every few
    seconds while waiting; it may raise to stop the work."""
    return map_in_order(_run_task, tasks, tick, local_only=any(task.local_only for task in tasks))


def _run_task(task: Task) -> TaskResult:
    return task.run()
