"""The API over HTTP, on a real PostgreSQL: who may call what, what bodies may be, how errors look, what is kept."""

import hashlib
import io
import json
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.routing import APIRoute
from real_postgres import postgres

from soldiom_ray.api.app import make_app
from soldiom_ray.api.auth import ROLE
from soldiom_ray.api.middleware import HEADER_BYTES, JSON_BYTES, UPLOAD_BYTES
from soldiom_ray.db import audit, datasets, inputs, jobs, keys, models
from soldiom_ray.db.engine import migrate, open_database, session
from soldiom_ray.records import ROLES, FileEntry, Manifest, now
from soldiom_ray.settings import Settings, load_settings
from soldiom_ray.storage import open_storage, raw_key

UPLOAD = "/api/training/collect/user-input"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with postgres() as database:
        home = str(tmp_path_factory.mktemp("home"))
        made = load_settings({"SOLDIOM_HOME": home, "SOLDIOM_DATABASE_URL": database})
        migrate(made)
        yield made
        open_database(made).dispose()


def serve(settings: Settings) -> Iterator[str]:
    return listen(make_app(settings, reconciles=False))


def listen(app: Any) -> Iterator[str]:
    """The URL of an application that runs until the generator is closed."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=10)


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    yield from serve(replace(settings, rate_limit="100000/minute"))


@pytest.fixture(scope="module")
def key(settings: Settings) -> dict[str, str]:
    """A key per role of the tenant "default", and an admin's of another tenant under "other"."""
    with session(settings) as opened:
        made = {role: keys.create(opened, role, role)[1] for role in ROLES}
        return made | {"other": keys.create(opened, "admin", "other", "other")[1]}


@pytest.fixture
def api(url: str, key: dict[str, str]) -> Iterator[httpx.Client]:
    """A client with the admin's key."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key['admin']}"}, timeout=30) as client:
        yield client


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert set(body) >= {"type", "title", "status", "detail"} and body["status"] == status
    return body


def routes(settings: Settings) -> list[APIRoute]:
    found: list[Any] = []

    def walk(these: Any) -> None:
        for route in these:
            inner = getattr(route, "original_router", None)
            walk(inner.routes) if inner is not None else found.append(route)

    walk(make_app(settings, reconciles=False).routes)
    return found


def artifact(kind: str, number: int) -> Manifest:
    files = (FileEntry(name="x", size_bytes=1, sha256="0"),)
    return Manifest(kind=kind, id=f"{kind}-{number:016x}", made_from={}, files=files, created_at=now())


def test_every_route_declares_a_role_and_is_of_the_guarded_kind(settings: Settings) -> None:
    found = routes(settings)
    assert len(found) > 25
    for route in found:
        assert type(route).__name__ == "GuardedRoute", route
        assert (route.openapi_extra or {}).get(ROLE) in (*ROLES, "anyone", "local or admin"), route.path


def test_every_call_is_refused_without_a_key_and_to_each_role_below_its_own(
    settings: Settings, url: str, key: dict[str, str]
) -> None:
    with httpx.Client(base_url=url) as client:
        for route in routes(settings):
            role = (route.openapi_extra or {})[ROLE]
            path = route.path.format(**dict.fromkeys(route.param_convertors, "no-such-id"))
            for method in route.methods or ():
                if role not in ROLES:
                    assert client.request(method, path).status_code in (200, 503)
                    continue
                refused = problem(client.request(method, path), 401)
                assert "sld_" in refused["remedy"]
                assert client.request(method, path).headers["www-authenticate"].startswith("Bearer")
                problem(client.request(method, path, headers={"Authorization": "Bearer sld_00000000_x"}), 401)
                for other in ROLES:
                    answer = client.request(method, path, headers={"Authorization": f"Bearer {key[other]}"})
                    allowed = ROLES.index(other) >= ROLES.index(role)
                    assert (answer.status_code not in (401, 403)) is allowed, (method, path, other, answer.text)
                    assert answer.status_code < 500 or answer.status_code == 503, (method, path, answer.text)


def test_a_refused_viewer_leaves_one_row_in_the_trail_that_an_admin_reads(
    settings: Settings, url: str, key: dict[str, str], api: httpx.Client
) -> None:
    before = len(api.get("/api/audit", params={"limit": 200}).json()["items"])
    refused = httpx.delete(url + "/api/models/abc", headers={"Authorization": f"Bearer {key['viewer']}"})
    assert "viewer" in problem(refused, 403)["detail"]
    items = api.get("/api/audit", params={"limit": 200}).json()["items"]
    assert len(items) == before + 1
    row = items[0]
    assert (row["action"], row["object"], row["decision"]) == (
        "DELETE /api/models/{model_id}",
        "/api/models/abc",
        "deny",
    )
    assert row["details"] == {"key": "viewer", "role": "viewer", "needs": "trainer"}
    assert api.get("/api/audit/verify").json() == {"holds": True, "first_bad": None}
    with session(settings) as opened:
        assert audit.verify(opened) is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"name": NaN}', 400),
        (b'{"name": Infinity}', 400),
        (b'{"name": 1e999}', 422),
        (b'{"name": "\\ud800"}', 422),
        (b'{"\\udfff": 1}', 422),
        (b'{"name": "a\\u0000b"}', 422),
        (b'{"name": "\xed\xa0\x80"}', 400),
        (b'{"name": "\xff"}', 400),
        (b'{"name": 1', 400),
        (b"[" * 200_000, 400),
        (b'{"name": "a", "name": "b"}', 422),
        (b"9" * 5000, 422),
        (b"null", 422),
        (b"[]", 422),
        (b"", 422),
        (b'{"name": "a", "dataset_id": "x", "no_such_field": 1}', 422),
        (b'{"name": "a"}', 422),
    ],
)
def test_bodies_that_are_not_good_json_get_a_problem_and_never_a_500(
    api: httpx.Client, body: bytes, status: int
) -> None:
    for path in ("/api/training/jobs", UPLOAD, "/api/search", "/api/keys"):
        answer = api.post(path, content=body, headers={"Content-Type": "application/json"})
        if path == "/api/training/jobs":
            problem(answer, status)
        else:
            problem(answer, answer.status_code)
            assert 400 <= answer.status_code < 500


def test_wrong_input_is_told_by_field_and_never_echoed(api: httpx.Client) -> None:
    shown = problem(api.post("/api/search", json={"query": "secret-word" * 1000, "k": "many"}), 422)
    assert {error["loc"] for error in shown["errors"]} == {"body.query", "body.k"}
    assert "secret-word" not in json.dumps(shown)
    shown = problem(api.get("/api/training/jobs", params={"limit": 0, "status": "lost"}), 422)
    assert {error["loc"] for error in shown["errors"]} == {"query.limit", "query.status"}


def test_a_body_of_another_type_is_refused_and_so_is_an_unknown_path_or_method(api: httpx.Client) -> None:
    problem(api.post("/api/search", content=b"query=x", headers={"Content-Type": "text/plain"}), 415)
    problem(api.post("/api/search", content=b'{"query": "x"}'), 415)
    problem(api.get("/api/nothing"), 404)
    assert problem(api.put("/api/search"), 405)
    for path in ("/api/training/jobs/%00", "/api/models/a%00b", "/api/datasets/%ff%fe", "/api/training/jobs/%ed%a0%80"):
        answer = api.get(path)
        problem(answer, answer.status_code)
        assert answer.status_code in (404, 422)


def raw(url: str, head: bytes, body: Iterator[bytes] | tuple[bytes, ...] = ()) -> bytes:
    """Bytes sent as they are; the start of the answer."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head)
        try:
            for piece in body:
                connection.sendall(piece)
        except OSError:
            pass
        return connection.recv(4096)


def test_a_body_over_the_limit_is_refused_with_and_without_a_stated_length(url: str, key: dict[str, str]) -> None:
    start = (
        b"POST /api/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer " + key["admin"].encode() + b"\r\n"
    )
    answer = raw(url, start + b"Content-Length: %d\r\n\r\n" % (JSON_BYTES + 1))
    assert b" 413 " in answer.splitlines()[0] and b"connection: close" in answer.lower()
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    answer = raw(url, start + b"Transfer-Encoding: chunked\r\n\r\n", (piece for _ in range(JSON_BYTES // 65536 + 1)))
    assert b" 413 " in answer.splitlines()[0] and b"connection: close" in answer.lower()
    answer = raw(
        url,
        start.replace(b"application/json", b"multipart/form-data; boundary=x").replace(b"/api/search", UPLOAD.encode())
        + b"Content-Length: %d\r\n\r\n" % (UPLOAD_BYTES + 1),
    )
    assert b" 413 " in answer.splitlines()[0]


def test_headers_that_are_too_large_or_not_ascii_are_refused_and_steering_ones_do_nothing(url: str) -> None:
    problem(httpx.get(url + "/healthz", headers={"x-large": "a" * HEADER_BYTES}), 431)
    answer = raw(url, b"GET /healthz HTTP/1.1\r\nHost: x\r\nx-request-id: \xe9\r\n\r\n")
    assert b" 400 " in answer.splitlines()[0]
    steering = {"x-request-timeout-seconds": "86400", "x-request-disconnect-disabled": "?1"}
    answer = httpx.get(url + "/healthz", headers=steering)
    assert answer.status_code == 200 and answer.headers["x-content-type-options"] == "nosniff"


def test_the_body_is_not_read_before_the_key_is_known(url: str) -> None:
    answer = raw(
        url,
        b"POST /api/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n",
    )
    assert b" 401 " in answer.splitlines()[0]


def test_another_tenants_things_are_not_found_whatever_the_verb_and_in_no_list(
    settings: Settings, url: str, key: dict[str, str], api: httpx.Client
) -> None:
    with session(settings) as opened:
        job = jobs.create(opened, name="mine", kind="train", config={})
        model = models.create(opened, family="fine-tuned", name="mine", deployed=True)
        dataset = datasets.record(opened, artifact("dataset", 1), name="mine", source="local", stage="dataset")
        mine = inputs.add(opened, user_id="u", input_type="text", content="x", sha256="0", size_bytes=1)
        row, _ = keys.create(opened, "viewer", "mine")
        jobs.set_stage(opened, job.id, "train", artifact_id="run-00000000000000aa")
    body = {"name": "x", "base_model": "builtin/tiny"}
    calls: list[tuple[str, str, Any]] = [
        ("GET", f"/api/training/jobs/{job.id}", None),
        ("DELETE", f"/api/training/jobs/{job.id}", None),
        ("GET", f"/api/training/jobs/{job.id}/logs", None),
        ("GET", f"/api/training/jobs/{job.id}/logs?follow=true", None),
        ("GET", f"/api/training/jobs/{job.id}/metrics", None),
        ("GET", f"/api/models/{model.id}", None),
        ("GET", "/api/models/mine", None),
        ("GET", f"/api/models/{model.id}/metrics", None),
        ("DELETE", f"/api/models/{model.id}", None),
        ("POST", f"/api/models/{model.id}/deploy", {}),
        ("DELETE", f"/api/models/{model.id}/deploy", None),
        ("POST", f"/api/inference/{model.id}", {"input": "x"}),
        ("POST", f"/api/inference/{model.id}/batch", {"inputs": ["x"]}),
        ("GET", f"/api/datasets/{dataset.id}", None),
        ("GET", f"/api/datasets/{dataset.artifact_id}", None),
        ("POST", "/api/search", {"query": "x", "index": dataset.id}),
        ("POST", "/api/training/jobs", body | {"dataset_id": dataset.id}),
        ("POST", "/api/training/jobs", {"recipe": {"name": "x", "version": model.id, "deploy": {}}}),
        ("POST", "/api/training/jobs", {"recipe": {"name": "x", "run": "run-00000000000000aa", "evaluate": {}}}),
        (
            "POST",
            "/api/training/jobs",
            {"recipe": {"name": "x", "collect": [{"source": "files", "inputs": [mine.id]}]}},
        ),
        ("DELETE", f"/api/keys/{row.id}", None),
    ]
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key['other']}"}) as other:
        for method, path, content in calls:
            answer = other.request(method, path, json=content) if content is not None else other.request(method, path)
            problem(answer, 404)
        for path in ("/api/training/jobs", "/api/models", "/api/datasets"):
            assert other.get(path).json() == {"items": [], "next": None}
        assert [item["name"] for item in other.get("/api/keys").json()["items"]] == ["other"]
        stray = other.post("/api/keys", json={"name": "n", "role": "admin", "tenant": "default"})
        problem(stray, 403)
    assert api.get(f"/api/training/jobs/{job.id}").json()["status"] == "pending"


def test_what_a_recipe_may_name_is_checked_before_a_job_begins(
    settings: Settings, url: str, key: dict[str, str], api: httpx.Client
) -> None:
    with session(settings) as opened:
        dataset = datasets.record(opened, artifact("dataset", 2), name="ok", source="local", stage="dataset")
        before = len(jobs.list_jobs(opened, "default", limit=200)[0])
    problem(api.post("/api/training/jobs", json={"name": "x", "dataset_id": "dataset-none"}), 404)
    body = {"name": "x", "dataset_id": dataset.id}
    for base in ("builtin/huge", "no-such", "../../etc", "/no/such/folder", "base/nothing", "a/b/c"):
        shown = problem(api.post("/api/training/jobs", json=body | {"base_model": base}), 422)
        assert "base_model" in shown["errors"][0]["loc"] and shown["remedy"]
    shown = problem(api.post("/api/training/jobs", json=body | {"config": {"epoch": 1}}), 422)
    assert shown["errors"][0]["loc"] == "body.config.epoch" and "epochs" in shown["errors"][0]["msg"]
    shown = problem(api.post("/api/training/jobs", json=body | {"name": "Not A Name"}), 422)
    assert shown["errors"][0]["loc"] == "body.name"
    shown = problem(api.post("/api/training/jobs", json={"recipe": {"name": "x", "trian": {}}}), 422)
    assert "train" in shown["errors"][0]["msg"]
    local = {"recipe": {"name": "x", "collect": [{"source": "local", "path": "/etc"}]}}
    answer = httpx.post(url + "/api/training/jobs", json=local, headers={"Authorization": f"Bearer {key['trainer']}"})
    assert "admin" in problem(answer, 403)["detail"]
    shown = problem(api.post("/api/training/collect/github", json={"min_star": 5}), 422)
    assert shown["errors"][0]["loc"] == "body.min_star"
    with session(settings) as opened:
        assert len(jobs.list_jobs(opened, "default", limit=200)[0]) == before


def test_jobs_are_listed_in_pages_and_shown_with_stages_and_times_in_utc(settings: Settings, api: httpx.Client) -> None:
    with session(settings) as opened:
        made = [jobs.create(opened, name=f"page{i}", kind="train", config={}).id for i in range(3)]
        jobs.update(opened, made[0], status="failed", error="It broke.")
        jobs.set_stage(opened, made[0], "train", details={"curves": [{"step": 1, "train_loss": 2.0}]})
    first = api.get("/api/training/jobs", params={"limit": 2}).json()
    assert [item["id"] for item in first["items"]] == [made[2], made[1]]
    second = api.get("/api/training/jobs", params={"limit": 2, "cursor": first["next"]}).json()
    assert second["items"][0]["id"] == made[0] and second["items"][0]["error"] == "It broke."
    shown = api.get(f"/api/training/jobs/{made[0]}").json()
    assert shown["stages"][0]["stage"] == "train" and shown["completed_at"].endswith("+00:00")
    assert api.get(f"/api/training/jobs/{made[0]}/metrics").json()["curves"] == [{"step": 1, "train_loss": 2.0}]
    problem(api.delete(f"/api/training/jobs/{made[0]}"), 409)


def test_models_are_shown_with_card_versions_and_endpoint_and_not_deleted_while_deployed(
    settings: Settings, api: httpx.Client
) -> None:
    with session(settings) as opened:
        one = models.create(opened, family="fine-tuned", name="shown", card="# Card", license="MIT", lineage={"a": 1})
        two = models.create(opened, family="fine-tuned", name="shown", specialization="legal", deployed=True)
    shown = api.get(f"/api/models/{one.id}").json()
    assert (shown["card"], shown["license"], shown["deployment"]) == ("# Card", "MIT", None)
    assert [each["version"] for each in shown["versions"]] == [2, 1]
    assert api.get("/api/models/shown").json()["id"] == two.id
    assert [item["id"] for item in api.get("/api/models", params={"specialization": "legal"}).json()["items"]] == [
        two.id
    ]
    problem(api.delete(f"/api/models/{two.id}"), 409)
    shown = problem(api.post(f"/api/inference/{one.id}", json={"input": "x"}), 409)
    assert "deploy" in shown["remedy"]
    problem(api.post("/api/inference/no-such-model", json={"input": "x"}), 404)
    problem(api.post(f"/api/inference/{two.id}", json={"input": "x"}), 503)
    problem(api.post(f"/api/inference/{one.id}", json={"input": "x", "messages": []}), 422)
    problem(api.post(f"/api/inference/{one.id}/batch", json={"inputs": ["x"] * 65}), 413)
    answer = api.delete(f"/api/models/{one.id}")
    assert (answer.status_code, answer.content) == (204, b"")
    problem(api.get(f"/api/models/{one.id}"), 404)
    problem(api.post("/api/search", json={"query": "x"}), 404)


def test_texts_and_structured_values_are_kept(settings: Settings, api: httpx.Client) -> None:
    for kind, content, kept in (("text", "Grüße", "Grüße"), ("structured", {"b": [1, None]}, '{"b": [1, null]}')):
        body = {"user_id": "u1", "input_type": kind, "content": content, "metadata": {"from": "test"}}
        answer = api.post(UPLOAD, json=body)
        assert answer.status_code == 201, answer.text
        with session(settings) as opened:
            row = inputs.get(opened, answer.json()["id"])
            assert (row.content, row.user_id, row.metadata_, row.size_bytes) == (
                kept,
                "u1",
                {"from": "test"},
                len(kept.encode()),
            )
    problem(api.post(UPLOAD, json={"user_id": "u", "input_type": "text", "content": {"a": 1}}), 422)
    problem(api.post(UPLOAD, json={"user_id": "u", "input_type": "file", "content": "x"}), 422)


def docx(entries: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return made.getvalue()


GOOD_DOCX = docx({"[Content_Types].xml": b"<Types/>", "word/document.xml": b"<w/>"})


def test_files_are_kept_under_generated_names_and_shown_under_clean_ones(settings: Settings, api: httpx.Client) -> None:
    files = [
        ("file", ("../../etc/a.txt", b"hello", "text/plain")),
        ("file", ("a.txt", b"hello again", "text/plain")),
        ("file", ("a\u202etxt.pdf", b"%PDF-1.7 ...", "application/pdf")),
        ("file", ("CON.docx", GOOD_DOCX, "application/octet-stream")),
        ("file", ("x" * 300 + ".csv", b"a,b\n1,2\n", "text/csv")),
    ]
    answer = api.post(UPLOAD, files=files, data={"user_id": "u2", "metadata": '{"batch": 7}'})
    assert answer.status_code == 201, answer.text
    items = answer.json()["items"]
    assert [item["metadata"]["filename"] for item in items][:4] == ["a.txt", "a.txt", "atxt.pdf", "CON.docx"]
    assert len(items[4]["metadata"]["filename"]) == 200 and items[4]["metadata"]["batch"] == 7
    storage = open_storage(settings)
    with session(settings) as opened:
        for item, (_, (_, content, _)) in zip(items, files, strict=True):
            row = inputs.get(opened, item["id"])
            assert row.content == raw_key(hashlib.sha256(content).hexdigest()) and row.input_type == "file"
            assert storage.read(row.content) == content


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.exe", b"MZ"),
        ("a", b"text"),
        ("a.txt", b""),
        ("a.txt", b"\x7fELF\0\0"),
        ("a.pdf", b"PK\x03\x04"),
        ("a.docx", b"%PDF-1.7"),
        ("a.docx", docx({"evil.txt": b"x"})),
        ("a.docx", docx({"[Content_Types].xml": b"", "word/document.xml": b"\0" * 20_000_000})),
        ("a.docx", docx({"[Content_Types].xml": b"", **{f"word/{i}": b"" for i in range(1100)}})),
    ],
)
def test_files_that_are_not_what_they_say_are_refused_with_all_that_came_with_them(
    settings: Settings, api: httpx.Client, name: str, content: bytes
) -> None:
    before = open_storage(settings).keys("raw")
    answer = api.post(UPLOAD, files=[("file", ("good.txt", b"fine")), ("file", (name, content))])
    assert problem(answer, 422)["errors"][0]["loc"] == "body.file"
    assert open_storage(settings).keys("raw") == before


def test_the_same_bytes_are_stored_once_and_go_with_their_last_input(settings: Settings, api: httpx.Client) -> None:
    content, storage = b"twice the same", open_storage(settings)
    object_key = raw_key(hashlib.sha256(content).hexdigest())
    ids = [api.post(UPLOAD, files={"file": ("a.txt", content)}).json()["items"][0]["id"] for _ in range(2)]
    assert len(set(ids)) == 2 and storage.read(object_key) == content
    assert api.delete(f"{UPLOAD}/{ids[0]}").status_code == 204
    assert storage.exists(object_key)
    problem(api.delete(f"{UPLOAD}/{ids[0]}"), 404)
    assert api.delete(f"{UPLOAD}/{ids[1]}").status_code == 204
    assert not storage.exists(object_key)


def test_a_failed_upload_takes_no_bytes_from_another(
    settings: Settings, api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, own, storage = b"shared with a good one", b"only of the bad one", open_storage(settings)
    api.post(UPLOAD, files={"file": ("a.txt", shared)})

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the database went away")

    with monkeypatch.context() as patched:
        patched.setattr(inputs, "add", broken)
        answer = api.post(UPLOAD, files=[("file", ("a.txt", shared)), ("file", ("b.txt", own))])
    problem(answer, 500)
    assert storage.exists(raw_key(hashlib.sha256(shared).hexdigest()))
    assert not storage.exists(raw_key(hashlib.sha256(own).hexdigest()))


def test_rivals_that_upload_and_delete_the_same_bytes_leave_no_input_without_them(
    settings: Settings, api: httpx.Client
) -> None:
    content, storage = b"fought over", open_storage(settings)

    def fight() -> None:
        for _ in range(8):
            made = api.post(UPLOAD, files={"file": ("a.txt", content)}, data={"user_id": "fight"})
            api.delete(f"{UPLOAD}/{made.json()['items'][0]['id']}")

    threads = [threading.Thread(target=fight) for _ in range(3)]
    for thread in threads:
        thread.start()
    kept = api.post(UPLOAD, files={"file": ("a.txt", content)}, data={"user_id": "fight"})
    for thread in threads:
        thread.join()
    assert [row["id"] for row in api.get(UPLOAD, params={"user_id": "fight"}).json()["items"]] == [
        kept.json()["items"][0]["id"]
    ]
    assert storage.read(raw_key(hashlib.sha256(content).hexdigest())) == content


def test_an_idempotency_key_makes_an_input_once_and_refuses_another_request(api: httpx.Client) -> None:
    headers = {"Idempotency-Key": "once"}
    body = {"user_id": "u", "input_type": "text", "content": "hi"}
    first, again = (api.post(UPLOAD, json=body, headers=headers) for _ in range(2))
    assert first.status_code == again.status_code == 201 and first.json() == again.json()
    problem(api.post(UPLOAD, json=body | {"content": "ho"}, headers=headers), 409)
    problem(api.post(UPLOAD, files={"file": ("a.txt", b"x")}, headers=headers), 409)
    headers = {"Idempotency-Key": "file-once"}
    made = [api.post(UPLOAD, files={"file": ("a.txt", b"once")}, headers=headers).json()["items"] for _ in range(2)]
    assert made[0] == made[1]


def test_inputs_are_listed_in_pages_without_their_content_and_per_tenant(
    url: str, key: dict[str, str], api: httpx.Client
) -> None:
    for number in range(3):
        api.post(UPLOAD, json={"user_id": "pager", "input_type": "text", "content": f"secret words {number}"})
    page = api.get(UPLOAD, params={"user_id": "pager", "limit": 2}).json()
    rest = api.get(UPLOAD, params={"user_id": "pager", "limit": 2, "cursor": page["next"]}).json()
    assert len(page["items"]) == 2 and len(rest["items"]) == 1 and rest["next"] is None
    assert "secret words" not in str(page)
    other = {"Authorization": f"Bearer {key['other']}"}
    assert httpx.get(url + UPLOAD, headers=other).json()["items"] == []
    problem(httpx.delete(f"{url}{UPLOAD}/{page['items'][0]['id']}", headers=other), 404)


def test_quota_and_size_of_uploads_are_kept_with_clear_problems(settings: Settings, key: dict[str, str]) -> None:
    with session(settings) as opened:
        kept = inputs.kept_bytes(opened, "default")
    small = replace(settings, upload_max_bytes=5000, upload_quota_bytes=kept + 3000, rate_limit="1000/minute")
    server = serve(small)
    headers = {"Authorization": f"Bearer {key['user']}"}
    address = next(server) + UPLOAD
    assert httpx.post(address, files={"file": ("a.txt", b"q" * 2000)}, headers=headers).status_code == 201
    before = open_storage(settings).keys("raw")
    full = problem(httpx.post(address, files={"file": ("a.txt", b"r" * 2000)}, headers=headers), 507)
    assert "SOLDIOM_UPLOAD_QUOTA_BYTES" in full["remedy"]
    problem(httpx.post(address, files={"file": ("a.txt", b"s" * 9000)}, headers=headers), 413)
    assert open_storage(settings).keys("raw") == before
    next(server, None)


def test_a_large_upload_does_not_grow_the_memory_of_the_api(settings: Settings, key: dict[str, str]) -> None:
    code = (
        "import sys, os, uvicorn; from soldiom_ray.api.app import make_app;"
        "from soldiom_ray.settings import load_settings; import socket;"
        "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(64); print(s.getsockname()[1], flush=True);"
        "c = uvicorn.Config(make_app(load_settings(), reconciles=False), log_level='critical', lifespan='off');"
        "uvicorn.Server(c).run(sockets=[s])"
    )
    environ = {"SOLDIOM_HOME": str(settings.home), "SOLDIOM_DATABASE_URL": str(settings.database_url), "PATH": "/bin"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = f"http://127.0.0.1:{process.stdout.readline().strip()}{UPLOAD}"
        headers = {"Authorization": f"Bearer {key['user']}"}
        assert httpx.post(address, files={"file": ("a.txt", b"warm")}, headers=headers, timeout=60).status_code == 201
        before = _peak_kib(process.pid)
        line = b"The quick brown fox jumps over the lazy dog.\n" * 1000
        size = 200 << 20

        def body() -> Iterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="big.txt"\r\n\r\n'
            for _ in range(size // len(line)):
                yield line
            yield b"\r\n--x--\r\n"

        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = httpx.post(address, content=body(), headers=headers | kind, timeout=300)
        assert answer.status_code == 201, answer.text
        assert answer.json()["items"][0]["size_bytes"] == size // len(line) * len(line)
        assert _peak_kib(process.pid) - before < 32 << 10
    finally:
        process.kill()
        process.wait()


def _peak_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def test_secrets_of_sources_are_not_in_the_job_and_private_addresses_are_for_the_homes_admin(
    settings: Settings, url: str, key: dict[str, str], api: httpx.Client
) -> None:
    database = {"url": "postgresql://me:hunter2@db.example.org/x", "tables": ["a"]}
    endpoint = {"url": "https://example.org/items", "headers": {"Authorization": "Bearer hunter2"}}
    for path, body in (("database", database), ("url", endpoint)):
        address = f"{url}/api/training/collect/{path}"
        trainer = {"Authorization": f"Bearer {key['trainer']}"}
        for refused in ("trainer", "other"):
            headers = {"Authorization": f"Bearer {key[refused]}"}
            answer = problem(httpx.post(address, json=body | {"private": True}, headers=headers), 403)
            assert "SOLDIOM_PRIVATE_HOSTS" in answer["remedy"]
        recipe = {"name": "x", "collect": [body | {"source": path, "private": True}]}
        problem(httpx.post(f"{url}/api/training/jobs", json={"recipe": recipe}, headers=trainer), 403)
        problem(httpx.post(address, json=body, headers=trainer, timeout=60), 503)  # Ray does not run here.
        jobs_shown = api.get("/api/training/jobs").text
        assert "hunter2" not in jobs_shown and f'"source":"{path}"' in jobs_shown.replace(" ", "")
    wrong = httpx.post(
        f"{url}/api/training/collect/database", json={"url": "postgresql://me:hunter2@h"}, headers=trainer
    )
    assert "hunter2" not in problem(wrong, 422)["errors"][0]["msg"] and "hunter2" not in wrong.text


def test_an_upload_without_a_file_or_with_bad_metadata_is_refused(api: httpx.Client) -> None:
    problem(api.post(UPLOAD, files={"other": (None, "x")}), 422)
    problem(api.post(UPLOAD, files={"file": ("a.txt", b"x")}, data={"metadata": "[1]"}), 422)
    problem(api.post(UPLOAD, files={"file": ("a.txt", b"x")}, data={"metadata": "{"}), 400)
    problem(
        api.post(UPLOAD, content=b"--x\r\nbroken", headers={"Content-Type": "multipart/form-data; boundary=x"}), 422
    )
    problem(api.post(UPLOAD, content=b"x", headers={"Content-Type": "multipart/form-data"}), 400)
    many = [("file", (f"{i}.txt", b"x")) for i in range(21)]
    problem(api.post(UPLOAD, files=many), 400)


def test_keys_are_made_listed_without_secrets_and_refused_once_revoked(url: str, api: httpx.Client) -> None:
    made = api.post("/api/keys", json={"name": "ci", "role": "viewer"})
    assert made.status_code == 201
    headers = {"Authorization": f"Bearer {made.json()['key']}"}
    assert httpx.get(url + "/api/models", headers=headers).status_code == 200
    listed = api.get("/api/keys", params={"limit": 200})
    assert made.json()["id"] in [item["id"] for item in listed.json()["items"]]
    assert made.json()["key"] not in listed.text and "hash" not in listed.text
    assert api.delete(f"/api/keys/{made.json()['id']}").status_code == 204
    problem(httpx.get(url + "/api/models", headers=headers), 401)
    problem(api.post("/api/keys", json={"name": "x", "role": "root"}), 422)
    tenant = api.post("/api/keys", json={"name": "t", "role": "admin", "tenant": "acme"})
    assert tenant.status_code == 201 and tenant.json()["tenant"] == "acme"


def test_a_key_over_its_rate_is_told_when_to_come_back_whatever_address_it_claims(
    settings: Settings, key: dict[str, str]
) -> None:
    server = serve(replace(settings, rate_limit="5/minute"))
    url = next(server)
    for number in range(8):
        headers = {"Authorization": f"Bearer {key['viewer']}", "X-Forwarded-For": f"10.0.0.{number}"}
        answer = httpx.get(url + "/api/models", headers=headers)
        if number < 5:
            assert answer.status_code == 200
        else:
            problem(answer, 429)
            assert 0 < int(answer.headers["retry-after"]) <= 60
    assert httpx.get(url + "/api/models", headers={"Authorization": f"Bearer {key['user']}"}).status_code == 200
    next(server, None)


def test_health_names_every_dependency_and_the_metrics_are_not_for_strangers(url: str, key: dict[str, str]) -> None:
    assert httpx.get(url + "/healthz").json() == {"status": "ok"}
    ready = httpx.get(url + "/readyz")
    states = {name: each["state"] for name, each in ready.json()["services"].items()}
    assert ready.status_code == 503
    assert states["postgres"] == states["storage"] == "running"
    assert set(states) == {"postgres", "storage", "ray", "chroma", "mlflow"}
    counts = httpx.get(url + "/metrics")
    assert 'soldiom_requests_total{method="GET",route="/healthz",status="200"}' in counts.text
    problem(httpx.get(url + "/metrics", headers={"X-Forwarded-For": "127.0.0.1"}), 401)
    headers = {"X-Forwarded-For": "127.0.0.1", "Authorization": f"Bearer {key['viewer']}"}
    problem(httpx.get(url + "/metrics", headers=headers), 403)


def test_the_description_names_every_call_with_role_and_errors_and_the_page_needs_no_network(
    settings: Settings, url: str
) -> None:
    described = httpx.get(url + "/openapi.json").json()
    page = httpx.get(url + "/docs")
    assert "http://" not in page.text and "https://" not in page.text and "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for route in routes(settings):
        for method in route.methods or ():
            operation = described["paths"][route.path][method.lower()]
            assert operation[ROLE] == (route.openapi_extra or {})[ROLE]
            assert "application/problem+json" in operation["responses"]["default"]["content"]
            assert "422" not in operation["responses"]
            assert (operation[ROLE] in ROLES) is ("security" in operation)
        assert f"<code>{route.path}</code>" in page.text


def test_a_database_that_goes_away_is_a_503_with_a_remedy(settings: Settings, key: dict[str, str]) -> None:
    assert settings.database_url
    gone = replace(settings, database_url="postgresql://u:hunter2@127.0.0.1:9/x")
    server = serve(gone)
    url = next(server)
    answer = httpx.get(url + "/api/models", headers={"Authorization": f"Bearer {key['admin']}"}, timeout=30)
    assert "soldiom up" in problem(answer, 503)["remedy"]
    assert "hunter2" not in answer.text
    assert httpx.get(url + "/readyz").json()["services"]["postgres"]["state"] == "unreachable"
    next(server, None)


def test_an_unexpected_fault_is_a_500_that_tells_nothing(settings: Settings, api: httpx.Client) -> None:
    with session(settings) as opened:
        row = datasets.record(opened, artifact("dataset", 3), name="broken", source="local", stage="dataset")
    open_storage(settings).write(f"dataset/{row.artifact_id}/manifest.json", b'{"secret-word": 1}')
    answer = api.get(f"/api/datasets/{row.id}")
    assert "fault" in problem(answer, 500)["detail"]
    assert "secret-word" not in answer.text and "Validation" not in answer.text


def test_serves_proxy_takes_our_edge_which_hides_its_routes_and_drops_what_would_steer_it(settings: Settings) -> None:
    from ray.serve._private.http_util import validate_http_proxy_callback_return
    from ray.serve._private.utils import call_function_from_import_path

    from soldiom_ray.services.ray_head import _environment

    path = _environment(settings, 30_000, "http://127.0.0.1:1")["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    (edge,) = validate_http_proxy_callback_return(call_function_from_import_path(path))
    seen: list[set[bytes]] = []

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        seen.append({name for name, _ in scope["headers"]})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    server = listen(edge.cls(proxy, *edge.args, **edge.kwargs))
    url = next(server)
    assert httpx.get(url, headers={"x-request-timeout-seconds": "86400", "x-kept": "1"}).status_code == 200
    assert b"x-kept" in seen[0] and b"x-request-timeout-seconds" not in seen[0]
    problem(httpx.get(url + "/-/routes"), 404)
    assert b" 400 " in raw(url, b"GET / HTTP/1.1\r\nHost: x\r\nx-request-id: \xe9\r\n\r\n").splitlines()[0]
    next(server, None)


def test_the_process_of_the_api_imports_no_torch_and_no_stage() -> None:
    code = (
        "import sys, soldiom_ray.api.app, soldiom_ray.api.start\n"
        "stages = ['collect', 'prepare', 'embed', 'train', 'evaluate', 'register', 'deploy', 'models', 'flow']\n"
        "heavy = ['torch', 'transformers', 'mlflow', 'chromadb', 'pyarrow', *[f'soldiom_ray.{s}' for s in stages]]\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
