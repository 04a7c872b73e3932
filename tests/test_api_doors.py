"""The API over HTTP, tried from outside: as the administrator of another tenant, and by the page of another site."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from api_server import UPLOAD, artifact, problem, routes, serve

from soldiom_ray.db import datasets, jobs, models
from soldiom_ray.db.engine import open_session
from soldiom_ray.settings import Settings

SECRET = "hunter2-of-the-server"


@pytest.fixture(scope="module")
def planted(api_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the server's with a secret in every form that something reads: a text, a model, a database."""
    import sqlite3

    folder = tmp_path_factory.mktemp("server")
    (folder / "secret.txt").write_text(SECRET)
    (folder / "secret.gguf").write_text(f"GGUF{SECRET}")
    (folder / "config.json").write_text(json.dumps({"model_type": SECRET, "architectures": [SECRET]}))
    with sqlite3.connect(folder / "secret.sqlite") as connection:
        connection.execute(f"CREATE TABLE t AS SELECT '{SECRET}' AS text")
    (api_settings.keys_folder).mkdir(exist_ok=True, mode=0o700)
    (api_settings.keys_folder / "note.txt").write_text(SECRET)
    return folder


@pytest.fixture
def other(api_url: str, api_keys: dict[str, str]) -> Iterator[httpx.Client]:
    """A client with the key of another tenant's administrator."""
    headers = {"Authorization": f"Bearer {api_keys['other']}"}
    with httpx.Client(base_url=api_url, headers=headers, timeout=60) as client:
        yield client


def spellings(path: Path) -> list[str]:
    """Ways to name a path of the server."""
    text = str(path)
    return [
        text, f"file://{text}", f"..{'/..' * 12}{text}", f"./{text}", f"~/../..{text}", f"/proc/self/root{text}",
        text.lstrip("/"), f"builtin/..{'/..' * 12}{text}", f"run-0123456789abcdef/..{'/..' * 12}{text}",
        f"a/b@..{'/..' * 3}{text}", f"a/b:{text}", f"${{PWD}}/..{text}", f"{text}\x7f", f"\\\\localhost{text}",
    ]  # fmt: skip


def bodies(name: str, url: str, dataset: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(call, body) with a name of the server in every place that takes a name."""
    tuned = {"name": "x", "dataset_id": dataset}
    yield "/api/training/collect/files", {"paths": [name]}
    yield "/api/training/collect/files", {"inputs": ["none"], "paths": [name]}
    yield "/api/training/collect/files", {"inputs": [name]}
    yield "/api/training/collect/files", {"inputs": ["none"], "speech_model": name}
    yield "/api/training/collect/database", {"url": url, "private": True}
    yield "/api/training/collect/database", {"url": url}
    yield "/api/training/collect/database", {"url": f"postgresql://u@/db?socket={name}", "private": True}
    yield "/api/training/collect/url", {"url": f"file://{name}"}
    yield "/api/training/jobs", tuned | {"base_model": name}
    yield "/api/training/jobs", tuned | {"config": {"base_model": name}}
    yield "/api/training/jobs", tuned | {"config": {"method": "full", "architecture": {"_name_or_path": name}}}
    yield "/api/training/jobs", tuned | {"config": {"method": "full", "architecture": {"hidden_act": name}}}
    yield "/api/training/jobs", {"name": "x", "dataset_id": name}
    for source in (
        {"source": "local", "path": name}, {"source": "files", "paths": ["/tmp", name]},
        {"source": "database", "url": url, "private": True}, {"source": "local", "packages": [name]},
    ):  # fmt: skip
        if "packages" not in source:
            yield "/api/training/jobs", {"recipe": {"name": "x", "collect": [source]}}
    for recipe in (
        {"dataset": dataset, "embed": {"model": name}}, {"documents": [name], "prepare": {}},
        {"dataset": dataset, "train": {"base_model": name}}, {"run": name, "evaluate": {}},
        {"version": name, "deploy": {}}, {"run": name, "dataset": dataset, "register": {}},
    ):  # fmt: skip
        yield "/api/training/jobs", {"recipe": {"name": "x"} | recipe}
    yield "/api/search", {"query": "x", "index": name}
    yield f"/api/inference/{quote(name)}", {"input": "x"}
    yield f"/api/models/{quote(name)}/deploy", {}


def test_no_administrator_of_a_tenant_reads_a_file_of_the_server_whatever_field_names_it(
    api_settings: Settings, planted: Path, other: httpx.Client
) -> None:
    with open_session(api_settings) as session:
        made = datasets.record(
            session, artifact("dataset", 9), name="theirs", source="user", stage="dataset", tenant="other"
        )
    tried = 0
    others = (planted, planted / "secret.gguf", api_settings.keys_folder / "note.txt")
    for name in (*spellings(planted / "secret.txt"), *map(str, others)):
        for call, body in bodies(name, f"sqlite://{planted}/secret.sqlite", made.id):
            answer = other.post(call, json=body)
            tried += 1
            assert answer.status_code in (403, 404, 405, 409, 422), (call, body, answer.text)
            assert SECRET not in answer.text, (call, body)
    assert tried > 400
    existing, missing = (
        other.post("/api/training/collect/files", json={"paths": [str(planted / name)]}).text
        for name in ("secret.txt", "no-such.txt")
    )
    assert existing == missing, "the answer tells what exists"
    for listing in ("/api/training/jobs", "/api/datasets", "/api/models", UPLOAD, "/api/audit?limit=200"):
        assert SECRET not in other.get(listing).text
    with open_session(api_settings) as session:
        assert not jobs.list_jobs(session, "other", limit=1)[0], "a job was started"


def test_names_in_the_addresses_of_calls_lead_to_no_file(
    api_settings: Settings, planted: Path, other: httpx.Client
) -> None:
    for route in routes(api_settings):
        if not route.param_convertors:
            continue
        for name in spellings(planted / "secret.txt"):
            path = route.path_format.format(**dict.fromkeys(route.param_convertors, quote(name, safe="")))
            for method in route.methods or ():
                answer = other.request(method, path)
                assert answer.status_code in (403, 404, 405, 422), (method, path, answer.text)
                assert SECRET not in answer.text


def test_an_admin_of_the_home_reads_opened_folders_and_a_tenant_does_not(
    api_settings: Settings, planted: Path, api_keys: dict[str, str]
) -> None:
    opened = planted / "opened"
    opened.mkdir()
    (opened / "a.txt").write_text("A text.")
    (opened / "out").symlink_to(planted / "secret.txt")
    server = serve(replace(api_settings, rate_limit="100000/minute", api_folders=(opened,)))
    url = next(server) + "/api/training/collect/files"
    for key, path, status in (
        ("admin", "a.txt", 503),  # accepted: Ray does not run here
        ("admin", "out", 403),
        ("admin", "../secret.txt", 403),
        ("trainer", "a.txt", 403),
        ("other", "a.txt", 403),
    ):
        headers = {"Authorization": f"Bearer {api_keys[key]}"}
        answer = httpx.post(url, json={"paths": [f"{opened}/{path}"]}, headers=headers, timeout=60)
        assert answer.status_code == status, (key, path, answer.text)
    next(server, None)


def test_whatever_takes_a_run_takes_the_model_made_of_it_and_the_other_way_round(
    api_settings: Settings, api: httpx.Client, other: httpx.Client
) -> None:
    run = "run-00000000000000d0"
    with open_session(api_settings) as session:
        dataset = datasets.record(session, artifact("dataset", 10), name="d", source="user", stage="dataset")
        base = models.create(session, family="base", name="door-base", base_model="builtin/tiny")
        made = models.create(session, family="fine-tuned", name="door", run_artifact=run, base_model="builtin/tiny")
        job = jobs.create(session, name="door", kind="train", config={})
        jobs.set_stage(session, job.id, "train", artifact_id=run)
    started = {"dataset": dataset.id}
    for name in (run, made.id, "fine-tuned/door", "door", "door@1"):
        for recipe in ({"run": name, "evaluate": {}}, {"version": name, "deploy": {}}):
            answer = api.post("/api/training/jobs", json={"recipe": {"name": "x"} | started | recipe})
            problem(answer, 503)  # accepted: Ray does not run here
            config = api.get("/api/training/jobs").json()["items"][0]["config"]
            assert config.get("run", run) == run and config.get("version", made.id) == made.id
        problem(api.post("/api/training/jobs", json={"name": "x", "dataset_id": dataset.id, "base_model": name}), 503)
    problem(
        api.post("/api/training/jobs", json={"recipe": {"name": "x", "run": base.id, "evaluate": {}} | started}), 422
    )
    missing = problem(
        api.post(
            "/api/training/jobs", json={"recipe": {"name": "x", "run": "fine-tuned/dor", "evaluate": {}} | started}
        ),
        404,
    )
    assert 'Did you mean "fine-tuned/door"' in missing["detail"]
    for name in ("fine-tuned/door", run, made.id):
        shown = api.get(f"/api/models/{name}")
        assert shown.status_code == 200 and shown.json()["id"] == made.id, name
        assert api.get(f"/api/models/{name}/metrics").json()["id"] == made.id
        assert made.id in problem(api.post(f"/api/inference/{name}", json={"input": "x"}), 409)["detail"]
        assert made.id in problem(api.post(f"/api/inference/{name}/batch", json={"inputs": ["x"]}), 409)["detail"]
        problem(other.get(f"/api/models/{name}"), 404)
    assert "door" not in problem(other.get("/api/models/fine-tuned%2Fdoo"), 404)["detail"].replace("doo'", "")
