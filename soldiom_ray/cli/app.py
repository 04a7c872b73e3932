"""All commands under one name, and what happens to errors. Heavy imports stay inside the commands."""

import os
import sys

import typer

from soldiom_ray.cli import data, registry, services, training
from soldiom_ray.errors import SoldiomError

app = typer.Typer(
    name="soldiom",
    help="Open data and your own documents become a specialised model behind an API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
services.add_commands(app)
data.add_commands(app)
training.add_commands(app)
registry.add_commands(app)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Options of the program itself."""
    if version:
        from soldiom_ray import __version__

        print(__version__)
        raise typer.Exit()


def main() -> None:
    """Entry point. Exit codes: 0 success, 2 wrong use, 3 a service is unreachable, 1 otherwise."""
    try:
        app()
    except SoldiomError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("Interrupted. A job that was started goes on; `soldiom jobs list` shows it.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
