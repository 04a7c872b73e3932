"""HEAD where GET works, OPTIONS, and which methods an address takes."""

import re
from collections.abc import Iterable, Iterator

from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from soldiom_ray.api import problems


class MethodsMiddleware:
    """ASGI middleware that answers OPTIONS with the methods of an address, refuses other methods with 405 and the same
    list, and answers HEAD as GET without the body."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self.app = app
        self.routes = [(route.path_regex, frozenset(route.methods)) for route in _leaves(routes)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        methods = self._methods(scope["path"])
        allow = {"Allow": ", ".join(sorted(methods | {"OPTIONS"}))}
        if methods and scope["method"] == "OPTIONS":
            await problems.empty_response(204, allow)(scope, receive, send)
        elif methods and scope["method"] not in methods:
            await problems.protocol_response(405, f"This address takes {allow['Allow']}.", allow)(scope, receive, send)
        elif scope["method"] == "HEAD":
            await self._head(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _methods(self, path: str) -> set[str]:
        """The methods of the first route whose pattern fits, and of those with the same pattern."""
        first = next((pattern for pattern, _ in self.routes if pattern.fullmatch(path)), None)
        methods = {method for pattern, each in self.routes if first and pattern == first for method in each}
        return methods | ({"HEAD"} if "GET" in methods else set())

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The start of what GET answers. The rest is not sent; a stream is told that its reader has gone."""
        started = False

        async def send_start(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                await send(message)
                started = True
            elif message.get("more_body"):
                raise OSError("HEAD takes no body")

        async def receive_end() -> Message:
            return {"type": "http.disconnect"} if started else await receive()

        try:
            await self.app({**scope, "method": "GET"}, receive_end, send_start)
        except (OSError, ClientDisconnect):
            if not started:
                raise
        if started:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _leaves(routes: Iterable[BaseRoute]) -> "Iterator[_Leaf]":
    for route in routes:
        router = getattr(route, "original_router", None)
        if router is not None:
            yield from _leaves(router.routes)
        elif getattr(route, "methods", None):
            yield route  # type: ignore[misc]


class _Leaf:
    """What a route of FastAPI has."""

    path_regex: re.Pattern[str]
    methods: set[str]
