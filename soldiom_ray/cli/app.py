"""All commands under one name, and what happens to errors. Heavy imports stay inside the commands."""

import os
import sys
import traceback

import typer

from soldiom_ray.cli import (
    batches,
    chat,
    collect,
    datasets,
    encryption,
    evaluation,
    federation,
    feedback,
    garbage,
    jobs,
    models,
    new_domain,
    planning,
    prepare,
    services,
    specialists,
    sweep,
    training,
    usage,
    users,
    workflow,
)
from soldiom_ray.cli.output import say
from soldiom_ray.errors import SoldiomError

app = typer.Typer(
    name="soldiom",
    help="Turn open data and your own documents into a specialised model behind an API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (
    services,
    workflow,
    collect,
    prepare,
    datasets,
    planning,
    training,
    sweep,
    federation,
    evaluation,
    jobs,
    batches,
    models,
    chat,
    new_domain,
    feedback,
    usage,
    users,
    encryption,
    garbage,
    specialists,
):
    module.add_commands(app)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Options of the program itself."""
    if version:
        from soldiom_ray import __version__

        say(__version__)
        raise typer.Exit()


def main() -> None:
    """Entry point. Exit codes: 0 success, 2 wrong use, 3 a service is unreachable, 1 otherwise."""
    code = _run()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = 1
    # Threads of native libraries (pyarrow's, after reading Parquet) can abort the interpreter while it is taken down.
    os._exit(code)


def _run() -> int:
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except SoldiomError as error:
        say(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        say("Interrupted. A job that was started goes on; `soldiom jobs list` shows it.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception:
        say(traceback.format_exc(), end="", file=sys.stderr)
        return 1
    return 0
