"""The API, an application on Ray Serve: started by `python -m soldiom_ray.api.start`, which ends once it runs."""

import importlib.util
import os
import subprocess
import sys
from urllib.parse import urlsplit

from soldiom_ray.errors import UnavailableError
from soldiom_ray.services import processes
from soldiom_ray.services.addresses import Addresses
from soldiom_ray.services.http import get
from soldiom_ray.settings import Settings

NAME = "api"
STARTER = "soldiom_ray.api.start"
TIMEOUT_SECONDS = 180.0


def is_installed() -> bool:
    """False in an installation without the API's module."""
    return importlib.util.find_spec(STARTER) is not None


def start(settings: Settings, addresses: Addresses) -> None:
    """Run the starter to its end. It reads this home's addresses and inherits the secrets of this environment."""
    log = processes.log_path(settings, NAME)
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    own = {
        "SOLDIOM_HOME": str(settings.home),
        "SOLDIOM_API_HOST": settings.api_host,
        "SOLDIOM_API_PORT": str(settings.api_port),
    }
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"} | own
    if "ray" not in settings.external:  # a cluster placed elsewhere has a token of its own
        environment.pop("RAY_AUTH_TOKEN", None)
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(settings.ray_token_path)}
    with log.open("ab") as output:
        starter = subprocess.Popen(
            [sys.executable, "-m", STARTER],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd="/",
        )
        try:
            code = starter.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            starter.kill()
            starter.wait()
            raise UnavailableError(
                f"The API did not start within {TIMEOUT_SECONDS:.0f} s.", remedy=f"see {log}"
            ) from None
    if code:
        raise UnavailableError(
            f"The API did not start (exit code {code}). {last_lines(settings, NAME)}", remedy=f"see {log}"
        )
    processes.write_record(settings, NAME, processes.ProcessRecord(owner_of_port(settings) or 0, 0))


def probe(settings: Settings, addresses: Addresses) -> str:
    """What is wrong, or nothing when the API answers."""
    return get(f"{settings.api_url}/healthz").problem


def owner_of_port(settings: Settings) -> int | None:
    """The process that listens for the API: Serve's proxy."""
    listeners = processes.listeners(urlsplit(settings.api_url).port or 0)
    return listeners[0][0] if listeners else None


def url(settings: Settings, addresses: Addresses) -> str:
    """Where the API answers."""
    return settings.api_url


def last_lines(settings: Settings, name: str, count: int = 5) -> str:
    """The end of a service's log, for an error message."""
    try:
        lines = processes.log_path(settings, name).read_text(errors="replace").strip().splitlines()[-count:]
    except OSError:
        return ""
    return "Its log ends with:\n" + "\n".join(f"    {line[:300]}" for line in lines) if lines else ""
