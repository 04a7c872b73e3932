"""The API behind the middleware and connections of Serve's proxy, tried with slow, large, greedy and absent clients
beside a polite one."""

import asyncio
import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from api_server import UPLOAD, listen, problem, serve
from starlette.responses import JSONResponse

from soldiom_ray.api import connections, pages, proxy_middleware
from soldiom_ray.api.app import make_app
from soldiom_ray.api.bodies import METADATA_BYTES
from soldiom_ray.api.connections import BODYLESS_BYTES, TimedProtocol
from soldiom_ray.api.middleware import JSON_VALUES, SMALL_JSON_BYTES
from soldiom_ray.api.proxy_middleware import KEY_LARGE_REQUESTS, ProxyMiddleware
from soldiom_ray.db import inputs, jobs
from soldiom_ray.db import pages as db_pages
from soldiom_ray.db.engine import open_session
from soldiom_ray.settings import Settings

PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
KEY_REQUESTS = 20


@pytest.fixture(scope="module")
def door(api_settings: Settings) -> Iterator[str]:
    """The API as clients reach it, with shorter patience."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "HEADER_SECONDS", 1.0)
        patch.setattr(connections, "BODY_SLACK_SECONDS", 1.0)
        patch.setattr(connections, "READ_SECONDS", 1.0)
        patch.setattr(connections, "TICK_SECONDS", 0.2)
        app = make_app(replace(api_settings, rate_limit="100000/minute"), reconciles=False)
        yield from listen(ProxyMiddleware(app, KEY_REQUESTS), http=TimedProtocol)


class Polite:
    """A client that asks for health and for a list all the time, and notes how long each took."""

    def __init__(self, url: str, key: str) -> None:
        self.seconds: list[float] = []
        self.statuses: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(url, key), daemon=True)

    def __enter__(self) -> "Polite":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + 20
        while len(self.seconds) <= 5 and time.monotonic() < deadline:
            time.sleep(0.05)  # a busy machine may have run this block's attack first
        self._stop.set()
        self._thread.join()
        assert self.statuses == {200} and len(self.seconds) > 5
        assert sorted(self.seconds)[len(self.seconds) // 2] < 1.0 and max(self.seconds) < 5.0

    def _ask(self, url: str, key: str) -> None:
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=20) as client:
            while not self._stop.is_set():
                for path in ("/healthz", "/api/models"):
                    began = time.monotonic()
                    self.statuses.add(client.get(path).status_code)
                    self.seconds.append(time.monotonic() - began)
                time.sleep(0.02)


def connect(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def upload_head(key: str, length: str) -> bytes:
    head = f"POST {UPLOAD} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n{length}\r\n"
    return head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"


def statuses(sockets: list[socket.socket], drip: bytes, seconds: float) -> list[str]:
    """Send `drip` to each five times a second until the server has closed it; the status it sent, or "" for none."""
    answers: dict[int, bytes] = {}
    deadline = time.monotonic() + seconds
    for each in sockets:
        each.setblocking(False)
    while len(answers) < len(sockets) and time.monotonic() < deadline:
        for number, each in enumerate(sockets):
            if number in answers:
                continue
            try:
                answers[number] = each.recv(100)
            except BlockingIOError:
                with suppress(OSError):  # closed in the meantime: the next round reads what was sent before
                    each.send(drip)
            except OSError:
                answers[number] = b""
        time.sleep(0.2)
    assert len(answers) == len(sockets), f"{len(sockets) - len(answers)} of {len(sockets)} are still open"
    for each in sockets:
        each.close()
    return [answer[9:12].decode() for answer in answers.values()]


def test_connections_without_whole_headers_end_and_nobody_else_waits(door: str, api_keys: dict[str, str]) -> None:
    with Polite(door, api_keys["viewer"]):
        half_open = [connect(door) for _ in range(100)]
        slow = [connect(door) for _ in range(50)]
        for each in slow:
            each.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert set(statuses(slow, b"x: y\r\n", 8)) == {"408"}
        assert set(statuses(half_open, b"", 8)) == {"408"}
        blank = connect(door)
        blank.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in blank.recv(1000)
        assert statuses([blank], b"\r\n", 8) == ["408"]


def wait_for_answers(sockets: list[socket.socket], count: int) -> None:
    """Until the server has sent something to this many of them."""
    deadline = time.monotonic() + 20
    while len(select.select(sockets, [], [], 0)[0]) < count and time.monotonic() < deadline:
        time.sleep(0.05)


def test_slow_uploads_of_one_key_hold_up_nobody_and_end(
    door: str, api_keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = connections.BODY_SLACK_SECONDS

    def answers_to(starts: list[bytes], drip: bytes, refused: int) -> list[str]:
        # Nobody's patience may end before the last one has come, however busy the machine.
        monkeypatch.setattr(connections, "BODY_SLACK_SECONDS", 60.0)
        uploads = [connect(door) for _ in starts]
        for each, start in zip(uploads, starts, strict=True):
            each.sendall(start)
        wait_for_answers(uploads, refused)
        monkeypatch.setattr(connections, "BODY_SLACK_SECONDS", patience)
        return statuses(uploads, drip, 10)

    with Polite(door, api_keys["viewer"]):
        whole = upload_head(api_keys["user"], "Content-Length: 1000") + PART
        answers = answers_to([whole] * 60, b"x", 60 - KEY_REQUESTS)
        assert answers.count("408") == KEY_REQUESTS and answers.count("429") == 60 - KEY_REQUESTS
        chunked = upload_head(api_keys["user"], "Transfer-Encoding: chunked") + b"%x\r\n" % len(PART) + PART + b"\r\n"
        answers = answers_to([chunked] * 10, b"1\r\nx\r\n", 10 - KEY_LARGE_REQUESTS)
        assert answers.count("408") == KEY_LARGE_REQUESTS and answers.count("429") == 10 - KEY_LARGE_REQUESTS
    headers = {"Authorization": f"Bearer {api_keys['user']}"}
    assert httpx.post(door + UPLOAD, files={"file": ("a.txt", b"fast")}, headers=headers).status_code == 201


def test_endless_headers_trailers_and_chunk_extensions_are_cut_off(door: str, api_keys: dict[str, str]) -> None:
    def first_answer(start: bytes) -> bytes:
        with closing(connect(door)) as each:
            each.sendall(start)
            for _ in range(8):
                each.sendall(b"a" * (BODYLESS_BYTES // 4))
                time.sleep(0.01)
            return each.recv(100)

    assert b" 431 " in first_answer(b"GET /healthz HTTP/1.1\r\nx: ")
    start = upload_head(api_keys["user"], "Transfer-Encoding: chunked") + b"%x\r\n" % len(PART) + PART + b"\r\n"
    assert b" 431 " in first_answer(start + b"1;")
    assert b" 4" in first_answer(start + b"c\r\nx\r\n--x--\r\n....\r\n0\r\nx: ")[:13]


def test_a_response_that_nobody_reads_does_not_stay(door: str) -> None:
    ended = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(200):
            await send({"type": "http.response.body", "body": b" " * 100_000, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        ended.set()

    server = listen(app, http=TimedProtocol)  # `door` has shortened its patience
    with closing(connect(next(server))) as each:
        each.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert ended.wait(8)
    next(server, None)


def test_too_many_connections_end_the_one_that_was_idle_for_longest(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 3)
    monkeypatch.setattr(connections, "HEADER_SECONDS", 20.0)
    waiting = []
    for _ in range(6):
        waiting.append(connect(door))
        time.sleep(0.05)
    assert httpx.get(door + "/healthz").status_code == 200
    assert waiting[0].recv(1) == b""
    for each in waiting:
        each.close()


def test_a_greedy_key_is_told_to_come_back_and_a_polite_one_is_served(door: str, api_keys: dict[str, str]) -> None:
    answers: list[httpx.Response] = []

    async def flood() -> None:
        headers = {"Authorization": f"Bearer {api_keys['user']}"}
        limits = httpx.Limits(max_connections=60)
        async with httpx.AsyncClient(base_url=door, headers=headers, limits=limits, timeout=30) as client:
            text = {"user_id": "u", "input_type": "text", "content": "x"}
            calls = (client.post(UPLOAD, json=text) for _ in range(150))
            answers.extend(await asyncio.gather(*calls))

    with Polite(door, api_keys["viewer"]):
        asyncio.run(flood())
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {201, 429} and refused
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert str(KEY_REQUESTS) in problem(refused[0], 429)["detail"]


def test_a_response_has_one_id_which_is_the_applications() -> None:
    from ray.serve._private.http_util import RequestIdMiddleware  # what Serve's proxy puts around every application

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse({}, headers={"x-request-id": "ours"})(scope, receive, send)

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(ProxyMiddleware(RequestIdMiddleware(application)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/api/models", headers={"x-request-id": "theirs"})

    assert asyncio.run(get()).headers.get_list("x-request-id") == ["ours"]


def test_health_answers_beside_a_stuck_application_and_says_when_it_stays_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(proxy_middleware, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    stuck = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while stuck.is_set():
            await asyncio.sleep(0.05)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    server = listen(ProxyMiddleware(app))
    url = next(server)
    assert httpx.get(url + "/healthz").json() == {"status": "ok"}
    stuck.set()
    assert httpx.get(url + "/healthz").status_code == 200
    clock[0] += proxy_middleware.FRESH_SECONDS
    with monkeypatch.context() as hasty:
        hasty.setattr(proxy_middleware, "PROBE_SECONDS", 0.3)
        dead = httpx.get(url + "/healthz")
    assert problem(dead, 503) and dead.headers["retry-after"]
    stuck.clear()
    assert httpx.get(url + "/healthz").status_code == 200
    next(server, None)


def test_an_error_of_serves_own_becomes_a_problem_that_says_when_to_come_back() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/died":  # Serve sends nothing where the replica died
            return
        await send({"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"RayActorError at /srv/secret.py"})

    server = listen(ProxyMiddleware(app))
    url = next(server)
    for path in ("/api/models", "/died"):
        answer = httpx.get(url + path)
        assert problem(answer, 503) and int(answer.headers["retry-after"]) > 0 and "secret" not in answer.text
    next(server, None)


def test_bodies_of_too_many_values_and_large_ones_where_none_belong_are_refused(
    door: str, api_keys: dict[str, str]
) -> None:
    headers = {"Authorization": f"Bearer {api_keys['user']}", "Content-Type": "application/json"}
    lists = b'{"user_id": "u", "input_type": "structured", "content": [' + b"[]," * JSON_VALUES + b"1]}"
    assert "values" in problem(httpx.post(door + UPLOAD, content=lists, headers=headers, timeout=30), 413)["detail"]
    problem(httpx.post(door + "/api/search", content=b" " * (SMALL_JSON_BYTES + 1), headers=headers), 413)
    long = {"messages": [{"role": "user", "content": "word " * 300_000}]}
    problem(httpx.post(door + "/api/inference/x", json=long, headers=headers, timeout=30), 422)
    call = {"type": "function", "function": {"name": "f", "arguments": "word " * 300_000}}
    for part in ({"content": None, "tool_calls": [call]}, {"content": "x", "name": "word " * 300_000}):
        long = {"messages": [{"role": "assistant"} | part]}
        problem(httpx.post(door + "/api/inference/x", json=long, headers=headers, timeout=30), 422)
        problem(httpx.post(door + "/v1/chat/completions", json=long | {"model": "x"}, headers=headers, timeout=30), 422)


def test_texts_and_metadata_count_towards_the_quota_and_metadata_is_bounded(
    api_settings: Settings, api_keys: dict[str, str]
) -> None:
    with open_session(api_settings) as session:
        used = inputs.kept_bytes(session, "default")
    server = serve(replace(api_settings, upload_quota_bytes=used + 5000, rate_limit="1000/minute"))
    url = next(server) + UPLOAD
    headers = {"Authorization": f"Bearer {api_keys['user']}"}
    text = {"user_id": "u", "input_type": "text", "content": "x" * 1000, "metadata": {"a": "y" * 2000}}
    assert httpx.post(url, json=text, headers=headers).status_code == 201
    assert "SOLDIOM_UPLOAD_QUOTA_BYTES" in problem(httpx.post(url, json=text, headers=headers), 507)["remedy"]
    full = httpx.post(url, files={"file": ("a.txt", b"z" * 2500)}, headers=headers)
    problem(full, 507)
    large = text | {"content": "x", "metadata": {"a": "y" * METADATA_BYTES}}
    assert problem(httpx.post(url, json=large, headers=headers), 422)["errors"][0]["loc"] == "body.metadata"
    next(server, None)


def test_a_list_is_no_longer_than_a_page_of_bytes_and_its_cursor_leads_through_all(
    api_settings: Settings, api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db_pages, "PAGE_BYTES", 100_000)
    with open_session(api_settings) as session:
        for number in range(7):
            jobs.create(session, name=f"large-{number}", kind="train", config={"text": "x" * 40_000})
    names: list[str] = []
    cursor, sizes = None, []
    while True:
        page = api.get("/api/training/jobs", params={"limit": 200} | ({"cursor": cursor} if cursor else {}))
        sizes.append(len(page.content))
        names += [item["name"] for item in page.json()["items"]]
        cursor = page.json()["next"]
        if cursor is None:
            break
    assert max(sizes) < 110_000 and len(sizes) >= 4
    assert [name for name in names if name.startswith("large-")] == [f"large-{n}" for n in reversed(range(7))]


def test_samples_are_shown_short_and_only_as_many_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 100_000)
    row = {"text": "x" * 1_000_000, "messages": [{"content": "y"}], "picture": "data:image/png;base64,AA"}
    rows = (dict(row) for _ in range(20))
    shown = pages.preview_items(rows)
    assert 1 < len(shown) < 6 and shown[0]["text"].endswith("… (1000000 characters)")
    assert shown[0]["messages"] == [{"content": "y"}] and len(json.dumps(shown)) < 120_000
