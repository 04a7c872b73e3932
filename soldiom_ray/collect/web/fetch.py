"""GET requests to addresses that users name: only to checked addresses, each redirect too, bounded in time and
bytes, retried with backoff."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from soldiom_ray import __version__
from soldiom_ray.collect.http.errors import Backoff, TransientError, retry_after_seconds
from soldiom_ray.collect.http.guarded import GuardedClient
from soldiom_ray.collect.http.response import Deadline, Redirect, follow_redirects
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.connections import check_endpoint, origin_of

if TYPE_CHECKING:
    import ssl

ATTEMPTS = 5
FIRST_RETRY_SECONDS = 0.5
MAX_WAIT_SECONDS = 120.0
"""The longest a server may ask us to wait before the next attempt."""
READ_SECONDS = 20.0
"""How long a server may be silent within a request."""
RETRIED_STATUSES = (408, 425, 429, 500, 502, 503, 504)
HEADERS = {
    "User-Agent": f"soldiom/{__version__}",
    "Accept": "application/json, application/x-ndjson, text/csv;q=0.9, */*;q=0.5",
    "Accept-Encoding": "gzip",
    "Connection": "close",
}


@dataclass(frozen=True, slots=True)
class FetchedBody:
    """A response that was read whole. `headers` have lower-case names; `body` is unpacked and empty but for status 200;
    `url` is where redirects led."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


class Fetcher:
    """Fetches with one policy. `pause` sleeps for the given seconds; it may raise to stop the work. `allowed` and
    `private` are as in `allowed_addresses`."""

    def __init__(
        self,
        allowed: Sequence[str],
        private: bool,
        max_bytes: int,
        timeout_seconds: float,
        pause: Callable[[float], None] = time.sleep,
        attempts: int = ATTEMPTS,
        tls: "ssl.SSLContext | None" = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.timeout_seconds = timeout_seconds
        self.pause = pause
        self.attempts = attempts
        self._client = GuardedClient(allowed, private, tls)

    def get(self, url: str, headers: Mapping[str, str], secret: Mapping[str, str]) -> FetchedBody:
        """The response, of status 200 or 304. `secret` headers go to the origin of `url` only, not where redirects
        lead.

        Raises SkippedError: unavailable, timeout, refused, not_found, redirects, too_large, damaged, private_address.
        """
        backoff = Backoff(self.attempts, FIRST_RETRY_SECONDS)
        while True:
            try:
                return self._attempt(url, headers, secret)
            except TransientError as error:
                asked_seconds = retry_after_seconds(error.headers)
                if backoff.failures + 1 < self.attempts and (asked_seconds or 0.0) > MAX_WAIT_SECONDS:
                    raise SkippedError("unavailable", f"it asks to be left alone for {asked_seconds:.0f} s") from error
                seconds = self._backoff_seconds(backoff, error)
            self.pause(seconds * (1 + random.random() / 4))

    def _backoff_seconds(self, backoff: Backoff, error: TransientError) -> float:
        try:
            return backoff.seconds_after(error)
        except TransientError as last:
            attempts = f", {self.attempts} times" if self.attempts > 1 else ""
            raise SkippedError(last.reason, f"{last.detail}{attempts}") from last

    def _attempt(self, url: str, headers: Mapping[str, str], secret: Mapping[str, str]) -> FetchedBody:
        """One request and its redirects, all within the deadline."""
        deadline, origin = Deadline(self.timeout_seconds, silence_seconds=READ_SECONDS), origin_of(url)

        def visit(address: str) -> FetchedBody | Redirect:
            try:
                check_endpoint(address)
            except ValueError as error:
                raise SkippedError("redirects", "it leads to what is no http address") from error
            conditional = {**headers, **secret} if origin_of(address) == origin else {}
            with self._client.open(address, {**HEADERS, **conditional}, deadline) as response:
                if redirect := response.redirect("redirects"):
                    return redirect
                if response.status not in (200, 304):
                    raise _refusal(response.status, response.headers)
                body = response.body(self.max_bytes) if response.status == 200 else b""
                return FetchedBody(response.status, response.headers, body, address)

        return follow_redirects(url, visit, "redirects")


def _refusal(status: int, headers: Mapping[str, str]) -> SkippedError:
    detail = f"it answered {status}"
    if status in RETRIED_STATUSES:
        return TransientError("unavailable", detail, headers)
    if status in (401, 403, 407, 451):
        return SkippedError("refused", detail)
    if status in (404, 410):
        return SkippedError("not_found", detail)
    return SkippedError("unavailable" if status >= 500 else "refused", detail)
