"""One GET, safely: only to checked addresses (each redirect too), bounded in time and bytes, retried with patience."""

import http.client
import random
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

from soldiom_ray import __version__
from soldiom_ray.collect.address import allowed_addresses, connect
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.connections import check_endpoint, origin_of

ATTEMPTS = 5
MAX_REDIRECTS = 5
MAX_WAIT_SECONDS = 120.0
"""The longest a server may ask us to wait before the next attempt."""
READ_SECONDS = 20.0
"""How long a server may be silent within a request."""
CHUNK_BYTES = 1 << 16
AGAIN = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came at last. `headers` have lower-case names; `body` is unpacked; `url` is where redirects led."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


@dataclass
class Fetcher:
    """Fetches with one policy. `pause` sleeps for the given seconds; it may raise to stop the work."""

    allowed: Sequence[str]
    private: bool
    max_bytes: int
    timeout_seconds: float
    pause: Callable[[float], None] = time.sleep
    attempts: int = ATTEMPTS
    contexts: list[ssl.SSLContext] = field(default_factory=list)

    def get(self, url: str, headers: Mapping[str, str], secret: Mapping[str, str]) -> Answer:
        """The answer, of status 200 or 304. `secret` headers go to the origin of `url` only, not where redirects lead.

        Raises SkippedError: unavailable, timeout, refused, not_found, redirects, too_large, damaged, private_address.
        """
        waited = 0.5
        for attempt in range(1, self.attempts + 1):
            last = attempt == self.attempts
            try:
                answer = self._follow(url, headers, secret)
            except SkippedError as skipped:
                if last or skipped.reason not in ("unavailable", "timeout", "damaged"):
                    raise
                asked = None
            else:
                if answer.status in (200, 304):
                    return answer
                if last or answer.status not in AGAIN:
                    raise _refusal(answer.status, attempt)
                asked = _retry_after(answer.headers.get("retry-after", ""))
            if asked is not None and asked > MAX_WAIT_SECONDS:
                raise SkippedError("unavailable", f"it asks to be left alone for {asked:.0f} s")
            self.pause(max(asked or 0.0, waited * (1 + random.random() / 4)))
            waited *= 2
        raise SkippedError("unavailable", "it was never asked")

    def _follow(self, url: str, headers: Mapping[str, str], secret: Mapping[str, str]) -> Answer:
        deadline, origin = time.monotonic() + self.timeout_seconds, origin_of(url)
        for _ in range(MAX_REDIRECTS + 1):
            sent = {**headers, **secret} if origin_of(url) == origin else {}
            answer = self._once(url, sent, deadline)
            if answer.status not in (301, 302, 303, 307, 308):
                return answer
            if origin.startswith("https:") and urljoin(url, answer.headers.get("location", "")).startswith("http:"):
                raise SkippedError("redirects", "it leads from https to http")
            url = urljoin(url, answer.headers.get("location", "")).partition("#")[0]
            try:
                check_endpoint(url)
            except ValueError as error:
                raise SkippedError("redirects", "it leads to what is no http address") from error
        raise SkippedError("redirects", f"more than {MAX_REDIRECTS} redirects")

    def _once(self, url: str, headers: Mapping[str, str], deadline: float) -> Answer:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        sent = {
            "Host": parts.netloc,
            "User-Agent": f"soldiom/{__version__}",
            "Accept": "application/json, application/x-ndjson, text/csv;q=0.9, */*;q=0.5",
            "Accept-Encoding": "gzip",
            "Connection": "close",
            **headers,
        }
        addresses = allowed_addresses(host, port, self.allowed, self.private)
        connection = _CheckedConnection(host, port, addresses, self._tls() if parts.scheme == "https" else None)
        try:
            with _Watch(connection, deadline) as watch:
                connection.request("GET", target, headers=sent)
                response = connection.getresponse()
                told = {name.lower(): value for name, value in response.getheaders()}
                chunks = iter(lambda: response.read(CHUNK_BYTES), b"")
                body = self._body(chunks, told) if response.status == 200 else b""
                if response.status == 200 and response.length:
                    raise http.client.IncompleteRead(b"", response.length)
                return Answer(response.status, told, body, url)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if watch.expired:
                raise SkippedError("timeout", f"more than {self.timeout_seconds:g} s in all") from error
            if isinstance(error, TimeoutError):
                raise SkippedError("timeout", f"silent for {READ_SECONDS:g} s") from error
            if isinstance(error, ssl.SSLError):
                raise SkippedError("unavailable", f"its certificate or TLS does not hold ({error.reason})") from error
            cut = isinstance(error, http.client.IncompleteRead)
            what = "the answer was cut short" if cut else f"the connection broke ({type(error).__name__})"
            raise SkippedError("damaged" if cut else "unavailable", what) from error
        finally:
            connection.close()

    def _body(self, chunks: Iterable[bytes], headers: Mapping[str, str]) -> bytes:
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "x-gzip", ""):
            raise SkippedError("damaged", "it is packed in a way that was not asked for")
        unpacker = zlib.decompressobj(wbits=31) if "gzip" in encoding else None
        parts: list[bytes] = []
        room = self.max_bytes + 1
        try:
            for chunk in chunks:
                part = unpacker.decompress(chunk, room) if unpacker else chunk
                parts.append(part[:room])
                room -= len(parts[-1])
                if room <= 0 or (unpacker and unpacker.unconsumed_tail):
                    raise SkippedError("too_large", f"more than {self.max_bytes} bytes unpacked")
        except zlib.error as error:
            raise SkippedError("damaged", "its gzip packing is broken") from error
        if unpacker and not unpacker.eof:
            raise SkippedError("damaged", "its gzip packing is cut short")
        return b"".join(parts)

    def _tls(self) -> ssl.SSLContext:
        if not self.contexts:
            self.contexts.append(ssl.create_default_context())
        return self.contexts[0]


class _CheckedConnection(http.client.HTTPConnection):
    """A connection to one of the addresses that were checked; the certificate must be the host's."""

    def __init__(self, host: str, port: int, addresses: Sequence[str], tls: ssl.SSLContext | None) -> None:
        super().__init__(host, port)
        self.addresses, self.tls, self.ended = addresses, tls, False
        self.line: socket.socket | None = None

    def connect(self) -> None:
        opened = connect(self.addresses, self.port)
        opened.settimeout(READ_SECONDS)
        self.line = opened.dup()
        if self.ended:
            self.end()
        self.sock = self.tls.wrap_socket(opened, server_hostname=self.host) if self.tls else opened

    def end(self) -> None:
        """Cut the line, from another thread, under whatever is being read."""
        self.ended = True
        if self.line is not None:
            with suppress(OSError):
                self.line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        super().close()
        if self.line is not None:
            self.line.close()


class _Watch:
    """Ends a connection at its deadline: a server that sends a byte now and then is not waited for."""

    def __init__(self, connection: _CheckedConnection, deadline: float) -> None:
        self.expired = False
        self.connection = connection
        self.timer = threading.Timer(max(0.0, deadline - time.monotonic()), self._expire)
        self.timer.daemon = True

    def __enter__(self) -> "_Watch":
        self.timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.timer.cancel()

    def _expire(self) -> None:
        self.expired = True
        self.connection.end()


def _refusal(status: int, attempts: int) -> SkippedError:
    said = f"it answered {status}" + (f" {attempts} times" if attempts > 1 else "")
    if status in (401, 403, 407, 451):
        return SkippedError("refused", said)
    if status in (404, 410):
        return SkippedError("not_found", said)
    return SkippedError("unavailable" if status >= 500 or status in AGAIN else "refused", said)


def _retry_after(text: str) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None without one."""
    if text.strip().isdecimal() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
