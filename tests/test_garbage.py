"""What nothing refers to is removed from storage, and nothing else."""

import os
import time
from email.message import EmailMessage
from pathlib import Path

import pytest
from conftest import Home

from soldiom_ray.api.upload_store import remove_unreferenced
from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.collect import collect
from soldiom_ray.collect.raw import store_raw
from soldiom_ray.db import audit, datasets, documents, inputs, jobs, models
from soldiom_ray.db.engine import migrate, open_session
from soldiom_ray.deletion import delete_dataset
from soldiom_ray.domains.sources import FilesSource
from soldiom_ray.errors import NotFoundError
from soldiom_ray.settings import Settings, load_settings
from soldiom_ray.storage import open_storage, raw_key

ATTACHED = b"What is attached is read as well, and its bytes stay while the mail is there.\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Home:
    made = Home(tmp_path_factory.mktemp("home"), {"SOLDIOM_DATABASE_URL": postgres_url})
    migrate(load_settings(made.environ))
    return made


@pytest.fixture(scope="module")
def settings(home: Home) -> Settings:
    return load_settings(home.environ)


def mail(folder: Path) -> Path:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Terms", "a@example.org", "b@example.org"
    message.set_content("The terms that we spoke about are attached to this message.")
    message.add_attachment(ATTACHED, maintype="text", subtype="plain", filename="terms.txt")
    folder.mkdir()
    (folder / "mail.eml").write_bytes(bytes(message))
    (folder / "rows.csv").write_text("question,answer\nWho wrote it?,Ada wrote it.\nWhen?,In the year 1843.\n")
    return folder


def test_only_what_nothing_refers_to_is_removed(home: Home, settings: Settings, tmp_path: Path) -> None:
    storage = open_storage(settings)
    artifacts = Artifacts(storage)
    made = collect(
        Context(settings, artifacts, lambda share, message: None),
        [FilesSource(source="files", paths=(str(mail(tmp_path / "mine")),))],
    )
    uploaded = store_raw(storage, b"uploaded and not collected yet")
    with open_session(settings) as session:
        said = {"sha256": uploaded, "size_bytes": 30, "user_id": "ada"}
        inputs.add(session, input_type="file", content=raw_key(uploaded), **said)
    storage.write("work/evaluation-sets/dataset-1-default.json", b"{}")
    storage.write("logs/job.log", b"a line")
    needed = {key: storage.read(key) for key in storage.all_keys() if not key.startswith("kept/")}
    assert any(key.startswith("parts/documents/") for key in needed)
    assert len([key for key in needed if key.startswith("raw/")]) == 3  # mail, table, upload

    orphan, begun = raw_key(store_raw(storage, b"nobody's")), "run/run-0123456789abcdef/checkpoints/5/manifest.json"
    storage.write("parts/documents/ab/abcd", b"part")
    for key in (begun, "work/dataset-2/facts.parquet", "dataset/dataset-3/train.parquet"):
        storage.write(key, b"{}")
    young = {key: storage.read(key) for key in storage.all_keys() if key.startswith("kept/")}
    first = home.json("gc", "--dry-run")
    assert first == {"removed": False, "kinds": {
        "raw bytes": {"objects": 1, "bytes": 8}, "shared file": {"objects": 1, "bytes": 4},
    }}  # fmt: skip
    assert storage.exists(orphan)
    eight_days_ago = time.time() - 8 * 86_400
    for key in (begun, "work/dataset-2/facts.parquet"):
        os.utime(home.folder / "storage" / key, (eight_days_ago, eight_days_ago))
    with open_session(settings) as session:
        job = jobs.create(session, name="x", kind="train", config={}).id
    assert job in home.run("gc", code=1).stderr
    with open_session(settings) as session:
        jobs.update(session, job, status="cancelled")
    assert home.json("gc")["kinds"]["unfinished work"] == {"objects": 2, "bytes": 4}
    left = {key: storage.read(key) for key in storage.all_keys()}
    assert left == needed | young | {"dataset/dataset-3/train.parquet": b"{}"}
    assert home.json("gc") == {"removed": True, "kinds": {}}
    assert artifacts.get(made.id).counts == made.counts
    done = home.run("gc", "--days", "0")
    assert "cached result" in done.stdout and "unfinished work" in done.stdout
    assert {key: storage.read(key) for key in storage.all_keys()} == needed


def test_deleting_an_input_leaves_the_bytes_that_a_document_of_another_source_names(
    settings: Settings, tmp_path: Path
) -> None:
    storage = open_storage(settings)
    (tmp_path / "same.txt").write_bytes(b"The same words, uploaded by one and collected by another.\n")
    artifacts = Artifacts(storage)
    made = collect(
        Context(settings, artifacts, lambda share, message: None),
        [FilesSource(source="files", paths=(str(tmp_path / "same.txt"),))],
    )
    key = raw_key(next(iter(artifacts.rows(made, "documents/", ("sha256",))))["sha256"])
    with open_session(settings) as session:
        documents.record(session, made.id, artifacts.rows(made, "documents/", documents.COLUMNS))
    remove_unreferenced(settings, [key])
    assert storage.exists(key)


def test_a_dataset_that_nothing_uses_is_deleted_and_its_raw_bytes_go_with_the_garbage(
    home: Home, settings: Settings, tmp_path: Path
) -> None:
    storage = open_storage(settings)
    folder = mail(tmp_path / "deleted")
    (folder / "only.csv").write_text("question,answer\nWho else?,Only this text says it.\n")
    made = collect(
        Context(settings, Artifacts(storage), lambda share, message: None),
        [FilesSource(source="files", paths=(str(folder),))],
    )
    tokens = Artifacts(storage).draft("tokens", {"of": made.id}, [made.id])
    tokens.write("x", b"token ids")
    tokens.commit()
    with open_session(settings) as session:
        documents.record(session, made.id, Artifacts(storage).rows(made, "documents/", documents.COLUMNS))
        row = datasets.record(session, made, name="mine", source="user", stage="documents")
        datasets.record(session, made, name="theirs", source="user", stage="documents", tenant="other")
        model = models.create(session, family="fine-tuned", name="m", lineage={"documents": [{"id": made.id}]})
        job = jobs.create(session, name="j", kind="prepare", config={"documents": [made.id]})
    refused = home.run("dataset", "delete", made.id, code=1)
    assert "model fine-tuned/m@1" in refused.stderr and f"job {job.id}" in refused.stderr
    with open_session(settings) as session:
        models.delete(session, model.id)
        jobs.update(session, job.id, status="completed")
        assert audit.list_rows(session, "default")[0][0].decision == "deny"
    assert home.json("dataset", "delete", made.id)["id"] == row.id
    assert Artifacts(storage).find(made.id)  # the other tenant still has it
    with open_session(settings) as session, pytest.raises(NotFoundError):
        datasets.get(session, made.id, "default")
    delete_dataset(settings, made.id, "other", "key")
    assert not any(key.startswith((f"documents/{made.id}", "tokens/")) for key in storage.all_keys())
    with open_session(settings) as session:
        assert documents.list_documents(session, made.id)[0] == []
        newest = audit.list_rows(session, "other")[0][0]
    assert (newest.action, newest.decision, newest.details["bytes_removed"]) == ("delete dataset", "allow", True)
    removed = home.json("gc")["kinds"]["raw bytes"]
    assert removed["objects"] >= 1
