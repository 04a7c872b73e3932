"""A home in one file and back: taken while it is written to, refused where it is damaged."""

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import starting
from sqlalchemy import text

from soldiom_ray.db import audit, keys
from soldiom_ray.db.engine import migrate, open_database, open_session
from soldiom_ray.errors import ConflictError, DamagedError, InputError, NotFoundError, SoldiomError
from soldiom_ray.services import backup, start
from soldiom_ray.services.addresses import Addresses, save_addresses
from soldiom_ray.settings import Settings, load_settings, write_private
from soldiom_ray.storage import open_storage

KEY = "0123456789abcdef" * 4

pytestmark = pytest.mark.service


def settings_of(home: Path, key: str = KEY) -> Settings:
    return load_settings({"SOLDIOM_HOME": str(home), "SOLDIOM_ENCRYPTION_KEY": key})


def start_database(home: Path, key: str = KEY) -> Settings:
    settings = settings_of(home, key)
    start._make_home(settings)
    with starting():
        start.ensure_service(settings, start.BY_NAME["postgres"], Addresses(), lambda _: None)
    save_addresses(settings, Addresses())
    return settings_of(home, key)


def stop_database(settings: Settings) -> None:
    open_database(settings).dispose()
    start._stop(settings, start.BY_NAME["postgres"])


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Not pytest's: the server of PostgreSQL may run as another user."""
    made = Path(tempfile.mkdtemp(prefix="sldm-b-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def home(folder: Path) -> Iterator[Settings]:
    """A home whose database runs, with rows, objects, a file of MLflow's and keys."""
    settings = start_database(folder / "home")
    migrate(settings)
    storage = open_storage(settings)
    with open_session(settings) as session:
        key = keys.create(session, role="admin", name="first", tenant="default")[1]
        audit.append(session, "cli", "keys create", "key 1", "allow", {}, "default")
    write_private(settings.local_key_path, key)
    storage.write("run/run-1/weights/model.safetensors", os.urandom(3 << 20))
    storage.write("run/run-1/manifest.json", b"{}")
    (settings.home / "mlflow" / "1").mkdir(parents=True)
    (settings.home / "mlflow" / "1" / "curve.png").write_bytes(b"png")
    yield settings
    stop_database(settings)


def rows(settings: Settings) -> dict[str, int]:
    with open_session(settings) as session:
        names = session.execute(text("select tablename from pg_tables where schemaname = 'public'")).scalars().all()
        return {name: session.execute(text(f'select count(*) from "{name}"')).scalar_one() for name in names}


@pytest.fixture(scope="module")
def written(home: Settings, folder: Path) -> Path:
    """A backup taken while rows are added and objects written, each object before its row."""
    stop, storage = threading.Event(), open_storage(home)

    def work() -> None:
        number = 0
        while not stop.wait(0.01):
            number += 1
            storage.write(f"raw/{number}", str(number).encode())
            with open_session(home) as session:
                audit.append(session, "cli", "write", f"raw/{number}", "allow", {}, "default")

    worker = threading.Thread(target=work)
    worker.start()
    try:
        done = backup.back_up(home, folder)
    finally:
        stop.set()
        worker.join()
    assert done["sealed"] and done["left_out"] == {} and Path(done["path"]).stat().st_mode & 0o777 == 0o600
    assert backup.last_backup(home)["path"] == done["path"]
    return Path(done["path"])


def test_a_restored_home_has_the_same_rows_objects_and_keys(home: Settings, written: Path, folder: Path) -> None:
    empty = settings_of(folder / "second")
    told = backup.restore(empty, written)
    assert told["left_out"] == {}
    restored = start_database(folder / "second")
    try:
        assert rows(restored).keys() == rows(home).keys()
        with open_session(restored) as session:
            assert audit.verify(session) is None
            assert keys.find(session, restored.local_key_path.read_text().strip())
            named = [row.object for row in audit.list_rows(session, None, limit=100_000)[0] if row.action == "write"]
        storage = open_storage(restored)
        assert named and all(storage.read(name) == name.removeprefix("raw/").encode() for name in named)
        weights = "run/run-1/weights/model.safetensors"
        assert storage.read(weights) == open_storage(home).read(weights)
        assert (restored.home / "mlflow/1/curve.png").read_bytes() == b"png"
        assert restored.local_key_path.stat().st_mode & 0o777 == 0o600
    finally:
        stop_database(restored)


def test_a_home_that_holds_anything_and_a_file_that_is_there_are_left_alone(
    home: Settings, written: Path, folder: Path
) -> None:
    with pytest.raises(ConflictError, match="not empty"):
        backup.restore(home, written)
    with pytest.raises(ConflictError, match="exists already"):
        backup.back_up(home, written)
    with pytest.raises(NotFoundError, match="no file"):
        backup.restore(settings_of(folder / "third"), folder / "none")


def test_a_backup_tells_nothing_without_its_key(written: Path, folder: Path) -> None:
    assert b"postgres" not in written.read_bytes() and b"curve.png" not in written.read_bytes()
    for key, error in ((None, InputError), ("ff" * 32, DamagedError)):
        variables = {"SOLDIOM_HOME": str(folder / "third")} | ({"SOLDIOM_ENCRYPTION_KEY": key} if key else {})
        with pytest.raises(error, match="key"):
            backup.restore(load_settings(variables), written)
        assert not (folder / "third").exists()


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("damage", ["cut", "cut at the end", "changed"])
def test_a_damaged_backup_is_refused_with_what_is_damaged(
    home: Settings, written: Path, folder: Path, sealed: bool, damage: str
) -> None:
    if not sealed:
        written = folder / "plain.backup"
        if not written.exists():
            plain = load_settings({"SOLDIOM_HOME": str(home.home)})
            backup.back_up(plain, written)
    data = bytearray(written.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "cut at the end":
        del data[-20_000:]
    else:
        place = data.rindex(b"png") if not sealed else len(data) // 2
        data[place] ^= 1
    damaged = folder / "damaged.backup"
    damaged.write_bytes(data)
    told = "mlflow/1/curve.png" if (sealed, damage) == (False, "changed") else r"in or after [\w/]+"
    with pytest.raises(DamagedError, match=told):
        backup.restore(settings_of(folder / "third", KEY if sealed else ""), damaged)
    assert sorted(path.name for path in folder.iterdir() if "third" in path.name) == []


def test_a_backup_without_a_seal_is_refused_where_there_is_a_key(folder: Path) -> None:
    variables = {"SOLDIOM_HOME": str(folder / "cluster"), "SOLDIOM_DATABASE_URL": "postgresql://u@h/d"}
    plain = load_settings(variables)
    plain.keys_folder.mkdir(parents=True)
    backup.back_up(plain, folder / "unsealed.backup")
    with pytest.raises(InputError, match="not sealed"):
        backup.restore(settings_of(folder / "third"), folder / "unsealed.backup")
    backup.restore(settings_of(folder / "third", ""), folder / "unsealed.backup")
    shutil.rmtree(folder / "third")
    shutil.rmtree(folder / "cluster")


def test_a_backup_cannot_write_outside_its_home(folder: Path) -> None:
    import io
    import tarfile

    evil = folder / "evil.backup"
    with tarfile.open(evil, "w") as archive:
        entry = tarfile.TarInfo("../outside")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(SoldiomError):
        backup.restore(settings_of(folder / "third", ""), evil)
    assert not (folder / "outside").exists()


def test_services_that_lie_elsewhere_are_named(folder: Path) -> None:
    (folder / "cluster" / "keys").mkdir(parents=True)
    (folder / "cluster" / "keys" / "admin_key").write_text("key")
    external = {
        "SOLDIOM_HOME": str(folder / "cluster"), "SOLDIOM_DATABASE_URL": "postgresql://u:hunter2@h/d",
        "SOLDIOM_STORAGE": "s3://bucket/home", "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    }  # fmt: skip
    done = backup.back_up(load_settings(external), folder / "cluster.backup")
    assert set(done["left_out"]) == {"database", "storage", "mlflow"} and "hunter2" not in json.dumps(done)
    backup.restore(settings_of(folder / "fourth", ""), folder / "cluster.backup")
    assert (folder / "fourth" / "keys" / "admin_key").read_text() == "key"
