"""Reading a database without changing it: connect to a checked address, one read-only snapshot, rows streamed.

What a server says is passed on only where it names a table, a column or a position in the query: its other words may
hold values.
"""

import os
import re
import sqlite3
import stat
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soldiom_ray.collect.address import allowed_addresses, connect
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.connections import DatabaseAddress
from soldiom_ray.errors import InputError, SoldiomError, UnavailableError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import Inspector

CONNECT_SECONDS = 10
ROWS_AT_ONCE = 500
READING_WORDS = ("select", "with", "values", "table")

_NAMES = r'"(?:[^"]|"")*"|`[^`]*`'
_MARKED = {
    "mysql": (r"--[^\n]*|/\*.*?\*/|#[^\n]*", rf"""'(?:[^'\\]|''|\\.)*'|"(?:[^"\\]|""|\\.)*"|{_NAMES}"""),
    "postgresql": (
        r"--[^\n]*|/\*.*?\*/",
        rf"""\b[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|{_NAMES}|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$""",
    ),
    "sqlite": (r"--[^\n]*|/\*.*?\*/", rf"'(?:[^']|'')*'|{_NAMES}|\[[^\]]*\]"),
}
"""Comments and quoted text of each dialect, where a semicolon does not end a statement."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A table (with the columns of its primary key, in whose order it is read) or a query. `is_limited` says that
    the statement itself limits the rows."""

    name: str
    statement: str
    key: tuple[str, ...] = ()
    is_limited: bool = False


class Reader:
    """An open database. `tables` and `query` say what can be read, `rows` reads it."""

    def __init__(self, connection: "Connection", address: DatabaseAddress, timeout_seconds: int) -> None:
        self.connection = connection
        self.address = address
        self.timeout_seconds = timeout_seconds

    def tables(self, names: Sequence[str], max_rows: int | None, group_by: str = "") -> list[Selection]:
        """Those named (NAME or SCHEMA.NAME), or all of the default schema, each in the order of the column `group_by`,
        where it has it, and of its primary key. Raises InputError that names what does not exist."""
        from sqlalchemy import inspect

        with _database_errors(self.address):
            inspector = inspect(self.connection)
            chosen = self._chosen(inspector, names)
            views = set(inspector.get_view_names())
            quote = self.connection.dialect.identifier_preparer.quote_identifier
            selections = []
            for schema, name in chosen:
                is_view = name in views or (schema is not None and name in inspector.get_view_names(schema))
                key = [] if is_view else inspector.get_pk_constraint(name, schema=schema)["constrained_columns"]
                columns = {column["name"] for column in inspector.get_columns(name, schema=schema)} if group_by else ()
                order_columns = ([group_by] if group_by in columns else []) + list(key)
                order = f" ORDER BY {', '.join(map(quote, order_columns))}" if order_columns else ""
                limit = f" LIMIT {max_rows + 1}" if max_rows else ""
                table = ".".join(quote(part) for part in (schema, name) if part)
                label = f"{schema}.{name}" if schema else name
                selections.append(Selection(label, f"SELECT * FROM {table}{order}{limit}", tuple(key), bool(max_rows)))  # noqa: S608
            return selections

    def _chosen(self, inspector: "Inspector", names: Sequence[str]) -> list[tuple[str | None, str]]:
        """(schema, table) of what was named, or of all tables."""
        known = sorted(inspector.get_table_names())
        chosen: list[tuple[str | None, str]] = [(None, name) for name in known] if not names else []
        for name in dict.fromkeys(names):
            schema, _, bare = name.rpartition(".")
            if inspector.has_table(name):
                chosen.append((None, name))
            elif schema and inspector.has_table(bare, schema=schema):
                chosen.append((schema, bare))
            else:
                raise InputError(
                    f"{self.address.public_url} has no table {name[:100]!r}.",
                    remedy=f"tables of the default schema: {', '.join(known[:30]) or 'none'}",
                )
        if not chosen:
            raise InputError(
                f"{self.address.public_url} has no tables that this user sees.", remedy="name them, or give a query"
            )
        return chosen

    def rows(self, selection: Selection) -> Generator[tuple[list[str], tuple[Any, ...]], None, None]:
        """Column names and values, row by row, as the server sends them."""
        with _database_errors(self.address):
            if self.address.backend == "sqlite":
                _guard_sqlite(self.connection, self.timeout_seconds)
            options = {"stream_results": True, "yield_per": ROWS_AT_ONCE, "no_parameters": True}
            result = self.connection.exec_driver_sql(selection.statement, execution_options=options)
            names = list(result.keys())
            try:
                for row in result:
                    yield names, tuple(row)
            except GeneratorExit:
                if self.address.backend == "mysql" and not selection.is_limited:
                    self.connection.invalidate()  # its cursor would first read all that is left
                else:
                    result.close()
                raise


def checked_query(query: str, backend: str) -> str:
    """One statement that reads, without its last semicolon. Raises InputError for several, or for another
    kind. The read-only transaction refuses what gets past this."""
    comment, quoted = _MARKED[backend]
    bare = re.sub(f"({comment})|({quoted})", lambda match: " " if match[1] else "''", query, flags=re.DOTALL)
    statement, _, rest = bare.partition(";")
    if rest.replace(";", "").strip():
        raise InputError("The query holds several statements.", remedy="give one SELECT")
    words = re.findall(r"[A-Za-z_]+", statement)
    first = words[0].lower() if words else ""
    if first not in READING_WORDS:
        raise InputError(
            f"The query begins with {first[:20].upper()!r}, which does not read." if first else "The query is empty.",
            remedy="give one SELECT (or WITH ... SELECT)",
        )
    if re.search(r"\binto\b", statement, re.IGNORECASE):
        raise InputError("The query holds INTO, which writes.", remedy="give a SELECT without it")
    return query.strip().rstrip(";").rstrip()


@contextmanager
def open_reader(
    address: DatabaseAddress, password: str | None, *, allowed: Sequence[str], private: bool, timeout_seconds: int
) -> Iterator[Reader]:
    """One read-only snapshot of a database. Raises UnavailableError when it cannot be reached, InputError
    when it refuses."""
    if (address.backend == "sqlite" or address.socket) and not private:
        raise InputError(
            "Databases in files and behind sockets of this machine are for administrators.", remedy="set `private`"
        )
    makers = {"postgresql": _postgresql, "mysql": _mysql}
    addresses: list[str] = []
    if address.host:
        try:
            addresses = allowed_addresses(address.host, address.port, allowed, private)
        except SkippedError as skipped:
            raise _unreachable(address, skipped) from skipped
    if address.backend == "sqlite":
        engine = _sqlite(address)
    else:
        engine = makers[address.backend](address, password, addresses, timeout_seconds)
    try:
        with _database_errors(address), engine.connect() as connection:
            yield Reader(connection, address, timeout_seconds)
    finally:
        engine.dispose()


def _postgresql(
    address: DatabaseAddress, password: str | None, addresses: Sequence[str], timeout_seconds: int
) -> "Engine":
    """Times, dates and intervals come as text: Python's types do not hold PostgreSQL's infinity and years BC."""
    import psycopg
    from psycopg.types.string import TextLoader

    def open_connection() -> Any:
        connection = psycopg.connect(
            host=address.socket or ",".join([address.host] * len(addresses)),
            hostaddr=None if address.socket else ",".join(addresses),
            port=",".join([str(address.port)] * max(1, len(addresses))),
            user=address.user or None,
            # Never what this machine's own user keeps in PGPASSWORD or ~/.pgpass for some other server.
            password=password or "-",
            passfile=os.devnull,
            dbname=address.database,
            sslmode=address.sslmode,
            sslrootcert="system" if address.sslmode == "verify-full" else None,
            gssencmode="disable",
            connect_timeout=CONNECT_SECONDS,
            client_encoding="utf8",
            application_name="soldiom",
        )
        for name in ("timestamptz", "timestamp", "date", "time", "timetz", "interval"):
            connection.adapters.register_loader(name, TextLoader)
        for setting in (
            "default_transaction_read_only = on",
            f"statement_timeout = {timeout_seconds * 1000}",
            "timezone = 'UTC'",
            "datestyle = 'ISO'",
        ):
            connection.execute(f"SET {setting}")
        connection.commit()
        return connection

    return _engine(
        "postgresql+psycopg://", open_connection, isolation_level="REPEATABLE READ", execution_options=_POSTGRESQL_READS
    )


_POSTGRESQL_READS = {"postgresql_readonly": True}


def _mysql(address: DatabaseAddress, password: str | None, addresses: Sequence[str], timeout_seconds: int) -> "Engine":
    import pymysql  # type: ignore[import-untyped]
    from pymysql.constants import FIELD_TYPE  # type: ignore[import-untyped]
    from pymysql.converters import conversions  # type: ignore[import-untyped]

    texts = (FIELD_TYPE.DATE, FIELD_TYPE.DATETIME, FIELD_TYPE.TIMESTAMP, FIELD_TYPE.TIME)
    # Without a converter a value comes as the server's text, which also holds 0000-00-00.
    converters = {kind: convert for kind, convert in conversions.items() if kind not in texts}
    tls: dict[str, Any] = {"ssl_disabled": True} if address.sslmode == "disable" else {}
    if address.sslmode in ("require", "verify-full"):
        import ssl

        context = ssl.create_default_context()
        if address.sslmode == "require":
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        tls = {"ssl": context}

    def open_connection() -> Any:
        connection = pymysql.connect(
            host=address.host or None,
            port=address.port,
            unix_socket=address.socket or None,
            user=address.user or None,
            password=password or "",
            database=address.database,
            charset="utf8mb4",
            conv=converters,
            connect_timeout=CONNECT_SECONDS,
            read_timeout=timeout_seconds + 30,
            write_timeout=60,
            local_infile=False,
            defer_connect=True,
            **tls,
        )
        if address.socket:
            connection.connect()
        else:
            try:
                connection.connect(connect(addresses, address.port, CONNECT_SECONDS))
            except SkippedError as skipped:
                raise _unreachable(address, skipped) from skipped
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor.execute("SET time_zone = '+00:00'")
            if "mariadb" in connection.get_server_info().lower():
                cursor.execute(f"SET SESSION max_statement_time = {timeout_seconds}")
            else:
                cursor.execute(f"SET SESSION max_execution_time = {timeout_seconds * 1000}")
        return connection

    return _engine("mysql+pymysql://", open_connection)


def _sqlite(address: DatabaseAddress) -> "Engine":
    from urllib.parse import quote

    def open_connection() -> Any:
        if not stat.S_ISREG(os.stat(address.database).st_mode):
            raise InputError(f"{address.public_url} is no file.", remedy="give the path of an SQLite file")
        connection = sqlite3.connect(f"file:{quote(address.database)}?mode=ro", uri=True, timeout=CONNECT_SECONDS)
        connection.text_factory = lambda data: data.decode(errors="replace")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return connection

    return _engine("sqlite://", open_connection)


def _engine(dialect: str, open_connection: Any, **more: Any) -> "Engine":
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    return create_engine(dialect, creator=open_connection, poolclass=NullPool, hide_parameters=True, **more)


def _guard_sqlite(connection: "Connection", timeout_seconds: int) -> None:
    """From here on only reading is authorised (no other file can be attached), and only until the timeout."""
    driver_connection = connection.connection.driver_connection
    if not isinstance(driver_connection, sqlite3.Connection):
        return
    allowed = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
    deadline = time.monotonic() + timeout_seconds
    driver_connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY)
    driver_connection.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)


@contextmanager
def _database_errors(address: DatabaseAddress) -> Iterator[None]:
    """Errors of the database as ours. Raises InputError, UnavailableError."""
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    try:
        yield
    except DBAPIError as error:
        raise _to_error(address, error.orig or error) from None
    except (OSError, sqlite3.Error) as error:
        raise _to_error(address, error) from None
    except SQLAlchemyError as error:
        raise InputError(
            f"{address.public_url} cannot be read ({type(error).__name__}).", remedy="name the tables, or give a query"
        ) from None


_CAUSES: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("password", ("28P01", "28000", "1045", "1698"), "refuses the user or the password", "check both"),
    ("database", ("3D000", "1049", "1044"), "has no such database, or the user may not open it", "check its name"),
    ("table", ("42P01", "1146"), "has no such table", "check the query"),
    ("column", ("42703", "1054"), "has no such column", "check the query"),
    ("right", ("42501", "1142", "1143"), "does not let this user read that", "ask its administrator"),
    ("writes", ("25006", "1792"), "is read only here, and the query writes", "give one SELECT"),
    ("timeout", ("57014", "3024", "1969"), "took longer than the time limit", "raise `timeout_seconds`"),
    ("syntax", ("42601", "1064"), "does not understand the query", "check its syntax"),
    ("busy", ("53300", "1040", "57P03"), "takes no more connections now", "try again"),
)
_MESSAGES = (
    ("password", r"password authentication failed|no password supplied|no pg_hba\.conf|role \".*\" does not exist"),
    ("database", r"database \".*\" does not exist"),
    ("timeout", r"^interrupted"),
    ("writes", r"readonly database|not authorized"),
    ("table", r"no such table"),
    ("column", r"no such column"),
    ("syntax", r"syntax error|incomplete input|unrecognized token|one statement at a time"),
    ("busy", r"too many (clients|connections)|starting up"),
)


def _to_error(address: DatabaseAddress, error: BaseException) -> SoldiomError:
    if isinstance(error, SoldiomError):
        return error
    number = error.args[0] if error.args and isinstance(error.args[0], int) else ""
    code = str(number or getattr(error, "sqlstate", None) or "")
    message = " ".join(str(part) for part in error.args)
    cause = next((cause for cause in _CAUSES if code in cause[1]), None)
    if cause is None:
        name = next((name for name, pattern in _MESSAGES if re.search(pattern, message)), "")
        cause = next((cause for cause in _CAUSES if cause[0] == name), None)
    if cause is None:
        if address.backend == "sqlite":
            return InputError(
                f"{address.public_url} is no SQLite file that can be opened.", remedy="check the path and the file"
            )
        if isinstance(error, OSError) or type(error).__name__ in ("OperationalError", "InterfaceError"):
            return UnavailableError(
                f"{address.public_url} cannot be reached ({type(error).__name__}).",
                remedy="check host, port and network",
            )
        return InputError(
            f"{address.public_url} refuses the query ({type(error).__name__}{f' {code}' if code else ''}).",
            remedy="try the query in another client",
        )
    name, _, problem, remedy = cause
    error_type = UnavailableError if name == "busy" else InputError
    return error_type(f"{address.public_url} {problem}{_detail(name, error, message)}.", remedy=remedy)


def _detail(name: str, error: BaseException, message: str) -> str:
    """The name of the table or column that is missing, the position of a mistake; nothing else of its message."""
    if name in ("table", "column"):
        match = re.search(r"(?:relation|column|table:?|column:?|Table|Unknown column) [\"']?([\w.$ -]{1,100})", message)
        return f": {match[1].strip()}" if match else ""
    if name == "syntax":
        position = ""
        with suppress(AttributeError):
            position = str(error.diag.statement_position or "")  # type: ignore[attr-defined]
        line = re.search(r"at line (\d+)", message)
        return f" (character {position})" if position else f" (line {line[1]})" if line else ""
    return ""


def _unreachable(address: DatabaseAddress, skipped: SkippedError) -> SoldiomError:
    if skipped.reason == "private_address":
        return InputError(
            f"{address.public_url} may not be reached: {skipped.detail}.",
            remedy="an administrator allows it with SOLDIOM_PRIVATE_HOSTS or `private: true`",
        )
    return UnavailableError(f"{address.public_url} cannot be reached: {skipped.detail}.", remedy="check host and port")
