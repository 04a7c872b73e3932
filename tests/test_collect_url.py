"""Source `url` against an unkind server on this machine, and where users' sources may connect to."""

import gzip
import json
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from collecting import documents_of, make_context

from soldiom_ray.artifacts import Context
from soldiom_ray.collect import address, collect, web
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.collect.web import fetch
from soldiom_ray.domains.recipes import as_dict, validate_recipe
from soldiom_ray.domains.secrets import hide_secrets
from soldiom_ray.domains.sources import UrlSource
from soldiom_ray.errors import CancelledError, InputError, UnavailableError
from soldiom_ray.records import Manifest

Reply = tuple[int, dict[str, str], bytes]
Answering = Callable[["World", dict[str, list[str]], dict[str, str]], Reply]


def rows(*numbers: int) -> list[dict[str, Any]]:
    return [{"id": number, "question": f"Why {number}?", "answer": f"Because {number}."} for number in numbers]


class World:
    """A server whose paths answer with functions; `log` holds path, query and headers of every request."""

    def __init__(self) -> None:
        self.log: list[tuple[str, dict[str, list[str]], dict[str, str]]] = []
        self.paths: dict[str, Answering] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def json(self, path: str, value: Any, **headers: str) -> None:
        answer_headers = {"Content-Type": "application/json"} | {
            name.replace("_", "-"): text for name, text in headers.items()
        }
        self.paths[path] = lambda *_: (200, answer_headers, json.dumps(value).encode())


def _handler(world: World) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query, headers = parse_qs(parts.query), {name.lower(): value for name, value in self.headers.items()}
            world.log.append((parts.path, query, headers))
            answering = world.paths.get(parts.path)
            status, answer_headers, body = answering(world, query, headers) if answering else (404, {}, b"")
            if status == 0:
                self.wfile.write(body)
                self.close_connection = True
                return
            etag = answer_headers.get("ETag")
            if etag and headers.get("if-none-match") == etag:
                status, body = 304, b""
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | answer_headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    threading.Thread(target=world.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield world
    world.server.shutdown()
    world.server.server_close()


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return make_context(tmp_path / "home")


def collected(context: Context, endpoint: str, **declared: Any) -> tuple[Manifest, list[str]]:
    manifest = collect(context, [UrlSource(url=endpoint, private=True, **declared)])
    return manifest, [document["text"] for document in documents_of(context, manifest)]


def test_records_are_taken_from_where_they_stand(world: World, context: Context) -> None:
    world.json("/items", {"data": {"items": rows(1, 2)}, "total": 2})
    manifest, texts = collected(context, f"{world.url}/items?limit=2", records="data.items")
    assert texts == ["Why 1?\n\nBecause 1.", "Why 2?\n\nBecause 2."]
    document = documents_of(context, manifest)[0]
    assert document["url"] == f"{world.url}/items?limit=2#record-1" and document["rule"] == "url"
    assert len(json.loads(document["metadata"])["file_sha256"]) == 64
    assert manifest.details["outcomes"] == {"collected": 2}


@pytest.mark.parametrize("how", ["link", "next address", "page"])
def test_a_secret_in_the_address_is_sent_and_stands_in_no_document_drop_or_manifest(
    world: World, context: Context, how: str
) -> None:
    def answering(_: World, query: dict[str, list[str]], headers: dict[str, str]) -> Reply:
        number = int(query.get("page", ["1"])[0])
        if query.get("token") != ["s3 cret"] or headers.get("authorization") != "Basic bWU6aHVudGVyMg==":
            return 401, {}, b""
        following = f"/items?token=s3+cret&page={number + 1}" if number < 3 else None
        value = {"items": rows(number) if number < 3 else [], "next": following if how == "next address" else None}
        link = {"Link": f'<{following}>; rel="next"'} if how == "link" and following else {}
        return 200, {"Content-Type": "application/json"} | link, json.dumps(value).encode()

    world.paths["/items"] = answering
    address = world.url.replace("http://", "http://me:hunter2@") + "/items?token=s3+cret"
    options = {"link": {}, "next address": {"next": "next"}, "page": {"page": "page"}}[how]
    declared = {"source": "url", "url": address, "private": True, "records": "items"} | options
    recipe = validate_recipe({"name": "x", "collect": [declared]})
    hidden = hide_secrets(context.settings, recipe, "default").collect or ()
    assert "s3" not in str(hidden) and "hunter2" not in str(hidden)
    manifest = collect(context, hidden)
    documents = documents_of(context, manifest)
    assert len(documents) == 2 and documents[0]["url"].startswith(f"{world.url}/items?")
    dropped = list(context.artifacts.rows(manifest, "dropped/"))
    told = json.dumps([manifest.model_dump(mode="json"), documents, dropped], default=str)
    assert "s3" not in told and "hunter2" not in told and "bWU6aHVudGVyMg" not in told
    with pytest.raises(InputError, match="No value is kept for the parameter 'token'"):
        collect(context, [UrlSource(url=f"{world.url.replace('127.0.0.1', 'localhost')}/items?token=", private=True)])


@pytest.mark.parametrize("how", ["link", "next address", "cursor", "page"])
def test_all_ways_of_going_from_page_to_page_end_at_the_last(world: World, context: Context, how: str) -> None:
    def answering(_: World, query: dict[str, list[str]], __: dict[str, str]) -> Reply:
        number = int(query.get("page", query.get("after", ["1"]))[0])
        last = number >= 3
        following = f"/items?page={number + 1}"
        items = rows(number) if number <= 3 else []
        value: dict[str, Any] = {"items": items}
        headers = {"Content-Type": "application/json"}
        if how == "link" and not last:
            headers["Link"] = f'<{following}>; title="x, y"; rel="next", </items?page=3>; rel="last"'
        if how == "next address":
            value["links"] = {"next": None if last else following}
        if how == "cursor":
            value["after"] = None if last else number + 1
        return 200, headers, json.dumps(value).encode()

    world.paths["/items"] = answering
    options = {
        "link": {},
        "next address": {"next": "links.next"},
        "cursor": {"next": "after", "cursor": "after"},
        "page": {"page": "page"},
    }[how]
    _, texts = collected(context, f"{world.url}/items", records="items", **options)
    assert len(texts) == 3 and len(world.log) == (4 if how == "page" else 3)


def test_an_unchanged_endpoint_costs_one_304_and_gives_the_same_collection(world: World, context: Context) -> None:
    world.json("/items", rows(1, 2), ETag='"a"')
    first, _ = collected(context, f"{world.url}/items")
    again, _ = collected(context, f"{world.url}/items")
    assert again == first and world.log[1][2]["if-none-match"] == '"a"'
    world.json("/items", rows(1, 2, 3), ETag='"b"')
    changed, texts = collected(context, f"{world.url}/items")
    assert changed.id != first.id and len(texts) == 3


def test_polling_collects_each_record_once(world: World, context: Context) -> None:
    world.paths["/items"] = lambda world, *_: (200, {}, json.dumps(rows(*range(min(len(world.log), 2)), 9)).encode())
    manifest, texts = collected(context, f"{world.url}/items", polls=3, interval_seconds=0)
    assert len(world.log) == 3 and sorted(texts) == [f"Why {n}?\n\nBecause {n}." for n in (0, 1, 9)]
    assert manifest.details["outcomes"] == {"collected": 3, "repeated": 2, "unchanged": 1}


def test_other_documents_than_json_are_parsed_too(world: World, context: Context) -> None:
    world.paths["/t"] = lambda *_: (200, {"Content-Type": "text/csv; charset=utf-8"}, b"question;answer\nWhy?;So.\n")
    assert collected(context, f"{world.url}/t")[1] == ["Why?\n\nSo."]
    lines = "\n".join(json.dumps(row) for row in rows(1, 2)).encode()
    world.paths["/a.jsonl"] = lambda *_: (200, {"Content-Type": "text/plain"}, lines)
    assert len(collected(context, f"{world.url}/a.jsonl")[1]) == 2
    packed = gzip.compress(json.dumps(rows(1)).encode())
    world.paths["/z"] = lambda *_: (200, {"Content-Encoding": "gzip"}, packed)
    assert len(collected(context, f"{world.url}/z")[1]) == 1


def test_a_secret_header_is_sent_to_its_own_place_only_and_stored_nowhere(world: World, context: Context) -> None:
    world.json("/items", rows(1))
    other = world.url.replace("127.0.0.1", "localhost")
    world.paths["/moved"] = lambda *_: (302, {"Location": f"{other}/items"}, b"")
    declared = {"source": "url", "url": f"{world.url}/items", "headers": {"X-Key": "s3cret"}, "private": True}
    hidden = hide_secrets(context.settings, validate_recipe({"name": "x", "collect": [declared]}), "default")
    assert "s3cret" not in json.dumps(as_dict(hidden))
    manifest = collect(context, hidden.collect or ())
    assert world.log[0][2]["x-key"] == "s3cret"
    stored = [path for path in context.settings.home.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert stored == [context.settings.keys_folder / "connections.json"]  # there is no encryption key
    assert "s3cret" not in manifest.model_dump_json()
    collected(context, f"{world.url}/moved", headers={"X-Key": ""})
    assert world.log[-2][2]["x-key"] == "s3cret" and "x-key" not in world.log[-1][2]
    with pytest.raises(InputError, match="No value is kept for the header 'X-Key'"):
        collected(context, f"{other}/items", headers={"X-Key": ""})


def test_a_busy_server_is_asked_again_after_the_time_it_names(world: World, context: Context) -> None:
    def busy(world: World, *_: Any) -> Reply:
        if len(world.log) < 3:
            return 503 if len(world.log) == 1 else 429, {"Retry-After": "1"}, b""
        return 200, {}, json.dumps(rows(1)).encode()

    world.paths["/items"] = busy
    started = time.monotonic()
    assert len(collected(context, f"{world.url}/items")[1]) == 1
    assert time.monotonic() - started >= 2.0 and len(world.log) == 3


def refuse(world: World, context: Context, **options: Any) -> str:
    with pytest.raises((InputError, UnavailableError)) as caught:
        collected(context, f"{world.url}/items", **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ((404, {}, b""), "it answered 404"),
        ((401, {}, b"secret words"), "it answered 401"),
        ((503, {"Retry-After": "9999"}, b""), "left alone for 9999 s"),
        ((200, {"Content-Type": "text/html"}, b"<html>Please log in</html>"), "a web page where data was expected"),
        ((200, {"Content-Type": "application/json"}, b"<!DOCTYPE html><p>"), "a web page where data was expected"),
        ((200, {"Content-Type": "application/json"}, b'{"a": [1, 2'), "it is no JSON from character"),
        ((200, {"Content-Type": "application/json"}, b"[" * 100_000), "nested too deeply"),
        ((200, {"Content-Type": "application/json"}, b"[" + b"9" * 5000 + b"]"), "a number that is too large"),
        ((200, {"Content-Type": "application/json"}, b"\xff\xfe\x00"), "not UTF-8"),
        ((200, {}, b""), "answered with nothing"),
        ((200, {"Content-Type": "application/json"}, b'"' + b"x" * 2_000_000 + b'"'), "more than 1000000 bytes"),
        ((200, {"Content-Encoding": "gzip"}, gzip.compress(b"0" * 50_000_000, 1)), "more than 1000000 bytes"),
        ((200, {"Content-Encoding": "gzip"}, gzip.compress(b"[1]" * 1000)[:-20]), "cut short"),
        ((200, {"Content-Encoding": "gzip"}, b"no gzip"), "packing is broken"),
        ((200, {"Content-Encoding": "br"}, b"xx"), "packed in a way"),
        ((302, {"Location": "/items"}, b""), "more than 5 redirects"),
        ((302, {"Location": "file:///etc/passwd"}, b""), "no http address"),
        ((302, {"Location": "http://169.254.169.254/latest/meta-data"}, b""), "keep a machine's secrets"),
        ((302, {"Location": "http://[::ffff:169.254.169.254]/"}, b""), "keep a machine's secrets"),
        ((200, {"Content-Length": "1000", "Connection": "close"}, b"[1, 2"), "cut short|cannot be|timed|silent"),
    ],
)
def test_whatever_is_wrong_with_an_endpoint_is_told(
    world: World, context: Context, monkeypatch: pytest.MonkeyPatch, reply: Reply, expected: str
) -> None:
    monkeypatch.setattr(web.Poller, "pause", lambda *_: None)
    monkeypatch.setattr(fetch, "READ_SECONDS", 0.2)
    world.paths["/items"] = lambda *_: reply
    message = refuse(world, context, max_bytes=1_000_000)
    assert re.search(expected, message), message
    assert "secret words" not in message


def test_a_server_that_sends_a_byte_now_and_then_is_not_waited_for(world: World, context: Context) -> None:
    class Drip(threading.Thread):
        def __init__(self, whole: bytes) -> None:
            super().__init__(daemon=True)
            self.whole, self.sent = whole, 0
            self.socket = socket.create_server(("127.0.0.1", 0))

        def run(self) -> None:
            while True:
                client, _ = self.socket.accept()
                threading.Thread(target=self.drip, args=(client,), daemon=True).start()

        def drip(self, client: socket.socket) -> None:
            try:
                for byte in self.whole:
                    client.sendall(bytes([byte]))
                    self.sent += 1
                    time.sleep(0.1)
            except OSError:
                client.close()

    head = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n"
    for whole in (head + b"X: y\r\n" * 100, b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 500):
        drip = Drip(whole)
        drip.start()
        fetcher = fetch.Fetcher((), True, 1000, 1.0, lambda _: None, attempts=1)
        with pytest.raises(SkippedError) as caught:
            fetcher.get(f"http://127.0.0.1:{drip.socket.getsockname()[1]}/", {}, {})
        assert caught.value.reason == "timeout" and drip.sent < len(whole) / 2


def test_a_later_page_that_fails_is_counted_and_what_came_is_kept(world: World, context: Context) -> None:
    world.json("/items", {"items": rows(1), "next": "/gone"})
    manifest, texts = collected(context, f"{world.url}/items", records="items", next="next")
    assert len(texts) == 1 and manifest.details["outcomes"] == {"collected": 1, "not_found": 1}
    world.json("/gone", {"items": rows(2), "next": "/items"})
    manifest, texts = collected(context, f"{world.url}/items", records="items", next="next")
    assert len(texts) == 2 and manifest.details["outcomes"] == {"collected": 2, "page_loop": 1}
    world.json("/gone", {"items": rows(2), "next": "http://other.example/x"})
    manifest, _ = collected(context, f"{world.url}/items", records="items", next="next")
    assert manifest.details["outcomes"]["wrong_records"] == 1


def test_wrong_paths_name_what_there_is(world: World, context: Context) -> None:
    world.json("/items", {"data": rows(1), "n": 1})
    assert "nothing stands at 'items'; known there: 'data', 'n'" in refuse(world, context, records="items")
    assert "is no list of records" in refuse(world, context, records="n")
    assert "`page` needs a list" in refuse(world, context, page="p")


def test_waiting_between_polls_ends_when_the_job_is_cancelled(world: World, tmp_path: Path) -> None:
    world.json("/items", rows(1))
    made = make_context(tmp_path / "home")

    def report(_: float, message: str) -> None:
        if "waiting" in message:
            raise CancelledError("stop")

    stopping = Context(made.settings, made.artifacts, report)
    with pytest.raises(CancelledError):
        collected(stopping, f"{world.url}/items", polls=2, interval_seconds=3600)


@pytest.mark.parametrize(
    "host",
    [
        "127.1", "0x7f000001", "2130706433", "017700000001", "0", "localhost", "::", "::1", "::127.0.0.1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "2002:7f00:1::",
        "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "169.254.169.254", "168.63.129.16", "192.0.0.192",
        "198.18.0.1", "224.0.0.1", "255.255.255.255", "fd00::1", "fe80::1", "fec0::1", "ff02::1", "2001:db8::1",
    ],
)  # fmt: skip
def test_private_addresses_in_any_spelling_are_refused(host: str) -> None:
    with pytest.raises(SkippedError) as caught:
        address.allowed_addresses(host, 443, (), private=False)
    assert caught.value.reason == "private_address"


@pytest.mark.parametrize("host", ["8.8.8.8", "2001:4860:4860::8888", "64:ff9b::8.8.8.8"])
def test_public_addresses_pass_but_not_to_the_ports_of_other_services(host: str) -> None:
    assert address.allowed_addresses(host, 443, (), private=False) == [str(address.ip_address(host))]
    with pytest.raises(SkippedError, match="port 25"):
        address.allowed_addresses(host, 25, (), private=False)


def test_administrators_allow_names_addresses_and_networks_but_never_metadata_by_private() -> None:
    for allowed in (("localhost",), ("127.0.0.1", "::1"), ("127.0.0.0/8", "::1/128")):
        assert address.allowed_addresses("localhost", 9, allowed, private=False)
    with pytest.raises(SkippedError):
        address.allowed_addresses("127.0.0.1", 9, ("localhost", "10.0.0.0/8"), private=False)
    with pytest.raises(SkippedError):
        address.allowed_addresses("169.254.169.254", 80, (), private=True)


def test_one_private_address_of_several_refuses_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "look_up", lambda host, port: ["8.8.8.8", "10.0.0.5"])
    with pytest.raises(SkippedError, match="private"):
        address.allowed_addresses("both.example", 443, (), private=False)


def test_a_name_that_changes_between_check_and_connection_changes_nothing(
    world: World, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.json("/items", rows(1))
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.9.9.9"]

    monkeypatch.setattr(address, "look_up", rebinding)
    endpoint = world.url.replace("127.0.0.1", "rebinding.example")
    made = make_context(context.settings.home, SOLDIOM_PRIVATE_HOSTS="127.0.0.0/8")
    manifest = collect(made, [UrlSource(url=f"{endpoint}/items")])
    assert manifest.counts["documents"] == 1 and asked == ["rebinding.example"]
    assert world.log[0][2]["host"].startswith("rebinding.example:")


def test_endpoints_are_asked_without_a_proxy_and_without_cookies_and_no_log_has_their_address(
    world: World, context: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    world.json("/items", {"items": rows(1), "next": "/more"}, Set_Cookie="seen=1; Path=/")
    world.json("/more", {"items": rows(2)})
    assert len(collected(context, f"{world.url}/items", records="items", next="next")[1]) == 2
    assert [path for path, *_ in world.log] == ["/items", "/more"] and "cookie" not in world.log[1][2]
    assert "/items" not in caplog.text and "/more" not in caplog.text


def test_a_redirect_from_an_allowed_place_to_a_private_one_is_refused(world: World, context: Context) -> None:
    world.paths["/items"] = lambda *_: (302, {"Location": "http://10.0.0.1/secret"}, b"")
    made = make_context(context.settings.home, SOLDIOM_PRIVATE_HOSTS="127.0.0.1")
    with pytest.raises(InputError, match=r"10\.0\.0\.1 is a private address") as caught:
        collect(made, [UrlSource(url=f"{world.url}/items")])
    assert "SOLDIOM_PRIVATE_HOSTS" in caught.value.remedy


def test_a_certificate_must_be_the_hosts_though_the_connection_goes_to_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(World()))
    certificate = _certificate(tmp_path, "good.example")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    server.socket = serving.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(address, "look_up", lambda host, port: ["127.0.0.1"])
    trusting = ssl.create_default_context(cafile=str(certificate))
    fetcher = fetch.Fetcher((), True, 1000, 5.0, lambda _: None, attempts=1, tls=trusting)
    port = server.server_address[1]
    with pytest.raises(SkippedError, match="404"):
        fetcher.get(f"https://good.example:{port}/", {}, {})
    with pytest.raises(SkippedError, match="certificate"):
        fetcher.get(f"https://other.example:{port}/", {}, {})
    with pytest.raises(SkippedError, match="certificate"):
        fetch.Fetcher((), True, 1000, 5.0, attempts=1).get(f"https://good.example:{port}/", {}, {})
    server.shutdown()
    server.server_close()


def _certificate(folder: Path, host: str) -> Path:
    """A key and a certificate of its own for a host, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    began = datetime.now(UTC) - timedelta(days=1)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number()).not_valid_before(began)
    made = made.not_valid_after(began + timedelta(days=9))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "certificate.pem"
    path.write_bytes(private + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(
    "endpoint",
    [
        "ftp://a/b",
        "http://u:p@/",
        "http://u:p@a%20b/",
        "file:///etc/passwd",
        "http://a\\@b/",
        "http:///x",
        "//a",
        "http://a:0/",
        "",
    ],
)
def test_addresses_of_other_kinds_are_refused_before_anything_is_asked(endpoint: str) -> None:
    with pytest.raises(InputError, match=r"url"):
        validate_recipe({"name": "x", "collect": [{"source": "url", "url": endpoint}]})
