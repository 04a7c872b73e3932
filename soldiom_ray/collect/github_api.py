"""GET requests to GitHub through PyGithub, each with a turn from the limiter, retried as GitHub's guidelines say.

PyGithub's own retries are off: it sleeps for up to an hour inside a call, knows a 429 only with Retry-After, and does
not retry a body that was cut short.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from soldiom_ray.collect.limiter import Limiter, Turn
from soldiom_ray.collect.text import LeftOut
from soldiom_ray.errors import InputError, UnavailableError

API_VERSION = "2022-11-28"
ATTEMPTS = 6
SECONDARY_SECONDS = 60.0
MAX_WAIT_SECONDS = 3900.0
"""A primary limit resets within the hour; who has to wait longer is told instead."""

_GONE = {404: "not_found", 409: "empty", 410: "not_found", 451: "blocked"}


class Faulty(Exception):  # noqa: N818
    """An answer that may be better next time. It never leaves this module."""


class GithubApi:
    """Reads from GitHub (or a server that speaks its API). `report` hears of waits and may raise CancelledError."""

    def __init__(self, url: str, tokens: Sequence[str], limiter: Limiter, report: Callable[[str], None]) -> None:
        import github

        self.url = url
        self.tokens = tuple(tokens)
        self.limiter = limiter
        self.report = report
        auths: list[Any] = [github.Auth.Token(token) for token in tokens] or [None]
        self.clients = [
            github.Github(
                auth=auth,
                base_url=url,
                retry=None,
                timeout=30,
                per_page=100,
                lazy=True,
                seconds_between_requests=0,
                api_version=API_VERSION,
            )
            for auth in auths
        ]

    def get(
        self, path: str, parameters: Mapping[str, Any] | None = None, resource: str = "core"
    ) -> tuple[dict[str, str], Any]:
        """Headers (lower case) and JSON of a GET. Raises LeftOut (not_found, empty, blocked, forbidden, unavailable),
        InputError for a refused token or query, UnavailableError when GitHub cannot be reached."""
        return self._with_turns(path, resource, lambda turn: self._get(turn, path, parameters))  # type: ignore[no-any-return]

    def download(self, path: str, target: Path, max_bytes: int) -> int:
        """Stream a file; its size. Redirects are followed; another host never sees the token. Raises as `get`, and
        LeftOut `too_large`."""
        _, size = self._with_turns(path, "core", lambda turn: self._download(turn, path, target, max_bytes))
        return int(size)

    def _with_turns(self, path: str, resource: str, send: Callable[[Turn], tuple[Mapping[str, str], Any]]) -> Any:
        faults, limits, waited = 0, 0, 0.0
        while True:
            turn = self.limiter.ask(resource)
            if turn.wait_seconds > 0:
                waited = self._wait(turn.wait_seconds, waited, resource)
                continue
            headers: Mapping[str, str] = {}
            try:
                headers, value = send(turn)
                return headers, value
            except _Limited as limited:
                headers = limited.headers
                if waited + self._hold(limited, turn, resource, limits) > MAX_WAIT_SECONDS:
                    raise self._too_long(limited.headers) from limited
                limits += 1
            except Faulty as fault:
                faults += 1
                if faults >= ATTEMPTS:
                    raise LeftOut("unavailable", f"{fault}, {ATTEMPTS} times") from fault
                self._sleep(0.25 * 2 ** (faults - 1))
            except _Unreachable as error:
                faults += 1
                if faults >= ATTEMPTS:
                    raise UnavailableError(
                        f"GitHub at {self.url} cannot be reached ({error}).",
                        remedy="check the network and SOLDIOM_GITHUB_API_URL; the next run goes on from here",
                    ) from error
                self._sleep(0.25 * 2 ** (faults - 1))
            finally:
                self.limiter.done(turn, resource, headers)

    def _get(self, turn: Turn, path: str, parameters: Mapping[str, Any] | None) -> tuple[dict[str, str], Any]:
        import github

        requester = self.clients[turn.identity].requester
        try:
            with _network_faults():
                headers, data = requester.requestJsonAndCheck("GET", path, parameters=dict(parameters or {}))
        except github.GithubException as error:
            self._refuse(
                error.status, {k.lower(): str(v) for k, v in (error.headers or {}).items()}, _message(error.data), path
            )
            raise
        except json.JSONDecodeError as error:
            raise Faulty("an answer that is not JSON") from error
        except RuntimeError as error:  # PyGithub's word for a redirect to another host
            raise LeftOut("not_found", "moved to another host") from error
        if data is None or (isinstance(data, dict) and isinstance(data.get("data"), str)):
            raise Faulty("an answer that is not JSON")
        return {str(k): str(v) for k, v in headers.items()}, data

    def _download(self, turn: Turn, path: str, target: Path, max_bytes: int) -> tuple[Mapping[str, str], int]:
        import httpx

        url, headers = f"{self.url}{path}", {"User-Agent": "soldiom", "X-GitHub-Api-Version": API_VERSION}
        first: Mapping[str, str] = {}
        with _network_faults(), httpx.Client(timeout=60, follow_redirects=False) as client:
            for _ in range(6):
                own = urlsplit(url)[:2] == urlsplit(self.url)[:2]
                token = {"Authorization": f"Bearer {self.tokens[turn.identity]}"} if own and self.tokens else {}
                with client.stream("GET", url, headers=headers | token) as answer:
                    first = first or {k.lower(): v for k, v in answer.headers.items()}
                    if answer.has_redirect_location:
                        url = urljoin(url, answer.headers["location"])
                        continue
                    if answer.status_code != 200:
                        answer.read()
                        self._refuse(
                            answer.status_code,
                            {k.lower(): v for k, v in answer.headers.items()},
                            _json_message(answer.text),
                            path,
                        )
                    return first, _store(answer, target, max_bytes)
        raise LeftOut("not_found", "redirected too often")

    def _refuse(self, status: int, headers: Mapping[str, str], message: str, path: str) -> None:
        if status in (403, 429) and _is_limit(status, headers, message):
            raise _Limited(headers, message)
        if status == 401:
            raise InputError(
                "GitHub refused the token (401).",
                remedy="set SOLDIOM_GITHUB_TOKEN to valid tokens, or unset it for 60 requests an hour",
            )
        if status in _GONE:
            raise LeftOut(_GONE[status], f"GitHub answered {status}")
        if status == 403:
            raise LeftOut("forbidden", f"GitHub answered 403: {message[:120]}")
        if status >= 500:
            raise Faulty(f"GitHub answered {status}")
        raise InputError(
            f"GitHub refused {path} with {status}: {message[:200]}",
            remedy="correct the search: topics, languages, dates",
        )

    def _hold(self, limited: "_Limited", turn: Turn, resource: str, limits: int) -> float:
        """Tell the limiter, so that every worker stops; the next `ask` does the waiting. The seconds it will take."""
        seconds = _retry_after(limited.headers)
        remaining, reset = limited.headers.get("x-ratelimit-remaining"), limited.headers.get("x-ratelimit-reset")
        if seconds is None and remaining == "0" and reset:
            seconds = max(0.0, float(reset) - time.time()) + 1.0
            self.limiter.pause(seconds, turn, resource)
            return seconds if len(self.clients) == 1 else 0.0
        if seconds is None:
            seconds = min(SECONDARY_SECONDS * 2**limits, 960.0)
        self.limiter.pause(seconds)
        return seconds

    def _wait(self, seconds: float, waited: float, resource: str) -> float:
        if waited + seconds > MAX_WAIT_SECONDS:
            raise self._too_long({})
        self._sleep(min(seconds, 5.0), f"GitHub's limit for {resource}: {seconds:.0f} s to wait" if seconds > 3 else "")
        return waited + min(seconds, 5.0)

    def _sleep(self, seconds: float, message: str = "") -> None:
        if message:
            self.report(message)
        time.sleep(seconds)

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


class _Unreachable(Exception):  # noqa: N818
    """No answer at all."""


@contextmanager
def _network_faults() -> Iterator[None]:
    import httpx
    import requests

    try:
        yield
    except (
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
        httpx.RemoteProtocolError,
        httpx.DecodingError,
        httpx.ReadError,
    ) as error:
        raise Faulty("an answer that was cut short") from error
    except (requests.exceptions.Timeout, httpx.TimeoutException) as error:
        raise Faulty("no answer in time") from error
    except (requests.exceptions.ConnectionError, httpx.TransportError) as error:
        raise _Unreachable(type(error).__name__) from error


def _is_limit(status: int, headers: Mapping[str, str], message: str) -> bool:
    return (
        status == 429
        or "retry-after" in headers
        or headers.get("x-ratelimit-remaining") == "0"
        or "rate limit" in message.lower()
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after", "").strip()
    return float(text) if text.isdecimal() else None


def _message(data: Any) -> str:
    return str(data.get("message", "")) if isinstance(data, dict) else ""


def _json_message(text: str) -> str:
    try:
        return _message(json.loads(text))
    except ValueError:
        return ""


def _store(answer: Any, target: Path, max_bytes: int) -> int:
    size = 0
    with target.open("wb") as file:
        for chunk in answer.iter_raw(1 << 16):
            size += len(chunk)
            if size > max_bytes:
                raise LeftOut("too_large", f"an archive of more than {max_bytes} bytes")
            file.write(chunk)
    return size
