"""Source `database` on a real PostgreSQL, a real MariaDB and SQLite files: rows become documents, nothing is changed,
no password is told."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from collecting import documents_of, make_context
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from soldiom_ray.artifacts import Context
from soldiom_ray.collect import collect
from soldiom_ray.collect.database.reader import checked_query
from soldiom_ray.domains.connections import read_database_url
from soldiom_ray.domains.recipes import as_dict, validate_recipe
from soldiom_ray.domains.secrets import hide_secrets, password_of
from soldiom_ray.domains.sources import DatabaseSource
from soldiom_ray.errors import InputError, SoldiomError, UnavailableError
from soldiom_ray.records import Manifest

CHINOOK = Path(__file__).parents[2] / "shared" / "data" / "db_chinook" / "Chinook_Sqlite.sqlite"
ROWS = [(1, "a@x.org", "What is a bond?", "A debt."), (2, "b@x.org", "Why?", None), (3, "a@x.org", "And now?", "Wait.")]

SERVERS = [pytest.param(name, marks=pytest.mark.service) for name in ("postgresql", "mysql")]


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, Engine]]:
    """The URL of a database with one table of questions, for a user who may read only, and its owner's engine."""
    if request.param == "postgresql":
        owner = make_url(request.getfixturevalue("postgres_server")).set(drivername="postgresql+psycopg")
        reader = f"postgresql://reader:hunter2@/talk?socket={owner.query['host']}"
        grants = ["CREATE ROLE reader LOGIN PASSWORD 'hunter2'", "GRANT pg_read_all_data TO reader"]
    else:
        owner = make_url(request.getfixturevalue("mariadb_server")).set(drivername="mysql+pymysql")
        reader = f"mysql://reader:hunter2@127.0.0.1:{owner.port}/talk"
        grants = ["CREATE USER reader@'%' IDENTIFIED BY 'hunter2'", "GRANT SELECT ON talk.* TO reader@'%'"]
    with create_engine(owner, isolation_level="AUTOCOMMIT").connect() as opened:
        opened.execute(text("CREATE DATABASE talk" + " CHARACTER SET utf8mb4" * (request.param == "mysql")))
    engine = create_engine(owner.set(database="talk"))
    with engine.begin() as opened:
        opened.execute(text("CREATE TABLE talks (id int PRIMARY KEY, who text, question text, answer text)"))
        opened.execute(text("CREATE TABLE nothing (id int PRIMARY KEY)"))
        for row in ROWS:
            opened.execute(text("INSERT INTO talks VALUES (:a, :b, :c, :d)"), dict(zip("abcd", row, strict=True)))
        for grant in grants:
            opened.execute(text(grant))
        if request.param == "postgresql":
            rules = Path(str(opened.execute(text("SHOW hba_file")).scalar()))
            rules.write_text("local all reader scram-sha-256\n" + rules.read_text())
            opened.execute(text("SELECT pg_reload_conf()"))
    yield reader, engine
    engine.dispose()


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return make_context(tmp_path / "home")


def collected(context: Context, url: str, **declared: Any) -> tuple[Manifest, list[dict[str, Any]]]:
    manifest = collect(context, [DatabaseSource(url=url, private=True, **declared)])
    return manifest, documents_of(context, manifest)


def test_rows_with_questions_and_answers_become_documents_grouped_by_customer(
    server: tuple[str, Engine], context: Context
) -> None:
    manifest, documents = collected(context, server[0], tables=("talks",), group_by="who")
    assert [document["text"] for document in documents] == [
        "What is a bond?\n\nA debt.",
        "And now?\n\nWait.",
        "Why?",
    ]
    assert documents[0]["group"] == documents[1]["group"] != documents[2]["group"]
    assert all("x.org" not in document["group"] + document["url"] for document in documents)
    assert documents[0]["url"].endswith("#talks/1") and documents[0]["rule"] == "database:talks"
    assert documents[0]["source"] == "user" and "reader" not in documents[0]["url"]
    assert manifest.details["columns"] == {"question": ["question"], "answer": ["answer"]}


def test_all_tables_are_read_and_an_empty_one_is_counted(server: tuple[str, Engine], context: Context) -> None:
    manifest, documents = collected(context, server[0])
    assert manifest.details["outcomes"] == {"collected": 3, "empty": 1}
    assert len(documents) == 3


def test_a_query_is_read_with_columns_that_the_user_names(server: tuple[str, Engine], context: Context) -> None:
    query = "SELECT who AS a, question AS b FROM talks WHERE question LIKE '%?' AND who <> ';' ORDER BY id;"
    manifest, documents = collected(context, server[0], query=query, columns={"text": "b"}, max_rows=2)
    assert [document["text"] for document in documents] == ["What is a bond?", "Why?"]
    assert documents[0]["rule"].startswith("database:query-") and manifest.details["more_rows"] == 1
    assert json.loads(documents[0]["metadata"])["fields"] == {"a": "a@x.org"}


def test_a_limit_holds_for_every_table_of_a_snapshot(server: tuple[str, Engine], context: Context) -> None:
    url, owner = server
    with owner.begin() as opened:
        opened.execute(text("CREATE TABLE zoo (id INT PRIMARY KEY, question VARCHAR(20), answer VARCHAR(20))"))
        opened.execute(text("INSERT INTO zoo VALUES (1, 'Who?', 'Ann'), (2, 'When?', 'May'), (3, 'Why?', 'So')"))
    try:
        manifest, documents = collected(context, url, tables=("talks", "zoo"), max_rows=1)
    finally:
        with owner.begin() as opened:
            opened.execute(text("DROP TABLE zoo"))
    assert len(documents) == 2 and manifest.details["more_rows"] == 2


def test_an_unchanged_database_is_the_same_collection_and_a_changed_row_is_not(
    server: tuple[str, Engine], context: Context
) -> None:
    url, owner = server
    first, _ = collected(context, url, tables=("talks",))
    assert collected(context, url, tables=("talks",))[0] == first
    with owner.begin() as opened:
        opened.execute(text("UPDATE talks SET answer = 'Soon.' WHERE id = 3"))
    second, documents = collected(context, url, tables=("talks",))
    assert second.id != first.id and documents[2]["text"] == "And now?\n\nSoon."
    with owner.begin() as opened:
        opened.execute(text("UPDATE talks SET answer = 'Wait.' WHERE id = 3"))
    assert collected(context, url, tables=("talks",))[0] == first


def test_no_document_and_no_manifest_holds_the_password_or_the_user(
    server: tuple[str, Engine], context: Context
) -> None:
    recipe = validate_recipe({"name": "x", "collect": [{"source": "database", "url": server[0], "private": True}]})
    hidden = hide_secrets(context.settings, recipe, "default")
    assert "hunter2" not in json.dumps(as_dict(hidden)) and "hunter2" in json.dumps(as_dict(recipe))
    address, password = read_database_url(hidden.collect[0].url)  # type: ignore[index, union-attr]
    assert password is None and password_of(context.settings, "default", address) == "hunter2"
    assert password_of(context.settings, "other", address) is None
    manifest = collect(context, hidden.collect or ())
    assert "hunter2" not in manifest.model_dump_json()
    assert "hunter2" not in json.dumps(documents_of(context, manifest))
    secrets = context.settings.keys_folder / "connections.json"
    assert secrets.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda url: {"url": url.replace("hunter2", "hunter3")}, "refuses the user or the password"),
        (lambda url: {"url": url.replace("/talk", "/no")}, "has no such database"),
        (lambda url: {"url": url, "tables": ("tallks",)}, "has no table 'tallks'"),
        (lambda url: {"url": url, "query": "SELECT x FROM talks"}, "has no such column: x"),
        (lambda url: {"url": url, "query": "SELECT * FROM missing"}, "has no such table: (talk.)?missing"),
        (lambda url: {"url": url, "query": "SELECT id id id FROM talks"}, "does not understand the query"),
        (lambda url: {"url": url, "tables": ("talks",), "columns": {"text": "nope"}}, "no column 'nope'"),
        (lambda url: {"url": url, "tables": ("talks",), "group_by": "nope"}, "no column 'nope' to group by"),
        (lambda url: {"url": url, "query": "DELETE FROM talks"}, "begins with 'DELETE'"),
        (lambda url: {"url": url, "query": "SELECT 1; DROP TABLE talks"}, "several statements"),
    ],
)
def test_each_mistake_is_one_clear_error_without_the_password(
    server: tuple[str, Engine], context: Context, change: Callable[[str], dict[str, Any]], expected: str
) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        collected(context, **change(server[0]))
    assert "hunter" not in str(caught.value)


def test_a_query_that_takes_too_long_is_ended(server: tuple[str, Engine], context: Context) -> None:
    slow = "SELECT pg_sleep(30) AS text" if server[0].startswith("p") else "SELECT t.id, sleep(30) FROM talks t"
    with pytest.raises(InputError, match="longer than the time limit"):
        collected(context, server[0], query=slow, timeout_seconds=1)


def test_nothing_is_written_even_by_a_query_of_the_owner(server: tuple[str, Engine], context: Context) -> None:
    url, owner = server
    mine = owner.url
    if url.startswith("postgresql"):
        address = f"postgresql://{mine.username}@/talk?socket={mine.query['host']}"
        query = "WITH gone AS (DELETE FROM talks RETURNING *) SELECT * FROM gone"
    else:
        address = f"mysql://root@127.0.0.1:{mine.port}/talk"
        query = "WITH x AS (SELECT 1 AS id) SELECT nextval(counting) AS text"
        with owner.begin() as opened:
            opened.execute(text("CREATE SEQUENCE IF NOT EXISTS counting"))
    with pytest.raises(InputError, match=r"the query writes|refuses the query"):
        collected(context, address, query=query)
    with owner.connect() as opened:
        assert opened.execute(text("SELECT count(*) FROM talks")).scalar() == 3


def test_a_server_that_is_not_there_or_may_not_be_reached_is_told(context: Context) -> None:
    for backend in ("postgresql", "mysql"):
        with pytest.raises(UnavailableError, match=f"{backend}://127.0.0.1:9/x cannot be reached") as caught:
            collected(context, f"{backend}://me:hunter2@127.0.0.1:9/x")
        assert "hunter2" not in str(caught.value)
        with pytest.raises(InputError, match="a private address") as refused:
            collect(context, [DatabaseSource(url=f"{backend}://me:hunter2@127.0.0.1/x")])
        assert "SOLDIOM_PRIVATE_HOSTS" in str(refused.value) and "hunter2" not in str(refused.value)
    with pytest.raises(InputError, match="for administrators"):
        collect(context, [DatabaseSource(url="sqlite:////etc/passwd")])


def test_every_type_of_postgresql_is_text_or_counted(server: tuple[str, Engine], context: Context) -> None:
    url, _ = server
    if not url.startswith("postgresql"):
        pytest.skip("these are PostgreSQL's types")
    values = (
        "NULL::text AS a, '{\"k\": [1, null]}'::jsonb AS b, '\\xff00'::bytea AS c, ARRAY[1, 2] AS d,"
        " 1.50::numeric AS e, 'NaN'::numeric AS f, 'infinity'::timestamptz AS g,"
        " '0044-03-15 BC'::date AS h, '10.0.0.1'::inet AS i,"
        " int4range(1, 5) AS j, point(1, 2) AS k, 'a=>b' AS l, interval '1 day' AS m, '{a,b}'::text[] AS n,"
        " 'NaN'::float8 AS o, gen_random_uuid() IS NOT NULL AS p, 9223372036854775807 AS q"
    )
    manifest, documents = collected(context, url, query=f"SELECT {values}")
    shown = documents[0]["text"]
    for expected in ('b: {"k": [1, null]}', "d: [1, 2]", "e: 1.50", "f: NaN", "g: infinity", "h: 0044-03-15 BC"):
        assert expected in shown
    for expected in ("i: 10.0.0.1", "j: [1, 5)", "k: (1,2)", "m: 1 day", 'n: ["a", "b"]', "o: nan", "p: true"):
        assert expected in shown
    assert "\nc:" not in shown and manifest.details["binary_values"] == 1


def test_every_type_of_mysql_is_text_or_counted(server: tuple[str, Engine], context: Context) -> None:
    url, owner = server
    if not url.startswith("mysql"):
        pytest.skip("these are MariaDB's types")
    with owner.begin() as opened:
        opened.execute(text("SET sql_mode = ''"))
        opened.execute(
            text(
                "CREATE OR REPLACE TABLE kinds (id int PRIMARY KEY, a json, b blob, c datetime, d decimal(10,2),"
                " e time, f set('x','y'), g bit(3), h year, i point, j varchar(20), k double)"
            )
        )
        opened.execute(
            text(
                "INSERT INTO kinds VALUES (1, '{\"k\": 1}', x'ff00', '0000-00-00', 1.50, '-100:00:00', 'x,y', b'101',"
                " 2020, ST_GeomFromText('POINT(1 2)'), 'Grüße 🙂', 0.5)"
            )
        )
    manifest, documents = collected(context, url, tables=("kinds",))
    shown = documents[0]["text"]
    for expected in ('a: {"k": 1}', "c: 0000-00-00 00:00:00", "d: 1.50", "e: -100:00:00", "j: Grüße 🙂", "k: 0.5"):
        assert expected in shown, shown
    assert "\nb:" not in shown and manifest.details["binary_values"] >= 2
    with owner.begin() as opened:
        opened.execute(text("DROP TABLE kinds"))


def test_conversations_kept_as_json_and_rows_that_are_too_large_are_understood(
    tmp_path: Path, context: Context
) -> None:
    file = tmp_path / "a b.db"
    with sqlite3.connect(file) as opened:
        opened.execute("CREATE TABLE chats (name TEXT PRIMARY KEY, messages TEXT)")
        turns = json.dumps([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
        opened.executemany("INSERT INTO chats VALUES (?, ?)", [("ann", turns), ("bob", "x" * 2000), ("cy", None)])
    url = f"sqlite://{str(file).replace(' ', '%20')}"
    manifest, documents = collected(context, url, max_bytes=1000)
    assert documents[0]["text"] == "user: Hi\n\nassistant: Hello" and "ann" not in documents[0]["url"]
    assert manifest.details["outcomes"] == {"collected": 1, "empty": 1, "too_large": 1}


@pytest.mark.skipif(not CHINOOK.is_file(), reason="the Chinook database is not here")
def test_a_real_sqlite_file_is_read_whole_and_twice_the_same(context: Context) -> None:
    manifest, documents = collected(context, f"sqlite://{CHINOOK}")
    assert manifest.details["rows"] == 15_607
    assert "Name: AC/DC" in next(d["text"] for d in documents if d["path"].startswith("Artist/"))
    assert collected(context, f"sqlite://{CHINOOK}")[0] == manifest


@pytest.mark.parametrize(
    "query",
    [
        "ATTACH DATABASE '/tmp/x.db' AS x",
        "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a",
        "SELECT load_extension('/tmp/x.so')",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
        "SELECT zeroblob(2000000000)",
    ],
)
def test_hostile_queries_of_a_file_do_nothing(tmp_path: Path, context: Context, query: str) -> None:
    file = tmp_path / "t.db"
    with sqlite3.connect(file) as opened:
        opened.execute("CREATE TABLE t (x)")
    with pytest.raises(SoldiomError):
        collected(context, f"sqlite://{file}", query=query, timeout_seconds=1)


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_files_that_are_no_database_are_named(tmp_path: Path, context: Context, content: bytes) -> None:
    file = tmp_path / "t.db"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"no SQLite file|has no tables"):
        collected(context, f"sqlite://{file}")
    with pytest.raises(InputError, match="no SQLite file"):
        collected(context, f"sqlite://{tmp_path / 'missing.db'}")


@pytest.mark.parametrize(
    ("query", "good"),
    [
        ("select 1", True),
        (" -- about ; this\nSELECT ';' AS a, \"b;\" FROM t ; ", True),
        ("SELECT $x$;DROP$x$ /* ; */", True),
        (r"SELECT E'\'; x'", True),
        ("WITH a AS (SELECT 1) SELECT * FROM a", True),
        ("", False),
        ("SELECT 1; SELECT 2", False),
        ("SELECT 'it''s'; DROP TABLE t", False),
        (r"SELECT '\'; DROP TABLE t --'", False),
        ("SELECT a #> b ; DROP TABLE t", False),
        ("SELECT * INTO b FROM a", False),
        ("SELECT 1 INTO OUTFILE '/tmp/x'", False),
        ("COPY t TO PROGRAM 'sh'", False),
        ("UPDATE t SET a = 1", False),
    ],
)
def test_a_query_is_one_statement_that_reads(query: str, good: bool) -> None:
    if good:
        assert checked_query(query, "postgresql")
        return
    with pytest.raises(InputError):
        checked_query(query, "postgresql")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cret@h/x?host=10.0.0.1",
        "postgresql://u:s3cret@h/x?hostaddr=10.0.0.1",
        "mysql://u:s3cret@h/x?read_default_file=/etc/my.cnf",
        "mysql://u:s3cret@h,10.0.0.1/x",
        "mysql://u:s3/cret@h/x",
        "mysql://u:s3cret#@h/x",
        "oracle://u:s3cret@h/x",
        "postgresql://u:s3cret@h",
        "postgresql://u:s3cret@h:port/x",
    ],
)
def test_addresses_that_hide_another_host_or_file_are_refused_without_showing_them(url: str) -> None:
    with pytest.raises(InputError) as caught:
        validate_recipe({"name": "x", "collect": [{"source": "database", "url": url}]})
    assert "s3" not in str(caught.value) and "cret" not in str(caught.value)


def test_answers_that_were_rated_low_are_not_taught(tmp_path: Path, context: Context) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/feedback.db")
    with engine.begin() as opened:
        opened.execute(text("CREATE TABLE feedback (question TEXT, answer TEXT, stars INTEGER)"))
        for stars in range(1, 6):
            opened.execute(
                text("INSERT INTO feedback VALUES ('Why?', :answer, :stars)"), {"answer": f"{stars}", "stars": stars}
            )
    engine.dispose()
    manifest, documents = collected(context, f"sqlite:///{tmp_path}/feedback.db")
    assert [document["text"] for document in documents] == ["Why?\n\n3", "Why?\n\n4", "Why?\n\n5"]
    assert manifest.details["outcomes"] == {"bad_answer": 2, "collected": 3}
