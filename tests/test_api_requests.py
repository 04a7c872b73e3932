"""The API over HTTP: what requests may be made of, and how errors look."""

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from api_server import UPLOAD, artifact, listen, problem, serve

from soldiom_ray.api.middleware import HEADER_BYTES, JSON_BYTES, UPLOAD_BYTES
from soldiom_ray.api.replaced import check_replaced
from soldiom_ray.db import datasets
from soldiom_ray.db.engine import open_session
from soldiom_ray.errors import UnavailableError
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage


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
    refusal = problem(api.post("/api/search", json={"query": "secret-word" * 1000, "k": "many"}), 422)
    assert {error["loc"] for error in refusal["errors"]} == {"body.query", "body.k"}
    assert "secret-word" not in json.dumps(refusal)
    refusal = problem(api.get("/api/training/jobs", params={"limit": 0, "status": "lost"}), 422)
    assert {error["loc"] for error in refusal["errors"]} == {"query.limit", "query.status"}


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


def test_a_body_over_the_limit_is_refused_with_and_without_a_stated_length(
    api_url: str, api_keys: dict[str, str]
) -> None:
    start = (
        b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer " + api_keys["admin"].encode() + b"\r\n"
    )
    answer = raw(api_url, start + b"Content-Length: %d\r\n\r\n" % (JSON_BYTES + 1))
    assert b" 413 " in answer.splitlines()[0] and b"connection: close" in answer.lower()
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    answer = raw(
        api_url, start + b"Transfer-Encoding: chunked\r\n\r\n", (piece for _ in range(JSON_BYTES // 65536 + 1))
    )
    assert b" 413 " in answer.splitlines()[0] and b"connection: close" in answer.lower()
    answer = raw(
        api_url,
        start.replace(b"application/json", b"multipart/form-data; boundary=x").replace(b"/api/search", UPLOAD.encode())
        + b"Content-Length: %d\r\n\r\n" % (UPLOAD_BYTES + 1),
    )
    assert b" 413 " in answer.splitlines()[0]


def test_headers_that_are_too_large_or_not_ascii_are_refused_and_steering_ones_do_nothing(api_url: str) -> None:
    problem(httpx.get(api_url + "/healthz", headers={"x-large": "a" * HEADER_BYTES}), 431)
    answer = raw(api_url, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nx-request-id: \xe9\r\n\r\n")
    assert b" 400 " in answer.splitlines()[0]
    steering = {"x-request-timeout-seconds": "86400", "x-request-disconnect-disabled": "?1"}
    answer = httpx.get(api_url + "/healthz", headers=steering)
    assert answer.status_code == 200 and answer.headers["x-content-type-options"] == "nosniff"


def test_the_body_is_not_read_before_the_key_is_known(api_url: str) -> None:
    answer = raw(
        api_url,
        b"POST /api/search HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n",
    )
    assert b" 401 " in answer.splitlines()[0]


def test_a_database_that_goes_away_is_a_503_with_a_remedy(api_settings: Settings, api_keys: dict[str, str]) -> None:
    assert api_settings.database_url
    gone = replace(api_settings, database_url="postgresql://u:hunter2@127.0.0.1:9/x")
    server = serve(gone)
    url = next(server)
    answer = httpx.get(url + "/api/models", headers={"Authorization": f"Bearer {api_keys['admin']}"}, timeout=30)
    assert "soldiom up" in problem(answer, 503)["remedy"] and int(answer.headers["retry-after"]) > 0
    assert "hunter2" not in answer.text
    assert httpx.get(url + "/readyz").json()["services"]["postgres"]["state"] == "unreachable"
    next(server, None)


def test_an_unexpected_fault_is_a_500_that_tells_nothing(api_settings: Settings, api: httpx.Client) -> None:
    with open_session(api_settings) as session:
        row = datasets.record(session, artifact("dataset", 3), name="broken", source="local", stage="dataset")
    open_storage(api_settings).write(f"dataset/{row.artifact_id}/manifest.json", b'{"secret-word": 1}')
    answer = api.get(f"/api/datasets/{row.id}")
    assert "fault" in problem(answer, 500)["detail"]
    assert "secret-word" not in answer.text and "Validation" not in answer.text


def test_serves_proxy_takes_our_middleware_which_hides_its_routes_and_drops_what_would_steer_it(
    api_settings: Settings,
) -> None:
    from ray.serve._private.http_util import validate_http_proxy_callback_return
    from ray.serve._private.utils import call_function_from_import_path

    from soldiom_ray.services.ray_head import _environment

    path = _environment(api_settings, 30_000, "http://127.0.0.1:1")["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    (middleware,) = validate_http_proxy_callback_return(call_function_from_import_path(path))
    seen: list[set[bytes]] = []

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        seen.append({name for name, _ in scope["headers"]})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    server = listen(middleware.cls(proxy, *middleware.args, **middleware.kwargs))
    url = next(server)
    assert httpx.get(url, headers={"x-request-timeout-seconds": "86400", "x-kept": "1"}).status_code == 200
    assert b"x-kept" in seen[0] and b"x-request-timeout-seconds" not in seen[0]
    problem(httpx.get(url + "/-/routes"), 404)
    assert b" 400 " in raw(url, b"GET / HTTP/1.1\r\nHost: localhost\r\nx-request-id: \xe9\r\n\r\n").splitlines()[0]
    next(server, None)


def test_another_ray_or_uvicorn_that_lacks_what_the_limits_replace_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.serve._private import proxy, replica

    check_replaced()
    monkeypatch.delattr(proxy, "MessageQueue")
    monkeypatch.setattr(replica, "ASGIReceiveProxy", object)
    with pytest.raises(UnavailableError, match="do not fit ray") as caught:
        check_replaced()
    assert [each.loc for each in caught.value.problems] == [
        "ray.serve._private.proxy:MessageQueue",
        "ray.serve._private.replica:ASGIReceiveProxy",
    ]
    assert "constraints.txt" in caught.value.remedy
