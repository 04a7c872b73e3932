"""The processes of one home: started detached, written down, found again and stopped.

A process is known by its id and its start time in clock ticks since boot: ids are reused, and wall clocks jump. What a
service starts in its turn carries `SOLDIOM_SERVICE` in its environment or shares its session, so nothing is missed
when its first process is gone. Linux only (`/proc`).
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from soldiom_ray.settings import SECRET_VARIABLES, Settings, write_private

MARK = "SOLDIOM_SERVICE"
DROPPED = (*SECRET_VARIABLES, "OMP_NUM_THREADS", "RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_TMPDIR", "RAY_NAMESPACE")
"""Not handed to services: secrets travel in an owner-only file, Ray sets thread counts itself, and the rest would
point a service at another cluster."""


@dataclass(frozen=True, slots=True)
class Started:
    """The first process of a service, as kept in `run/<name>.json`."""

    pid: int
    start_ticks: int
    seconds: float = 0.0

    def is_alive(self) -> bool:
        """True while exactly this process (not another one with its id) runs."""
        return _start_ticks(self.pid) == self.start_ticks


def service_environment(settings: Settings, name: str, extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what services must not see, marked as belonging to a service of this home."""
    inherited = {key: value for key, value in os.environ.items() if key not in DROPPED}
    direct = [part for part in inherited.get("NO_PROXY", inherited.get("no_proxy", "")).split(",") if part]
    no_proxy = ",".join(dict.fromkeys([*direct, "127.0.0.1", "localhost"]))
    own = {"SOLDIOM_HOME": str(settings.home), "NO_PROXY": no_proxy, "no_proxy": no_proxy, MARK: _mark(settings, name)}
    return inherited | own | dict(extra)


def spawn(
    settings: Settings,
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    owner: tuple[int, int] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a service in a session of its own, its output appended to `logs/<name>.log`, and write it down.

    `owner` is the (user id, group id) to run as, for a service that refuses to run as root.
    """
    log = log_path(settings, name)
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    user, group = owner or (None, None)
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=[] if owner else None,
        )
    write_record(settings, name, Started(process.pid, _start_ticks(process.pid) or 0))
    return process


def log_path(settings: Settings, name: str) -> Path:
    """Where a service of this home writes what it has to say."""
    return settings.home / "logs" / f"{name}.log"


def read_record(settings: Settings, name: str) -> Started | None:
    """What was written down about a service; None when it was stopped or never started, or the file is damaged."""
    try:
        return Started(**json.loads(_record_path(settings, name).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_record(settings: Settings, name: str, started: Started) -> None:
    """Write a service down, whole or not at all."""
    write_private(_record_path(settings, name), json.dumps(asdict(started)))


def forget(settings: Settings, name: str) -> None:
    """Remove what was written down about a service."""
    _record_path(settings, name).unlink(missing_ok=True)


def family(settings: Settings, name: str, folder: Path | None = None) -> set[int]:
    """Ids of all living processes of a service: its session, whatever carries its mark, whatever works inside `folder`
    (PostgreSQL's processes leave session and environment behind), and their children; never this process."""
    record = read_record(settings, name)
    session = record.pid if record and (record.is_alive() or _start_ticks(record.pid) is None) else None
    mark = f"{MARK}={_mark(settings, name)}".encode()
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        pid = int(entry.name)
        stat = _stat(pid)
        if stat is None:
            continue
        parents[pid] = int(stat[1])
        if int(stat[3]) == session or _works_in(pid, folder) or _is_marked(pid, mark):
            found.add(pid)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - _ancestry(parents)


def stop(
    settings: Settings,
    name: str,
    *,
    folder: Path | None = None,
    gently: signal.Signals = signal.SIGTERM,
    patience_seconds: float = 10.0,
) -> int:
    """Stop every process of a service, the first one first and with `gently`; what does not end is killed.
    Returns how many there were."""
    record = read_record(settings, name)
    members = family(settings, name, folder)
    count = len(members)
    if record and record.is_alive() and record.pid in members:
        _signal([record.pid], gently)
        _wait_for_end([record.pid], patience_seconds)
        members |= family(settings, name, folder)
    for number, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
        members = {pid for pid in members if _is_running(pid)} | family(settings, name, folder)
        if not members:
            break
        _signal(members, number)
        _wait_for_end(members, seconds)
    forget(settings, name)
    return count


def listeners(port: int) -> list[tuple[int | None, str]]:
    """(process id, process name) of those who listen on a TCP port; the id is None for another user's process."""
    import psutil

    found = []
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            name = ""
            with contextlib.suppress(psutil.Error):
                name = psutil.Process(connection.pid).name() if connection.pid else ""
            found.append((connection.pid, name))
    return found


def _mark(settings: Settings, name: str) -> str:
    return f"{settings.home}:{name}"


def _record_path(settings: Settings, name: str) -> Path:
    return settings.run_folder / f"{name}.json"


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name: state, parent, group, session, ..."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields


def _start_ticks(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def _is_running(pid: int) -> bool:
    return _stat(pid) is not None


def _works_in(pid: int, folder: Path | None) -> bool:
    if folder is None:
        return False
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(folder)
    except OSError:
        return False


def _is_marked(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _ancestry(parents: Mapping[int, int]) -> set[int]:
    pid: int | None = os.getpid()
    chain: set[int] = set()
    while pid and pid not in chain:
        chain.add(pid)
        pid = parents.get(pid)
    return chain


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _wait_for_end(pids: Iterable[int], seconds: float) -> None:
    pids, deadline = list(pids), time.monotonic() + seconds
    while time.monotonic() < deadline and any(_is_running(pid) for pid in pids):
        _reap(pids)
        time.sleep(0.05)


def _reap(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ChildProcessError, OSError):
            os.waitpid(pid, os.WNOHANG)
