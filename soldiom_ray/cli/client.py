"""Calls to this home's API with its admin key."""

import json
from collections.abc import Iterator
from typing import Any

from soldiom_ray.errors import InputError, NotFoundError, Problem, SoldiomError, UnavailableError
from soldiom_ray.settings import Settings

REMEDY = "run `soldiom up`, then `soldiom status`"


def call(settings: Settings, method: str, path: str, body: object = None, timeout_seconds: float = 300.0) -> Any:
    """One call; the JSON of its answer. Errors of the API become errors of ours."""
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
        raise _error(response.status_code, response.text)
    return response.json() if response.content else {}


def stream(settings: Settings, path: str, body: object) -> Iterator[dict[str, Any]]:
    """The server-sent events of one call, each one's JSON."""
    import httpx

    try:
        with httpx.stream(
            "POST", settings.api_url + path, json=body, headers=_headers(settings), timeout=300.0, trust_env=False
        ) as response:
            if response.is_error:
                raise _error(response.status_code, response.read().decode(errors="replace"))
            for line in response.iter_lines():
                if line.startswith("data:") and (data := line.removeprefix("data:").strip()) != "[DONE]":
                    yield json.loads(data)
    except httpx.HTTPError as error:
        raise UnavailableError(
            f"The API at {settings.api_url} broke off ({type(error).__name__}).", remedy=REMEDY
        ) from error


def _headers(settings: Settings) -> dict[str, str]:
    try:
        return {"Authorization": f"Bearer {settings.local_key_path.read_text().strip()}"}
    except FileNotFoundError as error:
        raise UnavailableError(
            f"No key of this home at {settings.local_key_path}.", remedy="run `soldiom up`"
        ) from error


def _error(status: int, text: str) -> SoldiomError:
    try:
        problem = json.loads(text)
    except ValueError:
        problem = {}
    what = str(problem.get("detail") or problem.get("title") or f"The API answered with status {status}.")
    problems = [
        Problem(
            ".".join(map(str, e.get("loc", []))) if isinstance(e.get("loc"), list) else str(e.get("loc", "")),
            str(e.get("msg", "")),
        )
        for e in problem.get("errors", [])
    ]
    kind = {404: NotFoundError, 422: InputError, 400: InputError, 503: UnavailableError}.get(status, SoldiomError)
    return kind(what, problems=problems, remedy=str(problem.get("remedy", "")))
