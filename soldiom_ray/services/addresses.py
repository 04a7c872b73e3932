"""Where the services of one home listen: chosen once, stored in `run/addresses.json`, chosen again when taken."""

import hashlib
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

from soldiom_ray.errors import ConflictError, UnavailableError
from soldiom_ray.services.processes import listeners
from soldiom_ray.settings import Settings, write_private

SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux (sun_path of 108 bytes with its end)."""

BLOCK, FIRST_BLOCK, LAST_BLOCK = 1000, 20000, 31000
"""Ray's internal ports of one home: one block of ports, below the range that Linux gives to outgoing connections."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The ports of one home. `ray_block` is the first port of Ray's block; `node_ip` is known once Ray runs."""

    chroma_port: int = 8001
    mlflow_port: int = 5000
    gcs_port: int = 6379
    dashboard_port: int = 8265
    ray_block: int = FIRST_BLOCK
    node_ip: str = "127.0.0.1"

    @property
    def chroma(self) -> str:
        """URL of the Chroma server."""
        return f"http://127.0.0.1:{self.chroma_port}"

    @property
    def mlflow(self) -> str:
        """URL of the MLflow server."""
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def dashboard(self) -> str:
        """URL of Ray's dashboard, which takes jobs."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def ray(self) -> str:
        """HOST:PORT of Ray's head."""
        return f"{self.node_ip}:{self.gcs_port}"


SERVICE_FIELDS: Mapping[str, tuple[str, ...]] = {
    "chroma": ("chroma_port",),
    "mlflow": ("mlflow_port",),
    "ray": ("dashboard_port", "gcs_port", "ray_block", "node_ip"),
}
"""The fields of `Addresses` that belong to each service."""


def load_addresses(settings: Settings) -> Addresses | None:
    """The addresses that an earlier `up` chose, or None."""
    try:
        stored = json.loads(_path(settings).read_text())
        node_ip, _, gcs_port = str(stored["ray"]).rpartition(":")
        return Addresses(
            chroma_port=urlsplit(stored["chroma"]).port or 0,
            mlflow_port=urlsplit(stored["mlflow"]).port or 0,
            dashboard_port=urlsplit(stored["dashboard"]).port or 0,
            gcs_port=int(gcs_port),
            node_ip=node_ip,
            ray_block=int(stored["ray_block"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_addresses(settings: Settings, addresses: Addresses) -> None:
    """Store the addresses where `load_settings` reads them."""
    values = {
        "postgres": database_url(settings),
        "chroma": addresses.chroma,
        "mlflow": addresses.mlflow,
        "ray": addresses.ray,
        "dashboard": addresses.dashboard,
        "api_host": settings.api_host,
        "api_port": settings.api_port,
        "ray_block": addresses.ray_block,
    }
    write_private(_path(settings), json.dumps(values, indent=2))


def load_api_address(settings: Settings) -> tuple[str, int] | None:
    """Host and port of the API at the last `up`, or None."""
    try:
        stored = json.loads(_path(settings).read_text())
        return str(stored["api_host"]), int(stored["api_port"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def reassign_ports(settings: Settings, addresses: Addresses, service: str) -> Addresses:
    """The addresses with a free port in place of each port of this stopped service that another program has taken."""
    names = SERVICE_FIELDS.get(service, ())
    for name in [name for name in names if name.endswith("_port")]:
        taken = {
            settings.api_port,
            *(getattr(addresses, field) for fields in SERVICE_FIELDS.values() for field in fields if field != name),
        }
        port = getattr(addresses, name)
        while port in taken or not is_free(port):
            port += 1
        addresses = replace(addresses, **{name: port})
    return replace(addresses, ray_block=_free_block(addresses.ray_block)) if "ray_block" in names else addresses


def merge(addresses: Addresses, by_service: Mapping[str, Addresses]) -> Addresses:
    """The addresses with each service's fields taken from its own entry."""
    fields = {name: getattr(own, name) for service, own in by_service.items() for name in SERVICE_FIELDS[service]}
    return replace(addresses, **fields)


def is_free(port: int) -> bool:
    """True when no program listens on this TCP port, on any interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def check_api_port(settings: Settings, own_processes: Callable[[], set[int]], patience_seconds: float) -> None:
    """Raise ConflictError when a process that is not this home's has the API's port, which clients rely on and which
    is therefore never replaced.

    A process that is ending holds the port for longer than its name can be read, so a port whose holder is unknown is
    checked again for `patience_seconds`.
    """
    deadline = time.monotonic() + patience_seconds
    while not is_free(settings.api_port):
        own = own_processes()
        foreign = [(pid, name) for pid, name in listeners(settings.api_port) if pid not in own]
        if not foreign:
            return
        pid, name = foreign[0]
        if pid or time.monotonic() > deadline:
            holder = f"process {pid} ({name})" if pid else "a process of another user"
            raise ConflictError(
                f"Port {settings.api_port} of the API is in use by {holder}.",
                remedy=f"stop it, or choose another port: SOLDIOM_API_PORT={_next_free(settings.api_port)} soldiom up",
            )
        time.sleep(0.1)


def socket_folder(settings: Settings, name: str, suffix_bytes: int) -> Path:
    """A folder for Unix sockets: `$SOLDIOM_HOME/<name>` when a path of `suffix_bytes` more fits into a socket address,
    else one of this home's own below /tmp that only its owner can enter."""
    folder = settings.home / name
    if len(os.fsencode(folder)) + suffix_bytes <= SOCKET_PATH_BYTES:
        return folder
    short = short_folder(settings)
    short.mkdir(mode=0o711, exist_ok=True)
    state = short.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o066:
        raise UnavailableError(
            f"{short} exists and is not a private folder of this user, so sockets cannot be put there.",
            remedy=f"remove it, or use a shorter SOLDIOM_HOME than {str(settings.home)!r}",
        )
    return short / name


def short_folder(settings: Settings) -> Path:
    """This home's own folder below /tmp, used when the home's path is too long for sockets."""
    digest = hashlib.sha256(os.fsencode(settings.home)).hexdigest()[:12]
    return Path(f"/tmp/soldiom-{digest}")  # noqa: S108 - `socket_folder` checks owner and mode


def postgres_sockets(settings: Settings) -> Path:
    """The folder of PostgreSQL's socket; whoever may enter it may use the databases."""
    return socket_folder(settings, "postgres", len("/.s.PGSQL.5432.lock"))


def database_url(settings: Settings, database: str = "soldiom") -> str:
    """SQLAlchemy URL of a database of the home's own PostgreSQL."""
    return f"postgresql+psycopg://postgres@/{database}?host={quote(str(postgres_sockets(settings)))}"


def _path(settings: Settings) -> Path:
    return settings.run_folder / "addresses.json"


def _next_free(port: int) -> int:
    return next(candidate for candidate in range(port + 1, 65536) if is_free(candidate))


def _free_block(preferred: int) -> int:
    """First port of a block in which nobody listens, starting the search at the preferred one."""
    import psutil

    busy = {
        connection.laddr.port // BLOCK * BLOCK
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    blocks = list(range(FIRST_BLOCK, LAST_BLOCK + 1, BLOCK))
    start = blocks.index(preferred) if preferred in blocks else 0
    for block in blocks[start:] + blocks[:start]:
        if block not in busy:
            return block
    raise UnavailableError(
        f"No block of {BLOCK} ports between {FIRST_BLOCK} and {LAST_BLOCK + BLOCK} is free for Ray.",
        remedy="stop another home with `SOLDIOM_HOME=... soldiom down`",
    )
