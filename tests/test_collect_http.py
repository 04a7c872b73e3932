"""The HTTP layer by itself: waits, redirects, deadlines and sizes; and limiters that a process shares."""

import gzip
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from soldiom_ray.collect.http.errors import Backoff, TransientError, UnreachableError, retry_after_seconds
from soldiom_ray.collect.http.response import (
    Deadline,
    Redirect,
    Response,
    follow_redirects,
    open_response,
    same_origin,
    shared_client,
)
from soldiom_ray.collect.limiter import _RemoteLimiter, open_limiter
from soldiom_ray.collect.text import SkippedError

Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    """Starts a server that gives one answer; its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, headers, body = answer
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def get(url: str, read: Callable[[Response], object], seconds: float = 9.0) -> object:
    with open_response(shared_client(), url, {}, Deadline(seconds)) as response:
        return read(response)


def test_retry_after_is_read_as_a_number_and_as_a_date_of_the_servers_clock() -> None:
    assert retry_after_seconds({"retry-after": " 7 "}) == 7
    date = "Tue, 10 Oct 2017 16:00:00 GMT"
    assert retry_after_seconds({"retry-after": "Tue, 10 Oct 2017 16:01:00 GMT", "date": date}) == 60
    assert retry_after_seconds({"retry-after": date}) == 0
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < (retry_after_seconds({"retry-after": soon}) or 0) <= 100
    assert retry_after_seconds({}) is retry_after_seconds({"retry-after": "soon"}) is None


def test_waits_double_and_progress_begins_them_anew() -> None:
    backoff, error = Backoff(3, 0.5), TransientError("damaged", "cut short")
    assert [backoff.seconds_after(error), backoff.seconds_after(error)] == [0.5, 1.0]
    assert backoff.seconds_after(TransientError("damaged", "cut short", made_progress=True)) == 0.5
    assert backoff.seconds_after(TransientError("unavailable", "busy", {"retry-after": "20"})) == 20
    with pytest.raises(TransientError) as caught:
        backoff.seconds_after(error)
    assert caught.value is error


def test_redirects_are_followed_to_a_bound_and_never_away_from_http_or_https(
    serve: Callable[[Answer], str],
) -> None:
    final = serve((200, {}, b"here"))
    first = serve((301, {"Location": f"{final}#part"}, b"moved"))

    def visit(url: str) -> object:
        return get(url, lambda response: response.redirect("redirects") or (response.url, response.body(9)))

    assert follow_redirects(first, visit, "redirects") == (final, b"here")
    assert visit(first) == Redirect(final, permanent=True)
    with pytest.raises(SkippedError, match="more than 5 redirects"):
        follow_redirects(first, lambda url: Redirect(url, permanent=False), "redirects")
    for target in ("file:///etc/passwd", "http://[", "javascript:1"):
        with pytest.raises(SkippedError, match="no http address"):
            visit(serve((302, {"Location": target}, b"")))
    secure = Response(302, {"location": "http://a.example/"}, "https://a.example/", Deadline(1), None)  # type: ignore[arg-type]
    with pytest.raises(SkippedError, match="from https to http"):
        secure.redirect("redirects")


def test_a_body_is_bounded_packed_or_not(serve: Callable[[Answer], str]) -> None:
    packed = gzip.compress(b"x" * 1_000_000)
    for answer in ((200, {}, b"x" * 1001), (200, {"Content-Encoding": "gzip"}, packed)):
        with pytest.raises(SkippedError, match="too_large"):
            get(serve(answer), lambda response: response.body(1000))
    whole = get(serve((200, {"Content-Encoding": "gzip"}, packed)), lambda response: response.body(1_000_000))
    assert whole == b"x" * 1_000_000
    for answer in (
        (200, {"Content-Encoding": "gzip"}, packed[:-9]),
        (200, {"Content-Encoding": "br"}, b"xx"),
        (200, {"Content-Length": "9", "Connection": "close"}, b"short"),
    ):
        with pytest.raises(TransientError, match="damaged"):
            get(serve(answer), lambda response: response.body(2_000_000))


def test_nobody_at_an_address_and_an_address_that_is_none_are_told_apart() -> None:
    with pytest.raises(UnreachableError, match="ConnectError"):
        get("http://127.0.0.1:9/", lambda response: response.body(9))
    for url in ("http:///x", "ftp://a/", "http://a\0b/"):
        with pytest.raises(SkippedError, match="refused"):
            get(url, lambda response: response.body(9))


def test_a_deadline_allows_a_download_that_keeps_its_pace() -> None:
    past = time.monotonic() - 10
    Deadline(5, bytes_per_second=100, started=past).check(2000)
    for late in (Deadline(5, bytes_per_second=100, started=past), Deadline(5, started=past)):
        with pytest.raises(TransientError, match="more than 5 s in all"):
            late.check(500)
    assert "silent for 30 s" in Deadline(5).explanation()


def test_a_token_goes_to_one_origin_only() -> None:
    assert same_origin("https://a.example/x", "https://A.example:443/y")
    for other in ("http://a.example/x", "https://b.example/x", "https://a.example:444/"):
        assert not same_origin("https://a.example/x", other)


def test_limiters_are_shared_by_name_within_a_scope_and_a_remote_one_travels() -> None:
    first = open_limiter("github 1", list, scope="a")
    assert open_limiter("github 1", list, scope="a") is first
    assert open_limiter("github 2", list, scope="a") is not first is not open_limiter("github 1", list, scope="b")
    remote = pickle.loads(pickle.dumps(_RemoteLimiter("github 1", list)))
    assert remote._name == "github 1" and callable(remote.acquire)
