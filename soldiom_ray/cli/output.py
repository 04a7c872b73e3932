"""Output of the commands: one JSON document on stdout with `--json`, tables otherwise; progress on stderr."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer

from soldiom_ray.errors import CancelledError, SoldiomError
from soldiom_ray.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def print_json(value: object) -> None:
    """Print the one document of a command on stdout."""
    print(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def print_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], title: str | None = None) -> None:
    """Print rows as a table on stdout, without the columns that are empty in every row."""
    from rich.console import Console
    from rich.table import Table

    rows = list(rows)
    shown = [column for column in columns if any(row.get(column) not in (None, "") for row in rows)]
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in shown or columns:
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=column.endswith("id"))
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in shown or columns))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def print_items(items: list[dict[str, Any]], columns: Sequence[str], as_json: bool, empty: str) -> None:
    """Print a list as `{"items": […]}` or as a table; `empty` when there is nothing to show in it."""
    if as_json:
        print_json({"items": items, "next": None})
    elif items:
        print_table(items, columns)
    else:
        print(empty)


def follow(settings: Settings, job: Mapping[str, Any]) -> dict[str, Any]:
    """Show a job's progress on stderr until it has ended. Returns the finished job, or raises what ended it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    from soldiom_ray import launch

    last: dict[str, Any] = dict(job)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<9}"), BarColumn(16), TextColumn("{task.percentage:>3.0f} %"))
    message = TextColumn("{task.fields[message]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
    reported: set[str] = set()
    told: set[str] = set()
    with Progress(*columns, TimeElapsedColumn(), message, console=console) as progress:
        bar = progress.add_task("waiting", total=1.0, message=f"job {job['id']}")
        for last in launch.wait_for_job(settings, str(job["id"])):
            for stage in last["stages"]:
                for text in (stage["details"] or {}).get("notes") or ():
                    if text not in told:
                        told.add(text)
                        progress.console.print(f"Note: {text}", highlight=False, markup=False)
                if stage["status"] == "completed" and stage["stage"] not in reported:
                    reported.add(stage["stage"])
                    duration = "reused, nothing to do" if stage["reused"] else f"{stage['seconds']:.1f} s"
                    progress.console.print(f"{stage['stage']:<9} {duration}", highlight=False)
                    progress.reset(bar, message="")
                elif stage["status"] == "running":
                    progress.update(
                        bar,
                        description=stage["stage"],
                        completed=stage["progress"] or 0,
                        message=stage["message"] or "",
                    )
        progress.update(bar, visible=False)
    return _completed(last)


def _completed(job: dict[str, Any]) -> dict[str, Any]:
    if job["status"] == "cancelled":
        raise CancelledError(
            f"Job {job['id']} was cancelled.", remedy="start it again to go on from its last checkpoint"
        )
    if job["status"] == "failed":
        error = SoldiomError.from_problem(job.get("problem") or {"detail": "no reason was written"})
        what = f"Job {job['id']} failed: {error.what}"
        raise type(error)(what, remedy=error.remedy, problems=error.problems)
    return job


def note(text: str) -> None:
    """Print a line for people, on stderr: stdout is for the command's result."""
    print(text, file=sys.stderr, flush=True)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return json.dumps(value, default=str, ensure_ascii=False)[:120]
    return str(value)
