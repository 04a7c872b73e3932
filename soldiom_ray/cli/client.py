"""Calls to this home's API with its admin key."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from soldiom_ray.errors import SoldiomError, UnavailableError
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    import httpx

REMEDY = "run `soldiom up`, then `soldiom status`"


def call(settings: Settings, method: str, path: str, body: object = None, timeout_seconds: float = 300.0) -> Any:
    """Call the API and return the JSON of its response. Problems are raised as the errors that they describe."""
    import httpx

    try:
        response = httpx.request(
            method,
            settings.api_url + path,
            json=body,
            headers=_headers(settings),
            timeout=timeout_seconds,
            trust_env=False,
        )
    except httpx.HTTPError as error:
        raise UnavailableError(
            f"The API at {settings.api_url} does not answer ({type(error).__name__}).", remedy=REMEDY
        ) from error
    if response.is_error:
        raise _error(response, response.text)
    return response.json() if response.content else {}


def stream(settings: Settings, path: str, body: object) -> Iterator[dict[str, Any]]:
    """Call the API and yield the JSON of each server-sent event of its response. An event named `error` is raised as
    the error that it describes."""
    import httpx

    try:
        with httpx.stream(
            "POST", settings.api_url + path, json=body, headers=_headers(settings), timeout=300.0, trust_env=False
        ) as response:
            if response.is_error:
                raise _error(response, response.read().decode(errors="replace"))
            name = ""
            for line in response.iter_lines():
                field, _, value = line.partition(":")
                if field == "event":
                    name = value.strip()
                elif field == "data" and name == "error":
                    raise SoldiomError.from_problem(json.loads(value))
                elif field == "data" and value.strip() != "[DONE]":
                    yield json.loads(value)
                elif not line:
                    name = ""
    except httpx.HTTPError as error:
        raise UnavailableError(
            f"The API at {settings.api_url} closed the connection ({type(error).__name__}).", remedy=REMEDY
        ) from error


def _headers(settings: Settings) -> dict[str, str]:
    try:
        return {"Authorization": f"Bearer {settings.local_key_path.read_text().strip()}"}
    except FileNotFoundError as error:
        raise UnavailableError(
            f"No key of this home at {settings.local_key_path}.", remedy="run `soldiom up`"
        ) from error


def _error(response: "httpx.Response", text: str) -> SoldiomError:
    """The error that a response describes; another program than the API may have sent it."""
    try:
        members = json.loads(text)
    except ValueError:
        members = None
    if not isinstance(members, dict) or not (members.get("detail") or members.get("title")):
        members = {"detail": f"The API answered with status {response.status_code}."}
    return SoldiomError.from_problem(members | {"status": response.status_code})
