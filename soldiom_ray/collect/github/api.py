"""GET requests to GitHub through PyGithub, each with a turn from its account's limiter, retried as GitHub's
documentation asks.

PyGithub's own retries are off: it sleeps for up to an hour inside a call, understands a 429 only with Retry-After, and
does not retry a truncated body.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Any, Generic, TypeVar
from urllib.parse import urlencode, urlsplit

from soldiom_ray.collect.github.account_limiter import DOWNLOAD, Turn, limit_headers, seconds_to_reset
from soldiom_ray.collect.github.accounts import Accounts, Identity
from soldiom_ray.collect.github.etag_cache import CachedValue, EtagCache
from soldiom_ray.collect.github.transport import API_VERSION, MovedError, requester
from soldiom_ray.collect.http.errors import (
    Backoff,
    RateLimitedError,
    TransientError,
    retry_after_seconds,
)
from soldiom_ray.collect.http.response import (
    Redirect,
    Response,
    download_deadline,
    follow_redirects,
    open_response,
    same_origin,
    shared_client,
)
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.errors import InputError, UnavailableError
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage

ATTEMPTS = 6
FIRST_RETRY_SECONDS = 0.25
MAX_WAIT_SECONDS = 3900.0
"""A primary limit resets within the hour; a longer wait is an error."""

MAX_ERROR_BYTES = 1 << 20
_GONE = {404: "not_found", 409: "empty", 410: "not_found", 451: "blocked"}
_GZIP = b"\x1f\x8b"

Extract = Callable[[Mapping[str, str], Any], Any]
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class _Received(Generic[_Value]):
    """The value of a request, with the headers that state the limits."""

    headers: Mapping[str, str]
    value: _Value


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """The part of a response that was asked for; where a redirect led to, if one did; whether GitHub said 304."""

    value: Any
    moved_to: str = ""
    unchanged: bool = False


class GithubApi:
    """Reads from GitHub (or a server that speaks its API). `report` gets the waits and may raise CancelledError."""

    def __init__(self, settings: Settings, accounts: Accounts, report: Callable[[str], None]) -> None:
        self.url = settings.github_api_url
        self.accounts = accounts
        self.report = report
        self.cache = EtagCache(open_storage(settings), self.url)
        self.requests = 0
        self.unchanged = 0

    def get(
        self,
        path: str,
        parameters: Mapping[str, str] | None = None,
        *,
        extract: Extract,
        resource: str = "core",
        fresh: bool = False,
    ) -> ApiResponse:
        """The value that `extract` makes of the response's headers and JSON, which is stored with the ETag; `fresh`
        asks without it. Raises SkippedError (not_found, empty, blocked, forbidden, refused, unavailable),
        InputError for a refused token or query, UnavailableError when GitHub cannot be reached."""
        url = f"{path}?{urlencode(sorted(parameters.items()))}" if parameters else path
        cached = None if fresh else self.cache.read(url)
        holders = cached.etags if cached else ()
        response = self._with_turns(
            url, resource, holders, lambda identity, turn: self._get(url, identity, cached, extract)
        )
        self.unchanged += response.unchanged
        return response

    def account(self) -> str:
        """The id of the account that the token belongs to; "" when it may not ask. Raises SkippedError unavailable."""
        try:
            return str(self.get("/user", extract=lambda headers, data: int(data["id"]), fresh=True).value)
        except SkippedError as skipped:
            if skipped.reason == "unavailable":
                raise
            return ""

    def download(self, path: str, sink: IO[bytes], max_bytes: int) -> str:
        """Stream an archive into `sink`; the repository's new address, if it moved. Redirects are followed; another
        host never sees the token. Raises as `get`, and SkippedError `too_large`."""
        url, moved_to = self._with_turns(
            path, "core", (), lambda identity, turn: self._locate(path, identity, turn, sink, max_bytes)
        )
        if url:
            self._with_turns(
                url, DOWNLOAD, (), lambda identity, turn: self._fetch(url, identity, turn, sink, max_bytes)
            )
        return moved_to

    def _with_turns(
        self, url: str, resource: str, holders: Collection[str], send: Callable[[Identity, Turn], _Received[_Value]]
    ) -> _Value:
        backoff, waited = Backoff(ATTEMPTS, FIRST_RETRY_SECONDS), 0.0
        while True:
            turn, identity = self.accounts.acquire(resource, url, holders)
            if turn.wait_seconds > 0:
                waited = self._wait(turn.wait_seconds, waited, resource)
                continue
            headers: Mapping[str, str] = {}
            good = False
            self.requests += 1
            try:
                received = send(identity, turn)
                headers, good = received.headers, True
                return received.value
            except RateLimitedError as limited:
                headers = limited.headers
                if waited + self._apply_limit(limited.headers, turn, resource) > MAX_WAIT_SECONDS:
                    raise self._too_long(limited.headers) from limited
                continue
            except TransientError as error:
                headers = error.headers
                seconds = backoff.seconds_or_give_up(error, self._unreachable)
            except SkippedError:
                good = True
                raise
            finally:
                self.accounts.limiter_of(turn).release(turn, resource, limit_headers(headers), good)
            if (asked_seconds := retry_after_seconds(headers)) is not None:
                self.accounts.silence(asked_seconds)
            else:
                time.sleep(seconds)

    def _get(
        self, url: str, identity: Identity, cached: CachedValue | None, extract: Extract
    ) -> _Received[ApiResponse]:
        conditions = {"If-None-Match": cached.etags[identity.name]} if cached and identity.name in cached.etags else {}
        visited: list[str] = []

        def visit(address: str) -> tuple[int, Mapping[str, str], str] | Redirect:
            if not same_origin(address, self.url):
                raise SkippedError("not_found", "moved to another host")
            visited.append(address)
            path = address.removeprefix(self.url) if len(visited) == 1 else self._path_of(address)
            try:
                status, headers, body = requester(self.url, identity.token).requestJson(
                    "GET", path, headers=dict(conditions)
                )
            except MovedError as moved:
                return moved.redirect
            return status, headers, body

        status, headers, body = follow_redirects(self.url + url, visit, "not_found")
        moved_to = visited[-1] if len(visited) > 1 else ""
        if status == 304 and cached and conditions:
            return _Received(headers, ApiResponse(cached.value, moved_to, unchanged=True))
        if status != 200:
            raise _refusal(status, headers, _json_message(body), url)
        try:
            value = extract(headers, json.loads(body))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TransientError("damaged", "a response that is not what was asked for", headers) from error
        self.cache.store(url, cached, value, identity.name, headers)
        return _Received(headers, ApiResponse(value, moved_to))

    def _path_of(self, address: str) -> str:
        parts = urlsplit(address)
        return parts.path.removeprefix(urlsplit(self.url).path) + (f"?{parts.query}" if parts.query else "")

    def _locate(
        self, path: str, identity: Identity, turn: Turn, sink: IO[bytes], max_bytes: int
    ) -> _Received[tuple[str, str]]:
        """The archive's address ("" when the response was the archive and is in `sink` already), and the
        repository's new address."""
        request_headers = {"X-GitHub-Api-Version": API_VERSION, **_authorization(identity.token)}
        visited: list[str] = []

        def visit(address: str) -> _Received[str] | Redirect:
            visited.append(address)
            with self._open(address, request_headers) as response:
                redirect = response.redirect("not_found")
                if redirect and redirect.permanent and same_origin(redirect.target, self.url):
                    return redirect
                if redirect is None:
                    self._receive(response, turn, sink, max_bytes)
                return _Received(response.headers, redirect.target if redirect else "")

        located = follow_redirects(self.url + path, visit, "not_found")
        return _Received(located.headers, (located.value, visited[-1] if len(visited) > 1 else ""))

    def _fetch(self, url: str, identity: Identity, turn: Turn, sink: IO[bytes], max_bytes: int) -> _Received[None]:
        if urlsplit(url).scheme not in ("https", urlsplit(self.url).scheme):
            raise SkippedError("forbidden", "redirected to an address without encryption")
        token = identity.token

        def visit(address: str) -> _Received[None] | Redirect:
            nonlocal token
            token = token if same_origin(address, self.url) else None
            with self._open(address, _authorization(token)) as response:
                if redirect := response.redirect("forbidden"):
                    return redirect
                self._receive(response, turn, sink, max_bytes)
                return _Received(response.headers, None)

        return follow_redirects(url, visit, "not_found")

    def _open(self, url: str, headers: Mapping[str, str]) -> AbstractContextManager[Response]:
        """A response of any length, without content encoding."""
        return open_response(shared_client(), url, {"Accept-Encoding": "identity", **headers}, download_deadline())

    def _receive(self, response: Response, turn: Turn, sink: IO[bytes], max_bytes: int) -> None:
        """Write an archive into `sink`, from its start. Other requests may go while its body is read."""
        if response.status != 200:
            message = _json_message(response.body(MAX_ERROR_BYTES).decode("utf-8", "replace"))
            raise _refusal(response.status, response.headers, message, "")
        self.accounts.limiter_of(turn).response_started(turn)
        sink.seek(0)
        sink.truncate()
        size = 0
        for chunk in response.chunks():
            if not size and not _GZIP.startswith(chunk[:2]):
                raise TransientError("damaged", "a response that is not an archive", response.headers)
            size += len(chunk)
            if size > max_bytes:
                raise SkippedError("too_large", f"an archive of more than {max_bytes} bytes")
            sink.write(chunk)
        if not size:
            raise TransientError("damaged", "an empty response", response.headers)

    def _unreachable(self, detail: str) -> UnavailableError:
        return UnavailableError(
            f"GitHub at {self.url} cannot be reached ({detail}).",
            remedy="check the network and SOLDIOM_GITHUB_API_URL; the next run goes on from here",
        )

    def _apply_limit(self, headers: Mapping[str, str], turn: Turn, resource: str) -> float:
        """Pass a refusal on to the limiter, so that every worker stops; the next `acquire` does the waiting. Returns
        the seconds that it will take."""
        asked_seconds = retry_after_seconds(headers)
        reset = seconds_to_reset(headers, time.time())
        if asked_seconds is None and headers.get("x-ratelimit-remaining") == "0" and reset is not None:
            name = str(headers.get("x-ratelimit-resource") or resource)
            self.accounts.limiter_of(turn).mark_exhausted(name, reset + 1)
            return reset + 1 if len(self.accounts.limiters) == 1 else 0.0
        seconds = self.accounts.limiter_of(turn).penalize(turn, None if asked_seconds is None else asked_seconds + 1)
        self.accounts.silence(seconds)
        return seconds

    def _wait(self, seconds: float, waited: float, resource: str) -> float:
        if waited + seconds > MAX_WAIT_SECONDS:
            raise self._too_long({})
        if seconds > 3:
            self.report(f"GitHub's limit for {resource}: {seconds:.0f} s to wait")
        time.sleep(min(seconds, 5.0))
        return waited + min(seconds, 5.0)

    def _too_long(self, headers: Mapping[str, str]) -> UnavailableError:
        until = headers.get("retry-after") or headers.get("x-ratelimit-reset")
        return UnavailableError(
            f"GitHub's rate limit asks for over {MAX_WAIT_SECONDS:.0f} s of waiting (it said {until or 'to wait'}).",
            remedy="run it later (it goes on where it stopped), set SOLDIOM_GITHUB_TOKEN, or lower max_repositories",
        )


def _refusal(status: int, headers: Mapping[str, str], message: str, url: str) -> Exception:
    """The error that a response without content means."""
    if status in (403, 429) and _is_limit(status, headers, message):
        return RateLimitedError(headers)
    if status == 401:
        return InputError(
            "GitHub refused the token (401).",
            remedy="set SOLDIOM_GITHUB_TOKEN to valid tokens, or unset it for 60 requests an hour",
        )
    if status in _GONE:
        return SkippedError(_GONE[status], f"GitHub answered {status}")
    if status == 403:
        return SkippedError("forbidden", "GitHub answered 403: private, or not for this token")
    if status == 422 and url.startswith("/search/"):
        return InputError(
            f"GitHub refused {urlsplit(url).path} with 422: {message[:200]}",
            remedy="correct the search: topics, languages, dates",
        )
    if 400 <= status < 500 and status != 408:
        return SkippedError("refused", f"GitHub answered {status}")
    return TransientError("unavailable", f"GitHub answered {status}", headers)


def _is_limit(status: int, headers: Mapping[str, str], message: str) -> bool:
    text = message.lower()
    return (
        status == 429
        or "retry-after" in headers
        or headers.get("x-ratelimit-remaining") == "0"
        or "rate limit" in text
        or "abuse" in text
    )


def _json_message(text: str) -> str:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    return str(data.get("message", "")) if isinstance(data, dict) else ""


def _authorization(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}
