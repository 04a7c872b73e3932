"""What Ray Serve's proxy does before it reads a request, and before it looks for an application.

Serve lets a client set its timeouts by header, breaks on header bytes that are not UTF-8 (status 500 before any
application runs) and lists all applications at `/-/routes`. The head is started with
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH naming `middlewares`; on a cluster that is not ours its operator sets that.
"""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from soldiom_ray.api import problems
from soldiom_ray.api.middleware import drop_steering, refused


class Edge:
    """ASGI middleware around Serve's own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = refused(scope)
            if scope["path"] == "/-/routes":
                refusal = problems.protocol_response(404, "Not Found")
            if refusal is not None:
                await refusal(scope, receive, send)
                return
            drop_steering(scope)
        await self.app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """What Serve's proxy is asked to put around itself."""
    return [Middleware(Edge)]
