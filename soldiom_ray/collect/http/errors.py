"""Errors of HTTP requests: those after which a retry may succeed, and rate limits."""

import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from soldiom_ray.collect.text import SkippedError
from soldiom_ray.errors import UnavailableError


class TransientError(SkippedError):
    """A failure after which a retry may succeed; `reason` is unavailable, timeout or damaged. `made_progress` says
    that a download advanced in this attempt."""

    def __init__(
        self, reason: str, detail: str, headers: Mapping[str, str] | None = None, made_progress: bool = False
    ) -> None:
        super().__init__(reason, detail)
        self.headers = headers or {}
        self.made_progress = made_progress


class UnreachableError(TransientError):
    """No connection to the server."""

    def __init__(self, detail: str) -> None:
        super().__init__("unavailable", detail)


class RateLimitedError(Exception):
    """The server refused a request because of a rate limit; its headers say for how long."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__("rate limited")
        self.headers = headers


@dataclass
class Backoff:
    """Exponential backoff between the attempts of one request."""

    attempts: int
    first_seconds: float
    failures: int = 0

    def seconds_after(self, error: TransientError) -> float:
        """Seconds to wait before the next attempt, at least those of Retry-After. Raises the error itself after the
        last attempt."""
        self.failures = 1 if error.made_progress else self.failures + 1
        if self.failures >= self.attempts:
            raise error
        return max(self.first_seconds * 2.0 ** (self.failures - 1), retry_after_seconds(error.headers) or 0.0)

    def seconds_or_give_up(self, error: TransientError, unreachable: Callable[[str], UnavailableError]) -> float:
        """As `seconds_after`, but after the last attempt raises what `unreachable` makes of the reason why there was no
        connection, or SkippedError `unavailable` where there was one."""
        try:
            return self.seconds_after(error)
        except UnreachableError as last:
            raise unreachable(last.detail) from last
        except TransientError as last:
            raise SkippedError("unavailable", f"{last.detail}, {self.attempts} times") from last


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After asks for, as a number or as a date, which is relative to the Date header if there is
    one; None without a readable header."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return min(float(text), 1e9)
    try:
        until = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    try:
        now = parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        now = time.time()
    return max(0.0, until - now)


@contextmanager
def network_errors(explain_timeout: Callable[[], str], reason: str = "unavailable") -> Iterator[None]:
    """Raises httpx2's errors as ours: UnreachableError; TransientError `timeout`; TransientError with `reason` for a
    broken connection; SkippedError `refused` for an invalid address."""
    import httpx2

    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
        raise UnreachableError(_tls_problem(error) or type(error).__name__) from error
    except httpx2.TimeoutException as error:
        raise TransientError("timeout", explain_timeout()) from error
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise SkippedError("refused", "an address that is no http address") from error
    except httpx2.HTTPError as error:
        raise TransientError(reason, "the answer was cut short") from error


def _tls_problem(error: BaseException | None) -> str:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return f"its certificate or TLS does not hold ({error.reason})"
        error = error.__cause__ or error.__context__
    return ""
