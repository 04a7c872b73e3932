"""One request that posts JSON to an address that a user names."""

from collections.abc import Mapping, Sequence

from soldiom_ray.collect.http.guarded import GuardedClient
from soldiom_ray.collect.http.response import USER_AGENT, Deadline
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.connections import origin_of
from soldiom_ray.errors import DeniedError, UnavailableError

HEADERS = {
    "User-Agent": USER_AGENT,
    "Accept": "application/json",
    "Accept-Encoding": "gzip",
    "Content-Type": "application/json",
    "Connection": "close",
}
MAX_BYTES = 1 << 20


def post_json(
    url: str, headers: Mapping[str, str], body: bytes, *, allowed: Sequence[str], private: bool, seconds: float
) -> tuple[int, bytes]:
    """(status, body) of the answer; redirects are not followed. `allowed` and `private` are as in `allowed_addresses`.
    Raises DeniedError for an address that may not be reached, UnavailableError where no whole answer came in time."""
    client = GuardedClient(allowed, private)
    try:
        with client.open(url, {**HEADERS, **headers}, Deadline(seconds, silence_seconds=seconds), body) as response:
            return response.status, response.body(MAX_BYTES)
    except SkippedError as error:
        if error.reason == "private_address":
            raise DeniedError(
                f"{origin_of(url)} may not be reached: {error.detail}.",
                remedy="an administrator opens it with SOLDIOM_PRIVATE_HOSTS or `private: true`",
            ) from error
        raise UnavailableError(f"{origin_of(url)} gave no answer: {error.reason}, {error.detail}.") from error
