"""Stage collect: sources become documents, each with provenance, licence and label."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soldiom_ray.artifacts import Context, Draft
    from soldiom_ray.collect.work import Gathered, Plan
    from soldiom_ray.domains.schema import Source
    from soldiom_ray.records import Document, Manifest

CODE = 1
"""Raise it when the same sources would now give other documents."""

SHARD_ROWS = 4000
SHARD_BYTES = 32 << 20


def collect(context: "Context", sources: "Sequence[Source]") -> "Manifest":
    """Collect all sources into one documents artifact.

    Manifest: counts `documents` and `outcome_<name>`; details outcomes, licenses, kinds, frameworks, groups, languages,
    sources (per source: what was declared, documents, outcomes) and, with GitHub, repositories. What was left out,
    with its reason, stands in `dropped/`. Raises InputError when a source is wrong or nothing was found.
    """
    from soldiom_ray.collect.work import run_tasks
    from soldiom_ray.records import now

    collected_at = now()
    plans = [_plan(context, source, collected_at) for source in sources]
    made_from = {
        "stage": "collect",
        "code": CODE,
        "sources": [
            {"declared": source.model_dump(mode="json"), **plan.fingerprint}
            for source, plan in zip(sources, plans, strict=True)
        ],
    }
    draft = context.artifacts.draft("documents", made_from)
    if done := draft.finished():
        return done
    shelf = _Shelf(draft)
    told: list[dict[str, Any]] = []
    facts: Counter[str] = Counter()
    for index, (source, plan) in enumerate(zip(sources, plans, strict=True)):
        report = _part_of(context.report, index, len(plans))
        report(0.0, f"looking at {_name(source)}")
        todo = plan.todo(lambda share, message, report=report: report(0.3 * share, message))  # type: ignore[misc]
        outcomes = Counter(shelf.take(todo.gathered))
        facts.update(todo.gathered.facts)
        before = shelf.documents
        for done_tasks, gathered in enumerate(run_tasks(todo.tasks), 1):
            outcomes.update(shelf.take(gathered))
            facts.update(gathered.facts)
            message = f"{_name(source)}: {shelf.documents - before} documents"
            report(0.3 + 0.7 * done_tasks / len(todo.tasks), message)
        told.append(
            {
                "declared": source.model_dump(mode="json"),
                "documents": shelf.documents - before,
                "outcomes": dict(outcomes),
            }
        )
    shelf.close()
    _refuse_empty(shelf, told)
    outcomes = sum((Counter(part["outcomes"]) for part in told), Counter())
    details = {"outcomes": dict(sorted(outcomes.items())), **shelf.details(), "sources": told, **facts}
    counts = {"documents": shelf.documents, **{f"outcome_{name}": count for name, count in sorted(outcomes.items())}}
    return draft.commit(counts=counts, details=details)


def _plan(context: "Context", source: "Source", collected_at: datetime) -> "Plan":
    from soldiom_ray.domains.schema import FilesSource, GithubSource, LocalSource

    if isinstance(source, LocalSource):
        from soldiom_ray.collect import local

        return local.plan(source, collected_at)
    if isinstance(source, FilesSource):
        from soldiom_ray.collect import user_input

        return user_input.plan(source, context, collected_at)
    if isinstance(source, GithubSource):
        from soldiom_ray.collect import github

        return github.plan(source, context, collected_at)
    from soldiom_ray.collect import huggingface

    return huggingface.plan(source, context, collected_at)


class _Shelf:
    """Takes documents in, without repeats, counts them and writes them out in shards."""

    def __init__(self, draft: "Draft") -> None:
        self.draft = draft
        self.documents = 0
        self.counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("license", "kind", "framework", "group", "language")
        }
        self._seen: set[str] = set()
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._shards = 0
        self._drops: list[dict[str, Any]] = []

    def take(self, gathered: "Gathered") -> Counter[str]:
        """Keep what a task brought; its outcomes, with documents that were here before moved to `repeated`."""
        outcomes = Counter(gathered.outcomes)
        for document in gathered.documents:
            if document.id in self._seen:
                outcomes["collected"] -= 1
                outcomes["repeated"] += 1
            else:
                self._add(document)
        self._drops.extend(drop.model_dump() for drop in gathered.drops)
        return +outcomes

    def details(self) -> dict[str, dict[str, int]]:
        """Documents per licence, kind, framework, group and language."""
        return {f"{name}s": dict(sorted(counter.items())) for name, counter in self.counts.items()}

    def close(self) -> None:
        """Write what is left."""
        from soldiom_ray.records import Drop

        self._write()
        if self._drops:
            self.draft.write_rows("dropped/00000.parquet", self._drops, Drop)

    def _add(self, document: "Document") -> None:
        self._seen.add(document.id)
        self.documents += 1
        for name, counter in self.counts.items():
            counter[str(getattr(document, name)) or "unknown"] += 1
        self._rows.append(document.model_dump())
        self._bytes += len(document.text)
        if len(self._rows) >= SHARD_ROWS or self._bytes >= SHARD_BYTES:
            self._write()

    def _write(self) -> None:
        from soldiom_ray.records import Document

        if self._rows:
            self.draft.write_rows(f"documents/{self._shards:05d}.parquet", self._rows, Document)
            self._shards += 1
            self._rows, self._bytes = [], 0


def _refuse_empty(shelf: _Shelf, told: Sequence[dict[str, Any]]) -> None:
    from soldiom_ray.errors import InputError, Problem

    if shelf.documents:
        return
    problems = []
    for index, part in enumerate(told):
        outcomes = (
            ", ".join(f"{count} {name}" for name, count in sorted(part["outcomes"].items())) or "nothing was found"
        )
        problems.append(Problem(f"collect[{index}] ({part['declared']['source']})", outcomes))
    raise InputError(
        "The sources gave no documents.",
        remedy="widen the source: its patterns, folder, limits or search",
        problems=problems,
    )


def _part_of(report: Callable[[float, str], None], index: int, count: int) -> Callable[[float, str], None]:
    return lambda share, message: report((index + min(1.0, share)) / count, message)


def _name(source: "Source") -> str:
    return source.source
