"""MariaDB as the metadata database, where it differs from PostgreSQL; test_db.py runs all queries on both."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from soldiom_ray.db import inputs, jobs, locks
from soldiom_ray.db.engine import migrate, open_database, open_session
from soldiom_ray.errors import BusyError, UnavailableError
from soldiom_ray.settings import Settings, load_settings


@pytest.fixture(scope="module")
def settings(mariadb_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with create_engine(mariadb_server.replace("mysql:", "mysql+pymysql:")).begin() as connection:
        connection.execute(text("CREATE DATABASE latin CHARACTER SET latin1"))
    address = mariadb_server.replace("mysql:", "mariadb:").replace("/mysql", "/latin")
    home = str(tmp_path_factory.mktemp("home"))
    made = load_settings({"SOLDIOM_HOME": home, "SOLDIOM_DATABASE_URL": address})
    migrate(made)
    yield made
    open_database(made).dispose()


def test_keys_that_differ_in_case_or_in_a_space_at_the_end_are_different(settings: Settings) -> None:
    with open_session(settings) as session:
        made = {jobs.create(session, name="n", kind="t", config={}, idempotency_key=key).id for key in ("a", "A", "a ")}
    assert len(made) == 3


def test_every_character_is_kept_though_the_database_was_made_for_few(settings: Settings) -> None:
    content = "Grüße 🙂 ﷽ \U0010ffff" + "x" * 100_000
    with open_session(settings) as session:
        row = inputs.add(session, user_id="ü🙂", input_type="text", content=content, sha256="0", size_bytes=1)
    with open_session(settings) as session:
        assert inputs.get(session, row.id).content == content


def test_faults_of_the_server_are_told_without_the_password(settings: Settings) -> None:
    url = make_url(str(settings.database_url))
    for wrong in (url.set(username="nobody", password="hunter2"), url.set(database="missing"), url.set(port=9)):
        other = replace(settings, database_url=wrong.render_as_string(hide_password=False))
        with pytest.raises(UnavailableError) as caught, open_session(other) as session:
            session.execute(text("SELECT 1"))
        assert "hunter2" not in str(caught.value) and "SOLDIOM_DATABASE_URL" in str(caught.value)


def test_a_rival_that_holds_a_row_for_too_long_is_a_busy_database(settings: Settings) -> None:
    with open_session(settings) as session:
        job = jobs.create(session, name="held", kind="t", config={})
    with open_session(settings) as holder:
        jobs.update(holder, job.id, message="mine")
        with pytest.raises(BusyError), open_session(settings) as rival:
            rival.execute(text("SET SESSION innodb_lock_wait_timeout = 1"))
            jobs.update(rival, job.id, message="no, mine")


def test_a_lock_is_held_until_its_transaction_ends(settings: Settings) -> None:
    order: list[str] = []

    def second() -> None:
        with open_session(settings) as session:
            locks.hold(session, "x")
            order.append("second")

    with open_session(settings) as session:
        locks.hold(session, "x")
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
