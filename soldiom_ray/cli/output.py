"""Output of the commands: one JSON document on stdout with `--json`, tables otherwise; progress on stderr."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from soldiom_ray.errors import CancelledError, SoldiomError
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_SCORES = 5
SILENT_SECONDS = 20.0
"""Where stderr is no terminal, which shows a bar that moves, a line tells how far a stage is after so long."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


_COMMANDING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb]"
)
"""Characters that command a terminal (escape sequences, in C0 and C1) or turn the direction of a text around, and
halves of characters, which no terminal can show."""


def printable(text: str) -> str:
    """A text without what commands a terminal: such characters are spelled, as `\\x1b`. Names of files, titles, answers
    of models come from others."""
    return _COMMANDING.sub(_spelled, text.replace("\r\n", "\n"))


def say(text: object = "", *, end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """Print a text for people; every command prints with this."""
    print(printable(str(text)), end=end, file=file, flush=flush)


def print_json(value: object) -> None:
    """Print the one document of a command on stdout; it can be looked at on a terminal, too."""
    document = json.dumps(value, indent=2, default=str, ensure_ascii=False)
    print(_COMMANDING.sub(lambda match: f"\\u{ord(match[0]):04x}", document))


def output_text(output: object) -> str:
    """A model's output as text for people: of a classifier its label, and below the likeliest ones' probabilities."""
    if not isinstance(output, Mapping):
        return str(output)
    scores: dict[str, float] = output["scores"]
    head = ", ".join(output["labels"]) or "(no label)" if "labels" in output else str(output["label"])
    if output.get("abstained"):
        head = f"(not sure enough to answer; the likeliest is {head})"
    width = max(map(len, list(scores)[:SHOWN_SCORES]))
    lines = [f"  {name:<{width}}  {share:.3f}" for name, share in list(scores.items())[:SHOWN_SCORES]]
    more = [f"  and {len(scores) - SHOWN_SCORES} more"] if len(scores) > SHOWN_SCORES else []
    return "\n".join([head, *lines, *more])


def _spelled(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def print_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], title: str | None = None) -> None:
    """Print rows as a table on stdout, without the columns that are empty in every row."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(table_of(rows, columns, title))


def table_of(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], title: str | None = None) -> "Table":
    """Rows as a table, without the columns that are empty in every row."""
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    shown = [column for column in columns if any(row.get(column) not in (None, "") for row in rows)]
    heading = Text(printable(title)) if title else None
    table = Table(title=heading, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in shown or columns:
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=column.endswith("id"))
    for row in rows:
        table.add_row(*(Text(printable(_cell(row.get(column)))) for column in shown or columns))
    return table


def print_items(items: list[dict[str, Any]], columns: Sequence[str], as_json: bool, empty: str) -> None:
    """Print a list as `{"items": […]}` or as a table; `empty` when there is nothing to show in it."""
    if as_json:
        print_json({"items": items, "next": None})
    elif items:
        print_table(items, columns)
    else:
        say(empty)


def follow(
    settings: Settings, job: Mapping[str, Any], table: Callable[[dict[str, Any]], Any] | None = None
) -> dict[str, Any]:
    """Show a job's progress on stderr until it has ended, on a terminal with `table` of it above. Returns the finished
    job, or raises what ended it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    from soldiom_ray import launch

    last: dict[str, Any] = dict(job)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<9}"), BarColumn(16), TextColumn("{task.percentage:>3.0f} %"))
    message = TextColumn(
        "{task.fields[message]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
    )
    printed: set[str] = set()
    spoke = time.monotonic()

    class Following(Progress):
        def get_renderables(self) -> Iterable[Any]:
            if table is not None and console.is_terminal and (shown := table(last)) is not None:
                yield shown
            yield self.make_tasks_table(self.tasks)

    with Following(*columns, TimeElapsedColumn(), message, console=console) as progress:
        bar = progress.add_task("waiting", total=1.0, message=f"job {job['id']}")
        for last in launch.wait_for_job(settings, str(job["id"])):
            for stage in last["stages"]:
                lines = [line for line in _lines(stage) if line not in printed]
                if stage["status"] == "running":
                    share, text = stage["progress"] or 0, printable(stage["message"] or "")
                    progress.update(bar, description=stage["stage"], completed=share, message=text)
                    if not console.is_terminal and time.monotonic() - spoke >= SILENT_SECONDS:
                        lines.append(f"{stage['stage']:<9} {100 * share:.0f} %: {text or 'starting'}")
                elif stage["status"] == "completed" and lines:
                    progress.reset(bar, message="")
                for line in lines:
                    console.print(line, highlight=False, markup=False, soft_wrap=True)
                    spoke = time.monotonic()
                printed.update(lines)
        progress.update(bar, visible=False)
    return _completed(last)


def _lines(stage: Mapping[str, Any]) -> list[str]:
    """What is to be said of a stage once: its notes, and its seconds when it has ended."""
    notes = (stage["details"] or {}).get("notes")
    # A collection counts what it left out, which its mapping shows.
    lines = [f"Note: {printable(text)}" for text in notes] if isinstance(notes, list) else []
    if stage["status"] == "completed":
        duration = "reused, nothing to do" if stage["reused"] else f"{stage['seconds']:.1f} s"
        lines.append(f"{stage['stage']:<9} {duration}")
    return lines


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
    say(text, file=sys.stderr, flush=True)


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
