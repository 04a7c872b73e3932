"""GET requests to the Hugging Face Hub over huggingface_hub's HTTP client, each when the limits allow it.

The client, its proxies and its offline switch are huggingface_hub's; the loops are our own, because those of 2.4.0 wait
on a 429 without a bound or a word, end a whole listing at one malformed entry, and resume a file inside one call only.
Nothing is written into the user's cache.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, urljoin, urlsplit

from soldiom_ray.collect.huggingface.limits import BUCKETS, Limits, open_limits
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.errors import InputError, UnavailableError
from soldiom_ray.settings import Settings

ATTEMPTS = 5
WAIT_SECONDS = 0.5
LIMIT_SECONDS = 60.0
"""What a 429 without a time means; doubled at each that follows, to at most the window of 300 s."""

MAX_WAIT_SECONDS = 930.0
"""Three windows of five minutes; who has to wait longer is told instead."""

MAX_JSON_BYTES = 64 << 20
REDIRECTS = 5
TOLD_SECONDS = 3.0
"""Shorter waits are not worth a word."""

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


class Faulty(Exception):  # noqa: N818
    """An answer that may be better next time. `progress` says that this one brought the work on."""

    def __init__(self, why: str, progress: bool = False) -> None:
        super().__init__(why)
        self.progress = progress


class HubApi:
    """Reads from the Hub, or a server that speaks its API. `report` hears of waits and may raise CancelledError."""

    def __init__(self, settings: Settings, limits: Limits, report: Callable[[str], None] | None = None) -> None:
        self.endpoint = settings.hf_endpoint.rstrip("/")
        self.token = settings.hf_token
        self.limits = limits
        self.report = report or _log.warning
        self.moved: dict[str, str] = {}
        """Repositories that the Hub answered for under another name."""

    def json(self, path: str, parameters: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any] | None]:
        """The value of a page, and the parameters of the next page. Raises as `_asked`."""

        def read(answer: Any) -> tuple[Any, dict[str, Any] | None]:
            try:
                value = json.loads(_body(answer, MAX_JSON_BYTES))
            except (ValueError, RecursionError) as error:
                raise Faulty("an answer that is not JSON") from error
            # Only the query is taken from the link, so that it cannot lead the token to another host.
            following = answer.links.get("next", {}).get("url")
            return value, parse_qs(urlsplit(following).query) if following else None

        return self._asked(path, read, parameters)

    def pages(self, path: str, parameters: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
        """(its parameters, its entries) of every page of a list, one request each time the next one is asked for."""
        asked: dict[str, Any] | None = dict(parameters)
        seen: set[str] = set()
        while asked is not None and (mark := json.dumps(asked, sort_keys=True)) not in seen:
            seen.add(mark)
            value, following = self.json(path, asked)
            if not isinstance(value, list):
                raise SkippedError("unavailable", "the Hub answered something else than a list")
            yield asked, value
            asked = following

    def small_file(self, path: str, max_bytes: int) -> bytes:
        """A whole file. Raises SkippedError `too_large` besides."""
        return self._asked(path, lambda answer: _body(answer, max_bytes))

    def part(self, path: str, first: int, count: int) -> bytes:
        """`count` bytes of a file from `first` on, fewer at its end. Of a server that sends the whole file no more is
        read than these."""

        def read(answer: Any) -> bytes:
            start = _range_start(answer) if answer.status_code == 206 else 0
            skip = first - start
            if skip < 0:
                raise Faulty("another part than asked for")
            found = bytearray()
            for chunk in answer.iter_raw():
                found += chunk
                if len(found) >= skip + count:
                    break
            return bytes(found[skip : skip + count])

        wanted = {"Range": f"bytes={first}-{first + count - 1}", "Accept-Encoding": "identity"}
        return self._asked(path, read, headers=lambda: wanted)

    def download(self, path: str, target: Path, size_bytes: int) -> None:
        """Fill `target` up to `size_bytes`; what lies there already is not fetched again. Raises SkippedError
        `wrong_hash` when the server sends more than that."""

        def headers() -> dict[str, str]:
            have = target.stat().st_size if target.exists() else 0
            return {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})

        if target.exists() and target.stat().st_size > size_bytes:
            target.unlink()
        if not target.exists() or target.stat().st_size < size_bytes or not size_bytes:
            self._asked(path, lambda answer: _append(answer, target, size_bytes), headers=headers)

    def _asked(
        self,
        path: str,
        read: Callable[[Any], Value],
        parameters: Mapping[str, Any] | None = None,
        headers: Callable[[], Mapping[str, str]] = dict,
    ) -> Value:
        """What `read` makes of the answer; again after faults and limits. Raises SkippedError (gated, forbidden,
        disabled, not_found, no_file, blocked, refused, unavailable), InputError for a refused token, UnavailableError
        when the Hub cannot be reached or its limit asks for too long a wait."""
        faults, limits, waited = 0, 0, 0.0
        while True:
            try:
                return self._send(path, read, parameters, headers())
            except _Limited as limited:
                seconds = limited.seconds or min(LIMIT_SECONDS * 2**limits, 300.0)
                if waited + seconds > MAX_WAIT_SECONDS:
                    raise self._too_long(seconds) from limited
                self.limits.refused(limited.bucket, seconds)
                limits, waited = limits + 1, waited + seconds
            except (Faulty, _Unreachable) as fault:
                faults = 1 if getattr(fault, "progress", False) else faults + 1
                if faults >= ATTEMPTS and isinstance(fault, _Unreachable):
                    raise UnavailableError(
                        f"The Hugging Face Hub at {self.endpoint} cannot be reached ({fault}).",
                        remedy="check the network and HF_ENDPOINT; what was read is kept for the next run",
                    ) from fault
                if faults >= ATTEMPTS:
                    raise SkippedError("unavailable", f"{fault}, {ATTEMPTS} times") from fault
                time.sleep(WAIT_SECONDS * 2 ** (faults - 1))

    def _send(
        self,
        path: str,
        read: Callable[[Any], Value],
        parameters: Mapping[str, Any] | None,
        headers: Mapping[str, str],
    ) -> Value:
        from huggingface_hub.utils import get_session

        url, query = f"{self.endpoint}{path}", dict(parameters or {}) or None
        for _ in range(REDIRECTS + 1):
            own = urlsplit(url)[:2] == urlsplit(self.endpoint)[:2]
            sent = {"User-Agent": "soldiom", **headers}
            if own and self.token:
                sent["Authorization"] = f"Bearer {self.token}"
            bucket = ("resolvers" if "/resolve" in urlsplit(url).path else "api") if own else ""
            if bucket:
                self._wait_for(bucket)
            with (
                _network_faults(),
                get_session().stream(
                    "GET", url, params=query, headers=sent, timeout=30, follow_redirects=False
                ) as answer,
            ):
                self._learn(answer.headers if own else {})
                if not answer.has_redirect_location:
                    _refuse(answer, bucket)
                    return read(answer)
                url, query = _redirected(url, str(answer.headers["location"])), None
            old, new = _repository_in(f"{self.endpoint}{path}"), _repository_in(url)
            if old and new and old != new and urlsplit(url)[:2] == urlsplit(self.endpoint)[:2]:
                self.moved[old] = new
        raise SkippedError("refused", f"more than {REDIRECTS} redirects")

    def _wait_for(self, bucket: str) -> None:
        """Until a request may go; the wait is bounded and told. Another host's requests (a CDN's) need none."""
        waited = 0.0
        while (seconds := self.limits.ask(bucket)) > 0:
            if waited + seconds > MAX_WAIT_SECONDS:
                raise self._too_long(seconds)
            if seconds > TOLD_SECONDS:
                self.report(f"the Hugging Face Hub's limit for {bucket}: {seconds:.0f} s to wait")
            pause = min(seconds, 5.0)
            time.sleep(pause)
            waited += pause

    def _learn(self, headers: Mapping[str, str]) -> None:
        from huggingface_hub.utils import parse_ratelimit_headers

        info = parse_ratelimit_headers(headers)
        if info and info.resource_type in BUCKETS:
            self.limits.told(info.resource_type, info.remaining, float(info.reset_in_seconds))

    def _too_long(self, seconds: float) -> UnavailableError:
        return UnavailableError(
            f"The Hugging Face Hub's rate limit asks for {seconds:.0f} s more of waiting, and"
            f" {MAX_WAIT_SECONDS:.0f} s is the most one request waits.",
            remedy="run it later (it goes on where it stopped), set HF_TOKEN, or lower `limit`",
        )


def open_hub(settings: Settings, report: Callable[[str], None] | None = None) -> HubApi:
    """The Hub of these settings, with what all workers know of its limits."""
    return HubApi(settings, open_limits(settings.hf_endpoint, settings.hf_token), report)


def file_path(kind: str, repository: str, commit: str, name: str) -> str:
    """Where the Hub serves a repository's file, below its endpoint. `kind` is models or datasets."""
    prefix = "" if kind == "models" else f"{kind}/"
    return f"/{prefix}{repository}/resolve/{commit}/{quote(name)}"


class _Limited(Exception):  # noqa: N818
    def __init__(self, bucket: str, seconds: float | None) -> None:
        super().__init__(bucket)
        self.bucket = bucket
        self.seconds = seconds


class _Unreachable(Exception):  # noqa: N818
    """No answer at all."""


@contextmanager
def _network_faults() -> Iterator[None]:
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled as error:
        raise InputError(
            "HF_HUB_OFFLINE is set, so the Hugging Face Hub is not asked.", remedy="unset HF_HUB_OFFLINE"
        ) from error
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
        raise _Unreachable(type(error).__name__) from error
    except httpx2.TimeoutException as error:
        raise Faulty("no answer in time") from error
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise SkippedError("refused", "a redirect to something that is no web address") from error
    except httpx2.HTTPError as error:
        raise Faulty("an answer that was cut short") from error


def _refuse(answer: Any, bucket: str) -> None:
    """Raise what a status other than success means."""
    status, headers = answer.status_code, answer.headers
    if status in (200, 206):
        return
    if not bucket:  # such as a signed address that has run out; the Hub gives a new one
        raise Faulty(f"the file's host answered {status}")
    if status == 429:
        raise _Limited(bucket, _seconds_told(headers))
    if status in (408, 416) or status >= 500:
        raise Faulty(f"the Hub answered {status}")
    message = str(headers.get("x-error-message", ""))
    if status == 401 and "invalid" in message.lower() and "authorization" in message.lower():
        raise InputError(
            "The Hugging Face Hub refused the token (401).", remedy="set HF_TOKEN to a valid token, or unset it"
        )
    outcome = _CODES.get(str(headers.get("x-error-code", "")))
    if outcome is None and "disabled" in message:
        outcome = "disabled"
    raise SkippedError(outcome or _STATUSES.get(status, "refused"), f"the Hub answered {status}")


def _seconds_told(headers: Mapping[str, str]) -> float | None:
    """Seconds from `RateLimit: "api";r=0;t=55` or Retry-After; one more, because both are whole seconds."""
    told = re.search(r"\bt\s*=\s*(\d{1,9})", headers.get("ratelimit", ""))
    told = told or re.fullmatch(r"\s*(\d{1,9})\s*", headers.get("retry-after", ""))
    return float(told[1]) + 1.0 if told else None


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads; never from HTTPS to something else."""
    try:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
    except ValueError as error:
        raise SkippedError("refused", "a redirect to something that is no web address") from error
    if scheme not in ("http", "https") or (url.startswith("https:") and scheme != "https"):
        raise SkippedError("refused", "a redirect away from HTTPS")
    return target


def _repository_in(url: str) -> str:
    found = re.search(
        r"/(?:api/models/|api/datasets/|datasets/)?([^/]+(?:/[^/]+)?)/(?:resolve|tree)/", urlsplit(url).path
    )
    return found[1] if found else ""


def _body(answer: Any, max_bytes: int) -> bytes:
    found = bytearray()
    for chunk in answer.iter_bytes(1 << 16):
        found += chunk
        if len(found) > max_bytes:
            raise SkippedError("too_large", f"more than {max_bytes} bytes")
    return bytes(found)


def _range_start(answer: Any) -> int:
    found = re.match(r"bytes (\d+)-", str(answer.headers.get("content-range", "")))
    return int(found[1]) if found else -1


def _append(answer: Any, target: Path, size_bytes: int) -> None:
    """Add a part to what is there, or start again when the server sent the whole file."""
    have = target.stat().st_size if target.exists() else 0
    if answer.status_code == 206 and _range_start(answer) != have:
        target.unlink(missing_ok=True)
        raise Faulty("another part than asked for")
    before = have = have if answer.status_code == 206 else 0
    enough = max(1 << 20, size_bytes // 100)
    try:
        with target.open("ab" if have else "wb") as file, _network_faults():
            for chunk in answer.iter_raw():
                have += len(chunk)
                if have > size_bytes:
                    break
                file.write(chunk)
    except Faulty as fault:
        raise Faulty(str(fault), progress=have - before >= enough) from fault
    if have > size_bytes:
        target.unlink()
        raise SkippedError("wrong_hash", f"more than the {size_bytes} bytes that are listed")
    if have < size_bytes:
        raise Faulty("an answer that was cut short", progress=have - before >= enough)
