"""The home's own MLflow server: records in its PostgreSQL (database `mlflow`), files in `$SOLDIOM_HOME/mlflow`."""

import signal
import sys

from soldiom_ray.services import processes
from soldiom_ray.services.addresses import Addresses, database_url
from soldiom_ray.services.http import get
from soldiom_ray.settings import Settings

NAME = "mlflow"
TIMEOUT_SECONDS = 180.0
STOP_SIGNAL = signal.SIGTERM


def start(settings: Settings, addresses: Addresses) -> None:
    """Start the server with one worker. Only loopback names are accepted as Host: MLflow's own list lets
    `10.evil.com` pass as a private address (3.17)."""
    files = settings.home / "mlflow"
    files.mkdir(mode=0o700, parents=True, exist_ok=True)
    port = addresses.mlflow_port
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # An administrator's database holds our tables only; MLflow then keeps its records in a file of its own.
    records = f"sqlite:///{files}/records.db" if "postgres" in settings.external else database_url(settings, "mlflow")
    command += ["--backend-store-uri", records, "--artifacts-destination", files.as_uri()]
    environment = processes.service_environment(
        settings,
        NAME,
        {
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port},localhost:{port}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        },
    )
    environment.pop("MLFLOW_TRACKING_URI", None)
    processes.spawn(settings, NAME, command, environment)


def probe(settings: Settings, addresses: Addresses) -> str:
    """What is wrong, or nothing when the server answers."""
    if NAME in settings.external:
        return get(f"{settings.mlflow_url}/health").problem
    problem = get(f"{addresses.mlflow}/health").problem
    return problem or processes.foreign_listener(settings, NAME, addresses.mlflow_port)


def url(settings: Settings, addresses: Addresses) -> str:
    """The server's address."""
    return addresses.mlflow
