"""A client for addresses that users name. A connection goes to an address that was checked and to no other: the name is
resolved once, here, so a name that resolves differently the next moment (DNS rebinding) changes nothing. TLS still
verifies the certificate against the host's name. No proxy is asked, since it would resolve the name anew.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import httpcore2
import httpx2

from soldiom_ray.collect.address import ADDRESS_SECONDS, allowed_addresses
from soldiom_ray.collect.http.errors import UnreachableError
from soldiom_ray.collect.http.response import Deadline, Response, open_response, tls_context

if TYPE_CHECKING:
    import ssl


class GuardedClient:
    """Sends requests one at a time, each on a connection of its own. `allowed` and `private` are as in
    `allowed_addresses`."""

    def __init__(self, allowed: Sequence[str], private: bool, tls: "ssl.SSLContext | None" = None) -> None:
        self._backend = _CheckedBackend(allowed, private)
        transport = _GuardedTransport(self._backend, tls or tls_context())
        # Without cookies, so that a page does not depend on those that were asked for before.
        cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        self._client = httpx2.Client(transport=transport, cookies=cookies, trust_env=False, follow_redirects=False)

    @contextmanager
    def open(
        self, url: str, headers: Mapping[str, str], deadline: Deadline, body: bytes | None = None
    ) -> Iterator[Response]:
        """The response to one request, which posts the body if there is one, all of it within the deadline, headers
        that drip included. Raises as `open_response`, and SkippedError: private_address."""
        self._backend.deadline = deadline
        self._client.timeout = httpx2.Timeout(deadline.silence_seconds, connect=ADDRESS_SECONDS)
        method = "GET" if body is None else "POST"
        with open_response(self._client, url, headers, deadline, method, body) as response:
            yield response


class _GuardedTransport(httpx2.HTTPTransport):
    """httpx2's transport over a pool whose connections our own backend makes, which its constructor does not take."""

    def __init__(self, backend: httpcore2.NetworkBackend, tls: "ssl.SSLContext") -> None:
        self._pool = httpcore2.ConnectionPool(
            ssl_context=tls, max_connections=1, max_keepalive_connections=0, network_backend=backend
        )


class _CheckedBackend(httpcore2.NetworkBackend):
    """Connects to the first of a host's checked addresses that accepts."""

    def __init__(self, allowed: Sequence[str], private: bool) -> None:
        self.allowed = allowed
        self.private = private
        self.deadline = Deadline(0.0)
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        problem: Exception | None = None
        until = time.monotonic() + 3 * ADDRESS_SECONDS
        for address in allowed_addresses(host, port, self.allowed, self.private):
            seconds = min(ADDRESS_SECONDS, until - time.monotonic(), self.deadline.remaining_seconds())
            if seconds <= 0:
                break
            try:
                return _TimedStream(self._sockets.connect_tcp(address, port, seconds), self.deadline)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                problem = error
        if self.deadline.remaining_seconds() <= 0:
            raise httpcore2.ReadTimeout(self.deadline.explanation())
        cause = problem.__cause__ if problem and problem.__cause__ else problem
        raise UnreachableError(f"port {port} does not answer ({type(cause).__name__})") from problem


class _TimedStream(httpcore2.NetworkStream):
    """A connection whose reads and writes end at the deadline."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self.stream = stream
        self.deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.stream.read(max_bytes, self._seconds(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.stream.write(buffer, self._seconds(timeout))

    def start_tls(
        self, ssl_context: "ssl.SSLContext", server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        try:
            stream = self.stream.start_tls(ssl_context, server_hostname, self._seconds(timeout))
        except httpcore2.ConnectTimeout as error:  # connected, but silent
            raise httpcore2.ReadTimeout(str(error)) from error
        return _TimedStream(stream, self.deadline)

    def close(self) -> None:
        self.stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)

    def _seconds(self, timeout: float | None) -> float:
        remaining = self.deadline.remaining_seconds()
        if remaining <= 0:
            raise httpcore2.ReadTimeout(self.deadline.explanation())
        return remaining if timeout is None else min(timeout, remaining)
