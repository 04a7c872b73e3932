"""What is stored of a user through the API: handed out whole, and gone everywhere once it is erased."""

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_server import UPLOAD, problem, serve
from real_chroma import Chroma

from soldiom_ray import vectors
from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.collect import collect
from soldiom_ray.db import answers, audit, datasets, documents, feedback, jobs, keys, models
from soldiom_ray.db.answers import Exchange
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.tables import Table
from soldiom_ray.domains.sources import FilesSource
from soldiom_ray.records import Manifest, new_id, now
from soldiom_ray.settings import Settings
from soldiom_ray.storage import log_key, open_storage, raw_key

PLANTED = "Planted Name lives in Planted Street and has a planted illness."
SHARED = "a text that two users have uploaded, each for himself"


@pytest.fixture(scope="module")
def private(api_settings: Settings, chroma: Chroma) -> Settings:
    return replace(api_settings, chroma_url=chroma.url, rate_limit="100000/minute")


@pytest.fixture(scope="module")
def url(private: Settings) -> Iterator[str]:
    yield from serve(private)


@pytest.fixture
def admin(url: str, api_keys: dict[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {api_keys['admin']}"}, timeout=60) as made:
        yield made


def upload(client: httpx.Client, user_id: str, text: str, name: str = "") -> str:
    if name:
        files = {"file": (name, text.encode())}
        return str(client.post(UPLOAD, files=files, data={"user_id": user_id}).json()["items"][0]["id"])
    body = {"user_id": user_id, "input_type": "text", "content": text}
    return str(client.post(UPLOAD, json=body).json()["id"])


def collected(settings: Settings, ids: list[str]) -> Manifest:
    """Documents of inputs, and artifacts below them as the stages name them, recorded as a job does."""
    artifacts = Artifacts(open_storage(settings))
    context = Context(settings, artifacts, lambda share, message: None)
    made = collect(context, [FilesSource(inputs=tuple(ids))])
    with open_session(settings) as session:
        documents.record(session, made.id, artifacts.rows(made, "documents/", documents.COLUMNS))
        datasets.record(session, made, name="x", source="user", stage="documents")
    return made


def below(settings: Settings, kind: str, *parents: str) -> Manifest:
    draft = Artifacts(open_storage(settings)).draft(kind, {"test": list(parents)}, parents)
    draft.write("texts", PLANTED.encode())
    return draft.commit()


def traces(settings: Settings, planted: str) -> list[str]:
    """Where a text still is: objects of the storage, and rows of any table."""
    root = settings.home / "storage"
    files = sorted(path for path in root.rglob("*") if path.is_file())
    found = [path.relative_to(root).as_posix() for path in files if planted.encode() in path.read_bytes()]
    with open_session(settings) as session:
        for table in Table.metadata.sorted_tables:
            rows = session.execute(table.select()).mappings()
            found += [table.name for row in rows if planted in json.dumps(dict(row), default=str)]
    return found


def test_a_user_of_more_inputs_than_a_statement_takes_parameters_is_erased(
    private: Settings, admin: httpx.Client
) -> None:
    count = 65_536 + 10
    shared = {"tenant": "default", "owner": "", "shared": True, "user_id": "many", "input_type": "text"}
    shared |= {"content": "x", "metadata": {}, "sha256": "0" * 64, "size_bytes": 1, "created_at": now()}
    with open_session(private) as session:
        table = Table.metadata.tables["user_inputs"]
        session.execute(table.insert(), [shared | {"id": f"many-{number}"} for number in range(count)])
    erased = admin.delete("/api/users/many")
    assert erased.status_code == 200 and erased.json()["inputs"] == count, erased.text
    assert admin.get(UPLOAD, params={"user_id": "many"}).json()["items"] == []


@pytest.fixture
def stored(private: Settings, admin: httpx.Client) -> dict[str, Any]:
    """Two users' inputs in one dataset with its index, a model that learnt from it, and what one of them asked."""
    text, file = upload(admin, "ada", PLANTED), upload(admin, "ada", f"{PLANTED} In a file.", "../ada's.txt")
    shared = [upload(admin, user_id, SHARED, "shared.txt") for user_id in ("ada", "bob")]
    other = upload(admin, "bob", "What bob wrote stays, since nobody asked to erase it.")
    both, bobs = collected(private, [text, file, shared[0], other]), collected(private, [other, shared[1]])
    dataset = below(private, "dataset", both.id)
    index, tokens, run = (below(private, kind, dataset.id) for kind in ("index", "tokens", "run"))
    scores = below(private, "scores", run.id, dataset.id)
    vectors.open_collection(private, f"{index.id}-0a0b0c0d")
    with open_session(private) as session:
        model = models.create(session, family="fine-tuned", name="learnt", run_artifact=run.id)
        columns = {"id": new_id(), "tenant": "default", "model_id": model.id, "owner": "k", "user_id": "ada"}
        exchange = Exchange({"form": "chat", "messages": [{"role": "user", "content": PLANTED}]}, "Yes.")
        answer = answers.add(session, exchange, (), **columns)
        said = {"user_id": "bob", "rating": "down", "correction": "No.", "reason": ""}
        given = feedback.give(session, answer, encryption_keys=(), **said)
        feedback.accept(session, given.id, "default", reviewer="cli", correction="", encryption_keys=())
        removed = sorted(each.id for each in (both, dataset, index, tokens, scores))
        return {"model": model.id, "removed": removed, "stays": [bobs.id, run.id], "shared": shared, "index": index.id}


def test_a_user_is_handed_out_whole_and_erased_everywhere_and_the_others_keep_what_is_theirs(
    private: Settings, admin: httpx.Client, stored: dict[str, Any], api_keys: dict[str, str], url: str
) -> None:
    # A training that was stopped has left a checkpoint, whose manifest is not an artifact's.
    open_storage(private).write(
        "run/run-0123456789abcdef/checkpoints/5/manifest.json", b'{"manifest": "", "sha256": ""}'
    )
    archive = zipfile.ZipFile(io.BytesIO(admin.get("/api/users/ada/export").content))
    record = json.loads(archive.read("user.json"))
    assert [len(record[name]) for name in ("inputs", "answers", "feedback", "models")] == [3, 1, 1, 1]
    assert record["inputs"][0]["content"] == PLANTED and record["models"][0]["id"] == stored["model"]
    assert archive.read(record["inputs"][1]["file"]).decode() == f"{PLANTED} In a file."
    assert all(".." not in name for name in archive.namelist())
    assert len(traces(private, PLANTED)) > 8
    archive = zipfile.ZipFile(io.BytesIO(admin.get("/api/users/bob/export").content))
    assert [item["correction"] for item in json.loads(archive.read("user.json"))["feedback"]] == ["No."]
    assert not any(PLANTED.encode() in archive.read(name) for name in archive.namelist())  # what bob rated is ada's
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {api_keys['other']}"}) as other:
        problem(other.get("/api/users/ada/export"), 404)
        problem(other.delete("/api/users/ada"), 404)
    erased = admin.delete("/api/users/ada").json()
    assert (erased["inputs"], erased["answers"], erased["feedback"]) == (4, 1, 1)  # bob's example holds ada's question
    assert erased["artifacts"] == stored["removed"] and [each["id"] for each in erased["models"]] == [stored["model"]]
    assert all(name.startswith("run/") for name in traces(private, PLANTED))  # weights stay
    assert vectors.delete_collections(private, stored["index"]) == 0
    artifacts = Artifacts(open_storage(private))
    assert all(artifacts.find(name) for name in stored["stays"])
    assert [item["user_id"] for item in admin.get(UPLOAD).json()["items"]] == ["bob", "bob"]
    sha256 = admin.get(UPLOAD).json()["items"][1]["sha256"]
    assert open_storage(private).read(raw_key(sha256)).decode() == SHARED
    problem(admin.delete("/api/users/ada"), 404)
    problem(admin.get("/api/users/ada/export"), 404)
    with open_session(private) as session:
        [newest], _ = audit.list_rows(session, "default", limit=1)
        assert audit.verify(session) is None and newest.decision == "allow"


def test_an_erasure_that_was_interrupted_goes_on(
    private: Settings, admin: httpx.Client, stored: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError

    monkeypatch.setattr(vectors, "delete_collections", fails)
    assert admin.delete("/api/users/ada").status_code == 500
    assert traces(private, PLANTED)
    monkeypatch.undo()
    assert admin.delete("/api/users/ada").status_code == 200
    assert all(name.startswith("run/") for name in traces(private, PLANTED))  # weights stay


def test_nobody_is_erased_while_a_job_may_still_write_what_it_has_read(
    private: Settings, admin: httpx.Client, stored: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_session(private) as session:
        job = jobs.create(session, name="x", kind="collect", config={}).id
    assert job in problem(admin.delete("/api/users/ada"), 409)["detail"]
    assert len(traces(private, PLANTED)) > 8
    with open_session(private) as session:
        jobs.update(session, job, status="completed")
        meanwhile = jobs.create(session, name="y", kind="collect", config={}, tenant="other").id
    delete_collections = vectors.delete_collections

    def delete_as_a_job_ends(settings: Settings, index: str) -> int:
        with open_session(private) as session:
            jobs.update(session, jobs.create(session, name="z", kind="collect", config={}).id, status="completed")
        return delete_collections(settings, index)

    monkeypatch.setattr(vectors, "delete_collections", delete_as_a_job_ends)
    problem(admin.delete("/api/users/ada"), 409)
    monkeypatch.undo()
    assert admin.delete("/api/users/ada").status_code == 200
    assert all(name.startswith("run/") for name in traces(private, PLANTED))  # weights stay
    with open_session(private) as session:
        jobs.update(session, meanwhile, status="completed")


def test_the_command_writes_an_archive_for_its_owner_alone_and_no_other_file(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from soldiom_ray.cli.app import app

    target = tmp_path / "user.zip"
    target.write_bytes(b"mine")
    done = CliRunner().invoke(app, ["users", "export", "ada", "--output", str(target)])
    assert done.exit_code != 0 and target.read_bytes() == b"mine"


def test_what_a_key_owns_is_handed_out_and_erased_and_what_others_need_stays(
    private: Settings, admin: httpx.Client, url: str
) -> None:
    storage = open_storage(private)
    with open_session(private) as session:
        row, plain = keys.create(session, "trainer", "owner")
        mine, open_to_all = (below(private, "dataset", f"documents-{number}") for number in range(2))
        tokens = below(private, "tokens", mine.id)
        datasets.record(session, mine, name="mine", source="user", stage="dataset", owner=row.id)
        datasets.record(session, open_to_all, name="all's", source="user", stage="dataset", owner=row.id).shared = True
        model = models.create(session, family="fine-tuned", name="left", owner=row.id)
        models.create(session, family="fine-tuned", name="left")
        job = jobs.create(session, name="mine", kind="train", config={"note": PLANTED}, owner=row.id).id
        jobs.update(session, job, status="completed", completed_at=now() - timedelta(hours=1))
    storage.write(log_key(job), PLANTED.encode())
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {plain}"}) as owner:
        upload(owner, "somebody", "Uploaded with the key of its owner.")
    archive = zipfile.ZipFile(io.BytesIO(admin.get(f"/api/users/{row.id}/export").content))
    record = json.loads(archive.read("user.json"))
    assert [each["name"] for each in record["datasets"]] == ["mine", "all's"]
    counts = [len(record[name]) for name in ("inputs", "jobs", "evaluations", "own_models", "models")]
    assert counts == [1, 1, 0, 1, 1]
    erased = admin.delete(f"/api/users/{row.id}").json()
    assert erased["artifacts"] == sorted([mine.id, tokens.id]) and erased["models"][0]["id"] == model.id
    assert not storage.exists(log_key(job)) and Artifacts(storage).find(open_to_all.id)
    problem(admin.get(f"/api/training/jobs/{job}"), 404)
    left = admin.get(f"/api/models/{model.id}").json()
    assert (left["owner"], left["shared"], left["version"]) == ("", False, 2)  # an admin decides
    assert admin.get(f"/api/datasets/{open_to_all.id}").json()["owner"] == ""
    problem(admin.get(f"/api/users/{row.id}/export"), 404)
