"""SQLite files, read as a copy in memory: the rows of every table. Nothing in the file is run: no view, trigger,
virtual table or extension."""

import sqlite3
from typing import Any

from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.documents.rows import Table, cell_value, tables_texts
from soldiom_ray.collect.text import SkippedError

_SHADOWS = (
    "_data",
    "_idx",
    "_docsize",
    "_config",
    "_content",
    "_segments",
    "_segdir",
    "_stat",
    "_node",
    "_rowid",
    "_parent",
)


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The rows of all tables. Tables whose pages are damaged are counted in `bad_tables`, the others still read."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.text_factory = _text_value
        # A file in WAL mode does not open in memory; header bytes 18 and 19 name it (sqlite.org/fileformat.html).
        connection.deserialize(data[:18] + b"\1\1" + data[20:])
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA query_only = ON")
        names = _tables(connection)
        tables, failed = [], 0
        for table in names:
            try:
                tables.append(_read(connection, table))
            except (sqlite3.DatabaseError, OverflowError):
                failed += 1
    except (sqlite3.Error, OverflowError, ValueError) as error:
        raise SkippedError("damaged", f"an SQLite file that does not open ({type(error).__name__})") from error
    finally:
        connection.close()
    filled = [table for table in tables if table.rows]
    if not filled:
        detail = f"{failed} tables do not open" if failed else f"{len(names)} tables, none of them with a row"
        raise SkippedError("damaged" if failed else "empty", detail)
    metadata = {"tables": len(filled)} | ({"bad_tables": failed} if failed else {})
    return tables_texts(filled, options.columns, metadata)


def _text_value(raw: bytes) -> Any:
    """A text value; not all are UTF-8, whatever the file declares."""
    return cell_value(raw)


def _tables(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY rowid").fetchall()
    virtual = {name for name, sql in rows if str(sql or "").lstrip().upper().startswith("CREATE VIRTUAL")}
    hidden = virtual | {name + shadow for name in virtual for shadow in _SHADOWS if shadow != "_content"}
    return [name for name, _ in rows if not name.startswith("sqlite_") and name not in hidden]


def _read(connection: sqlite3.Connection, table: str) -> Table:
    quoted = table.replace('"', '""')
    cursor = connection.execute(f'SELECT * FROM "{quoted}"')  # noqa: S608 a name of the file's own, quoted
    columns = [column[0] for column in cursor.description]
    return Table(table, columns, [[cell_value(value) for value in row] for row in cursor])
