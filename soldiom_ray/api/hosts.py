"""Under which names the API answers: `Host` and `Origin` are checked before anything else.

A page of another site may point its own name at this machine (DNS rebinding) and then read what answers without a key.
It cannot choose the `Host` that its reader's browser sends. An address as it is written (127.0.0.1) belongs to no other
site; `10.evil.com` is a name.
"""

import socket
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Scope

from soldiom_ray.api import problems
from soldiom_ray.settings import Settings


class HostCheck:
    """Refuses requests for other names, and those that pages of other sites send."""

    def __init__(self, settings: Settings) -> None:
        own = {"localhost", socket.gethostname().lower(), settings.api_host.lower()}
        self.listed = settings.api_hosts
        self.names = (*own, *settings.api_hosts)

    def refusal(self, scope: Scope) -> ASGIApp | None:
        """The response to a request that is refused; None for a good one."""
        hosts = [value.decode("ascii") for name, value in scope["headers"] if name.lower() == b"host"]
        if len(hosts) > 1:
            return problems.protocol_response(400, "The request has several Host headers.")
        name = _host_name(hosts[0]) if hosts else ""
        if name is None or (hosts and not (_is_address(name) or _matches(name, self.names))):
            return problems.protocol_response(
                421,
                "This server does not answer under that name. SOLDIOM_API_HOSTS lists those of a proxy or a domain.",
            )
        for header, value in scope["headers"]:
            if header.lower() == b"origin" and not self._is_own_origin(value.decode("ascii"), hosts):
                return problems.protocol_response(403, "Pages of other sites may not call this server.")
        return None

    def cross_origin_headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """What lets a page of a listed name read the response (CORS). Keys come in a header that such a page sets
        itself, so no credentials are allowed, and no page reads with those that a browser keeps."""
        values = {name.lower(): value for name, value in scope["headers"]}
        origin = values.get(b"origin")
        if origin is None or not self._is_listed_origin(origin.decode("latin-1")):
            return []
        headers = [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"Location, Retry-After"),
            (b"vary", b"Origin"),
        ]
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in values:
            headers += [
                (b"access-control-allow-methods", b"GET, POST, DELETE"),
                (b"access-control-allow-headers", b"Authorization, Content-Type, Idempotency-Key"),
                (b"access-control-max-age", b"600"),
            ]
        return headers

    def _is_listed_origin(self, origin: str) -> bool:
        try:
            parts = urlsplit(origin)
            return parts.scheme in ("http", "https") and _matches(parts.hostname or "", self.listed)
        except ValueError:
            return False

    def _is_own_origin(self, origin: str, hosts: Sequence[str]) -> bool:
        try:
            parts = urlsplit(origin)
            name = parts.hostname or ""
        except ValueError:
            return False
        if parts.scheme not in ("http", "https"):
            return False
        return parts.netloc.lower() in [host.lower() for host in hosts] or _matches(name, self.listed)


def _host_name(host: str) -> str | None:
    """The name in a Host header, in lower case; None for what is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    if parts.netloc != host or "@" in host or not parts.hostname:
        return None
    return parts.hostname.rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _matches(name: str, listed: Sequence[str]) -> bool:
    return any(name.endswith(each[1:]) if each.startswith("*.") else name == each for each in listed)
