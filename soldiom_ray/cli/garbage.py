"""`soldiom gc`: remove from storage what nothing refers to."""

from typing import Annotated

import typer

from soldiom_ray.cli.output import Json, print_json, print_table, say
from soldiom_ray.settings import load_settings


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    app.command("gc")(collect)


def collect(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be removed.")] = False,
    days: Annotated[int, typer.Option(min=0, help="Age of unfinished work and cached results that go.")] = 7,
    json: Json = False,
) -> None:
    """Remove from storage what nothing refers to: raw bytes of no document or input, shared files of no artifact, and,
    when they are old, cached results of parsing and what interrupted jobs had begun."""
    from soldiom_ray.garbage import collect_garbage

    counts = collect_garbage(load_settings(), days, remove=not dry_run)
    if json:
        print_json({"removed": not dry_run, "kinds": counts})
        return
    rows = [{"what": kind, "objects": n["objects"], "MB": round(n["bytes"] / 1e6, 1)} for kind, n in counts.items()]
    if rows:
        print_table(rows, ["what", "objects", "MB"], "Would be removed" if dry_run else "Removed")
    else:
        say("Nothing to remove: everything in storage is referred to.")
