"""One GET for health probes: no proxy, no redirects, a short bounded wait."""

import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """`status` is 0 when nothing answered. `problem` is "" for a 200, else what is wrong."""

    status: int
    problem: str


def get(url: str, headers: Mapping[str, str] | None = None, timeout_seconds: float = 8.0) -> ProbeResult:
    """Send one GET. Certificates are not checked: a probe asks whether a service is alive, and sends nothing secret
    unless the service is on loopback."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    try:
        if parts.scheme == "https":
            context = ssl._create_unverified_context()  # noqa: S323
            connection = http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=timeout_seconds, context=context
            )
        else:
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_seconds)
        try:
            connection.request(
                "GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), headers=dict(headers or {})
            )
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        return ProbeResult(0, f"{parts.netloc} does not answer ({type(error).__name__})")
    return ProbeResult(status, "" if status == 200 else f"{parts.netloc} answers {status}")
