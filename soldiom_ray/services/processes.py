"""The processes of one home: started detached, recorded, found again and stopped.

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

SERVICE_VARIABLE = "SOLDIOM_SERVICE"
UNINHERITED = (*SECRET_VARIABLES, "OMP_NUM_THREADS", "RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_TMPDIR", "RAY_NAMESPACE")
"""Variables that services do not inherit: secrets travel in an owner-only file, Ray sets thread counts itself, and the
rest would point a service at another cluster."""


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """The first process of a service, as stored in `run/<name>.json`."""

    pid: int
    start_ticks: int
    seconds: float = 0.0

    def is_alive(self) -> bool:
        """True while exactly this process (not another one with its id) runs."""
        return _start_ticks(self.pid) == self.start_ticks


def service_environment(settings: Settings, name: str, extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what services must not see, marked as belonging to a service of this home."""
    inherited = {key: value for key, value in os.environ.items() if key not in UNINHERITED}
    direct = [part for part in inherited.get("NO_PROXY", inherited.get("no_proxy", "")).split(",") if part]
    no_proxy = ",".join(dict.fromkeys([*direct, "127.0.0.1", "localhost"]))
    own = {
        "SOLDIOM_HOME": str(settings.home),
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        SERVICE_VARIABLE: _service_value(settings, name),
    }
    return inherited | own | dict(extra)


def spawn(
    settings: Settings,
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    owner: tuple[int, int] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a service in a session of its own, its output appended to `logs/<name>.log`, and record it.

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
    write_record(settings, name, ProcessRecord(process.pid, _start_ticks(process.pid) or 0))
    return process


def log_path(settings: Settings, name: str) -> Path:
    """The file that a service's output goes to."""
    return settings.home / "logs" / f"{name}.log"


def own_record() -> ProcessRecord:
    """The record of this process."""
    return ProcessRecord(os.getpid(), _start_ticks(os.getpid()) or 0)


def read_record(settings: Settings, name: str) -> ProcessRecord | None:
    """The record of a service; None when it was stopped or never started, or the file is damaged."""
    try:
        return ProcessRecord(**json.loads(_record_path(settings, name).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_record(settings: Settings, name: str, record: ProcessRecord) -> None:
    """Store the record of a service, whole or not at all."""
    write_private(_record_path(settings, name), json.dumps(asdict(record)))


def delete_record(settings: Settings, name: str) -> None:
    """Remove the record of a service."""
    _record_path(settings, name).unlink(missing_ok=True)


def service_processes(settings: Settings, name: str, folder: Path | None = None) -> set[int]:
    """Ids of all living processes of a service: those of its session, with its variable, or with `folder` as their
    working folder (PostgreSQL's processes leave session and environment), and their children; never this process."""
    record = read_record(settings, name)
    session = record.pid if record and (record.is_alive() or _start_ticks(record.pid) is None) else None
    variable = f"{SERVICE_VARIABLE}={_service_value(settings, name)}".encode()
    parents: dict[int, int] = {}
    members: set[int] = set()
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        pid = int(entry.name)
        stat = _stat(pid)
        if stat is None:
            continue
        parents[pid] = int(stat[1])
        if int(stat[3]) == session or _works_in(pid, folder) or _has_variable(pid, variable):
            members.add(pid)
    while children := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= children
    return members - _ancestry(parents)


def stop(
    settings: Settings,
    name: str,
    *,
    folder: Path | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    patience_seconds: float = 10.0,
) -> int:
    """Stop every process of a service, its first one first and with `stop_signal`; what does not end is killed.
    Returns how many there were."""
    record = read_record(settings, name)
    members = service_processes(settings, name, folder)
    count = len(members)
    if record and record.is_alive() and record.pid in members:
        _signal([record.pid], stop_signal)
        _wait_for_end([record.pid], patience_seconds)
        members |= service_processes(settings, name, folder)
    for number, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
        members = {pid for pid in members if _is_running(pid)} | service_processes(settings, name, folder)
        if not members:
            break
        _signal(members, number)
        _wait_for_end(members, seconds)
    delete_record(settings, name)
    return count


def listeners(port: int) -> list[tuple[int | None, str]]:
    """(id, name) of the processes that listen on a TCP port; the id is None for another user's process."""
    import psutil

    processes = []
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            name = ""
            with contextlib.suppress(psutil.Error):
                name = psutil.Process(connection.pid).name() if connection.pid else ""
            processes.append((connection.pid, name))
    return processes


def foreign_listener(settings: Settings, name: str, port: int) -> str:
    """What is wrong when another program listens on the port of a service, else nothing. Two homes that start at once
    may choose the same port; the second then hears the first one's service answer."""
    holders = listeners(port)
    if not holders or {pid for pid, _ in holders} & service_processes(settings, name):
        return ""
    pid, program = holders[0]
    return f"port {port} is used by " + (f"process {pid} ({program})" if pid else "a process of another user")


def _service_value(settings: Settings, name: str) -> str:
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


def _has_variable(pid: int, variable: bytes) -> bool:
    try:
        return variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
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
        reap(pids)
        time.sleep(0.05)


def reap(pids: Iterable[int]) -> None:
    """Take note of children that have ended, so that the system forgets them."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError, OSError):
            os.waitpid(pid, os.WNOHANG)
