"""The way to Ray: connect to the home's cluster, hand it jobs, see what it has. The only `ray.init` of the package.

Ray reads its authentication from the process's environment alone, so `connect` sets RAY_AUTH_MODE and
RAY_AUTH_TOKEN_PATH there: the one place that writes to `os.environ`, and it must happen before Ray is imported.
"""

import fcntl
import functools
import inspect
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from soldiom_ray.errors import BusyError, DeniedError, SoldiomError, UnavailableError, own_error
from soldiom_ray.records import LOOPBACK, REPLICA_PORTS
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

NAMESPACE = "soldiom"
REACH_SECONDS = 3.0
REMEDY = "run `soldiom up`"
QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Environment of processes that compute with torch: OpenMP's threads spin while they wait, which made small models 25
to 60 times slower on busy cores (measured)."""


def connect(settings: Settings, *, log_to_driver: bool = False, namespace: str = NAMESPACE) -> None:
    """Connect this process to Ray; nothing happens when it is connected already.

    The address is RAY_ADDRESS where it is set (Ray sets it inside a job), else the one that `soldiom up` recorded.
    Raises UnavailableError within seconds when nothing listens there, where `ray.init` alone would wait for a minute.
    """
    authenticate(settings)
    import ray

    if ray.is_initialized():
        return
    address = settings.ray_address
    if address is None:
        raise UnavailableError("Ray is not running.", remedy=REMEDY)
    if address.startswith("http"):
        raise UnavailableError(
            f"RAY_ADDRESS is {address!r}, the address of a dashboard: it takes jobs, not connections.",
            remedy="set RAY_ADDRESS to HOST:PORT of the cluster's head (port 6379 unless chosen otherwise)",
        )
    if address not in ("auto", "local") and "://" not in address:
        _reach(address, "Ray")
    if "ray" not in settings.external:
        from ray._private import ray_constants

        # Read when Ray is imported, which another module may have done before `authenticate`.
        ray_constants.ENABLE_RAY_CLUSTER = not address.startswith("127.")
    try:
        ray.init(address=address, namespace=namespace, log_to_driver=log_to_driver, logging_level="warning")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UnavailableError(f"Ray at {address} does not take the connection: {error}", remedy=REMEDY) from error


def authenticate(settings: Settings) -> None:
    """Let Ray's own clients in this process authenticate with the home's token. A cluster placed elsewhere by
    RAY_ADDRESS keeps the authentication that the environment gives it."""
    if "ray" not in settings.external and settings.ray_token_path.exists():
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(settings.ray_token_path)
        os.environ.pop("RAY_AUTH_TOKEN", None)
        os.environ.update(LOOPBACK)


def bind_replica_port() -> None:
    """In this process, a replica of Serve's, choose where the port listens on which replicas call each other by gRPC:
    Serve binds any port of every interface, asks for nothing there, and has no setting. On a head of one machine it is
    a port of loopback; on a cluster whose nodes have other addresses one of REPLICA_PORTS."""
    from ray.serve._private import replica
    from ray.util import get_node_ip_address

    bind = inspect.unwrap(replica.add_port_to_grpc_server)  # called twice in a process it would wait for itself
    is_local = get_node_ip_address().startswith("127.")

    @functools.wraps(bind)
    def bind_port(server: Any, address: str) -> int:
        if is_local:
            return int(bind(server, address.replace("[::]:", "127.0.0.1:")))
        # gRPC shares its ports (SO_REUSEPORT): two replicas that bind the same one would answer each other's calls.
        with (Path(tempfile.gettempdir()) / f"soldiom-replica-ports-{os.getuid()}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for port in REPLICA_PORTS:
                if _is_free(port):
                    return int(bind(server, f"[::]:{port}"))
        raise UnavailableError(
            f"No port from {REPLICA_PORTS[0]} to {REPLICA_PORTS[-1]} is free for a replica of Ray Serve.",
            remedy="undeploy a model, or give the cluster another machine",
        )

    replica.add_port_to_grpc_server = bind_port


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("::", port))
        except OSError:
            return False
    return True


def job_client(settings: Settings) -> "JobSubmissionClient":
    """Ray's client for jobs, with the home's token. UnavailableError at once when nothing answers, DeniedError for a
    token that cannot be read or is not Ray's."""
    url = settings.dashboard_url
    if url is None:
        raise UnavailableError("Ray's job server is not running, or its address is not known.", remedy=REMEDY)
    parts = urlsplit(url)
    _reach(f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}", "Ray's job server")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        # Ray caches the first token that a process has read, so the home's own is passed explicitly.
        own = "ray" not in settings.external and settings.ray_token_path.exists()
        headers = {"Authorization": f"Bearer {settings.ray_token_path.read_text().strip()}"} if own else None
        return JobSubmissionClient(url, headers=headers)
    except (AuthenticationError, OSError, UnicodeDecodeError) as error:
        if isinstance(error, ConnectionError):
            raise UnavailableError(f"Ray's job server at {url} refuses: {error}", remedy=REMEDY) from error
        raise DeniedError(
            f"Ray's job server at {url} takes no token of this home ({type(error).__name__}).",
            remedy=f"restart the services (`soldiom down`, `soldiom up`), or restore {settings.ray_token_path}",
        ) from error
    except RuntimeError as error:
        raise UnavailableError(f"Ray's job server at {url} refuses: {error}", remedy=REMEDY) from error


def cluster_resources(settings: Settings) -> dict[str, float]:
    """Resources of all nodes together: CPU, GPU, memory and object_store_memory in bytes, accelerator types."""
    connect(settings)
    import ray

    return {name: float(value) for name, value in ray.cluster_resources().items()}


def running_applications(settings: Settings) -> set[str]:
    """Names of the Serve applications that answer now; none when Serve does not run."""
    connect(settings)
    from ray import serve

    applications: dict[str, Any] = dict(serve.status().applications)
    return {name for name, application in applications.items() if str(application.status.value) == "RUNNING"}


def serve_error(error: Exception, endpoint: str, seconds: float) -> SoldiomError | None:
    """Our error for what a call of a Serve application raises: the one that the replica raised, or the one that stands
    for a full queue, no answer within `seconds`, or a replica that died. None for anything else. `endpoint` is what
    messages call it."""
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import BackPressureError

    if (own := own_error(error)) is not None:
        return own
    if isinstance(error, TimeoutError):
        return UnavailableError(
            f"The {endpoint} did not answer within {seconds:.0f} s.", remedy="ask for fewer tokens, or try again"
        )
    if isinstance(error, BackPressureError):
        return BusyError(f"The queue of the {endpoint} is full.", remedy="try again, or deploy more replicas")
    if isinstance(error, RayActorError):
        return UnavailableError(f"The process of the {endpoint} died while it answered.", remedy="try again")
    return None


def _reach(address: str, what: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UnavailableError(f"{what} does not answer at {address}.", remedy=REMEDY) from error
