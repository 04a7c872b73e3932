"""Requests, their responses and redirects, read within a time and a size however slowly the bytes arrive."""

import logging
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urljoin, urlsplit

from soldiom_ray.collect.http.errors import TransientError, network_errors
from soldiom_ray.collect.text import SkippedError

if TYPE_CHECKING:
    import ssl

    import httpx2

USER_AGENT = "soldiom"
CONNECT_SECONDS = 15.0
SILENCE_SECONDS = 30.0
"""Maximum time between two reads."""

BODY_SECONDS = 90.0
"""Maximum time for a whole JSON body; the largest, a tree of GitHub's, has 7 MB."""

SLOWEST_BYTES_PER_SECOND = 2048
"""A download that is slower than this on average after BODY_SECONDS is aborted."""

MAX_REDIRECTS = 5
MAX_DRAINED_BYTES = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
_PERMANENT = (301, 308)
_Value = TypeVar("_Value")

for _library in ("httpx2", "httpcore2"):
    # They log every request with its address, whose query may hold a secret.
    logging.getLogger(_library).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Deadline:
    """The time limit of a response: `seconds`, or, with `bytes_per_second`, as long as it needs at that rate at
    least."""

    seconds: float
    bytes_per_second: float = 0.0
    silence_seconds: float = SILENCE_SECONDS
    started: float = field(default_factory=time.monotonic)

    def remaining_seconds(self) -> float:
        """Seconds until the time is over; negative afterwards."""
        return self.started + self.seconds - time.monotonic()

    def check(self, size: int) -> None:
        """Raises TransientError `timeout` when a body of which `size` bytes have arrived is late."""
        elapsed = time.monotonic() - self.started
        fast_enough = self.bytes_per_second > 0 and size >= elapsed * self.bytes_per_second
        if elapsed > self.seconds and not fast_enough:
            raise TransientError("timeout", self.explanation())

    def explanation(self) -> str:
        """Which limit was exceeded, for messages."""
        if self.remaining_seconds() <= 0:
            return f"more than {self.seconds:g} s in all"
        return f"silent for {self.silence_seconds:g} s"


@dataclass(frozen=True)
class Redirect:
    """The absolute target of a redirect."""

    target: str
    permanent: bool


@dataclass(frozen=True)
class Response:
    """A response whose body is not read yet. `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    url: str
    deadline: Deadline
    stream: "httpx2.Response"

    def redirect(self, reason: str) -> Redirect | None:
        """Its target, if it is a redirect; its body is then drained, so that the connection can be reused. Raises
        SkippedError with this reason when the target is not http or https, or is http after https."""
        if self.status not in _REDIRECTS or "location" not in self.headers:
            return None
        try:
            target = urljoin(self.url, self.headers["location"]).partition("#")[0]
            scheme = urlsplit(target).scheme
        except ValueError:
            scheme = ""
        if scheme not in ("http", "https"):
            raise SkippedError(reason, "it leads to what is no http address")
        if scheme == "http" and self.url.startswith("https:"):
            raise SkippedError(reason, "it leads from https to http")
        size = 0
        for chunk in self.chunks():
            size += len(chunk)
            if size > MAX_DRAINED_BYTES:
                break
        return Redirect(target, self.status in _PERMANENT)

    def chunks(self) -> Iterator[bytes]:
        """The body as it travels, undecoded. Raises TransientError: damaged, timeout."""
        size = 0
        with network_errors(self.deadline.explanation, "damaged"):
            for chunk in self.stream.iter_raw():
                size += len(chunk)
                self.deadline.check(size)
                yield chunk

    def body(self, max_bytes: int) -> bytes:
        """The whole body, unpacked. Raises SkippedError `too_large`, TransientError: damaged, timeout."""
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "x-gzip", ""):
            raise TransientError("damaged", "it is packed in a way that was not asked for", self.headers)
        unpacker = zlib.decompressobj(wbits=31) if "gzip" in encoding else None
        parts: list[bytes] = []
        room, packed_bytes = max_bytes + 1, 0
        try:
            for chunk in self.chunks():
                packed_bytes += len(chunk)
                part = unpacker.decompress(chunk, room) if unpacker else chunk
                parts.append(part[:room])
                room -= len(parts[-1])
                if room <= 0 or (unpacker and unpacker.unconsumed_tail):
                    raise SkippedError("too_large", f"more than {max_bytes} bytes")
        except zlib.error as error:
            raise TransientError("damaged", "its gzip packing is broken", self.headers) from error
        if unpacker and packed_bytes and not unpacker.eof:
            raise TransientError("damaged", "its gzip packing is cut short", self.headers)
        return b"".join(parts)


@contextmanager
def open_response(
    client: "httpx2.Client",
    url: str,
    headers: Mapping[str, str],
    deadline: Deadline,
    method: str = "GET",
    body: bytes | None = None,
) -> Iterator[Response]:
    """The response to one request; redirects are not followed. Raises UnreachableError, TransientError: unavailable,
    timeout; SkippedError `refused` for an invalid address."""
    with network_errors(deadline.explanation):
        stream = client.send(client.build_request(method, url, headers=dict(headers), content=body), stream=True)
    try:
        lower = {name.lower(): value for name, value in stream.headers.items()}
        yield Response(stream.status_code, lower, url, deadline, stream)
    finally:
        stream.close()


def follow_redirects(url: str, visit: Callable[[str], _Value | Redirect], reason: str) -> _Value:
    """Call `visit` with the address, and with the target of each redirect that it returns, until it returns a value.
    Raises SkippedError with this reason after MAX_REDIRECTS."""
    for _ in range(MAX_REDIRECTS + 1):
        value = visit(url)
        if not isinstance(value, Redirect):
            return value
        url = value.target
    raise SkippedError(reason, f"more than {MAX_REDIRECTS} redirects")


def body_deadline() -> Deadline:
    """The deadline of a JSON body or small file."""
    return Deadline(BODY_SECONDS)


def download_deadline() -> Deadline:
    """The deadline of a download of any length."""
    return Deadline(BODY_SECONDS, SLOWEST_BYTES_PER_SECOND)


def same_origin(url: str, other: str) -> bool:
    """Whether two addresses have the same scheme, host and port, so that a token may go to both."""
    return _origin(url) == _origin(other)


@lru_cache(maxsize=1)
def tls_context() -> "ssl.SSLContext":
    """The process's TLS settings, from the system's certificates or SSL_CERT_FILE. Making them costs 35 ms."""
    import httpx2

    return httpx2.create_ssl_context()


@lru_cache(maxsize=1)
def shared_client() -> "httpx2.Client":
    """The process's client for servers that the settings name and their redirects: uses the environment's proxies
    and keeps connections open. A request on it costs 1 ms."""
    import httpx2

    return httpx2.Client(
        verify=tls_context(),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "gzip"},
        timeout=httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx2.Limits(max_connections=32, max_keepalive_connections=16),
        follow_redirects=False,
    )


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
