"""Connections to Serve's proxy: deadlines for headers, a least rate for bodies, an end for whoever does not read.

Uvicorn has a timeout for idle connections only, Serve sets nothing else of it, and its HAProxy mode runs no middleware
of ours and knows no least rate. So the proxy's protocol class is replaced by one that watches the clock.
"""

import asyncio
import functools
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from soldiom_ray.api.problems import protocol_response

HEADER_SECONDS = 10.0
"""From the first byte of a request (or the connection's begin) to the end of its headers."""
BODY_BYTES_PER_SECOND = 1000
BODY_SLACK_SECONDS = 20.0
"""How far a body may fall behind BODY_BYTES_PER_SECOND: so long may it stand still."""
READ_SECONDS = 60.0
"""How long a client may leave a response unread."""
BODYLESS_BYTES = 64 << 10
"""Most bytes that come in without any of them being of a body: headers, trailers, extensions of chunks."""
LINGER_SECONDS = 2.0
"""For how long a refused client's bytes are still taken: closing on unread bytes resets the connection, and the client
may never see why."""
CONNECTIONS = 2000
"""More connections than this end the ones that have been without a request for longest."""
TICK_SECONDS = 1.0

PROTOCOL = "soldiom_ray.api.connections:TimedProtocol"


class TimedProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1 protocol with limits. Time in which the application does not take a body counts for nobody;
    a client that is too slow gets a 408 where no response has begun, and loses its connection."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._bodyless_bytes = 0
        self._slack_seconds, self._unread_seconds = BODY_SLACK_SECONDS, 0.0
        self._reads_body = False
        self._refused_at: float | None = None
        self._header_deadline: float | None = self.loop.time() + HEADER_SECONDS
        self._tick: asyncio.TimerHandle | None = self.loop.call_later(TICK_SECONDS, self._check)
        if len(self.connections) > CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._refused_at is not None:
            return
        self._bodyless_bytes += len(data)
        super().data_received(data)
        if self._bodyless_bytes > BODYLESS_BYTES:
            self._refuse(431, f"The headers are larger than {BODYLESS_BYTES} bytes.")
        elif self._header_deadline is None and not self._reads_body and not self.has_request:
            self._header_deadline = self.loop.time() + HEADER_SECONDS  # empty lines before a request

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._bodyless_bytes = 0
        self._header_deadline = self.loop.time() + HEADER_SECONDS

    def on_headers_complete(self) -> None:
        self._header_deadline = None
        self._slack_seconds, self._reads_body = BODY_SLACK_SECONDS, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._bodyless_bytes = 0
        self._slack_seconds = min(BODY_SLACK_SECONDS, self._slack_seconds + len(body) / BODY_BYTES_PER_SECOND)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._reads_body = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _should_upgrade_to_ws(self) -> bool:
        return False

    @property
    def has_request(self) -> bool:
        """Whether a request is being read or answered."""
        return self._refused_at is None and self.cycle is not None and not self.cycle.response_complete

    def _check(self) -> None:
        """Once a second: what has lasted too long ends."""
        if self.transport.is_closing():
            if self.flow.write_paused:  # closed, but the client does not take what is left to send
                self._count_unread()
            self._tick = self.loop.call_later(TICK_SECONDS, self._check)
            return
        if self._refused_at is not None:
            if self.loop.time() > self._refused_at + LINGER_SECONDS:
                self.transport.close()
        elif self._header_deadline is not None and self.loop.time() > self._header_deadline:
            self._refuse(408, f"The headers did not arrive within {HEADER_SECONDS:.0f} s.")
        elif self._reads_body and not self.flow.read_paused:
            self._slack_seconds -= TICK_SECONDS
            if self._slack_seconds < 0:
                self._refuse(408, f"The body arrives more slowly than {BODY_BYTES_PER_SECOND} bytes/s.")
        self._count_unread()
        self._tick = self.loop.call_later(TICK_SECONDS, self._check)

    def _count_unread(self) -> None:
        self._unread_seconds = self._unread_seconds + TICK_SECONDS if self.flow.write_paused else 0.0
        if self._unread_seconds > READ_SECONDS:
            self.transport.abort()

    def _refuse(self, status: int, detail: str) -> None:
        """Send a problem, where no response has begun, and close when the client has taken it."""
        if self.transport.is_closing() or self._refused_at is not None:
            return
        self._refused_at = self.loop.time()
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self.transport.write(_message(status, detail))
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
        else:  # TLS
            self.transport.close()

    def _make_room(self) -> None:
        """End the connection that has been without a request for longest; this new one where all have one."""
        others = [each for each in self.connections if isinstance(each, TimedProtocol) and each is not self]
        idle = [each for each in others if not each.has_request]
        min(idle, key=TimedProtocol._idle_since, default=self).transport.abort()

    def _idle_since(self) -> float:
        if self.timeout_keep_alive_task is not None:
            return self.timeout_keep_alive_task.when() - self.timeout_keep_alive
        return (self._header_deadline or self.loop.time()) - HEADER_SECONDS


def install() -> None:
    """Let every server that uvicorn starts in this process from now on use the limits."""
    from uvicorn.config import HTTP_PROTOCOLS

    HTTP_PROTOCOLS["auto"] = PROTOCOL


@functools.cache
def _message(status: int, detail: str) -> bytes:
    response = protocol_response(status, detail, {"Connection": "close", "X-Content-Type-Options": "nosniff"})
    headers = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
    return STATUS_LINE[status] + headers + b"\r\n" + bytes(response.body)
