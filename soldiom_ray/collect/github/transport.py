"""How a request to GitHub travels: PyGithub's requests and our downloads go over one HTTP client for each process.

PyGithub lets its connections be replaced. Ours reads a body within a time and a size, whatever the pace it drips at,
and stops at a redirect or a 202: PyGithub follows a 301 without its query, so that a moved tree is no longer recursive,
and asks again after a 202 without end.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

API_VERSION = "2022-11-28"
USER_AGENT = "soldiom"
CONNECT_SECONDS = 15.0
SILENCE_SECONDS = 30.0
"""Between two reads."""

ANSWER_SECONDS = 90.0
"""For a whole JSON answer. The largest, a tree, is of 7 MB."""

MAX_ANSWER_BYTES = 64 << 20
SLOWEST_BYTES_PER_SECOND = 2048
"""A download that is slower on average after ANSWER_SECONDS is given up."""

_REDIRECTS = (301, 302, 303, 307, 308)


class Faulty(Exception):  # noqa: N818
    """An answer that may be better next time, and its headers."""

    def __init__(self, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = headers or {}


class Unreachable(Exception):  # noqa: N818
    """No answer at all."""


class Moved(Exception):  # noqa: N818
    """A redirect: where to, and the headers it came with."""

    def __init__(self, location: str, headers: Mapping[str, str]) -> None:
        super().__init__(location)
        self.location = location
        self.headers = headers


class _Answer:
    """What PyGithub reads of an answer."""

    def __init__(self, status: int, headers: Mapping[str, str], body: str) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def getheaders(self) -> Any:
        return self.headers.items()

    def read(self) -> str:
        return self.body


class _Connection:
    """What PyGithub sends a request with. Raises Moved, Faulty, Unreachable."""

    scheme = "https"

    def __init__(self, host: str, port: int | None = None, **_: Any) -> None:
        self.host = host
        self.origin = f"{self.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"
        self.asked: tuple[str, str, Mapping[str, str]] = ("GET", "/", {})

    def request(
        self,
        verb: str,
        url: str,
        input: object,  # noqa: A002
        headers: Mapping[str, str],
        stream: bool = False,
    ) -> None:
        self.asked = (verb, url, headers)

    def getresponse(self) -> _Answer:
        verb, path, headers = self.asked
        with network_faults(), http_client().stream(verb, self.origin + path, headers=dict(headers)) as answer:
            told = {key.lower(): value for key, value in answer.headers.items()}
            if answer.status_code in _REDIRECTS and "location" in told:
                drain(answer)
                raise Moved(told["location"], told)
            if answer.status_code == 202:
                raise Faulty("GitHub is not ready to answer (202)", told)
            body = b"".join(bounded(answer.iter_bytes(), MAX_ANSWER_BYTES, _json_deadline()))
        try:
            return _Answer(answer.status_code, told, body.decode())
        except UnicodeDecodeError as error:
            raise Faulty("an answer that is not UTF-8") from error

    def close(self) -> None:
        """The client outlives its connections."""


class _PlainConnection(_Connection):
    scheme = "http"


@lru_cache(maxsize=32)
def requester(url: str, token: str | None) -> Any:
    """PyGithub's requester for a server and a token, on our connections."""
    import github
    from github.Requester import Requester

    class Patient(Requester):  # type: ignore[misc]
        """Its connections are replaced here and nowhere else."""

    Patient.injectConnectionClasses(_PlainConnection, _Connection)
    return Patient(
        auth=github.Auth.Token(token) if token else None,
        base_url=url,
        timeout=int(SILENCE_SECONDS),
        user_agent=USER_AGENT,
        per_page=100,
        verify=True,
        retry=None,
        pool_size=None,
        seconds_between_requests=0,
        seconds_between_writes=0,
        lazy=True,
        api_version=API_VERSION,
    )


@lru_cache(maxsize=1)
def http_client() -> Any:
    """The process's HTTP client. Making one costs 30 ms (its TLS context), a request on it 1 ms."""
    import httpx

    return httpx.Client(
        timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=32, max_keepalive_connections=16),
        follow_redirects=False,
    )


@contextmanager
def open_stream(url: str, headers: Mapping[str, str]) -> Iterator[Any]:
    """An answer whose body is not read yet; its errors as Faulty and Unreachable. Nothing is decoded on the way."""
    told = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
    with network_faults(), http_client().stream("GET", url, headers=told) as answer:
        yield answer


def drain(answer: Any) -> None:
    """Read what a redirect says beside its address: a connection whose answer was not read to its end is closed."""
    for _ in bounded(answer.iter_raw(), 1 << 16, _json_deadline()):
        pass


def bounded(chunks: Iterator[bytes], max_bytes: int, late: Callable[[int], bool]) -> Iterator[bytes]:
    """The chunks of a body; Faulty when it is larger, or when `late` says so of the bytes that came."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise Faulty(f"an answer of more than {max_bytes} bytes")
        if late(size):
            raise Faulty("no answer in time")
        yield chunk


def download_deadline() -> Callable[[int], bool]:
    """Late is a download that is slow on average once a while has passed."""
    started = time.monotonic()

    def late(size: int) -> bool:
        seconds = time.monotonic() - started
        return seconds > ANSWER_SECONDS and size < seconds * SLOWEST_BYTES_PER_SECOND

    return late


def _json_deadline() -> Callable[[int], bool]:
    end = time.monotonic() + ANSWER_SECONDS
    return lambda size: time.monotonic() > end


def same_origin(one: str, other: str) -> bool:
    """Whether two addresses have the same scheme, host and port: whether a token may go there."""
    first, second = urlsplit(one), urlsplit(other)
    return (first.scheme, first.hostname, _port(first)) == (second.scheme, second.hostname, _port(second))


def _port(parts: Any) -> int | None:
    return parts.port or {"https": 443, "http": 80}.get(parts.scheme)


@contextmanager
def network_faults() -> Iterator[None]:
    """What goes wrong on the way, as Faulty (an answer broke) or Unreachable (there was none)."""
    import httpx

    try:
        yield
    except (httpx.RemoteProtocolError, httpx.DecodingError, httpx.ReadError) as error:
        raise Faulty("an answer that was cut short") from error
    except (httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout) as error:
        raise Faulty("no answer in time") from error
    except httpx.TransportError as error:
        raise Unreachable(type(error).__name__) from error
    except httpx.InvalidURL as error:
        raise Faulty("a redirect to no address") from error
