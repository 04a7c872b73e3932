"""The edge: Caddy with the configuration of cluster/edge, in front of the real API, with a certificate made here."""

import datetime
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest
from api_server import listen
from conftest import ROOT, free_port

from soldiom_ray.api.app import make_app
from soldiom_ray.services import production
from soldiom_ray.settings import load_settings

CADDY = shutil.which("caddy")
CONFIG = ROOT / "cluster/edge/Caddyfile"
NAME = "localhost"

pytestmark = [
    pytest.mark.service,
    pytest.mark.skipif(CADDY is None, reason="no caddy is installed (Debian: apt-get install caddy)"),
]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of its own for NAME, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    today = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pair = folder / "tls.crt", folder / "tls.key"
    pair[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pair[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pair


class Edge:
    """A running Caddy, and clients that know its certificate and find it under its name."""

    def __init__(self, folder: Path, upstream: str) -> None:
        self.certificate, key = certificate(folder)
        self.ports = {"http": free_port(), "https": free_port()}
        variables = {
            "EDGE_DOMAIN": NAME,
            "EDGE_TLS": f"{self.certificate} {key}",
            "EDGE_UPSTREAM": upstream.removeprefix("http://"),
            "EDGE_HTTP_PORT": str(self.ports["http"]),
            "EDGE_HTTPS_PORT": str(self.ports["https"]),
            "EDGE_UPLOAD_BYTES": str(13 << 20),
            "XDG_DATA_HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
        }
        self.process = subprocess.Popen(
            [str(CADDY), "run", "--config", str(CONFIG), "--adapter", "caddyfile"],
            env=os.environ | variables,
            stdout=subprocess.DEVNULL,
            stderr=(folder / "caddy.log").open("wb"),
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < deadline, (folder / "caddy.log").read_text()
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.ports["https"]), 1).close()
        except OSError:
            return False
        return True

    @contextmanager
    def connection(self) -> Iterator[ssl.SSLSocket]:
        """A connection whose certificate is checked for NAME."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        with (
            socket.create_connection(("127.0.0.1", self.ports["https"]), 20) as plain,
            context.wrap_socket(plain, server_hostname=NAME) as secure,
        ):
            yield secure

    def ask(self, method: str, path: str, *, scheme: str = "https", **options: Any) -> httpx.Response:
        context = ssl.create_default_context(cafile=str(self.certificate))
        headers = {"Host": f"{NAME}:{self.ports[scheme]}"} | options.pop("headers", {})
        with httpx.Client(verify=context, trust_env=False, timeout=30) as client:
            url = f"{scheme}://127.0.0.1:{self.ports[scheme]}{path}"
            return client.request(method, url, headers=headers, extensions={"sni_hostname": NAME}, **options)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@contextmanager
def edge_before(app: Any, folder: Path) -> Iterator[Edge]:
    # Not uvicorn's "auto", which the API replaces in its process by a protocol without websockets.
    for url in listen(app, http="httptools"):
        edge = Edge(folder, url)
        try:
            yield edge
        finally:
            edge.stop()


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """In front of an API whose services do not run: what is tried here needs none."""
    folder = tmp_path_factory.mktemp("edge")
    settings = load_settings({"SOLDIOM_HOME": str(folder / "home"), "SOLDIOM_API_HOSTS": NAME})
    with edge_before(make_app(settings, reconciles=False), folder) as made:
        yield made


def test_caddy_accepts_the_configuration_with_every_kind_of_certificate() -> None:
    for tls in ("internal", "somebody@example.org"):
        done = subprocess.run(
            [str(CADDY), "validate", "--config", str(CONFIG), "--adapter", "caddyfile"],
            env=os.environ | {"EDGE_DOMAIN": "api.example.org", "EDGE_TLS": tls},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "not formatted" not in done.stderr


def test_the_api_answers_over_https_and_plain_http_leads_there(edge: Edge) -> None:
    answer = edge.ask("GET", "/soldiom/")
    assert answer.status_code == 200 and "Content-Security-Policy" in answer.headers
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert "Server" not in answer.headers
    assert edge.ask("GET", "/api/models").status_code == 401
    plain = edge.ask("GET", "/soldiom/?a=b", scheme="http")
    assert plain.status_code == 308
    assert plain.headers["Location"].startswith("https://") and plain.headers["Location"].endswith("/soldiom/?a=b")


def test_counts_are_not_for_those_outside(edge: Edge) -> None:
    assert edge.ask("GET", "/metrics").status_code == 404


def test_doctor_looks_at_the_edge_from_outside(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"https://{NAME}:{edge.ports['https']}"
    assert [each["state"] for each in production._edge(url)] == ["error"]  # nobody knows this certificate
    monkeypatch.setenv("SSL_CERT_FILE", str(edge.certificate))
    states = {each["check"].removeprefix("production: "): each["state"] for each in production._edge(url)}
    certificate = states.pop("certificate")
    assert set(states.values()) == {"ok"} and set(states) == {"edge", "HSTS", "metrics", "CORS"}
    assert certificate == "warning"  # it ends tomorrow


def test_headers_beyond_the_limit_are_refused(edge: Edge) -> None:
    assert edge.ask("GET", "/healthz", headers={"X-Long": "x" * 30_000}).status_code == 431
    assert edge.ask("GET", "/soldiom/", headers={"X-Long": "x" * 8_000}).status_code == 200


class Recorder:
    """An application that holds back the second event until it is told, counts bodies, tells the headers that reach it,
    and takes websockets."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        elif scope["path"] == "/events":
            await self._send_events(send)
        elif scope["method"] == "POST":
            await self._answer(send, await self._size(receive))
        else:
            await self._answer(send, [name.decode() for name, _ in scope["headers"]])

    async def _send_events(self, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: first\n\n", "more_body": True})
        await anyio.to_thread.run_sync(self.go_on.wait)
        await send({"type": "http.response.body", "body": b"data: second\n\n"})

    async def _size(self, receive: Any) -> int:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        return size

    async def _answer(self, send: Any, value: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(value).encode()})


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def recorded(recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """In front of the recorder."""
    with edge_before(recorder, tmp_path_factory.mktemp("recorded")) as made:
        yield made


@pytest.mark.parametrize(("path", "limit"), [("/api/search", 11), ("/api/training/collect/user-input", 13)])
@pytest.mark.parametrize("declared", [True, False])
def test_a_body_beyond_the_limit_is_refused(recorded: Edge, path: str, limit: int, declared: bool) -> None:
    mebibyte = b"x" * (1 << 20)

    def body(count: int) -> Any:
        return mebibyte * count if declared else (mebibyte for _ in range(count))

    assert recorded.ask("POST", path, content=body(limit)).json() == limit << 20
    assert recorded.ask("POST", path, content=body(limit + 1)).status_code == 413


def test_nobody_outside_sets_the_limits_of_serve(recorded: Edge) -> None:
    sent = {"X-Request-Timeout-Seconds": "1", "X-Request-Disconnect-Disabled": "?1", "X-Other": "1"}
    names = recorded.ask("GET", "/headers", headers=sent).json()
    assert "x-other" in names and "x-forwarded-for" in names
    assert not [name for name in names if name.startswith("x-request-")]


def test_events_are_not_held_back(recorded: Edge, recorder: Recorder) -> None:
    with recorded.connection() as connection:
        connection.sendall(f"GET /events HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        received = b""
        while b"first" not in received:
            part = connection.recv(1000)
            assert part, received
            received += part
        assert b"second" not in received
        recorder.go_on.set()
        while b"second" not in received:
            received += connection.recv(1000)


def test_websockets_pass(recorded: Edge) -> None:
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13"
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    with recorded.connection() as connection:
        connection.sendall(f"GET /talk HTTP/1.1\r\nHost: {NAME}\r\n{upgrade}\r\n{key}\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 101 ")
