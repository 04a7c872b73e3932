"""Middleware around Ray Serve's proxy, which runs before Serve reads a request or looks for an application.

Serve lets a client set its timeouts by header, breaks on header bytes that are not UTF-8 (status 500 before any
application runs) and lists all applications at `/-/routes`. The head is started with
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH naming `middlewares`; on a cluster that is not ours its operator sets that.
"""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from soldiom_ray.api import problems
from soldiom_ray.api.middleware import drop_steering_headers, refuse


class ProxyMiddleware:
    """ASGI middleware that refuses malformed requests and Serve's own routes, and drops headers that steer Serve."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = refuse(scope)
            if scope["path"] == "/-/routes":
                refusal = problems.protocol_response(404, "Not Found")
            if refusal is not None:
                await refusal(scope, receive, send)
                return
            drop_steering_headers(scope)
        await self.app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """The middleware that Serve's proxy puts around itself."""
    return [Middleware(ProxyMiddleware)]
