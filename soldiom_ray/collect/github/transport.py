"""PyGithub's requests over the HTTP layer that all of collection shares.

PyGithub lets its connections be replaced. Ours reads a body within a time and a size, and stops at a redirect or a 202:
PyGithub follows a 301 without its query, so that a moved tree is no longer recursive, and asks again after a 202
without end.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from soldiom_ray.collect.http.errors import TransientError
from soldiom_ray.collect.http.response import (
    SILENCE_SECONDS,
    USER_AGENT,
    Redirect,
    body_deadline,
    open_response,
    shared_client,
)
from soldiom_ray.collect.text import SkippedError

API_VERSION = "2022-11-28"
MAX_JSON_BYTES = 64 << 20


class MovedError(Exception):
    """A redirect instead of a response, and the headers it came with."""

    def __init__(self, redirect: Redirect, headers: Mapping[str, str]) -> None:
        super().__init__(redirect.target)
        self.redirect = redirect
        self.headers = headers


class _ReadResponse:
    """The interface of a response that PyGithub uses."""

    def __init__(self, status: int, headers: Mapping[str, str], body: str) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def getheaders(self) -> Any:
        return self.headers.items()

    def read(self) -> str:
        return self.body


class _Connection:
    """The interface of a connection that PyGithub uses. Raises MovedError, TransientError."""

    scheme = "https"

    def __init__(self, host: str, port: int | None = None, **_: Any) -> None:
        self.host = host
        self.origin = f"{self.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"
        self.prepared: tuple[str, str, Mapping[str, str]] = ("GET", "/", {})

    def request(
        self,
        verb: str,
        url: str,
        input: object,  # noqa: A002
        headers: Mapping[str, str],
        stream: bool = False,
    ) -> None:
        self.prepared = (verb, url, headers)

    def getresponse(self) -> _ReadResponse:
        verb, path, headers = self.prepared
        with open_response(shared_client(), self.origin + path, headers, body_deadline(), verb) as response:
            if redirect := response.redirect("not_found"):
                raise MovedError(redirect, response.headers)
            if response.status == 202:
                raise TransientError("unavailable", "GitHub is not ready to answer (202)", response.headers)
            try:
                body = response.body(MAX_JSON_BYTES)
            except SkippedError as skipped:
                if isinstance(skipped, TransientError):
                    raise
                raise TransientError("damaged", f"a response of {skipped.detail}") from skipped
        try:
            return _ReadResponse(response.status, response.headers, body.decode())
        except UnicodeDecodeError as error:
            raise TransientError("damaged", "a response that is not UTF-8") from error

    def close(self) -> None:
        """The client outlives its connections."""


class _PlainConnection(_Connection):
    scheme = "http"


@lru_cache(maxsize=32)
def requester(url: str, token: str | None) -> Any:
    """PyGithub's requester for a server and a token, on our connections."""
    import github
    from github.Requester import Requester

    class OurRequester(Requester):  # type: ignore[misc]
        """Its connections are replaced here and nowhere else."""

    OurRequester.injectConnectionClasses(_PlainConnection, _Connection)
    return OurRequester(
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
