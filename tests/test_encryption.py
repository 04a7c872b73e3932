"""Encryption keys: changed while everything is read, printed by a command, and nothing without a seal is believed."""

import hashlib
import json
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Home
from sqlalchemy import select, update

from soldiom_ray.db import answers, inputs, jobs, models
from soldiom_ray.db.answers import Exchange
from soldiom_ray.db.engine import migrate, open_session
from soldiom_ray.db.tables import Answer, AuditRow, UserInput
from soldiom_ray.domains.recipes import validate_recipe
from soldiom_ray.domains.secrets import hide_secrets
from soldiom_ray.errors import DamagedError, InputError
from soldiom_ray.sealing import seal_text, unseal_text
from soldiom_ray.services import applied
from soldiom_ray.settings import Settings, load_settings, read_json, save_secrets
from soldiom_ray.storage import FolderBackend, Storage

OLD, NEW, OTHER = bytes(range(32)), bytes(range(1, 33)), bytes(range(2, 34))
TEXT = b"A planted sentence about a client. " * 100_000
"""Several chunks."""


@pytest.fixture
def plain(tmp_path: Path) -> Storage:
    return Storage(FolderBackend(tmp_path / "storage"))


def with_keys(storage: Storage, *keys: bytes) -> Storage:
    return Storage(storage.backend, keys)


def test_the_first_key_seals_and_every_key_opens(plain: Storage) -> None:
    with_keys(plain, OLD).write("a", TEXT)
    both = with_keys(plain, NEW, OLD)
    both.write("b", TEXT)
    assert both.read("a") == both.read("b") == TEXT == with_keys(plain, NEW).read("b")
    assert [both.seal_of(key) for key in "ab"] == ["earlier", "newest"]
    assert unseal_text(seal_text("Ada", "row/1", (OLD,)), "row/1", (NEW, OLD)) == "Ada"
    for storage in (with_keys(plain, NEW), with_keys(plain, OTHER)):
        with pytest.raises(DamagedError, match="'a' does not open"):
            storage.read("a")


def test_what_has_no_seal_is_refused_where_there_is_a_key(plain: Storage, tmp_path: Path) -> None:
    sealed = with_keys(plain, NEW)
    plain.write("folder/a", TEXT)
    with pytest.raises(InputError, match=r"'folder/a' is not sealed(.|\n)*soldiom encryption reseal"):
        sealed.read("folder/a")
    with pytest.raises(InputError, match="not sealed"), sealed.local_folder("folder"):
        pass
    with pytest.raises(InputError, match="'row/1' is not sealed"):
        unseal_text("Ada", "row/1", (NEW,))
    assert plain.read("folder/a") == TEXT and unseal_text("", "row/1", (NEW,)) == ""
    sealed.write_once("folder/a", TEXT)  # the same bytes brought once more
    assert sealed.read("folder/a") == TEXT


def test_objects_are_read_and_removed_while_they_are_sealed_anew(plain: Storage) -> None:
    old, both = with_keys(plain, OLD), with_keys(plain, NEW, OLD)
    for number in range(40):
        (plain if number % 2 else old).write(f"o/{number}", TEXT[: 1000 * number + 7])
    wrong: list[str] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            for number in range(20):
                with suppress(InputError):  # those that have no seal yet
                    if both.read(f"o/{number}") != TEXT[: 1000 * number + 7]:
                        wrong.append(f"o/{number}")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(20, 30):
            both.remove(f"o/{number}")
        seals = [both.reseal(key) for key in both.keys("o")]
    finally:
        stop.set()
        reader.join()
    assert not wrong and sorted(seals) == ["earlier"] * 15 + ["none"] * 15
    assert all(with_keys(plain, NEW).read(f"o/{number}") == TEXT[: 1000 * number + 7] for number in range(20))
    assert not [key for key in both.keys("o") if 20 <= int(key[2:]) < 30]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Home:
    """A home without services but its database, with texts and objects under the old key, and some under none."""
    made = Home(tmp_path_factory.mktemp("home"), {"SOLDIOM_DATABASE_URL": postgres_url})
    settings = settings_of(made, OLD)
    migrate(settings)
    recipe = {"name": "x", "collect": [{"source": "database", "url": "postgresql://u:hunter2@db.example.org/d"}]}
    hide_secrets(settings, validate_recipe(recipe), "default")
    for keys, name in (((OLD,), "sealed"), ((), "plain")):
        storing = replace(settings, encryption_keys=keys)
        Storage(FolderBackend(made.folder / "storage"), keys).write(f"raw/sha256/ab/{name}", TEXT)
        add_texts(storing, name)
    return made


def settings_of(home: Home, *keys: bytes) -> Settings:
    listed = ",".join(key.hex() for key in keys)
    return load_settings(home.environ | ({"SOLDIOM_ENCRYPTION_KEY": listed} if keys else {}))


def add_texts(settings: Settings, name: str) -> None:
    with open_session(settings) as session:
        keys, content = settings.encryption_keys, seal_text("Ada", f"user_inputs/{name}", settings.encryption_keys)
        said = {"size_bytes": 3, "sha256": hashlib.sha256(b"Ada").hexdigest(), "user_id": "ada"}
        inputs.add(session, id=name, input_type="text", content=content, **said)
        model = models.create(session, family="fine-tuned", name=name, run_artifact=f"run-{name}").id
        exchange = Exchange({"form": "text", "input": "Who?"}, "Ada")
        answers.add(session, exchange, keys, id=name, tenant="default", model_id=model, owner="k", user_id="ada")
    with open_session(settings) as session:
        file = {"id": f"f-{name}", "input_type": "file", "content": f"raw/sha256/ab/{name}"}
        inputs.add(session, **file, **said)


def texts(settings: Settings) -> list[str]:
    with open_session(settings) as session:
        rows = session.scalars(select(UserInput).where(UserInput.input_type == "text")).all()
        found = [unseal_text(row.content, f"user_inputs/{row.id}", settings.encryption_keys) for row in rows]
        stored = session.scalars(select(Answer)).all()
        return found + [answers.exchange_of(row, settings.encryption_keys).output for row in stored]


def test_a_key_is_changed_with_one_command(home: Home) -> None:
    both, new = settings_of(home, NEW, OLD), settings_of(home, NEW)
    environ = {"SOLDIOM_ENCRYPTION_KEY": f"{NEW.hex()},{OLD.hex()}"}
    assert "no encryption key" in home.run("encryption", "reseal", code=2).stderr
    counted = home.json("encryption", "status", **environ)
    assert counted == {"keys": 2, "objects": {"earlier": 1, "none": 1}, "texts": {"earlier": 3, "none": 3}}
    applied.remember(settings_of(home, OLD))  # as `up` does
    assert "soldiom up" in home.run("encryption", "reseal", code=1, **environ).stderr
    applied.remember(both)
    with open_session(both) as session:
        job = jobs.create(session, name="x", kind="train", config={}).id
    assert job in home.run("encryption", "reseal", code=1, **environ).stderr
    with open_session(both) as session:
        jobs.update(session, job, status="cancelled")
    done = home.run("encryption", "reseal", **environ)
    assert "earlier" in done.stdout and "Secrets of connections: 1." in done.stdout
    assert home.json("encryption", "status", **environ)["texts"] == {"newest": 6}
    assert texts(new) == ["Ada"] * 4
    storage = Storage(FolderBackend(home.folder / "storage"), (NEW,))
    assert [storage.read(key) for key in storage.keys("raw")] == [TEXT] * 2
    with open_session(new) as session:
        contents = set(session.scalars(select(UserInput.content).where(UserInput.input_type == "file")))
        assert contents == {"raw/sha256/ab/plain", "raw/sha256/ab/sealed"}
        entry = session.scalars(select(AuditRow).where(AuditRow.action == "reseal")).one()
        assert entry.details["texts"] == {"earlier": 3, "none": 3}
    # The password that was kept under the old key is now sealed with the new one.
    kept = (home.folder / "keys" / "connections.json").read_text()
    (reference, value), *rest = json.loads(kept).items()
    assert not rest and unseal_text(value, f"connections/{reference}", (NEW,)) == "hunter2" and "hunter2" not in kept


def test_what_does_not_open_is_named_and_left_as_it_is(home: Home) -> None:
    applied.remember(settings_of(home, NEW))
    storage = Storage(FolderBackend(home.folder / "storage"), (OTHER,))
    storage.write("documents/strange", b"x")
    strange = (home.folder / "storage" / "documents" / "strange").read_bytes()
    with open_session(settings_of(home)) as session:
        row = session.scalars(select(UserInput).where(UserInput.input_type == "text")).first()
        assert row is not None
        session.execute(update(UserInput).where(UserInput.id == row.id).values(content=seal_text("x", "else", (NEW,))))
        name = f"user_inputs/{row.id}"
    done = home.run("encryption", "reseal", code=1, SOLDIOM_ENCRYPTION_KEY=NEW.hex())
    assert "documents/strange" in done.stderr and name in done.stderr and "2 do not open" in done.stderr
    assert (home.folder / "storage" / "documents" / "strange").read_bytes() == strange


def test_a_command_prints_the_key_and_no_file_holds_it(tmp_path: Path) -> None:
    home = {"SOLDIOM_HOME": str(tmp_path)}
    save_secrets(load_settings(home), home | {"SOLDIOM_ENCRYPTION_KEY": OLD.hex()})
    assert load_settings(home).encryption_keys == (OLD,)
    counter = tmp_path / "asked"
    command = f"echo x >> {counter}; echo {NEW.hex()}, {OLD.hex()}"
    with_command = home | {"SOLDIOM_ENCRYPTION_KEY_COMMAND": command}
    settings = save_secrets(load_settings(with_command), with_command)
    assert settings.encryption_keys == (NEW, OLD) and "SOLDIOM_ENCRYPTION_KEY" not in read_json(settings.secrets_path)
    assert counter.read_text() == "x\n", "asked once in a process"
    for printed in (
        "exit 3",
        "true",
        f"echo {'0' * 63}",
        f"echo {NEW.hex()},{NEW.hex()}",
        "echo secret-output; exit 1",
    ):
        with pytest.raises(InputError, match="SOLDIOM_ENCRYPTION_KEY_COMMAND") as caught:
            load_settings(home | {"SOLDIOM_ENCRYPTION_KEY_COMMAND": printed})
        assert "secret-output" not in str(caught.value.to_dict()) and NEW.hex() not in str(caught.value.to_dict())
