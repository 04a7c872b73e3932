"""The home's own Ray head, started with token authentication and stopped without touching any other Ray.

Its ports listen on the loopback interface (`records.LOOPBACK`), its metrics too, which ask for no token. The token is
made here before Ray starts, readable by its owner alone, and a head that answers without it is stopped at once.
"""

import contextlib
import os
import secrets
import shutil
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from soldiom_ray.errors import UnavailableError
from soldiom_ray.records import LOOPBACK
from soldiom_ray.services import processes
from soldiom_ray.services.addresses import Addresses, socket_folder
from soldiom_ray.services.http import get
from soldiom_ray.settings import Settings, write_private

NAME = "ray"
TIMEOUT_SECONDS = 180.0
STOP_SIGNAL = signal.SIGTERM
AGENT_PORT = 2
"""Offset in Ray's block of ports of the node's agent, which takes jobs and knows whether the raylet is healthy."""
RETAINED_SESSIONS = 3
"""How many log folders of earlier sessions stay."""


def folder(settings: Settings) -> Path:
    """Ray's temporary folder. Ray opens it and all below to every user (0777), so it lies in an owner-only folder."""
    return socket_folder(settings, "run/ray", len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"))


def make_token(settings: Settings) -> str:
    """The home's Ray token, created when there is none; only its owner can read the file."""
    path = settings.ray_token_path
    with contextlib.suppress(FileNotFoundError):
        path.chmod(0o600)
        if token := path.read_text().strip():
            return token
    token = secrets.token_hex(32)
    write_private(path, token)
    return token


def start(settings: Settings, addresses: Addresses) -> None:
    """Start the head in the foreground of a session of its own: when one of its processes dies, all of them end."""
    _check_installed()
    make_token(settings)
    temporary = folder(settings)
    temporary.parent.mkdir(mode=0o700, exist_ok=True)
    temporary.parent.chmod(0o700)
    temporary.mkdir(exist_ok=True)
    _current(settings).unlink(missing_ok=True)
    for old in sorted(temporary.glob("session_2*"))[:-RETAINED_SESSIONS]:
        shutil.rmtree(old, ignore_errors=True)
    block = addresses.ray_block
    options = {
        "port": addresses.gcs_port,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": addresses.dashboard_port,
        "temp-dir": temporary,
        "object-store-memory": _object_store_bytes(),
        "node-manager-port": block,
        "object-manager-port": block + 1,
        "dashboard-agent-listen-port": block + AGENT_PORT,
        "dashboard-agent-grpc-port": block + 3,
        "runtime-env-agent-port": block + 4,
        "metrics-export-port": block + 5,
        "ray-client-server-port": block + 6,
        "min-worker-port": block + 20,
        "max-worker-port": block + 999,
        "log-color": "false",
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    environment = _environment(settings, block, addresses.dashboard)
    processes.spawn(settings, NAME, command, processes.service_environment(settings, NAME, environment))


def probe(settings: Settings, addresses: Addresses) -> str:
    """What is wrong, or nothing when the head takes jobs, with its token only."""
    if NAME in settings.external:
        return "" if not (settings.ray_address or "").startswith("http") else _http_problem(settings.ray_address or "")
    if not _current(settings).exists():
        return "the head has not come up"
    if problem := get(f"{addresses.dashboard}/api/gcs_healthz").problem:
        return problem
    agent = f"http://{node_ip(settings)}:{addresses.ray_block + AGENT_PORT}"
    if problem := get(f"{agent}/api/local_raylet_healthz").problem:
        return problem
    token = make_token(settings)
    result = get(f"{addresses.dashboard}/api/jobs/", {"Authorization": f"Bearer {token}"})
    if result.problem:
        return FOREIGN_RAY if result.status == 403 else result.problem
    return "" if get(f"{addresses.dashboard}/api/jobs/").status == 401 else UNPROTECTED


UNPROTECTED = "Ray answers without its token"
FOREIGN_RAY = "another Ray has taken the dashboard's port"


def node_ip(settings: Settings) -> str | None:
    """The address that Ray chose for itself, once it runs."""
    try:
        return _current(settings).read_text().strip().rpartition(":")[0] or None
    except OSError:
        return None


def url(settings: Settings, addresses: Addresses) -> str:
    """The dashboard's address, which takes jobs."""
    return addresses.dashboard


def _http_problem(address: str) -> str:
    return get(f"{address.rstrip('/')}/api/gcs_healthz").problem


def _environment(settings: Settings, block: int, dashboard: str) -> dict[str, str]:
    """Variables of the head, which its workers and every job inherit."""
    balancer = folder(settings) / "haproxy"
    programs = [str(Path(sys.executable).parent), *os.environ.get("PATH", os.defpath).split(os.pathsep)]
    return {
        "PATH": os.pathsep.join(dict.fromkeys(programs)),  # so that a job's `python` is this one
        # OpenMP threads that wait must sleep, not spin: on a busy machine spinning threads starve the one they wait for
        # (scoring that takes 10 s alone took more than 5 minutes at load 15 on 2 cores).
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
        # Without it Ray's state API asks the Ray that last ran in /tmp/ray, or none: Ray Train then ends 12 s later.
        "RAY_API_SERVER_ADDRESS": dashboard,
        **LOOPBACK,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.ray_token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
        "RAY_JOB_STOP_WAIT_TIME_S": "30",
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # A killed proxy is noticed by the period alone; with a timeout of 1 s a starved one was killed again and again
        # (load 25 on 2 cores: no API for 150 s).
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "10",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        # A token on its way from the engine to the client goes through two calls of Serve. By gRPC, and on one event
        # loop in each process, they cost half of what they cost as Ray's objects, handed from thread to thread.
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        # The default of 4 MiB is less than a long text, a picture, or a timeline of 40,000 events.
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "soldiom_ray.api.proxy_middleware.middlewares",
        # Read only where HAProxy is turned on (RAY_SERVE_ENABLE_HA_PROXY=1): its files and ports are shared by all
        # homes of a machine unless they are set.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(balancer / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(balancer / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(balancer),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(balancer / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(block + 7),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(block + 8),
        "AUTOSCALER_METRIC_PORT": str(block + 9),
        "DASHBOARD_METRIC_PORT": str(block + 10),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "ANONYMIZED_TELEMETRY": "FALSE",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def _current(settings: Settings) -> Path:
    return folder(settings) / "ray_current_cluster"


def _object_store_bytes() -> int:
    """2 GiB, at most 15 % of the memory and 80 % of /dev/shm."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else memory  # noqa: S108
    return max(100 << 20, min(2 << 30, int(memory * 0.15), int(shared * 0.8)))


def _check_installed() -> None:
    try:
        version("ray")
    except PackageNotFoundError:
        raise UnavailableError(
            "The package ray is not installed.",
            remedy="pip install 'soldiom[cluster]', or set RAY_ADDRESS to a cluster of your own",
        ) from None
