"""Commands for the services, keys, the audit trail and this machine: up, down, status, migrate, backup, restore,
doctor, env, keys, audit."""

import logging
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from soldiom_ray.cli.output import Json, note, print_items, print_json, print_table, say
from soldiom_ray.errors import InputError, SoldiomError, UnavailableError
from soldiom_ray.settings import HOME_TENANT, Settings, load_settings, save_secrets, write_private

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from soldiom_ray.db.tables import ApiKey

logger = logging.getLogger(__name__)
keys_app = typer.Typer(help="Create, list and revoke keys of the API.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    for command in (up, down, status, migrate, backup, restore, doctor, env, audit):
        app.command()(command)
    app.add_typer(keys_app, name="keys")


def up(json: Json = False) -> None:
    """Start Ray, PostgreSQL, Chroma, MLflow and the API; restart what has crashed. Prints every URL."""
    from soldiom_ray import services
    from soldiom_ray.db.engine import migrate

    began = time.monotonic()
    # A database elsewhere is used as long as the environment of `up` names it; other secrets stay until replaced.
    settings = save_secrets(load_settings(), forget=("SOLDIOM_DATABASE_URL",))
    services.up(settings, note, prepare=migrate)
    settings = load_settings()
    new_key = _local_key(settings)
    _restore_endpoints(settings)
    states = services.status(settings)
    seconds = round(time.monotonic() - began, 1)
    if json:
        print_json({"services": states, "seconds": seconds, **({"admin_key": new_key} if new_key else {})})
        return
    print_table([{"service": name, **row} for name, row in states.items()], ["service", "state", "url", "detail"])
    say(f"\nUp in {seconds} s. In the browser: {settings.api_url} (its key: {settings.local_key_path})")
    if new_key:
        say(f"Admin key (shown only this once; stored for this user in {settings.local_key_path}):\n  {new_key}")


def down(json: Json = False) -> None:
    """Stop the services that `up` started. Data is kept. Exit code 1 where something was lost or not stopped; the rest
    is stopped all the same."""
    from soldiom_ray import launch, services

    settings, lost = load_settings(), ""
    try:
        launch.store_logs(settings, unfinished=True)
    except UnavailableError as error:  # what is stopped already has nothing to store
        logger.info("logs of jobs not stored", extra={"data": {"reason": error.what}})
    except Exception as error:  # whatever it is: a refused token, a full disk; services that go on would be worse
        lost = error.what if isinstance(error, SoldiomError) else type(error).__name__
    services.down(settings)
    print_json({"services": services.status(settings)}) if json else say("All services of this home are stopped.")
    if lost:
        raise SoldiomError(
            f"The logs of the last jobs were not stored before Ray was stopped: {lost}",
            remedy="`soldiom doctor` names a token that is not this home's, or storage that cannot be written",
        )


def status(json: Json = False) -> None:
    """Show every service, its state, its URL and its restarts. Exit code 3 when one is not running."""
    from soldiom_ray import services

    settings = load_settings()
    services.ensure_supervisor(settings)
    states = services.status(settings)
    if json:
        print_json({"services": states})
    else:
        print_table(
            [{"service": name, **row} for name, row in states.items()], ["service", "state", "url", "pid", "detail"]
        )
    if any(row["state"] not in ("running", "external") for row in states.values()):
        raise typer.Exit(3)


def migrate(json: Json = False) -> None:
    """Bring the database's tables to this version. `up` does it too; clusters do it before their nodes start."""
    from soldiom_ray.db.engine import migrate as migrate_tables

    migrate_tables(load_settings())
    print_json({"state": "migrated"}) if json else say("The database's tables are those of this version.")


def backup(
    target: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="A new file, or a folder for one.")],
    json: Json = False,
) -> None:
    """Write everything of this home to one file while it runs; sealed where SOLDIOM_ENCRYPTION_KEY is set."""
    from soldiom_ray import services

    done = services.back_up(load_settings(), target)
    if json:
        print_json(done)
        return
    sealed = "sealed with SOLDIOM_ENCRYPTION_KEY" if done["sealed"] else "not sealed: whoever reads it has every key"
    say(f"{done['path']}: {done['files']} files, {done['bytes'] >> 20} MiB, {sealed}")
    for name, remedy in done["left_out"].items():
        say(f"Not in it: {name}. {remedy}")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `soldiom backup` wrote.")], json: Json = False
) -> None:
    """Make the home of SOLDIOM_HOME, which must be empty, from a backup; then run `soldiom up`."""
    from soldiom_ray import services

    settings = load_settings()
    done = services.restore(settings, file)
    if json:
        print_json(done)
    else:
        say(f"{settings.home}: {done['files']} files, as they were at {done['at']}. Now run `soldiom up`.")


def doctor(
    production: Annotated[bool, typer.Option("--production", help="Also what must hold before others come.")] = False,
    url: Annotated[str, typer.Option(help="With --production: the public address, looked at from outside.")] = "",
    json: Json = False,
) -> None:
    """Check this machine: what is wrong and how to fix it. Exit code 1 when something must be fixed."""
    from soldiom_ray import services

    settings = load_settings()
    findings = services.doctor(settings)
    if production or url:
        findings += services.check_production(settings, url)
    if json:
        print_json({"items": findings})
    else:
        print_table(findings, ["check", "state", "detail", "remedy"])
    if any(finding["state"] == "error" for finding in findings):
        raise typer.Exit(1)


def env(json: Json = False) -> None:
    """Print environment variables for Ray's and MLflow's own tools: eval "$(soldiom env)"."""
    from soldiom_ray import services

    variables = services.environment(load_settings())
    if json:
        print_json(variables)
    else:
        for name, value in variables.items():
            say(f"export {name}={shlex.quote(value)}")


def audit(
    action: Annotated[
        Literal["show", "verify"], typer.Argument(help="verify: check the trail only.", show_default=False)
    ] = "show",
    limit: Annotated[int, typer.Option(help="At most this many entries, newest first.")] = 50,
    json: Json = False,
) -> None:
    """Show the audit trail and check that it was not changed, cut or emptied. Exit code 1 when it was."""
    from soldiom_ray.db import audit as trail
    from soldiom_ray.db.engine import open_session

    with open_session(load_settings()) as session:
        rows, _ = trail.list_rows(session, None, limit=limit) if action == "show" else ([], None)
        items = [trail.as_dict(row) for row in rows]
        first_bad = trail.verify(session)
    if json:
        print_json({"items": items, "holds": first_bad is None, "first_bad_seq": first_bad})
    else:
        if action == "show":
            print_table(items, ["seq", "at", "actor", "action", "object", "decision"])
        say("The chain is intact." if first_bad is None else f"The chain is broken at entry {first_bad}.")
    if first_bad is not None:
        raise typer.Exit(1)


@keys_app.command("create")
def create_key(
    role: Annotated[str, typer.Option(help="viewer, user, trainer or admin.")],
    name: Annotated[str, typer.Option(help="What or who the key is for.")] = "",
    tenant: Annotated[str, typer.Option(help="Whose data the key sees.")] = HOME_TENANT,
    user: Annotated[
        str | None, typer.Option(help="Id of another key: this one owns and sees what that one does.")
    ] = None,
    json: Json = False,
) -> None:
    """Create a key. It is shown only this once."""
    from soldiom_ray.db import keys
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.records import ROLES

    if role not in ROLES:
        raise InputError(f"Role is {role!r}; known: {', '.join(ROLES)}.", remedy="give one of them with --role")
    with open_session(load_settings()) as session:
        row, key = keys.create(session, role=role, name=name, tenant=tenant, user=user)
        _record_key(session, "keys create", row)
        record = keys.as_dict(row) | {"key": key}
    if json:
        print_json(record)
    else:
        say(f"Key {record['id']} for role {role} (shown only this once):\n  {key}")


@keys_app.command("list")
def list_keys(json: Json = False) -> None:
    """List all keys, without their secrets."""
    from soldiom_ray.db import keys
    from soldiom_ray.db.engine import open_session

    with open_session(load_settings()) as session:
        items = [keys.as_dict(row) for row in keys.list_keys(session)[0]]
    print_items(items, ["id", "user", "name", "role", "tenant", "prefix", "created_at", "revoked_at"], json, "No keys.")


@keys_app.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="The key's id.")], json: Json = False) -> None:
    """Revoke a key at once."""
    from soldiom_ray.db import keys
    from soldiom_ray.db.engine import open_session

    with open_session(load_settings()) as session:
        revoked = keys.revoke(session, key_id)
        _record_key(session, "keys revoke", revoked)
        row: dict[str, Any] = keys.as_dict(revoked)
    print_json(row) if json else say(f"Key {key_id} is revoked.")


def _local_key(settings: Settings) -> str | None:
    """Create the admin key of this home on the first `up`; None when it exists and is valid."""
    from soldiom_ray.db import keys
    from soldiom_ray.db.engine import open_session

    with open_session(settings) as session:
        if settings.local_key_path.exists() and keys.find(session, settings.local_key_path.read_text().strip()):
            return None
        row, key = keys.create(session, role="admin", name="local command line", tenant=HOME_TENANT)
        _record_key(session, "up", row)
    write_private(settings.local_key_path, key)
    return key


def _record_key(session: "Session", action: str, row: "ApiKey") -> None:
    """A row of the audit trail for a key that this command has made or revoked."""
    from soldiom_ray.db import audit as trail
    from soldiom_ray.records import COMMAND_LINE

    details = {"name": row.name, "role": row.role, "prefix": row.prefix}
    trail.append(session, COMMAND_LINE, action, f"key {row.id}", "allow", details, row.tenant)


def _restore_endpoints(settings: Settings) -> None:
    """Deploy again, in the background, the models that were deployed when the services stopped."""
    from soldiom_ray import launch

    try:
        restored = launch.restore_endpoints(settings)
    except UnavailableError as error:
        note(f"Deployed models were not restored: {error}")
        return
    if restored:
        note(f"Deploying {restored} model(s) again in the background; `soldiom models list` shows them.")
