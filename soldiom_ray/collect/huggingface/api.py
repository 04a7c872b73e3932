"""GET requests to the Hugging Face Hub, each when the limits allow it.

The loops are our own, because those of huggingface_hub 2.4.0 wait on a 429 without a bound or a word, end a whole
listing at one malformed entry, and resume a file inside one call only. Its offline switch is obeyed; nothing is written
into the user's cache.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from soldiom_ray.collect.http.errors import (
    Backoff,
    RateLimitedError,
    TransientError,
    retry_after_seconds,
)
from soldiom_ray.collect.http.response import (
    Deadline,
    Redirect,
    Response,
    body_deadline,
    download_deadline,
    follow_redirects,
    open_response,
    same_origin,
    shared_client,
)
from soldiom_ray.collect.huggingface.window_limiter import BUCKETS, WindowLimiter, open_limits
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.errors import InputError, UnavailableError
from soldiom_ray.settings import Settings

ATTEMPTS = 5
WAIT_SECONDS = 0.5
LIMIT_SECONDS = 60.0
"""What a 429 without a time means; doubled at each that follows, to at most the window of 300 s."""

MAX_WAIT_SECONDS = 930.0
"""Three windows of five minutes; a longer wait is an error."""

MAX_JSON_BYTES = 64 << 20
REPORTED_SECONDS = 3.0
"""Shorter waits are not reported."""

_CODES = {
    "GatedRepo": "gated",
    "EntryNotFound": "no_file",
    "RepoNotFound": "not_found",
    "RevisionNotFound": "not_found",
}
_STATUSES = {401: "not_found", 403: "forbidden", 404: "not_found", 410: "not_found", 451: "blocked"}
"""The Hub answers 401 for what does not exist, so that private names stay secret."""

Value = TypeVar("Value")
_log = logging.getLogger(__name__)


class HubApi:
    """Reads from the Hub, or a server that speaks its API. `report` gets the waits and may raise CancelledError."""

    def __init__(self, settings: Settings, limits: WindowLimiter, report: Callable[[str], None] | None = None) -> None:
        self.endpoint = settings.hf_endpoint.rstrip("/")
        self.token = settings.hf_token
        self.limits = limits
        self.report = report or _log.warning
        self.moved: dict[str, str] = {}
        """Repositories that the Hub answered for under another name."""

    def json(self, path: str, parameters: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any] | None]:
        """The JSON of a page, and the parameters of the next page. Raises as `_request`."""

        def read(response: Response) -> tuple[Any, dict[str, Any] | None]:
            try:
                value = json.loads(response.body(MAX_JSON_BYTES))
            except (ValueError, RecursionError) as error:
                raise TransientError("damaged", "a response that is not JSON") from error
            # Only the query is taken from the link, so that it cannot lead the token to another host.
            following = response.stream.links.get("next", {}).get("url")
            return value, parse_qs(urlsplit(following).query) if following else None

        return self._request(path, read, parameters)

    def pages(self, path: str, parameters: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
        """(parameters, entries) of every page of a list, requested as they are iterated. Raises as `_request`."""
        following: dict[str, Any] | None = dict(parameters)
        seen: set[str] = set()
        while following is not None and (digest := json.dumps(following, sort_keys=True)) not in seen:
            seen.add(digest)
            page_parameters = following
            value, following = self.json(path, page_parameters)
            if not isinstance(value, list):
                raise SkippedError("unavailable", "the Hub answered something else than a list")
            yield page_parameters, value

    def small_file(self, path: str, max_bytes: int) -> bytes:
        """A whole file. Raises as `_request`, and SkippedError `too_large`."""
        return self._request(path, lambda response: response.body(max_bytes))

    def part(self, path: str, first: int, count: int) -> bytes:
        """`count` bytes of a file from `first` on, fewer at its end. Of a server that sends the whole file no more is
        read than these. Raises as `_request`."""

        def read(response: Response) -> bytes:
            start = _range_start(response) if response.status == 206 else 0
            skip = first - start
            if skip < 0:
                raise TransientError("damaged", "another part than asked for")
            received = bytearray()
            for chunk in response.chunks():
                received += chunk
                if len(received) >= skip + count:
                    break
            return bytes(received[skip : skip + count])

        part_headers = {"Range": f"bytes={first}-{first + count - 1}", "Accept-Encoding": "identity"}
        return self._request(path, read, headers=lambda: part_headers, deadline=download_deadline)

    def download(self, path: str, target: Path, size_bytes: int) -> None:
        """Fill `target` up to `size_bytes`; what it holds already is not fetched again. Raises as `_request`,
        and SkippedError `wrong_hash` when the server sends more than that."""

        def headers() -> dict[str, str]:
            size = target.stat().st_size if target.exists() else 0
            return {"Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})

        if target.exists() and target.stat().st_size > size_bytes:
            target.unlink()
        if not target.exists() or target.stat().st_size < size_bytes or not size_bytes:
            self._request(
                path,
                lambda response: _append(response, target, size_bytes),
                headers=headers,
                deadline=download_deadline,
            )

    def _request(
        self,
        path: str,
        read: Callable[[Response], Value],
        parameters: Mapping[str, Any] | None = None,
        headers: Callable[[], Mapping[str, str]] = dict,
        deadline: Callable[[], Deadline] = body_deadline,
    ) -> Value:
        """What `read` makes of the response; asked again after failures and limits. Raises SkippedError (gated,
        forbidden, disabled, not_found, no_file, blocked, refused, unavailable), InputError for a refused token,
        UnavailableError when the Hub cannot be reached or its limit asks for too long a wait."""
        url = f"{self.endpoint}{path}"
        if parameters:
            url += f"?{urlencode(parameters, doseq=True)}"
        backoff, limits, waited = Backoff(ATTEMPTS, WAIT_SECONDS), 0, 0.0
        while True:
            try:
                return self._send(url, read, headers(), deadline)
            except RateLimitedError as limited:
                seconds = _limit_seconds(limited.headers) or min(LIMIT_SECONDS * 2**limits, 300.0)
                if waited + seconds > MAX_WAIT_SECONDS:
                    raise self._too_long(seconds) from limited
                self.limits.block(_bucket_of(url), seconds)
                limits, waited = limits + 1, waited + seconds
            except TransientError as error:
                seconds = backoff.seconds_or_give_up(error, self._unreachable)
                if seconds > MAX_WAIT_SECONDS:
                    raise self._too_long(seconds) from error
                self._pause(seconds, "the Hugging Face Hub's next attempt")

    def _send(
        self,
        url: str,
        read: Callable[[Response], Value],
        headers: Mapping[str, str],
        deadline: Callable[[], Deadline],
    ) -> Value:
        _refuse_offline()

        def visit(address: str) -> Value | Redirect:
            own = same_origin(address, self.endpoint)
            request_headers = {"Authorization": f"Bearer {self.token}"} if own and self.token else {}
            if own:
                self._wait_for(_bucket_of(address))
                self._learn_name(url, address)
            with open_response(shared_client(), address, {**headers, **request_headers}, deadline()) as response:
                if own:
                    self._learn_limit(response.headers)
                if redirect := response.redirect("refused"):
                    return redirect
                _refuse(response, own)
                return read(response)

        return follow_redirects(url, visit, "refused")

    def _unreachable(self, detail: str) -> UnavailableError:
        return UnavailableError(
            f"The Hugging Face Hub at {self.endpoint} cannot be reached ({detail}).",
            remedy="check the network and HF_ENDPOINT; what was read is kept for the next run",
        )

    def _learn_name(self, url: str, address: str) -> None:
        """Whether a redirect led to the repository's new name."""
        old, new = _repository_in(url), _repository_in(address)
        if old and new and old != new:
            self.moved[old] = new

    def _wait_for(self, bucket: str) -> None:
        """Wait until a request may go; the wait is bounded and reported. Requests to other hosts (a CDN) need none."""
        waited = 0.0
        while (seconds := self.limits.acquire(bucket)) > 0:
            if waited + seconds > MAX_WAIT_SECONDS:
                raise self._too_long(seconds)
            pause = min(seconds, 5.0)
            self._pause(pause, f"the Hugging Face Hub's limit for {bucket}", seconds)
            waited += pause

    def _pause(self, seconds: float, reason: str, reported_seconds: float | None = None) -> None:
        """Sleep, and report the wait every few seconds, so that a job can be cancelled meanwhile."""
        until = time.monotonic() + seconds
        while (remaining := until - time.monotonic()) > 0:
            shown = remaining if reported_seconds is None else reported_seconds
            if shown > REPORTED_SECONDS:
                self.report(f"{reason}: {shown:.0f} s to wait")
            time.sleep(min(remaining, 5.0))

    def _learn_limit(self, headers: Mapping[str, str]) -> None:
        from huggingface_hub.utils import parse_ratelimit_headers

        info = parse_ratelimit_headers(headers)
        if info and info.resource_type in BUCKETS:
            self.limits.observe(info.resource_type, info.remaining, float(info.reset_in_seconds))

    def _too_long(self, seconds: float) -> UnavailableError:
        return UnavailableError(
            f"The Hugging Face Hub's rate limit asks for {seconds:.0f} s more of waiting, and"
            f" {MAX_WAIT_SECONDS:.0f} s is the most one request waits.",
            remedy="run it later (it goes on where it stopped), set HF_TOKEN, or lower `limit`",
        )


def open_hub(settings: Settings, report: Callable[[str], None] | None = None) -> HubApi:
    """The Hub of these settings, with the limiter that all workers share."""
    return HubApi(settings, open_limits(settings), report)


def file_path(kind: str, repository: str, commit: str, name: str) -> str:
    """Where the Hub serves a repository's file, below its endpoint. `kind` is models or datasets."""
    prefix = "" if kind == "models" else f"{kind}/"
    return f"/{prefix}{repository}/resolve/{commit}/{quote(name)}"


def _refuse_offline() -> None:
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        raise InputError("HF_HUB_OFFLINE is set, so the Hugging Face Hub is not asked.", remedy="unset HF_HUB_OFFLINE")


def _bucket_of(url: str) -> str:
    """Which of the Hub's limits a request counts against."""
    return "resolvers" if "/resolve" in urlsplit(url).path else "api"


def _refuse(response: Response, own: bool) -> None:
    """Raise what a status other than success means."""
    status, headers = response.status, response.headers
    if status in (200, 206):
        return
    if not own:  # such as a signed address that has run out; the Hub gives a new one
        raise TransientError("unavailable", f"the file's host answered {status}", headers)
    if status == 429:
        raise RateLimitedError(headers)
    if status in (408, 416) or status >= 500:
        raise TransientError("unavailable", f"the Hub answered {status}", headers)
    message = str(headers.get("x-error-message", ""))
    if status == 401 and "invalid" in message.lower() and "authorization" in message.lower():
        raise InputError(
            "The Hugging Face Hub refused the token (401).", remedy="set HF_TOKEN to a valid token, or unset it"
        )
    reason = _CODES.get(str(headers.get("x-error-code", "")))
    if reason is None and "disabled" in message:
        reason = "disabled"
    raise SkippedError(reason or _STATUSES.get(status, "refused"), f"the Hub answered {status}")


def _limit_seconds(headers: Mapping[str, str]) -> float | None:
    """Seconds from `RateLimit: "api";r=0;t=55` or Retry-After; one more, because both are whole seconds."""
    reset = re.search(r"\bt\s*=\s*(\d{1,9})", headers.get("ratelimit", ""))
    seconds = float(reset[1]) if reset else retry_after_seconds(headers)
    return None if seconds is None else seconds + 1.0


def _repository_in(url: str) -> str:
    match = re.search(
        r"/(?:api/models/|api/datasets/|datasets/)?([^/]+(?:/[^/]+)?)/(?:resolve|tree)/", urlsplit(url).path
    )
    return match[1] if match else ""


def _range_start(response: Response) -> int:
    match = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
    return int(match[1]) if match else -1


def _append(response: Response, target: Path, size_bytes: int) -> None:
    """Add a part to what the file holds, or start it again when the server sent the whole file."""
    size = target.stat().st_size if target.exists() else 0
    if response.status == 206 and _range_start(response) != size:
        target.unlink(missing_ok=True)
        raise TransientError("damaged", "another part than asked for")
    before = size = size if response.status == 206 else 0
    enough = max(1 << 20, size_bytes // 100)
    try:
        with target.open("ab" if size else "wb") as file:
            for chunk in response.chunks():
                size += len(chunk)
                if size > size_bytes:
                    break
                file.write(chunk)
    except TransientError as error:
        error.made_progress = size - before >= enough
        raise
    if size > size_bytes:
        target.unlink()
        raise SkippedError("wrong_hash", f"more than the {size_bytes} bytes that are listed")
    if size < size_bytes:
        raise TransientError("damaged", "the answer was cut short", made_progress=size - before >= enough)
