"""Stage collect: sources become documents, each with provenance, licence and label."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soldiom_ray.artifacts import Context, Draft
    from soldiom_ray.collect.document_writer import DocumentWriter
    from soldiom_ray.collect.tasks import SourcePlan
    from soldiom_ray.domains.sources import Source
    from soldiom_ray.records import Manifest

CODE = 5
"""Increment when the same sources would now give other documents."""

COLUMN_FACT = "column "
"""Facts of this name, "column ROLE=COLUMN", tell which column of a table stood for which role."""

UNRECOGNIZED_FACT = "unrecognized "
READING_FACTS = ("speakers ", "notes ", "forms ", "skipped ", UNRECOGNIZED_FACT)

PLANNING = 0.3
"""Share of a source's progress that listing it takes."""


def collect(context: "Context", sources: "Sequence[Source]") -> "Manifest":
    """Collect all sources into one documents artifact.

    Manifest: counts `documents` and `outcome_<name>`; details outcomes, licenses, kinds, frameworks, groups, languages,
    sources (per source: what was declared, documents, outcomes), content_sha256 (of all documents but the time on
    them) and, with GitHub, repositories. What was skipped, with its reason, stands in `dropped/`. Raises InputError
    when a source is wrong or nothing was found.
    """
    from soldiom_ray.collect.document_writer import DocumentWriter
    from soldiom_ray.records import now

    collected_at = now()
    plans = [_plan(context, source, collected_at) for source in sources]
    declared = [source.model_dump(mode="json") for source in sources]
    fingerprints = [{"declared": dump, **plan.fingerprint} for dump, plan in zip(declared, plans, strict=True)]
    draft = context.artifacts.draft("documents", {"stage": "collect", "code": CODE, "sources": fingerprints})
    if finished := draft.finished():
        return finished
    for plan in plans:
        plan.collected_at = _first_attempt(draft, collected_at)
    writer = DocumentWriter(draft)
    summaries: list[dict[str, Any]] = []
    facts: Counter[str] = Counter()
    for index, plan in enumerate(plans):
        before = writer.documents
        report = _share_of(context.report, index, len(plans), sources[index].source)
        outcomes = _collect_source(plan, writer, facts, report)
        summaries.append(
            {"declared": declared[index], "documents": writer.documents - before, "outcomes": dict(outcomes)}
        )
    writer.close()
    _refuse_empty(writer, summaries)
    outcomes = sum((Counter(summary["outcomes"]) for summary in summaries), Counter())
    counts = {"documents": writer.documents} | {f"outcome_{name}": count for name, count in sorted(outcomes.items())}
    details = {
        **{name: count for name, count in facts.items() if not name.startswith((COLUMN_FACT, *READING_FACTS))},
        "columns": _columns(facts),
        **_reading(facts),
        "data_type": _data_type(facts),
        "outcomes": dict(sorted(outcomes.items())),
        **writer.details(),
        "sources": summaries,
    }
    context.artifacts.storage.remove(_marker(draft))
    # A collection with holes is another artifact than the whole one, so that the next run asks for what is missing.
    final = draft.extended(missing=sorted(writer.missing)) if writer.missing else draft
    return final.commit(counts=counts, details=details)


def _columns(facts: Counter[str]) -> dict[str, list[str]]:
    """Which columns or fields stood for which role, over all tables that were read."""
    pairs = sorted(name.removeprefix(COLUMN_FACT).partition("=")[::2] for name in facts if name.startswith(COLUMN_FACT))
    return {role: [column for other, column in pairs if other == role] for role, _ in pairs}


def _reading(facts: Counter[str]) -> dict[str, Any]:
    """How conversations were read: `speakers` (a name in the data and the role it was given), `notes` (what was left
    out of records), `skipped` (what parsers met in files and left out, by reason), `unrecognized` (file -> columns,
    where none was recognised)."""
    details: dict[str, Any] = {}
    for prefix in ("speakers ", "notes ", "forms ", "skipped "):
        counts = {name.removeprefix(prefix): count for name, count in sorted(facts.items()) if name.startswith(prefix)}
        details |= {prefix.strip(): counts} if counts else {}
    unrecognized: dict[str, list[str]] = {}
    for name in facts:
        if name.startswith(UNRECOGNIZED_FACT):
            file, _, column = name.removeprefix(UNRECOGNIZED_FACT).partition("=")
            unrecognized.setdefault(file, []).append(column)
    return details | ({"unrecognized": unrecognized} if unrecognized else {})


def _data_type(facts: Counter[str]) -> str:
    """The most frequent type of the files: text, structured, image, audio or video."""
    counts = {name: facts[f"{name}_files"] for name in ("text", "structured", "image", "audio", "video")}
    return max(counts, key=counts.__getitem__)


def _first_attempt(draft: "Draft", collected_at: datetime) -> datetime:
    """When this collection was first started: one that was killed and resumed gives the same bytes as one that was
    not, the time on its documents included."""
    storage = draft.artifacts.storage
    if not storage.exists(_marker(draft)):
        storage.write(_marker(draft), collected_at.isoformat().encode())
    return datetime.fromisoformat(storage.read(_marker(draft)).decode())


def _marker(draft: "Draft") -> str:
    return f"{draft.prefix}/began"


def _collect_source(
    plan: "SourcePlan", writer: "DocumentWriter", facts: Counter[str], report: Callable[[float, str], None]
) -> Counter[str]:
    """Run one source's tasks; counts of the outcomes of all its files and pages."""
    from soldiom_ray.collect.tasks import run_tasks

    report(0.0, "looking")
    task_list = plan.list_tasks(lambda share, message: report(PLANNING * share, message))
    outcomes = Counter(writer.add(task_list.result))
    facts.update(task_list.result.facts)
    finished, before = 0, writer.documents

    def tick() -> None:
        share = PLANNING + (1 - PLANNING) * finished / max(1, len(task_list.tasks))
        report(share, f"{writer.documents - before} documents{task_list.status()}")

    for result in run_tasks(task_list.tasks, tick):
        outcomes.update(writer.add(result))
        facts.update(result.facts)
        finished += 1
        tick()
    return outcomes


def _plan(context: "Context", source: "Source", collected_at: datetime) -> "SourcePlan":
    from soldiom_ray.domains.sources import DatabaseSource, FilesSource, GithubSource, LocalSource, UrlSource

    if isinstance(source, LocalSource):
        from soldiom_ray.collect import local

        return local.plan(source, context, collected_at)
    if isinstance(source, FilesSource):
        from soldiom_ray.collect import files

        return files.plan(source, context, collected_at)
    if isinstance(source, GithubSource):
        from soldiom_ray.collect import github

        return github.plan(source, context, collected_at)
    if isinstance(source, DatabaseSource):
        from soldiom_ray.collect import database

        return database.plan(source, context, collected_at)
    if isinstance(source, UrlSource):
        from soldiom_ray.collect import web

        return web.plan(source, context, collected_at)
    from soldiom_ray.collect import huggingface

    return huggingface.plan(source, context, collected_at)


def _refuse_empty(writer: "DocumentWriter", summaries: Sequence[dict[str, Any]]) -> None:
    from soldiom_ray.collect.remedies import cause_and_remedy
    from soldiom_ray.errors import InputError, Problem, UnavailableError

    if writer.documents:
        return
    problems = []
    for index, summary in enumerate(summaries):
        outcomes = ", ".join(_outcome_text(count, name, writer) for name, count in sorted(summary["outcomes"].items()))
        declared = summary["declared"]
        where = (
            declared.get("path")
            or declared.get("url")
            or ", ".join(declared.get("paths") or declared.get("packages") or ())
        )
        named = f"collect[{index}] ({declared['source']}{' ' + where if where else ''})"
        problems.append(Problem(named, outcomes or "nothing was found"))
    if any(name.endswith("unavailable") for summary in summaries for name in summary["outcomes"]):
        raise UnavailableError(
            "The sources did not answer, so there are no documents.", remedy="run it again later", problems=problems
        )
    cause, remedy = cause_and_remedy(summaries)
    raise InputError(f"The sources gave no documents: {cause}.", remedy=remedy, problems=problems)


def _outcome_text(count: int, outcome: str, writer: "DocumentWriter") -> str:
    """An outcome with its count and the detail of its first example."""
    detail = writer.examples.get(outcome)
    return f"{count} {outcome}" + (f" ({detail})" if detail else "")


def _share_of(
    report: Callable[[float, str], None], index: int, count: int, source: str
) -> Callable[[float, str], None]:
    return lambda share, message: report((index + min(1.0, share)) / count, f"{source}: {message}")
