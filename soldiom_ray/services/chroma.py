"""The home's own Chroma: the Rust server, which has no authentication and therefore listens on loopback only."""

import signal
import sys

from soldiom_ray.services import processes
from soldiom_ray.services.addresses import Addresses
from soldiom_ray.services.http import get
from soldiom_ray.settings import Settings

NAME = "chroma"
TIMEOUT_SECONDS = 90.0
STOP_SIGNAL = signal.SIGTERM
HEARTBEAT = "/api/v2/heartbeat"


def start(settings: Settings, addresses: Addresses) -> None:
    """Start the server on `$SOLDIOM_HOME/chroma`."""
    data = settings.home / "chroma"
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [sys.executable, "-c", "from chromadb.cli.cli import app; app()", "run", "--host", "127.0.0.1"]
    command += ["--port", str(addresses.chroma_port), "--path", str(data)]
    environment = processes.service_environment(settings, NAME, {"ANONYMIZED_TELEMETRY": "FALSE"})
    processes.spawn(settings, NAME, command, environment)


def probe(settings: Settings, addresses: Addresses) -> str:
    """What is wrong, or nothing when the server answers."""
    if NAME in settings.external:
        return get(f"{settings.chroma_url}{HEARTBEAT}").problem
    problem = get(f"{addresses.chroma}{HEARTBEAT}").problem
    return problem or processes.foreign_listener(settings, NAME, addresses.chroma_port)


def url(settings: Settings, addresses: Addresses) -> str:
    """The server's address."""
    return addresses.chroma
