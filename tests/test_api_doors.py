"""The API over HTTP, tried from outside: as the administrator of another tenant, and by the page of another site."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from api_server import UPLOAD, artifact, problem, routes, serve
from sqlalchemy import text

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.collect import collect
from soldiom_ray.db import datasets, jobs, models
from soldiom_ray.db.engine import downgrade, migrate, open_session
from soldiom_ray.domains.sources import FilesSource
from soldiom_ray.errors import InputError, UnavailableError
from soldiom_ray.records import keeper_of
from soldiom_ray.settings import Settings, write_private
from soldiom_ray.storage import open_storage

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
    name = str(path)
    return [
        name, f"file://{name}", f"..{'/..' * 12}{name}", f"./{name}", f"~/../..{name}", f"/proc/self/root{name}",
        name.lstrip("/"), f"builtin/..{'/..' * 12}{name}", f"run-0123456789abcdef/..{'/..' * 12}{name}",
        f"a/b@..{'/..' * 3}{name}", f"a/b:{name}", f"${{PWD}}/..{name}", f"{name}\x7f", f"\\\\localhost{name}",
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
    refusals = [row for row in other.get("/api/audit?limit=200").json()["items"] if row["decision"] == "deny"]
    assert refusals and all(SECRET not in str(row) and row["details"]["fields"] for row in refusals)
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


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "api.example.org"}, 200),
        ({"Host": "deep.below.example.net"}, 200),
        ({"Host": "10.evil.com"}, 421),
        ({"Host": "127.0.0.1.evil.com"}, 421),
        ({"Host": "example.net.evil.com"}, 421),
        ({"Host": "example.net"}, 421),
        ({"Host": "127.1"}, 421),
        ({"Host": "localhost@evil.com"}, 421),
        ({"Host": "localhost:x"}, 421),
        ({"Host": "localhost/"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
        ({"Host": "localhost:8000", "Origin": "https://api.example.org"}, 200),
        ({"Host": "localhost:8000", "Origin": "http://localhost:9000"}, 403),
        ({"Host": "localhost:8000", "Origin": "http://evil.com"}, 403),
        ({"Host": "localhost:8000", "Origin": "http://10.0.0.9"}, 403),
        ({"Host": "localhost:8000", "Origin": "null"}, 403),
        ({"Host": "localhost:8000", "Origin": "file://"}, 403),
    ],
)
def test_other_names_and_pages_of_other_sites_get_no_answer(
    named_url: str, headers: dict[str, str], status: int
) -> None:
    for path in ("/healthz", "/metrics"):
        answer = httpx.get(named_url + path, headers=headers)
        if status == 200:
            assert answer.status_code == 200
        else:
            assert "evil" not in problem(answer, status)["detail"]
    assert httpx.options(named_url + "/api/keys", headers=headers).status_code == (204 if status == 200 else status)


@pytest.fixture(scope="module")
def named_url(api_settings: Settings) -> Iterator[str]:
    yield from serve(replace(api_settings, api_hosts=("api.example.org", "*.example.net")))


def test_who_has_no_key_learns_nothing_of_addresses_and_paths(
    api_settings: Settings, api_url: str, api_keys: dict[str, str]
) -> None:
    gone = "postgresql://u:hunter2@127.0.0.1:9/where"
    server = serve(replace(api_settings, database_url=gone))
    url = next(server)
    told = "".join(
        answer.text
        for address in (url, api_url)
        for path in ("/api/models", "/api/keys", "/no/such", "/readyz", "/healthz", "/%2e%2e/etc/passwd")
        for answer in (
            httpx.get(address + path, timeout=30),
            httpx.get(address + path, headers={"Authorization": "Bearer sld_00000000_x"}, timeout=30),
            httpx.post(address + path, content=b"{", timeout=30),
        )
    )
    next(server, None)
    for part in ("127.0.0.1", "where", "postgresql://", str(api_settings.home), "/tmp", "soldiom_ray", "3.1"):
        assert part not in told, part


def test_every_address_tells_its_methods_and_head_works_where_get_does(
    api_settings: Settings, api_url: str, api: httpx.Client
) -> None:
    methods: dict[str, set[str]] = {}
    for route in routes(api_settings):
        methods.setdefault(route.path_format, set()).update(route.methods or ())
    for pattern, taken in methods.items():
        path = pattern.replace("{", "").replace("}", "")
        allowed = taken | {"OPTIONS"} | ({"HEAD"} if "GET" in taken else set())
        options = httpx.options(api_url + path)
        assert options.status_code == 204 and set(options.headers["allow"].split(", ")) == allowed, path
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} - allowed:
            refused = api.request(method, path)
            assert refused.status_code == 405 and set(refused.headers["allow"].split(", ")) == allowed, (method, path)
        if "GET" in taken and "logs" not in path:
            got, head = api.get(path), api.head(path)
            assert (head.status_code, head.headers.get("content-type"), head.content) == (
                got.status_code, got.headers.get("content-type"), b"",
            )  # fmt: skip
    problem(httpx.options(api_url + "/no/such"), 404)


def test_an_unknown_parameter_lists_the_known_ones_and_the_one_that_is_meant(api: httpx.Client) -> None:
    def message(body: dict[str, Any], call: str = "/api/inference/none") -> str:
        return str(problem(api.post(call, json=body), 422)["errors"][0]["msg"])

    told = message({"input": "x", "parameters": {"max_new_tokens": 5}})
    assert "temperature" in told and 'Did you mean "max_tokens"?' in told
    assert 'Did you mean "temperature"?' in message({"input": "x", "parameters": {"temprature": 1}})
    assert "belongs in `parameters`" in message({"input": "x", "max_tokens": 5})
    assert "belongs in `parameters`" in message({"input": "x", "max_new_tokens": 5})
    assert "min_stars" in message({"min_star": 5}, "/api/training/collect/github")
    for stop in ("###", ["###"], None):
        problem(api.post("/api/inference/none", json={"input": "x", "parameters": {"stop": stop}}), 404)
    problem(api.post("/api/inference/none", json={"input": "x", "parameters": {"stop": 5}}), 422)


def test_a_client_that_goes_away_is_no_fault(
    api_url: str, api_keys: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    import socket
    import time

    host, _, port = api_url.removeprefix("http://").partition(":")
    start = f"Host: localhost\r\nAuthorization: Bearer {api_keys['admin']}\r\nContent-Length: 1000\r\n"
    for call, media in ((UPLOAD, "multipart/form-data; boundary=x"), ("/api/search", "application/json")):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"POST {call} HTTP/1.1\r\n{start}Content-Type: {media}\r\n\r\n{{".encode())
            time.sleep(0.2)
    time.sleep(0.3)
    assert "unexpected" not in caplog.text


def test_secrets_in_an_address_are_in_no_job_listing_or_error(
    api_settings: Settings, api: httpx.Client, other: httpx.Client
) -> None:
    addresses = [
        "https://example.org/a?token=hunter2&page=1", "https://example.org/a?x=1&api_key=hunter2",
        "https://example.org/a?X-Amz-Signature=hunter2", "https://me:hunter2@example.org/a", "https://example.org/a?sig=hunter2%2B",
    ]  # fmt: skip
    for address in addresses:
        for call, body in (
            ("/api/training/collect/url", {"url": address}),
            ("/api/training/jobs", {"recipe": {"name": "x", "collect": [{"source": "url", "url": address}]}}),
            ("/api/training/collect/url", {"url": address, "no_such": 1}),
            ("/api/training/collect/url", {"url": address + "<>"}),
            ("/api/training/jobs", {"recipe": {"name": "x", "collect": [{"source": "url", "url": address + "<>"}]}}),
        ):
            answer = api.post(call, json=body)
            assert answer.status_code in (422, 503) and "hunter2" not in answer.text, (call, body)
    listed = api.get("/api/training/jobs?limit=200").text
    assert "hunter2" not in listed and "example.org/a?token=&page=1" in listed
    stored = (api_settings.keys_folder / "connections.json").read_text()
    assert stored.count("hunter2") == 4 and "bWU6aHVudGVyMg" in stored  # there is no encryption key


def test_with_a_key_the_secrets_of_connections_are_in_no_file_and_no_row_and_old_ones_are_sealed_too(
    api_settings: Settings, api_keys: dict[str, str]
) -> None:
    from soldiom_ray.db.tables import Table
    from soldiom_ray.domains.connections import read_database_url
    from soldiom_ray.domains.secrets import address_of, headers_of, password_of

    settings = replace(api_settings, encryption_keys=(bytes(range(32)),))
    old = {"default mysql me@db.example:3306/old": "pw-of-old"}
    stored = json.loads(settings.secrets_path.read_text()) if settings.secrets_path.exists() else {}
    write_private(settings.secrets_path, json.dumps(stored | {"HF_TOKEN": "kept", "connections": old}))
    former = read_database_url("mysql://me@db.example/old")[0]
    assert password_of(settings, "default", former) == "pw-of-old"
    sources = [
        {"source": "url", "url": "https://a.example/x?token=tok-en-1", "headers": {"X-Key": "head-er-1"}},
        {"source": "database", "url": "postgresql://me:pass-word-1@db.example/new"},
    ]
    for url in serve(settings):
        headers = {"Authorization": f"Bearer {api_keys['admin']}"}
        body = {"recipe": {"name": "sealed", "collect": sources}}
        answer = httpx.post(f"{url}/api/training/jobs", json=body, headers=headers)
        assert answer.status_code == 503, answer.text  # kept, and there is no Ray
        mine = keeper_of("default", httpx.get(f"{url}/api/keys/current", headers=headers).json()["user"])
    secrets = ("tok-en-1", "head-er-1", "pass-word-1", "pw-of-old")
    for path in settings.home.rglob("*"):
        assert not path.is_file() or not [each for each in secrets if each.encode() in path.read_bytes()], path
    with open_session(settings) as session:
        for table in Table.metadata.sorted_tables:
            rows = str(session.execute(text(f"SELECT * FROM {table.name}")).all())
            assert not [each for each in secrets if each in rows], table.name
    address = read_database_url("postgresql://me@db.example/new")[0]
    assert password_of(settings, mine, address) == "pass-word-1"
    assert password_of(settings, "default", address) is None  # another user's, or the command line's
    assert password_of(settings, "default", former) == "pw-of-old"
    assert address_of(settings, mine, "https://a.example/x?token=") == "https://a.example/x?token=tok-en-1"
    assert headers_of(settings, mine, "https://a.example/", {"X-Key": ""}) == {"X-Key": "head-er-1"}
    assert password_of(settings, "other", address) is None
    assert json.loads(settings.secrets_path.read_text())["HF_TOKEN"] == "kept"
    with pytest.raises(InputError, match="sealed with another key"):
        password_of(replace(settings, encryption_keys=(bytes(32),)), mine, address)


@pytest.fixture
def command(api_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """The command line in this home: exit code and output."""
    from typer.testing import CliRunner

    from soldiom_ray.cli.app import app

    monkeypatch.setenv("SOLDIOM_HOME", str(api_settings.home))
    monkeypatch.setenv("SOLDIOM_DATABASE_URL", str(api_settings.database_url))

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, list(arguments))
        return result.exit_code, result.output

    return run


def test_the_command_line_leaves_its_deeds_with_keys_in_the_trail_and_fails_on_a_broken_one(
    api_settings: Settings, api: httpx.Client, command: Callable[..., tuple[int, str]]
) -> None:
    code, created = command("keys", "create", "--role", "viewer", "--name", "ci\x1b[31m", "--tenant", "acme", "--json")
    key = json.loads(created)
    assert code == 0 and command("keys", "revoke", key["id"])[0] == 0
    code, shown = command("audit", "--json")
    rows = json.loads(shown)["items"][:2]
    assert code == 0 and [row["action"] for row in rows] == ["keys revoke", "keys create"]
    assert {row["tenant"] for row in rows} == {"acme"} and rows[1]["object"] == f"key {key['id']}"
    assert rows[1]["details"]["role"] == "viewer" and key["key"] not in shown
    assert "\x1b" not in command("keys", "list")[1] and command("audit", "verify") == (0, "The chain is intact.\n")
    with open_session(api_settings) as session:
        session.execute(text("CREATE TABLE aside AS SELECT * FROM audit_log"))
    for damage in (
        "DELETE FROM audit_log",
        "DELETE FROM audit_log WHERE seq = (SELECT max(seq) FROM audit_log)",
        "UPDATE audit_log SET actor = 'somebody else' WHERE seq = (SELECT max(seq) FROM audit_log)",
        "UPDATE audit_log SET details = '{}' WHERE action = 'keys create'",
    ):
        with open_session(api_settings) as session:
            session.execute(text(damage))
        assert command("audit", "verify")[0] == command("audit")[0] == 1
        code, told = command("audit", "verify", "--json")
        assert code == 1 and json.loads(told)["holds"] is False
        assert api.get("/api/audit/verify").json()["holds"] is False
        with open_session(api_settings) as session:
            session.execute(text("DELETE FROM audit_log"))
            session.execute(text("INSERT INTO audit_log SELECT * FROM aside"))
    assert command("audit", "verify")[0] == 0


def test_an_upload_has_the_license_that_its_uploader_or_the_collection_declares(
    api_settings: Settings, api: httpx.Client
) -> None:
    def upload(**metadata: str) -> str:
        body = {"user_id": "u", "input_type": "text", "content": f"A text. {metadata}", "metadata": metadata}
        return str(api.post(UPLOAD, json=body).json()["id"])

    named, unnamed = upload(license="MIT"), upload()
    context = Context(api_settings, Artifacts(open_storage(api_settings)), lambda *_: None, folders=())
    for declared, expected in (("Apache-2.0", {"MIT", "Apache-2.0"}), ("", {"MIT", ""})):
        manifest = collect(context, [FilesSource(inputs=(named, unnamed), license=declared)])
        assert {row["license"] for row in context.artifacts.rows(manifest, "documents/")} == expected


def test_commands_on_a_home_whose_tables_are_older_say_so_and_down_stops_it_all_the_same(
    api_settings: Settings, monkeypatch: pytest.MonkeyPatch, command: Callable[..., tuple[int, str]]
) -> None:
    from typer.testing import CliRunner

    from soldiom_ray.cli.app import app

    downgrade(api_settings, "0006")
    try:
        for words in (
            "jobs list",
            "models list",
            "dataset list",
            "keys list",
            "users export u",
        ):
            result = CliRunner().invoke(app, words.split())
            assert isinstance(result.exception, UnavailableError), (words, result.output)
            assert "earlier version (0006)" in result.exception.what and "soldiom up" in result.exception.remedy
        code, said = command("down")
        assert code == 0 and "stopped" in said
    finally:
        migrate(api_settings)
    assert command("models", "list")[0] == 0
