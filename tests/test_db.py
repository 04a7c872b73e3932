"""The database on a real PostgreSQL and a real MariaDB: migrations up, down and on data; the queries; tenants; the
audit chain."""

import threading
import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Double, Engine, Float, NullPool, create_engine, inspect, text
from sqlalchemy.engine import make_url

from soldiom_ray.db import audit, cursors, datasets, deployments, evaluations, inputs, jobs, keys, models
from soldiom_ray.db.anchor import anchor_path, read_anchor
from soldiom_ray.db.engine import downgrade, migrate, open_database, open_session
from soldiom_ray.db.tables import AuditRow, Table
from soldiom_ray.errors import ConflictError, InputError, NotFoundError, Problem, SoldiomError, UnavailableError
from soldiom_ray.records import FileEntry, Manifest, new_id, now
from soldiom_ray.settings import Settings, load_settings

SERVERS = [
    pytest.param("postgres_url", id="postgresql", marks=pytest.mark.service),
    pytest.param("mariadb_url", id="mariadb", marks=pytest.mark.service),
]


@pytest.fixture(scope="module", params=SERVERS)
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Of a home with an empty database, on each server that Soldiom keeps its tables in."""
    home, url = str(tmp_path_factory.mktemp("home")), request.getfixturevalue(request.param)
    made = load_settings({"SOLDIOM_HOME": home, "SOLDIOM_DATABASE_URL": url})
    migrate(made)
    return made


def engine_of(settings: Settings, name: str) -> tuple[Settings, Engine]:
    """A fresh empty database on the same server."""
    with open_database(settings).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    assert settings.database_url
    url = make_url(settings.database_url).set(database=name).render_as_string(hide_password=False)
    other = replace(settings, database_url=url)
    return other, open_database(other)


def manifest(kind: str = "dataset", number: int = 1, **counts: int) -> Manifest:
    files = (
        FileEntry(name="train/00000.parquet", size_bytes=40, sha256="a"),
        FileEntry(name="card.md", size_bytes=2, sha256="b"),
    )
    return Manifest(
        kind=kind,
        id=f"{kind}-{number:016x}",
        made_from={},
        parents=("documents-1",),
        counts=counts,
        files=files,
        created_at=now(),
    )


def types_differ(_: object, __: object, ___: object, inspected: object, declared: object) -> bool | None:
    """MySQL calls FLOAT(53) a DOUBLE; everything else is Alembic's to judge."""
    return False if isinstance(inspected, Double) and isinstance(declared, Float) else None


def test_the_migrations_make_exactly_the_tables_that_the_code_declares(settings: Settings) -> None:
    with open_database(settings).connect() as connection:
        options = {"compare_type": types_differ, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Table.metadata) == []


def test_migrations_go_up_keep_data_go_down_to_nothing_and_up_again(settings: Settings) -> None:
    other, engine = engine_of(settings, "updown")
    migrate(other)
    with open_session(other) as session:
        job = jobs.create(session, name="kept", kind="train", config={"b": 1, "a": [1.5, None]})
    migrate(other)
    with open_session(other) as session:
        stored = jobs.get(session, job.id)
        assert list(stored.config) == ["b", "a"]
        assert stored.created_at.utcoffset() == timedelta(0)
    downgrade(other, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    with pytest.raises(UnavailableError, match="no tables"), open_session(other) as session:
        jobs.list_jobs(session, "default")
    migrate(other)
    with open_session(other) as session:
        assert jobs.list_jobs(session, "default") == ([], None)


def test_what_was_there_before_owners_is_shared_and_an_older_database_is_told_from_an_empty_one(
    settings: Settings,
) -> None:
    other, engine = engine_of(settings, "before_owners")
    migrate(other)
    with open_session(other) as session:
        for owner in ("ann", "ben"):
            models.create(session, family="fine-tuned", name="same", owner=owner)
            datasets.record(session, manifest(), name="d", source="local", stage="dataset", owner=owner)
            jobs.create(session, name="j", kind="train", config={}, owner=owner, idempotency_key="k")
            inputs.add(session, user_id="u", input_type="text", content="x", sha256="0", size_bytes=1, owner=owner)
    downgrade(other, "0006")
    for call in (jobs.list_jobs, models.list_models, inputs.list_inputs):
        with pytest.raises(UnavailableError) as caught, open_session(other) as session:
            call(session, "default")
        assert "earlier version (0006)" in caught.value.what and "soldiom migrate" in caught.value.remedy
    migrate(other)
    with open_session(other) as session:
        rows = models.list_models(session, "default")[0]
        assert len({row.name for row in rows}) == 2 and {row.owner for row in rows} == {""}
        assert [row.owner for row in jobs.list_jobs(session, "default")[0]] == ["ben", "ann"]
        assert len(datasets.list_datasets(session, "default")[0]) == 1
        found = (jobs.list_jobs, datasets.list_datasets, models.list_models, inputs.list_inputs)
        assert all(row.shared for listed in found for row in listed(session, "default")[0])
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text("ALTER TABLE models DROP COLUMN shared"))
    with pytest.raises(UnavailableError, match="later version"), open_session(other) as session:
        models.list_models(session, "default")


def test_eight_callers_that_migrate_at_once_do_not_trip_over_one_another(settings: Settings) -> None:
    other, engine = engine_of(settings, "rivals")
    failures: list[BaseException] = []

    def migrate_once() -> None:
        try:
            migrate(other)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=migrate_once) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert "training_jobs" in inspect(engine).get_table_names()


def test_no_database_and_an_unreachable_one_are_told_with_the_remedy_and_without_the_password(tmp_path: Path) -> None:
    empty = load_settings({"SOLDIOM_HOME": str(tmp_path)})
    with pytest.raises(UnavailableError) as caught, open_session(empty):
        pass
    assert "soldiom up" in caught.value.remedy
    dead = replace(empty, database_url="postgresql://me:hunter2@127.0.0.1:9/x")
    for call in (lambda: migrate(dead), lambda: open_session(dead).__enter__().execute(text("SELECT 1"))):
        with pytest.raises(Exception) as refused:
            call()
        assert "hunter2" not in str(refused.value)
    with pytest.raises(UnavailableError) as caught, open_session(dead) as session:
        session.execute(text("SELECT 1"))
    assert "hunter2" not in str(caught.value) and "127.0.0.1:9" in str(caught.value)


@pytest.mark.parametrize("reads", [False, True])
def test_a_connection_that_broke_while_it_rested_is_replaced(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    monkeypatch.setattr("soldiom_ray.db.engine.FRESH_SECONDS", 0.0)
    is_postgresql = "postgresql" in str(settings.database_url)
    number = text("SELECT pg_backend_pid()" if is_postgresql else "SELECT CONNECTION_ID()")
    engine = open_database(settings)
    engine.dispose()  # so that the pool has one connection, the one that breaks
    with open_session(settings, reads=reads) as session:
        broken = session.execute(number).scalar_one()
    other = create_engine(engine.url, poolclass=NullPool)
    with other.connect() as connection:
        connection.execute(text(f"SELECT pg_terminate_backend({broken})" if is_postgresql else f"KILL {broken}"))
    with open_session(settings, reads=reads) as session:
        assert session.execute(number).scalar_one() != broken


def test_an_error_rolls_the_whole_session_back_and_nul_is_an_input_error(settings: Settings) -> None:
    with pytest.raises(RuntimeError), open_session(settings) as session:
        jobs.create(session, name="gone", kind="train", config={}, tenant="rollback")
        raise RuntimeError
    with open_session(settings) as session:
        assert jobs.list_jobs(session, "rollback") == ([], None)
    if "postgresql" in str(settings.database_url):  # MariaDB keeps NUL as it is.
        with pytest.raises(InputError), open_session(settings) as session:
            jobs.create(session, name="a\0b", kind="train", config={})
    with pytest.raises(InputError), open_session(settings) as session:
        jobs.create(session, name="a" * 129, kind="train", config={})


def test_a_job_lives_from_pending_to_its_end_and_stays_ended(settings: Settings) -> None:
    with open_session(settings) as session:
        job = jobs.create(
            session, name="one", kind="workflow", config={"x": 1}, tenant="life", base_model="builtin/tiny"
        )
        assert job.status == "pending"
        assert jobs.active(session, "life", "workflow", "one", {"x": 1}) is job
        assert jobs.active(session, "life", "workflow", "one", {"x": 2}) is None
    with open_session(settings) as session:
        jobs.update(session, job.id, status="running")
        assert jobs.record_heartbeat(session, job.id, 0.5, "train", "step 3") is False
        jobs.set_stage(session, job.id, "train", position=3, status="running")
        jobs.set_stage(
            session, job.id, "collect", position=0, status="completed", reused=True, artifact_id="documents-1"
        )
        jobs.set_stage(session, job.id, "train", progress=0.4)
    with open_session(settings) as session:
        jobs.request_cancel(session, job.id, "life")
        assert jobs.record_heartbeat(session, job.id, 0.6, "train", "step 4") is True
        jobs.update(session, job.id, status="cancelled")
    with open_session(settings) as session:
        late = jobs.update(session, job.id, status="completed", error="no", result={"late": True})
        assert (late.status, late.error, late.result) == ("cancelled", None, {"late": True})
        with pytest.raises(ConflictError, match="cancelled"):
            jobs.request_cancel(session, job.id, "life")
        shown = jobs.as_dict(late, jobs.stages(session, job.id))
    assert [row["stage"] for row in shown["stages"]] == ["collect", "train"]
    assert shown["stages"][1]["progress"] == 0.4 and shown["stages"][1]["status"] == "running"
    assert shown["completed_at"].endswith("+00:00") and shown["progress"] == 0.6 and "error" not in shown


def test_what_ended_a_job_is_kept_whole_and_nothing_that_comes_later_replaces_it(settings: Settings) -> None:
    error = InputError("The recipe has mistakes.", remedy="correct them", problems=[Problem("train.rank", "is 0", 7)])
    with open_session(settings) as session:
        job = jobs.create(session, name="wrong", kind="train", config={}, tenant="failures")
        jobs.fail(session, job.id, error)
    with open_session(settings) as session:
        jobs.update(session, job.id, status="cancelled", failure=None)
        shown = jobs.as_dict(jobs.get(session, job.id))
    assert shown["status"] == "failed" and shown["error"] == str(error)
    assert shown["problem"] == error.to_problem() and shown["problem"]["errors"][0]["line"] == 7
    assert type(SoldiomError.from_problem(shown["problem"])) is InputError


def test_a_failed_job_of_an_earlier_version_is_shown_with_its_text(settings: Settings) -> None:
    other, _ = engine_of(settings, "earlier")
    migrate(other)
    with open_session(other) as session:
        job = jobs.create(session, name="old", kind="train", config={})
        jobs.update(session, job.id, status="failed", error="No disk.\nRemedy: buy one")
    downgrade(other, "0003")
    migrate(other)
    with open_session(other) as session:
        shown = jobs.as_dict(jobs.get(session, job.id))
    assert shown["error"] == shown["problem"]["detail"] == "No disk.\nRemedy: buy one"


def test_the_same_idempotency_key_gives_the_same_job_even_at_once_and_refuses_another_request(
    settings: Settings,
) -> None:
    made: list[str] = []

    def create() -> None:
        with open_session(settings) as session:
            made.append(
                jobs.create(session, name="n", kind="train", config={"a": 1}, tenant="idem", idempotency_key="k").id
            )

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6 and len(set(made)) == 1
    with open_session(settings) as session:
        with pytest.raises(ConflictError):
            jobs.create(session, name="n", kind="train", config={"a": 2}, tenant="idem", idempotency_key="k")
        assert (
            jobs.create(session, name="n", kind="train", config={"a": 2}, tenant="idem2", idempotency_key="k").id
            != made[0]
        )


def test_jobs_are_paged_newest_first_and_filtered(settings: Settings) -> None:
    with open_session(settings) as session:
        ids = [jobs.create(session, name=f"j{i}", kind="train", config={}, tenant="pages").id for i in range(5)]
        jobs.update(session, ids[0], status="failed", error="boom")
    with open_session(settings) as session:
        seen, cursor = [], None
        while True:
            rows, cursor = jobs.list_jobs(session, "pages", cursor=cursor, limit=2)
            seen += [row.id for row in rows]
            if cursor is None:
                break
        assert seen == sorted(ids, reverse=True)
        assert [row.id for row in jobs.list_jobs(session, "pages", status="failed")[0]] == [ids[0]]


def test_a_running_job_without_a_heartbeat_is_stale_and_told_to_stop_once_it_is_failed(settings: Settings) -> None:
    with open_session(settings) as session:
        job = jobs.create(session, name="s", kind="train", config={}, tenant="stale")
        jobs.update(session, job.id, status="running")
        jobs.update(session, job.id, heartbeat_at=now() - timedelta(seconds=90))
    with open_session(settings) as session:
        assert job.id in [row.id for row in jobs.stale(session, 60)]
        assert job.id not in [row.id for row in jobs.stale(session, 120)]
        jobs.update(session, job.id, status="failed", error="lost")
        assert jobs.record_heartbeat(session, job.id, 0.1, "train", "") is True
        assert jobs.record_heartbeat(session, "no such job", 0.1, "train", "") is True


def test_one_tenant_never_sees_what_belongs_to_another(settings: Settings) -> None:
    with open_session(settings) as session:
        job = jobs.create(session, name="x", kind="train", config={}, tenant="a")
        dataset = datasets.record(session, manifest(number=7), name="d", source="local", stage="dataset", tenant="a")
        model = models.create(session, family="fine-tuned", name="secret", tenant="a")
        user_input = inputs.add(
            session, user_id="u", input_type="text", content="hi", sha256="0", size_bytes=2, tenant="a"
        )
        key, _ = keys.create(session, "user", "k", tenant="a")
        for find in (
            lambda: jobs.get(session, job.id, "b"),
            lambda: jobs.request_cancel(session, job.id, "b"),
            lambda: datasets.get(session, dataset.artifact_id, "b"),
            lambda: models.get(session, model.id, "b"),
            lambda: models.get(session, "secret", "b"),
            lambda: models.delete(session, model.id, "b"),
            lambda: inputs.get(session, user_input.id, "b"),
            lambda: keys.revoke(session, key.id, "b"),
        ):
            with pytest.raises(NotFoundError):
                find()
        for rows, _ in (
            jobs.list_jobs(session, "b"),
            datasets.list_datasets(session, "b"),
            models.list_models(session, "b"),
            inputs.list_inputs(session, "b"),
            keys.list_keys(session, "b"),
        ):
            assert rows == []


def test_a_dataset_is_recorded_once_per_artifact_and_the_newest_index_is_found(settings: Settings) -> None:
    with open_session(settings) as session:
        first = datasets.record(session, manifest(samples=9), name="d", source="local", stage="dataset", tenant="ds")
        again = datasets.record(
            session, manifest(samples=9), name="renamed", source="local", stage="dataset", tenant="ds"
        )
        assert first.id == again.id and again.name == "renamed"
        assert (again.size_bytes, again.num_samples) == (42, 9)
        assert datasets.get(session, first.artifact_id, "ds") is datasets.get(session, first.id, "ds")
        assert datasets.latest_index(session, "ds") is None
        datasets.record(session, manifest("index", 1, passages=3), name="i", source="local", stage="index", tenant="ds")
        newest = datasets.record(
            session, manifest("index", 2, passages=4), name="i", source="local", stage="index", tenant="ds"
        )
        assert datasets.latest_index(session, "ds") is newest
        assert datasets.as_dict(newest)["num_samples"] == 4


def test_versions_count_up_and_models_are_found_by_id_name_family_and_version(settings: Settings) -> None:
    with open_session(settings) as session:
        base = models.create(session, family="base", name="tiny", tenant="m")
        first = models.create(
            session, family="fine-tuned", name="legal", tenant="m", base_model_id=base.id, run_artifact="run-1"
        )
        second = models.create(session, family="fine-tuned", name="legal", tenant="m", base_model_id=base.id)
        assert (first.version, second.version) == (1, 2)
        for name, expected in {
            first.id: first,
            "legal": second,
            "fine-tuned/legal": second,
            "legal@1": first,
            "fine-tuned/legal@2": second,
        }.items():
            assert models.get(session, name, "m") is expected
        for unknown in ("legal@3", "base/legal", "legal@x", "legal@99999999999999999999", "no"):
            with pytest.raises(NotFoundError):
                models.get(session, unknown, "m")
        assert models.of_run(session, "run-1", "m") is first
        assert [row.id for row in models.list_models(session, "m", family="base")[0]] == [base.id]


def test_a_deployed_model_cannot_be_deleted_and_a_deleted_base_leaves_its_children(settings: Settings) -> None:
    with open_session(settings) as session:
        base = models.create(session, family="base", name="b", tenant="d")
        child = models.create(session, family="fine-tuned", name="c", tenant="d", base_model_id=base.id)
        evaluations.record(session, run_artifact="run-2", scores={"loss": 1.0}, model_id=base.id, tenant="d")
        deployments.set_state(session, base.id, "deploying", replicas=2)
        with pytest.raises(ConflictError):
            models.delete(session, base.id, "d")
        deployments.set_state(session, base.id, "running")
        assert models.get(session, base.id).deployed
        assert [row.model_id for row in deployments.running(session, "d")] == [base.id]
        assert deployments.as_dict(deployments.running(session, "d")[0])["replicas"] == 2
        deployments.set_state(session, base.id, "stopped")
        models.delete(session, base.id, "d")
    with open_session(settings) as session:
        assert models.get(session, child.id, "d").base_model_id is None
        assert deployments.get(session, base.id) is None


def test_a_key_is_found_only_whole_and_until_it_is_revoked_and_never_stored(settings: Settings) -> None:
    with open_session(settings) as session:
        row, secret_key = keys.create(session, "trainer", "ci", tenant="k")
        assert len(secret_key.split("_", 2)[2]) == 43 and secret_key not in str(vars(row))
        with pytest.raises(InputError, match="root"):
            keys.create(session, "root", "x")
    with open_session(settings) as session:
        stored = keys.find(session, secret_key)
        assert stored is not None and (stored.id, stored.role, stored.tenant) == (row.id, "trainer", "k")
        for wrong in (
            secret_key[:-1],
            secret_key + "x",
            "",
            "sld__",
            secret_key.replace("sld", "SLD"),
            "sld_%00_x",
            "\udcff_a_b",
            secret_key[:13],
        ):
            assert keys.find(session, wrong) is None
        assert "hash" not in keys.as_dict(stored)
        keys.revoke(session, row.id, "k")
        assert keys.find(session, secret_key) is None


@pytest.mark.parametrize(
    "damage", ["UPDATE audit_log SET decision='allow' WHERE seq=3", "DELETE FROM audit_log WHERE seq=3"]
)
def test_a_changed_or_removed_audit_row_is_named(settings: Settings, damage: str) -> None:
    with open_session(settings) as session:
        session.execute(text("DELETE FROM audit_log"))
        anchor_path(settings).unlink(missing_ok=True)
        for number in range(5):
            audit.append(session, "key-1", "job.create", f"job-{number}", "deny", {"n": number, "f": 1e20, "t": "é"})
    with open_session(settings) as session:
        assert audit.verify(session) is None
        assert [row.seq for row in audit.list_rows(session, "default", limit=2)[0]] == [5, 4]
        session.execute(text(damage))
    with open_session(settings) as session:
        assert audit.verify(session) == 3


@pytest.mark.parametrize("damage", ["seq > 3", "seq > 0", "seq = 5"])
@pytest.mark.parametrize("later", [0, 1, 9])
def test_a_trail_that_was_cut_or_emptied_is_noticed_however_many_rows_follow(
    settings: Settings, damage: str, later: int
) -> None:
    with open_session(settings) as session:
        session.execute(text("DELETE FROM audit_log"))
        anchor_path(settings).unlink(missing_ok=True)
    with open_session(settings) as session:
        for number in range(5):
            audit.append(session, "a", "b", f"c{number}", "allow")
    with open_session(settings) as session:
        assert audit.verify(session) is None
        session.execute(text(f"DELETE FROM audit_log WHERE {damage}"))
    for number in range(later):
        with open_session(settings) as session:
            audit.append(session, "a", "b", f"d{number}", "allow")
    with open_session(settings) as session:
        assert audit.verify(session) is not None
    assert anchor_path(settings).stat().st_mode & 0o777 == 0o600


def test_a_row_that_was_rolled_back_moves_no_anchor(settings: Settings) -> None:
    with open_session(settings) as session:
        session.execute(text("DELETE FROM audit_log"))
        anchor_path(settings).unlink(missing_ok=True)
    with pytest.raises(ZeroDivisionError), open_session(settings) as session:
        audit.append(session, "a", "b", "c", "allow")
        raise ZeroDivisionError
    with open_session(settings) as session:
        assert audit.verify(session) is None and read_anchor(settings) is None
    anchor_path(settings).write_text("{")
    with open_session(settings) as session:
        assert audit.verify(session) == 1


def test_rival_writers_keep_the_audit_chain_whole(settings: Settings) -> None:
    with open_session(settings) as session:
        session.execute(text("DELETE FROM audit_log"))
        anchor_path(settings).unlink(missing_ok=True)

    def many() -> None:
        for _ in range(10):
            with open_session(settings) as session:
                audit.append(session, "a", "b", "c", "allow")

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open_session(settings) as session:
        assert session.query(AuditRow).count() == 40
        assert audit.verify(session) is None


def test_cursors_are_kept_replaced_and_removed(settings: Settings) -> None:
    for value in ({"page": 1}, {"page": 2}):
        with open_session(settings) as session:
            cursors.save(session, "github/x", value)
    with open_session(settings) as session:
        assert cursors.get(session, "github/x") == {"page": 2}
        cursors.delete(session, "github/x")
        assert cursors.get(session, "github/x") is None


def test_ids_of_one_process_sort_in_the_order_they_were_made() -> None:
    made = [new_id() for _ in range(20_000)]
    assert made == sorted(made) and len(set(made)) == len(made)
    assert {uuid.UUID(one).version for one in made} == {7} and {uuid.UUID(one).variant for one in made} == {
        uuid.RFC_4122
    }
