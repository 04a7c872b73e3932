"""Open the database that the settings name, run work in a transaction, keep its tables up to date."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    InterfaceError,
    InvalidatePoolError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from soldiom_ray.db.anchor import write_anchor
from soldiom_ray.db.ownership import REACH, READER, Reach, current_reader
from soldiom_ray.errors import BusyError, InputError, SoldiomError, StorageFullError, UnavailableError
from soldiom_ray.settings import Settings

MIGRATION_LOCK = 0x534C444D
"""Key of the advisory lock that lets one process migrate at a time."""

_MYSQL_FAULTS = {
    1021: "full", 1114: "full", 3675: "full",
    1040: "unreachable", 1044: "unreachable", 1045: "unreachable", 1049: "unreachable", 1053: "unreachable",
    1129: "unreachable", 1130: "unreachable", 1203: "unreachable", 1226: "unreachable", 1698: "unreachable",
    2002: "unreachable", 2003: "unreachable", 2005: "unreachable", 2006: "unreachable", 2013: "unreachable",
    1020: "busy", 1205: "busy", 1213: "busy", 1969: "busy", 3024: "busy", 3572: "busy",
    1054: "other tables", 1146: "other tables",
    1264: "value", 1292: "value", 1366: "value", 1406: "value", 3140: "value", 4025: "value",
}  # fmt: skip
"""MySQL's and MariaDB's error numbers (their manuals' lists of server and client errors)."""

AUDIT_HEAD = "audit head"
"""In a session's `info`: the row of the audit trail that becomes the anchor when the transaction is committed."""

FRESH_SECONDS = 1.0
"""A connection that was in use so short a time ago is taken without asking whether the database is still there."""

_engines: dict[str, Engine] = {}
_engines_lock = threading.Lock()


def open_database(settings: Settings) -> Engine:
    """The engine for the settings' database, one per URL and process. It connects when it is first used."""
    if not settings.database_url:
        raise UnavailableError("The database is not running.", remedy="run `soldiom up` or set SOLDIOM_DATABASE_URL")
    url = make_url(settings.database_url)
    drivers = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "mariadb": "mysql+pymysql"}
    url = url.set(drivername=drivers.get(url.drivername, url.drivername))
    key = url.render_as_string(hide_password=False)
    with _engines_lock:
        if key not in _engines:
            dialect_options: dict[str, Any] = {}
            if url.get_backend_name() == "mysql":
                # What PostgreSQL does by itself: each statement sees what is committed, text is exact, time is UTC.
                url = url.update_query_dict({"charset": "utf8mb4"})
                dialect_options["isolation_level"] = "READ COMMITTED"
            engine = create_engine(
                url,
                pool_size=5,
                max_overflow=15,
                pool_timeout=15,
                pool_recycle=1800,
                connect_args={"connect_timeout": 5},
                hide_parameters=True,
                **dialect_options,
            )
            if engine.dialect.name in ("mysql", "mariadb"):
                event.listen(engine, "connect", _configure_mysql)
            _ping_what_rested(engine)
            _engines[key] = engine
        return _engines[key]


def _configure_mysql(connection: Any, _: object) -> None:
    """Keep times in UTC, refuse wrong values instead of truncating them, wait 15 s for another session's lock."""
    with connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00', innodb_lock_wait_timeout = 15, sql_mode = 'TRADITIONAL'")


def _ping_what_rested(engine: Engine) -> None:
    """Before a connection is used that has rested, see whether it works, and take another one where it does not:
    SQLAlchemy's `pool_pre_ping`, without a round trip for each of a request's sessions."""

    def checked_in(_: Any, record: Any) -> None:
        record.info["rests since"] = time.monotonic()

    def checked_out(connection: Any, record: Any, _: Any) -> None:
        if time.monotonic() - record.info.get("rests since", float("inf")) < FRESH_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error

    event.listen(engine, "checkin", checked_in)
    event.listen(engine, "checkout", checked_out)


@contextmanager
def open_session(settings: Settings, *, reach: Reach = "own", reads: bool = False) -> Iterator[Session]:
    """One transaction: committed at the end, rolled back on any error. Faults of the database become our errors. In a
    request or a job it finds what whoever acts may see, and what `reach` adds to that; see `ownership`. Where it
    `reads` alone, PostgreSQL takes each statement for itself, which saves two round trips."""
    engine = open_database(settings)
    info = {"settings": settings, READER: current_reader(), REACH: reach}
    bind = engine
    if reads and engine.dialect.name == "postgresql":
        bind = engine.execution_options(isolation_level="AUTOCOMMIT")
    with _translated_errors(engine), Session(bind, expire_on_commit=False, info=info) as session:
        with session.begin():
            yield session
        if (head := session.info.get(AUDIT_HEAD)) is not None:
            write_anchor(settings, head)


def migrate(settings: Settings) -> None:
    """Upgrade the tables to this version's schema; safe to call from several processes at once."""
    _run_migrations(settings, lambda config: command.upgrade(config, "head"))


def downgrade(settings: Settings, revision: str) -> None:
    """Downgrade the tables to an earlier revision; "base" removes them with all their rows."""
    _run_migrations(settings, lambda config: command.downgrade(config, revision))


def _run_migrations(settings: Settings, step: Callable[[Config], None]) -> None:
    engine = open_database(settings)
    with _translated_errors(engine), _mysql_lock(engine), engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        step(alembic_config(connection))


@contextmanager
def _mysql_lock(engine: Engine) -> Iterator[None]:
    """On MySQL, let one process migrate at a time: by a lock of a second connection, since each change of a table ends
    the first one's transaction. New tables distinguish "a" from "A" and from "a ", as ids and keys must be."""
    if engine.dialect.name == "postgresql":
        yield
        return
    name = {"name": f"soldiom-{engine.url.database}"[:64]}
    with engine.connect() as guard:
        if guard.execute(text("SELECT GET_LOCK(:name, 120)"), name).scalar() != 1:
            raise BusyError("Another process is changing the database's tables.", remedy="try again")
        try:
            collation = "utf8mb4_nopad_bin" if getattr(engine.dialect, "is_mariadb", False) else "utf8mb4_0900_bin"
            guard.execute(text(f"ALTER DATABASE CHARACTER SET utf8mb4 COLLATE {collation}"))
            yield
        finally:
            guard.execute(text("SELECT RELEASE_LOCK(:name)"), name)


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for this package's migrations on an open connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@contextmanager
def _translated_errors(engine: Engine) -> Iterator[None]:
    """Raise our error for a fault of the database; what only a mistake in our code can cause stays as it is."""
    try:
        yield
    except (DBAPIError, PoolTimeoutError) as error:
        translated = _translate(error, engine)
        if translated is None:
            raise
        raise translated from error


def _translate(error: DBAPIError | PoolTimeoutError, engine: Engine) -> SoldiomError | None:
    url = engine.url.render_as_string(hide_password=True)
    if isinstance(error, PoolTimeoutError):
        return BusyError("All connections to the database are in use.", remedy="try again", retry_after_seconds=2)
    match _fault(error):
        case "full":
            return StorageFullError("The database has no space left.", remedy="free space where it keeps its data")
        case "busy":
            return BusyError("The database is busy with a concurrent change.", remedy="try again")
        case "other tables":
            return _version_error(engine, url)
        case "value":
            return InputError(
                "A value holds a character or number that the database cannot store.", remedy="remove NUL characters"
            )
        case "unreachable":
            return UnavailableError(
                f"The database at {url} cannot be reached.", remedy="run `soldiom up` or check SOLDIOM_DATABASE_URL"
            )
    return None


def _version_error(engine: Engine, url: str) -> SoldiomError | None:
    """What to say of a database that lacks a table or a column; None where it has this version's, so that the mistake
    is our code's."""
    with engine.connect() as connection:
        script = ScriptDirectory.from_config(alembic_config(connection))
        found = MigrationContext.configure(connection).get_current_revision()
    if found is None:
        return UnavailableError(f"The database at {url} has no tables yet.", remedy="run `soldiom up`")
    if found == script.get_current_head():
        return None
    if found not in {revision.revision for revision in script.walk_revisions()}:
        return UnavailableError(
            f"The database at {url} has tables of a later version ({found}) of Soldiom.", remedy="use that version"
        )
    return UnavailableError(
        f"The database at {url} has tables of an earlier version ({found}) of Soldiom.",
        remedy="run `soldiom up`, or `soldiom migrate` where the services run elsewhere",
    )


def _fault(error: DBAPIError) -> str:
    """The kind of fault, or "". PostgreSQL gives a SQLSTATE (appendix A of its manual), MySQL's drivers a number."""
    number = error.orig.args[0] if error.orig is not None and error.orig.args else None
    if isinstance(number, int):
        fallback = "unreachable" if isinstance(error, InterfaceError) else ""
        return _MYSQL_FAULTS.get(number, "value" if isinstance(error, DataError) else fallback)
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if state == "53100":
        return "full"
    if state in ("40001", "40P01", "55P03"):
        return "busy"
    if state in ("42P01", "42703") and isinstance(error, ProgrammingError):  # no such table, no such column
        return "other tables"
    if isinstance(error, DataError):
        return "value"
    connection_lost = isinstance(error, (OperationalError, InterfaceError))
    return "unreachable" if connection_lost and (not state or state[:2] in ("08", "28", "3D", "53", "57")) else ""
