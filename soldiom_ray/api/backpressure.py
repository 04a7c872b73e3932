"""Bodies on their way through Ray Serve: the proxy reads what a client sends into a queue without end, and the replica
fetches that queue into another one, however slowly the application reads. An upload of 500 MB was held whole in both.
Serve has no setting for it, so both queues are replaced by ones that wait."""

import asyncio
from typing import Any

BUFFERED_BYTES = 1 << 20
"""How much of a body may wait in the proxy; and, in messages of 64 KiB, in the replica."""
BUFFERED_MESSAGES = 16
POLL_SECONDS = 0.005


def bound_bodies_in_proxy() -> None:
    """In this process, a proxy of Serve's, hold at most BUFFERED_BYTES of a body that the replica has not fetched."""
    from ray.serve._private import proxy
    from ray.serve._private.http_util import MessageQueue

    class BoundedQueue(MessageQueue):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._bytes = 0
            self._fetched = asyncio.Event()

        async def __call__(self, message: Any) -> None:
            while self._bytes >= BUFFERED_BYTES and not self._closed:
                self._fetched.clear()
                await self._fetched.wait()
            self._bytes += len(message.get("body", b""))
            await super().__call__(message)

        def get_messages_nowait(self) -> list[Any]:
            self._bytes = 0
            self._fetched.set()
            return list(super().get_messages_nowait())

        def close(self) -> None:
            super().close()
            self._fetched.set()

    proxy.MessageQueue = BoundedQueue


def bound_bodies_in_replica() -> None:
    """In this process, a replica of Serve's, fetch a body no faster than the application reads it."""
    from ray.serve._private import replica
    from ray.serve._private.http_util import ASGIReceiveProxy

    class BoundedReceive(ASGIReceiveProxy):  # type: ignore[misc]
        def __init__(self, scope: Any, request_metadata: Any, receive_asgi_messages: Any) -> None:
            super().__init__(scope, request_metadata, self._fetch_when_read)
            self._fetch = receive_asgi_messages

        async def _fetch_when_read(self, metadata: Any) -> Any:
            while self.queue.qsize() >= BUFFERED_MESSAGES:
                await asyncio.sleep(POLL_SECONDS)
            return await self._fetch(metadata)

    replica.ASGIReceiveProxy = BoundedReceive
