"""Fixtures of the API's tests: the API over HTTP on a real PostgreSQL, a key per role, and what the tests share."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.routing import APIRoute

from soldiom_ray.api import endpoints
from soldiom_ray.api.app import make_app
from soldiom_ray.db import keys
from soldiom_ray.db.engine import migrate, open_database, open_session
from soldiom_ray.records import ROLES, FileEntry, Manifest, now
from soldiom_ray.settings import Settings, load_settings

UPLOAD = "/api/training/collect/user-input"


@pytest.fixture(scope="module")
def api_settings(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    home = str(tmp_path_factory.mktemp("home"))
    settings = load_settings({"SOLDIOM_HOME": home, "SOLDIOM_DATABASE_URL": postgres_url})
    migrate(settings)
    yield settings
    open_database(settings).dispose()


def serve(settings: Settings) -> Iterator[str]:
    return listen(make_app(settings, reconciles=False))


def listen(app: Any, **options: Any) -> Iterator[str]:
    """The URL of an application that runs until the generator is closed. `options` are uvicorn's."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=10)


@pytest.fixture(scope="module")
def api_url(api_settings: Settings) -> Iterator[str]:
    yield from serve(replace(api_settings, rate_limit="100000/minute"))


@pytest.fixture(scope="module")
def api_keys(api_settings: Settings) -> dict[str, str]:
    """A key per role of the tenant "default", and an admin's of another tenant under "other"."""
    with open_session(api_settings) as session:
        plain_keys = {role: keys.create(session, role, role)[1] for role in ROLES}
        return plain_keys | {"other": keys.create(session, "admin", "other", "other")[1]}


@pytest.fixture
def api(api_url: str, api_keys: dict[str, str]) -> Iterator[httpx.Client]:
    """A client with the admin's key."""
    with httpx.Client(base_url=api_url, headers={"Authorization": f"Bearer {api_keys['admin']}"}, timeout=30) as client:
        yield client


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert set(body) >= {"type", "title", "status", "detail"} and body["status"] == status
    return body


def routes(settings: Settings) -> list[APIRoute]:
    leaves: list[Any] = []

    def walk(branch: Any) -> None:
        for route in branch:
            inner = getattr(route, "original_router", None)
            walk(inner.routes) if inner is not None else leaves.append(route)

    walk(make_app(settings, reconciles=False).routes)
    return leaves


def artifact(kind: str, number: int) -> Manifest:
    files = (FileEntry(name="x", size_bytes=1, sha256="0"),)
    return Manifest(kind=kind, id=f"{kind}-{number:016x}", made_from={}, files=files, created_at=now())


def answered_by(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the API's calls of a deployed model answered by an endpoint in this process."""

    async def call(name: str, method: str, request: dict[str, Any]) -> Any:
        return await getattr(endpoint, method)(request)

    monkeypatch.setattr(endpoints, "call", call)
