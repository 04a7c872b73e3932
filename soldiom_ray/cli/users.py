"""`soldiom users`: what is stored of one user, handed out and erased."""

from pathlib import Path
from typing import Annotated

import typer

from soldiom_ray.cli.output import Json, print_json, print_table, say
from soldiom_ray.errors import InputError
from soldiom_ray.settings import HOME_TENANT, load_settings

users_app = typer.Typer(help="What is stored of one user: export it, erase it.", no_args_is_help=True)
User = Annotated[str, typer.Argument(metavar="USER", help="`user_id` of inputs, questions and feedback.")]


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    app.add_typer(users_app, name="users")


@users_app.command("export")
def export(
    user: User,
    output: Annotated[Path, typer.Option(help="The ZIP archive to write.")] = Path("user.zip"),
    json: Json = False,
) -> None:
    """Write what is stored of a user: inputs, answers, feedback, batches, uploaded files, and which models learnt."""
    from soldiom_ray.users import export_user

    if output.exists():
        raise InputError(f"{str(output)!r} exists already.", remedy="name another file with --output")
    with output.open("xb") as file:
        try:
            output.chmod(0o600)
            counts = export_user(load_settings(), HOME_TENANT, user, file)
        except BaseException:
            output.unlink(missing_ok=True)
            raise
    print_json({"id": user, "path": str(output), **counts}) if json else say(f"Written: {output} ({counts})")


@users_app.command("erase")
def erase(
    user: User,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Erase what is stored of a user, with every dataset and index that holds it. Models that learnt from it are
    listed; they stay until they are deleted."""
    from soldiom_ray.records import COMMAND_LINE
    from soldiom_ray.users import erase_user

    if not yes and not typer.confirm(f"Erase all that is stored of user {user!r}, and every dataset that holds it?"):
        raise InputError("Nothing was erased.", remedy="answer yes, or give --yes")
    erased = erase_user(load_settings(), HOME_TENANT, user, actor=COMMAND_LINE)
    if json:
        print_json({"id": user, **erased})
        return
    counts = ", ".join(f"{erased[name]} {name}" for name in ("inputs", "answers", "feedback", "batches"))
    say(f"Erased: {counts}.")
    say(f"Removed: {', '.join(erased['artifacts']) or 'no artifact'}.")
    if erased["models"]:
        print_table(erased["models"], ["id", "name", "version", "deployed"], "Models that learnt from the user")
