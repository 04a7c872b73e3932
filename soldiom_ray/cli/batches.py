"""A file of inputs answered by a job, and its answers as a file."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from soldiom_ray.cli.inputs import read_inputs
from soldiom_ray.cli.jobs import JobId, jobs_app
from soldiom_ray.cli.output import Json, follow, print_json, say
from soldiom_ray.errors import InputError
from soldiom_ray.settings import HOME_TENANT, load_settings


def answer_file(model_id: str, file: Path, output: Path | None, options: dict[str, Any], json: bool) -> None:
    """Have a job answer a file's inputs, follow it, and write the answers beside the file or to `output`. The job of an
    earlier command with the same inputs is followed where it still runs, and gone on with where it was ended."""
    from soldiom_ray import launch
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.domains.hosting import address_of
    from soldiom_ray.records import COMMAND_LINE

    target, settings = output or file.with_suffix(".answers.jsonl"), load_settings()
    _check_new(target)
    inputs = read_inputs(file)
    with open_session(settings) as session:
        model = models.get(session, model_id, HOME_TENANT)
        address_of(session, model)
    job = launch.launch_batch(settings, model, {"inputs": inputs, **options}, owner=COMMAND_LINE, joins=True)
    follow(settings, launch.show_job(settings, job.id, HOME_TENANT))
    _write(job.id, target, json)


def add_commands(app: typer.Typer) -> None:
    """Put this module's command under `soldiom jobs`."""
    jobs_app.command("answers")(answers)


def answers(
    job_id: JobId,
    output: Annotated[Path, typer.Option(help="The file of JSON lines to write.")] = Path("answers.jsonl"),
    json: Json = False,
) -> None:
    """Write the answers of a job that has answered a file of inputs."""
    _check_new(output)
    _write(job_id, output, json)


def _check_new(path: Path) -> None:
    if path.exists():
        raise InputError(f"{str(path)!r} exists already.", remedy="name another file with --output")


def _write(job_id: str, path: Path, json: bool) -> None:
    """Write a job's answers to a new file of its owner alone, whole or not at all."""
    from soldiom_ray import batches
    from soldiom_ray.db import jobs
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.storage import open_storage

    settings = load_settings()
    with open_session(settings) as session:
        job = jobs.get(session, job_id, HOME_TENANT)
        if job.kind != batches.KIND:
            raise InputError(f"Job {job_id} is of the kind {job.kind}; it has answered no inputs.")
        batches.check_finished(job)
    draft = path.with_name(f".{path.name}.draft")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for piece in batches.result_parts(open_storage(settings), job.config["folder"], job.config["inputs"]):
                file.write(piece)
        draft.replace(path)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written: {error.strerror}.", remedy="name another file") from error
    finally:
        draft.unlink(missing_ok=True)
    if json:
        print_json({"job": job_id, "path": str(path), **job.result})
    else:
        failed = f", {job.result['errors']} of them errors" if job.result["errors"] else ""
        say(f"{job.result['inputs']} answers{failed}: {path}")
