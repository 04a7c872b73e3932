"""Open the database that the settings name, run work in a transaction, keep its tables up to date."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from soldiom_ray.errors import BusyError, InputError, SoldiomError, StorageFullError, UnavailableError
from soldiom_ray.settings import Settings

MIGRATION_LOCK = 0x534C444D
"""Key of the advisory lock that keeps two processes from migrating at once."""

_engines: dict[str, Engine] = {}
_engines_lock = threading.Lock()


def open_database(settings: Settings) -> Engine:
    """The engine for the settings' database, one per URL and process. It connects when it is first used."""
    if not settings.database_url:
        raise UnavailableError("The database is not running.", remedy="run `soldiom up` or set SOLDIOM_DATABASE_URL")
    url = make_url(settings.database_url)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    key = url.render_as_string(hide_password=False)
    with _engines_lock:
        if key not in _engines:
            arguments = {"connect_timeout": 5} if url.get_backend_name() == "postgresql" else {}
            _engines[key] = create_engine(
                url,
                pool_pre_ping=True,
                pool_size=5,
                max_overflow=15,
                pool_timeout=15,
                pool_recycle=1800,
                connect_args=arguments,
                hide_parameters=True,
            )
        return _engines[key]


@contextmanager
def session(settings: Settings) -> Iterator[Session]:
    """One transaction: committed at the end, rolled back on any error. Faults of the database become our errors."""
    engine = open_database(settings)
    try:
        with Session(engine, expire_on_commit=False) as opened, opened.begin():
            yield opened
    except (DBAPIError, PoolTimeoutError) as error:
        known = _ours(error, engine)
        if known is None:
            raise
        raise known from error


def migrate(settings: Settings) -> None:
    """Bring the tables to this version's shape; safe to call from several processes at once."""
    _run(settings, lambda config: command.upgrade(config, "head"))


def downgrade(settings: Settings, revision: str) -> None:
    """Take the tables back to an earlier revision; "base" removes them with all their rows."""
    _run(settings, lambda config: command.downgrade(config, revision))


def _run(settings: Settings, step: Callable[[Config], None]) -> None:
    engine = open_database(settings)
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            step(alembic_config(connection))
    except (DBAPIError, PoolTimeoutError) as error:
        known = _ours(error, engine)
        if known is None:
            raise
        raise known from error


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for this package's migrations on an open connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _ours(error: DBAPIError | PoolTimeoutError, engine: Engine) -> SoldiomError | None:
    """Our error for a fault of the database, or None for what only a mistake in our code can cause.

    SQLSTATE classes: PostgreSQL manual, appendix A."""
    where = engine.url.render_as_string(hide_password=True)
    if isinstance(error, PoolTimeoutError):
        return BusyError("All connections to the database are in use.", remedy="try again", retry_after_seconds=2)
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if state == "53100":
        return StorageFullError("The database has no space left.", remedy="free space where PostgreSQL keeps its data")
    if state in ("40001", "40P01", "55P03"):
        return BusyError("The database is busy with a rival change.", remedy="try again")
    if state == "42P01" and isinstance(error, ProgrammingError):
        return UnavailableError(f"The database at {where} has no tables yet.", remedy="run `soldiom up`")
    if isinstance(error, DataError):
        return InputError(
            "A value holds a character or number that the database cannot store.", remedy="remove NUL characters"
        )
    if isinstance(error, (OperationalError, InterfaceError)) and (
        not state or state[:2] in ("08", "28", "3D", "53", "57")
    ):
        return UnavailableError(
            f"The database at {where} cannot be reached.", remedy="run `soldiom up` or check SOLDIOM_DATABASE_URL"
        )
    return None
