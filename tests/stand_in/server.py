"""The server: requests go to GitHub's or the Hub's part by path, faults come first, everything is logged."""

import json
import random
import re
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from stand_in.github import GithubWorld
from stand_in.hub import HubRepository, HubWorld
from stand_in.repository import Repository


@dataclass
class Request:
    """One line of the log."""

    time: float
    method: str
    host: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]


@dataclass
class Answer:
    """What goes back. `cut` sends that many bytes of the body and closes the connection; `reset` closes it before any
    byte; `drip_seconds` passes between two bytes."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    reset: bool = False
    drip_seconds: float = 0.0


@dataclass
class Fault:
    """An answer that takes the place of the real one, `times` times, for paths that match."""

    pattern: str
    times: int
    answer: Answer | None
    cut: bool = False
    silent_seconds: float = 0.0
    drip_seconds: float = 0.0


class StandIn:
    """A context manager. `url` is the server; `other_url` is the same server under another host name.

    `fail`, `cut`, `reset`, `drip` and `unkind` put faults in; `requests(pattern)` is the log. `sins` counts requests
    that came while silence was asked for, `most_at_once` how many of GitHub's API were under way together.
    """

    def __init__(self) -> None:
        self.github = GithubWorld(self)
        self.hub = HubWorld(self)
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self.silent_until = 0.0
        self.sins = 0
        self.clock_ahead_seconds = 0.0
        self.under_way = self.most_at_once = 0
        self.dice: random.Random | None = None
        self.unkind_share = 0.0
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        self.other_url = f"http://localhost:{port}"

    def __enter__(self) -> "StandIn":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(self, *things: Repository | HubRepository) -> None:
        """Put repositories of GitHub or of the Hub in."""
        for thing in things:
            world: Any = self.github if isinstance(thing, Repository) else self.hub
            world.repositories.append(thing)

    def fail(
        self,
        pattern: str,
        status: int,
        *,
        times: int = 1,
        message: str = "",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        silent_seconds: float = 0.0,
    ) -> None:
        """The next `times` requests whose path matches get this answer; then, for a while, no request may come."""
        content = json.dumps({"message": message}).encode() if body is None else body
        answer_headers = {"Content-Type": "application/json"} | (headers or {})
        self.faults.append(
            Fault(pattern, times, Answer(status, content, answer_headers), silent_seconds=silent_seconds)
        )

    def cut(self, pattern: str, *, times: int = 1) -> None:
        """The next `times` answers to matching requests are cut in the middle of the body."""
        self.faults.append(Fault(pattern, times, None, cut=True))

    def reset(self, pattern: str, *, times: int = 1) -> None:
        """The next `times` matching requests find the connection closed before an answer."""
        self.faults.append(Fault(pattern, times, Answer(0, reset=True)))

    def drip(self, pattern: str, *, seconds: float, times: int = 1) -> None:
        """The next `times` answers to matching requests come byte by byte, so many seconds apart."""
        self.faults.append(Fault(pattern, times, None, drip_seconds=seconds))

    def unkind(self, share: float, seed: int) -> None:
        """This share of all requests fails in a way drawn by the seed."""
        self.unkind_share, self.dice = share, random.Random(seed)

    def requests(self, pattern: str = "", method: str = "") -> list[Request]:
        """Logged requests whose path matches."""
        return [one for one in self.log if re.search(pattern, one.path) and method in ("", one.method)]

    def answer(self, request: Request) -> Answer:
        with self.lock:
            self.log.append(request)
            if request.time < self.silent_until:
                self.sins += 1
            fault = next((one for one in self.faults if one.times > 0 and re.search(one.pattern, request.path)), None)
            if fault:
                fault.times -= 1
                if fault.silent_seconds:
                    self.silent_until = time.time() + fault.silent_seconds
                if fault.answer:
                    return fault.answer
            if self.dice and self.dice.random() < self.unkind_share:
                return _unkindness(self, self.dice)
            hub = request.path.startswith(("/api/models", "/api/datasets")) or "/resolve/" in request.path
            world: Any = self.hub if hub else self.github
            answer: Answer = world.answer(request, Answer)
            if fault and fault.cut:
                answer.cut = len(answer.body) // 2
            if fault:
                answer.drip_seconds = fault.drip_seconds
            return answer

    def count(self, step: int) -> None:
        """A request of the API begins or ends."""
        with self.lock:
            self.under_way += step
            self.most_at_once = max(self.most_at_once, self.under_way)


def _unkindness(stand_in: StandIn, dice: random.Random) -> Answer:
    """One of the ways in which a service fails for a moment."""
    page, html = b"<!DOCTYPE html><html><body>Unicorn!</body></html>", {"Content-Type": "text/html"}
    json_type = {"Content-Type": "application/json; charset=utf-8"}
    kind = dice.randrange(8)
    if kind == 0:
        stand_in.silent_until = time.time() + 0.9
        return Answer(503, b"{}", json_type | {"Retry-After": "1"})
    return (
        Answer(500, b"", json_type),
        Answer(502, page, html),
        Answer(504, page, html),
        Answer(200, page, html),
        Answer(200, b'{"items": [', json_type),
        Answer(200, b'{"items": [1, 2, 3]}', json_type, cut=8),
        Answer(0, reset=True),
    )[kind - 1]


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            self.counted = not parts.path.startswith("/archive/")
            stand_in.count(self.counted)
            try:
                self._answer(parts)
            finally:
                self._end_count()

        def _end_count(self) -> None:
            """The request is no longer under way: said before the client has the whole answer and may ask again."""
            stand_in.count(-self.counted)
            self.counted = False

        def _answer(self, parts: Any) -> None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            request = Request(
                time.time(), self.command, headers.get("host", ""), parts.path, parse_qs(parts.query), headers
            )
            answer = stand_in.answer(request)
            if answer.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                return
            self.send_response(answer.status)
            for key, value in answer.headers.items():
                self.send_header(key, value)
            if "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(answer.body)))
            if self.command == "HEAD" or answer.status == 304 or not answer.body:
                self._end_count()
                self.end_headers()
                return
            self.end_headers()
            body = answer.body if answer.cut is None else answer.body[: answer.cut]
            self._send(body, answer.drip_seconds)
            if answer.cut is not None:
                self.wfile.flush()
                self.close_connection = True

        def _send(self, body: bytes, drip_seconds: float) -> None:
            step = 1 if drip_seconds else max(len(body) - 1, 1)
            with suppress(OSError):
                for start in range(0, len(body), step):
                    if start + step >= len(body):
                        self._end_count()
                    self.wfile.write(body[start : start + step])
                    time.sleep(drip_seconds)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string((timestamp or time.time()) + stand_in.clock_ahead_seconds)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler
