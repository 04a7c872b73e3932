"""GET requests to GitHub through PyGithub, each with a turn from its account's limiter, retried as GitHub asks for.

PyGithub's own retries are off: it sleeps for up to an hour inside a call, knows a 429 only with Retry-After, and does
not retry a body that was cut short.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import IO, Any, Generic, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

from soldiom_ray.collect.github.accounts import Accounts, Identity
from soldiom_ray.collect.github.etag_cache import Answers, Known
from soldiom_ray.collect.github.transport import (
    API_VERSION,
    Faulty,
    Moved,
    Unreachable,
    bounded,
    download_deadline,
    drain,
    open_stream,
    requester,
    same_origin,
)
from soldiom_ray.collect.limiter import DOWNLOAD, Turn, seconds_to_reset
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.errors import InputError, UnavailableError
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage

ATTEMPTS = 6
FIRST_RETRY_SECONDS = 0.25
MAX_WAIT_SECONDS = 3900.0
"""A primary limit resets within the hour; who has to wait longer is told instead."""

MAX_REDIRECTS = 5
_GONE = {404: "not_found", 409: "empty", 410: "not_found", 451: "blocked"}
_GZIP = b"\x1f\x8b"

Shape = Callable[[Mapping[str, str], Any], Any]
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class _Told(Generic[_Value]):
    """What a request gave, with the headers that tell of limits."""

    headers: Mapping[str, str]
    value: _Value


@dataclass(frozen=True, slots=True)
class Answer:
    """The part of an answer that was asked for; where a redirect led to, if one did; whether GitHub said 304."""

    value: Any
    moved_to: str = ""
    unchanged: bool = False


class GithubApi:
    """Reads from GitHub (or a server that speaks its API). `report` hears of waits and may raise CancelledError."""

    def __init__(self, settings: Settings, accounts: Accounts, report: Callable[[str], None]) -> None:
        self.url = settings.github_api_url
        self.accounts = accounts
        self.report = report
        self.answers = Answers(open_storage(settings), self.url)
        self.requests = 0
        self.unchanged = 0

    def get(
        self,
        path: str,
        parameters: Mapping[str, str] | None = None,
        *,
        shape: Shape,
        resource: str = "core",
        fresh: bool = False,
    ) -> Answer:
        """The answer's headers and JSON, made into a smaller JSON value by `shape`, which is kept with the ETag;
        `fresh` asks without it. Raises SkippedError (not_found, empty, blocked, forbidden, refused, unavailable),
        InputError for a refused token or query, UnavailableError when GitHub cannot be reached."""
        url = f"{path}?{urlencode(sorted(parameters.items()))}" if parameters else path
        known = None if fresh else self.answers.read(url)
        holders = known.etags if known else ()
        answer = self._with_turns(url, resource, holders, lambda who, turn: self._get(url, who, known, shape))
        self.unchanged += answer.unchanged
        return answer

    def account(self) -> str:
        """The id of the account that the token belongs to; "" when it may not ask. Raises SkippedError unavailable."""
        try:
            return str(self.get("/user", shape=lambda headers, data: int(data["id"]), fresh=True).value)
        except SkippedError as skipped:
            if skipped.reason == "unavailable":
                raise
            return ""

    def download(self, path: str, sink: IO[bytes], max_bytes: int) -> str:
        """Stream an archive into `sink`; where the repository moved to, if it did. Redirects are followed; another host
        never sees the token. Raises as `get`, and SkippedError `too_large`."""
        url, moved_to = self._with_turns(
            path, "core", (), lambda who, turn: self._locate(path, who, turn, sink, max_bytes)
        )
        if url:
            self._with_turns(url, DOWNLOAD, (), lambda who, turn: self._fetch(url, who, turn, sink, max_bytes))
        return moved_to

    def _with_turns(
        self, url: str, resource: str, holders: Collection[str], send: Callable[[Identity, Turn], _Told[_Value]]
    ) -> _Value:
        faults, waited = 0, 0.0
        while True:
            turn, identity = self.accounts.ask(resource, url, holders)
            if turn.wait_seconds > 0:
                waited = self._wait(turn.wait_seconds, waited, resource)
                continue
            headers: Mapping[str, str] = {}
            good = False
            self.requests += 1
            try:
                told = send(identity, turn)
                headers, good = told.headers, True
                return told.value
            except _Limited as limited:
                headers = limited.headers
                if waited + self._hold(limited.headers, turn, resource) > MAX_WAIT_SECONDS:
                    raise self._too_long(limited.headers) from limited
                continue
            except SkippedError:
                good = True
                raise
            except (Faulty, Unreachable) as fault:
                headers = fault.headers if isinstance(fault, Faulty) else headers
                faults += 1
                if faults >= ATTEMPTS:
                    raise self._give_up(fault) from fault
            finally:
                self.accounts.of(turn).done(turn, resource, headers, good)
            if (told_seconds := _retry_after(headers)) is not None:
                self.accounts.silence(told_seconds)
            else:
                time.sleep(FIRST_RETRY_SECONDS * 2 ** (faults - 1))

    def _get(self, url: str, identity: Identity, known: Known | None, shape: Shape) -> _Told[Answer]:
        asked = {"If-None-Match": known.etags[identity.name]} if known and identity.name in known.etags else {}
        place, moved_to = url, ""
        for _ in range(MAX_REDIRECTS):
            try:
                status, headers, body = requester(self.url, identity.token).requestJson(
                    "GET", place, headers=dict(asked)
                )
                break
            except Moved as moved:
                moved_to = urljoin(self.url + place, moved.location)
                if not same_origin(moved_to, self.url):
                    raise SkippedError("not_found", "moved to another host") from moved
                parts = urlsplit(moved_to)
                place = parts.path.removeprefix(urlsplit(self.url).path) + (f"?{parts.query}" if parts.query else "")
        else:
            raise SkippedError("not_found", "redirected too often")
        if status == 304 and known and asked:
            return _Told(headers, Answer(known.value, moved_to, unchanged=True))
        if status != 200:
            raise _refusal(status, headers, _json_message(body), url)
        try:
            value = shape(headers, json.loads(body))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Faulty("an answer that is not what was asked for", headers) from error
        self.answers.learn(url, known, value, identity.name, headers)
        return _Told(headers, Answer(value, moved_to))

    def _locate(
        self, path: str, identity: Identity, turn: Turn, sink: IO[bytes], max_bytes: int
    ) -> _Told[tuple[str, str]]:
        """Where the archive lies ("" when it was answered at once and is in `sink` already), where the repository moved
        to."""
        url, moved_to = self.url + path, ""
        headers = {"X-GitHub-Api-Version": API_VERSION}
        if identity.token:
            headers["Authorization"] = f"Bearer {identity.token}"
        for _ in range(MAX_REDIRECTS):
            with open_stream(url, headers) as answer:
                told = {key.lower(): value for key, value in answer.headers.items()}
                if not answer.has_redirect_location:
                    self._answered(answer, turn)
                    _store(answer, told, sink, max_bytes)
                    return _Told(told, ("", moved_to))
                permanent = answer.status_code in (301, 308)
                drain(answer)
            url = urljoin(url, told["location"])
            if not (permanent and same_origin(url, self.url)):
                return _Told(told, (url, moved_to))
            moved_to = url
        raise SkippedError("not_found", "redirected too often")

    def _fetch(self, url: str, identity: Identity, turn: Turn, sink: IO[bytes], max_bytes: int) -> _Told[None]:
        token = identity.token if same_origin(url, self.url) else None
        for _ in range(MAX_REDIRECTS):
            if urlsplit(url).scheme not in ("https", urlsplit(self.url).scheme):
                raise SkippedError("forbidden", "redirected to an address without encryption")
            with open_stream(url, {"Authorization": f"Bearer {token}"} if token else {}) as answer:
                told = {key.lower(): value for key, value in answer.headers.items()}
                if not answer.has_redirect_location:
                    self._answered(answer, turn)
                    _store(answer, told, sink, max_bytes)
                    return _Told(told, None)
                drain(answer)
            url = urljoin(url, told["location"])
            token = token if same_origin(url, self.url) else None
        raise SkippedError("not_found", "redirected too often")

    def _answered(self, answer: Any, turn: Turn) -> None:
        """Others may go on while the body comes."""
        if answer.status_code == 200:
            self.accounts.of(turn).answered(turn)

    def _hold(self, headers: Mapping[str, str], turn: Turn, resource: str) -> float:
        """Tell the limiter, so that every worker stops; the next `ask` does the waiting. The seconds it will take."""
        told = _retry_after(headers)
        reset = seconds_to_reset(headers, time.time())
        if told is None and headers.get("x-ratelimit-remaining") == "0" and reset is not None:
            name = str(headers.get("x-ratelimit-resource") or resource)
            self.accounts.of(turn).exhausted(turn, name, reset + 1)
            return reset + 1 if len(self.accounts.limiters) == 1 else 0.0
        seconds = self.accounts.of(turn).penalise(turn, None if told is None else told + 1)
        self.accounts.silence(seconds)
        return seconds

    def _wait(self, seconds: float, waited: float, resource: str) -> float:
        if waited + seconds > MAX_WAIT_SECONDS:
            raise self._too_long({})
        if seconds > 3:
            self.report(f"GitHub's limit for {resource}: {seconds:.0f} s to wait")
        time.sleep(min(seconds, 5.0))
        return waited + min(seconds, 5.0)

    def _give_up(self, fault: Exception) -> Exception:
        if isinstance(fault, Unreachable):
            return UnavailableError(
                f"GitHub at {self.url} cannot be reached ({fault}).",
                remedy="check the network and SOLDIOM_GITHUB_API_URL; the next run goes on from here",
            )
        return SkippedError("unavailable", f"{fault}, {ATTEMPTS} times")

    def _too_long(self, headers: Mapping[str, str]) -> UnavailableError:
        asked = headers.get("retry-after") or headers.get("x-ratelimit-reset")
        return UnavailableError(
            f"GitHub's rate limit asks for over {MAX_WAIT_SECONDS:.0f} s of waiting (it said {asked or 'to wait'}).",
            remedy="run it later (it goes on where it stopped), set SOLDIOM_GITHUB_TOKEN, or lower max_repositories",
        )


class _Limited(Exception):  # noqa: N818
    def __init__(self, headers: Mapping[str, str], message: str) -> None:
        super().__init__(message)
        self.headers = headers


def _refusal(status: int, headers: Mapping[str, str], message: str, url: str) -> Exception:
    """What an answer without content means."""
    if status in (403, 429) and _is_limit(status, headers, message):
        return _Limited(headers, message)
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
    return Faulty(f"GitHub answered {status}", headers)


def _is_limit(status: int, headers: Mapping[str, str], message: str) -> bool:
    told = message.lower()
    return (
        status == 429
        or "retry-after" in headers
        or headers.get("x-ratelimit-remaining") == "0"
        or "rate limit" in told
        or "abuse" in told
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After asks for, given as a number or as a date."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text).timestamp()
        return max(0.0, until - parsedate_to_datetime(headers["date"]).timestamp())
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def _json_message(text: str) -> str:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    return str(data.get("message", "")) if isinstance(data, dict) else ""


def _store(answer: Any, headers: Mapping[str, str], sink: IO[bytes], max_bytes: int) -> None:
    """An archive's bytes into `sink`, from its start."""
    if answer.status_code != 200:
        body = b"".join(bounded(answer.iter_raw(), 1 << 20, download_deadline()))
        raise _refusal(answer.status_code, headers, _json_message(body.decode("utf-8", "replace")), "")
    sink.seek(0)
    sink.truncate()
    late, size = download_deadline(), 0
    for chunk in answer.iter_raw():
        if not size and not _GZIP.startswith(chunk[:2]):
            raise Faulty("an answer that is not an archive", headers)
        size += len(chunk)
        if size > max_bytes:
            raise SkippedError("too_large", f"an archive of more than {max_bytes} bytes")
        if late(size):
            raise Faulty("an archive that came too slowly", headers)
        sink.write(chunk)
    if not size:
        raise Faulty("an empty answer", headers)
