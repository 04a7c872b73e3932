"""The server: requests go to GitHub's or the Hub's part by path, faults come first, everything is logged."""

import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from stand_in.github import GithubWorld, Repository
from stand_in.hub import HubRepository, HubWorld


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
    """What goes back. `cut` sends that many bytes of the body and closes the connection."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


@dataclass
class Fault:
    """An answer that takes the place of the real one, `times` times, for paths that match."""

    pattern: str
    times: int
    answer: Answer | None
    cut: bool = False
    silent_seconds: float = 0.0


class StandIn:
    """A context manager. `url` is the server; `other_url` is the same server under another host name.

    `fail` and `cut` put faults in; `requests(pattern)` is the log. `sins` counts requests that came while a fault's
    silence was asked for.
    """

    def __init__(self) -> None:
        self.github = GithubWorld(self)
        self.hub = HubWorld(self)
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self.silent_until = 0.0
        self.sins = 0
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
        told = {"Content-Type": "application/json"} | (headers or {})
        self.faults.append(Fault(pattern, times, Answer(status, content, told), silent_seconds=silent_seconds))

    def cut(self, pattern: str, *, times: int = 1) -> None:
        """The next `times` answers to matching requests are cut in the middle of the body."""
        self.faults.append(Fault(pattern, times, None, cut=True))

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
            hub = request.path.startswith(("/api/models", "/api/datasets")) or "/resolve/" in request.path
            world: Any = self.hub if hub else self.github
            answer: Answer = world.answer(request, Answer)
            if fault and fault.cut:
                answer.cut = len(answer.body) // 2
            return answer


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            headers = {key.lower(): value for key, value in self.headers.items()}
            request = Request(
                time.time(), self.command, headers.get("host", ""), parts.path, parse_qs(parts.query), headers
            )
            answer = stand_in.answer(request)
            self.send_response(answer.status)
            for key, value in answer.headers.items():
                self.send_header(key, value)
            if "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command == "HEAD" or answer.status == 304:
                return
            self.wfile.write(answer.body if answer.cut is None else answer.body[: answer.cut])
            if answer.cut is not None:
                self.wfile.flush()
                self.close_connection = True

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler
