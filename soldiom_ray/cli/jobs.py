"""`soldiom jobs`, and how other commands run a job and follow it."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from soldiom_ray.cli.output import Json, follow, print_items, print_json, print_table, say
from soldiom_ray.settings import HOME_TENANT, load_settings

jobs_app = typer.Typer(help="List, show, follow and cancel jobs.", no_args_is_help=True)
JobId = Annotated[str, typer.Argument(help="The job's id.")]


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    app.add_typer(jobs_app, name="jobs")


def run_job(
    content: dict[str, Any], kind: str, table: Callable[[dict[str, Any]], Any] | None = None, owner: str = ""
) -> dict[str, Any]:
    """Launch a recipe given as plain values as a job of this kind, the tenant's or an `owner`'s; the job when it has
    completed. `table` is shown above its progress (see `follow`)."""
    from soldiom_ray import launch
    from soldiom_ray.domains.recipes import validate_recipe, with_absolute_paths
    from soldiom_ray.records import COMMAND_LINE

    settings = load_settings()
    recipe = with_absolute_paths(validate_recipe(content, f"soldiom {kind}"))
    whose: dict[str, Any] = {"owner": owner or COMMAND_LINE, "account": COMMAND_LINE}
    return follow(settings, launch.launch_job(settings, recipe, kind=kind, **whose), table)


def stage_of(job: dict[str, Any], name: str) -> dict[str, Any]:
    """The record of one stage of a job."""
    stage: dict[str, Any] = next(stage for stage in job["stages"] if stage["stage"] == name)
    return stage


@jobs_app.command("list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="pending, running, completed, failed or cancelled.")] = None,
    json: Json = False,
) -> None:
    """List jobs, newest first."""
    from soldiom_ray.db import jobs
    from soldiom_ray.db.engine import open_session

    with open_session(load_settings()) as session:
        rows, _ = jobs.list_jobs(session, HOME_TENANT, status=status, limit=100)
        items = [jobs.as_dict(row) for row in rows]
    print_items(
        items, ["id", "kind", "name", "status", "progress", "stage", "created_at", "error"], json, "No jobs yet."
    )


@jobs_app.command("show")
def show_job(job_id: JobId, json: Json = False) -> None:
    """Show a job and its stages."""
    from soldiom_ray import launch

    job = launch.show_job(load_settings(), job_id, HOME_TENANT)
    if json:
        print_json(job)
        return
    rows = {name: value for name, value in job.items() if name not in ("stages", "config", "problem")}
    if "problem" in job:
        rows["error"] = f"{job['problem']['title']}: {job['error']}"
    print_table([{"what": name, "value": value} for name, value in rows.items()], ["what", "value"])
    print_table(job["stages"], ["stage", "status", "seconds", "reused", "artifact_id", "message"])


@jobs_app.command("logs")
def show_logs(
    job_id: JobId,
    follow_log: Annotated[bool, typer.Option("--follow", help="Keep printing until the job has ended.")] = False,
    json: Json = False,
) -> None:
    """Print a job's log for people; with --json, its JSON lines (as one document, unless followed)."""
    from soldiom_ray import launch
    from soldiom_ray.logs import readable

    settings = load_settings()
    if json and not follow_log:
        print_json({"id": job_id, "logs": launch.job_logs(settings, job_id, HOME_TENANT)})
        return
    if follow_log:
        pieces = launch.follow_logs(settings, job_id, HOME_TENANT)
    else:
        pieces = iter([launch.job_logs(settings, job_id, HOME_TENANT)])
    if json:
        for piece in pieces:
            say(piece, end="", flush=True)
    else:
        for line in readable(pieces):
            say(line, flush=True)


@jobs_app.command("cancel")
def cancel_job(job_id: JobId, json: Json = False) -> None:
    """Stop a job and wait until it has ended. Its last checkpoint is kept."""
    from soldiom_ray import launch

    settings = load_settings()
    launch.cancel_job(settings, job_id, HOME_TENANT)
    *_, job = launch.wait_for_job(settings, job_id)
    print_json(job) if json else say(f"Job {job_id} is {job['status']}.")
