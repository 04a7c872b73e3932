"""Start the services of one home, stop them, show their state."""

import fcntl
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from soldiom_ray.errors import ConflictError, UnavailableError
from soldiom_ray.services import applied, chroma, mlflow, postgres, processes, ray_head, serving, supervision
from soldiom_ray.services.addresses import (
    Addresses,
    check_api_port,
    database_url,
    load_addresses,
    load_api_address,
    merge,
    reassign_ports,
    save_addresses,
)
from soldiom_ray.settings import Settings, forget_environment, keep_environment

Report = Callable[[str], None]
"""Called with one line per service, from several threads but never at once."""

T = TypeVar("T")

LOCK_SECONDS = 400.0
ATTEMPTS = 3
"""Another program may take a port between its choice and its use; and Ray gives itself 30 s, too few when busy."""
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Service:
    """One service that is a process of ours. `folder` is where all its processes work, if they do."""

    name: str
    start: Callable[[Settings, Addresses], None]
    probe: Callable[[Settings, Addresses], str]
    url: Callable[[Settings, Addresses], str]
    timeout_seconds: float
    stop_signal: signal.Signals
    folder: Callable[[Settings], Path] | None = None


SERVICES = (
    Service(
        "postgres",
        postgres.start,
        postgres.probe,
        postgres.url,
        postgres.TIMEOUT_SECONDS,
        postgres.STOP_SIGNAL,
        postgres.folder,
    ),
    Service("chroma", chroma.start, chroma.probe, chroma.url, chroma.TIMEOUT_SECONDS, chroma.STOP_SIGNAL),
    Service("mlflow", mlflow.start, mlflow.probe, mlflow.url, mlflow.TIMEOUT_SECONDS, mlflow.STOP_SIGNAL),
    Service("ray", ray_head.start, ray_head.probe, ray_head.url, ray_head.TIMEOUT_SECONDS, ray_head.STOP_SIGNAL),
)
BY_NAME = {service.name: service for service in SERVICES}


def up(
    settings: Settings, report: Report, *, prepare: Callable[[Settings], None] | None = None
) -> dict[str, dict[str, Any]]:
    """Start what does not run, restart what does not answer, leave the rest alone; returns `status`.

    `prepare` is called with the new settings once the database answers and before the API starts.
    Raises ConflictError when the API's port belongs to another program (before anything is started), UnavailableError
    when a service does not come up.
    """
    _make_home(settings)
    with lock(settings):
        _check_api(settings)
        if _api_runs(settings):
            applied.check_up(settings)
        keep_environment(settings)
        addresses = load_addresses(settings) or Addresses()
        report = _serialized(report)

        def ensure(name: str) -> Addresses:
            return ensure_service(settings, BY_NAME[name], addresses, report)

        def prepare_database() -> None:
            if prepare:
                prepare(_with_database(settings))

        with ThreadPoolExecutor(len(SERVICES) + 1) as pool:
            database = pool.submit(ensure, "postgres")
            prepared = pool.submit(_run_after, database, prepare_database)
            others = {name: pool.submit(ensure, name) for name in ("ray", "chroma")}
            others["mlflow"] = pool.submit(_run_after, database, lambda: ensure("mlflow"))
        by_service = {name: future.result() for name, future in others.items() if not future.exception()}
        addresses = merge(addresses, by_service)
        save_addresses(settings, addresses)
        prepared.result()
        for future in others.values():
            future.result()
        _ensure_api(settings, addresses, report)
        if applied.changes(settings):
            supervision.stop(settings)  # the next one starts services with the changed settings
        applied.remember(settings)
        supervision.ensure(settings)
        return status(settings)


def down(settings: Settings) -> dict[str, int]:
    """Stop every service of this home and nothing else; returns how many processes each had. UnavailableError, once all
    others are stopped, for those that could not be."""
    if not settings.run_folder.is_dir():
        return {}
    supervision.stop(settings)
    with lock(settings):
        processes.delete_record(settings, serving.NAME)
        applied.forget(settings)
        forget_environment(settings)
        with ThreadPoolExecutor(len(SERVICES)) as pool:
            first = {name: pool.submit(_stop, settings, BY_NAME[name]) for name in ("ray", "chroma", "mlflow")}
            wait(first.values())
        supervision.stop(settings)  # `status` may have started another one meanwhile
        supervision.forget(settings)
        last: Future[int] = Future()  # what has gone wrong is told when the others are stopped
        try:
            last.set_result(_stop(settings, BY_NAME["postgres"]))
        except Exception as error:
            last.set_exception(error)
    stopped = first | {"postgres": last}
    if failed := {name: why for name, future in stopped.items() if (why := future.exception()) is not None}:
        what = ", ".join(f"{name} ({type(why).__name__}: {why})" for name, why in failed.items())
        raise UnavailableError(f"Not stopped: {what}.", remedy="end what is left by hand, or run `soldiom down` again")
    return {name: future.result() for name, future in stopped.items()}


def status(settings: Settings) -> dict[str, dict[str, Any]]:
    """State, URL, process id and detail of every service, each asked by its own protocol, all at once."""
    addresses = load_addresses(settings) or Addresses()
    with ThreadPoolExecutor(len(SERVICES) + 1) as pool:
        futures = {service.name: pool.submit(_status, settings, service, addresses) for service in SERVICES}
        futures["api"] = pool.submit(_api_status, settings, addresses)
        states = {name: future.result() for name, future in futures.items()}
    return _with_restarts(settings, states) | {supervision.NAME: _supervisor_status(settings)}


def _status(settings: Settings, service: Service, addresses: Addresses) -> dict[str, Any]:
    if service.name in settings.external:
        problem = "" if service.name == "postgres" else service.probe(settings, addresses)
        return {"state": "external", "url": _external_url(settings, service.name), "pid": None, "detail": problem}
    record = processes.read_record(settings, service.name)
    if record is None:
        return {"state": "stopped", "url": None, "pid": None, "detail": ""}
    url = service.url(settings, addresses)
    if not record.is_alive():
        log = processes.log_path(settings, service.name)
        detail = f"process {record.pid} has ended; `soldiom up` starts it again; log: {log}"
        return {"state": "failed", "url": url, "pid": None, "detail": detail}
    problem = service.probe(settings, addresses)
    detail = f"{problem}; log: {processes.log_path(settings, service.name)}" if problem else ""
    return {"state": "failed" if problem else "running", "url": url, "pid": record.pid, "detail": detail}


def _api_status(settings: Settings, addresses: Addresses) -> dict[str, Any]:
    record = processes.read_record(settings, serving.NAME)
    if record is None:
        return {"state": "stopped", "url": None, "pid": None, "detail": ""}
    problem = serving.probe(settings, addresses)
    state, pid = ("failed", None) if problem else ("running", serving.owner_of_port(settings))
    return {"state": state, "url": settings.api_url, "pid": pid, "detail": problem}


def _with_restarts(settings: Settings, states: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The states with what the supervisor did, and `restarting` for what it is about to start again."""
    history, supervised = supervision.history(settings), supervision.is_running(settings)
    for name, state in states.items():
        restarts = history.get(name, supervision.Restarts())
        last = f"{restarts.at}: {restarts.reason}" if restarts.reason else ""
        state["restarts"], state["last_restart"] = restarts.count, last
        if state["state"] == "failed" and supervised and state["pid"] is None and name != serving.NAME:
            wait = max(0.0, restarts.next_at - time.time())
            reason = restarts.reason if restarts.failures else state["detail"]
            state["state"], state["detail"] = "restarting", f"{reason}; the supervisor tries again in {wait:.0f} s"
        elif restarts.count and not state["detail"]:
            times = "once" if restarts.count == 1 else f"{restarts.count} times"
            state["detail"] = f"restarted {times}, last at {last}"
    return states


def _supervisor_status(settings: Settings) -> dict[str, Any]:
    record = processes.read_record(settings, supervision.NAME)
    if settings.external.issuperset(supervision.SUPERVISED):
        return {"state": "external", "url": None, "pid": None, "detail": ""}
    if record is None:
        return {"state": "stopped", "url": None, "pid": None, "detail": ""}
    if not record.is_alive():
        detail = "it has ended; `soldiom up` and `soldiom status` start it again"
        return {"state": "failed", "url": None, "pid": None, "detail": detail}
    return {"state": "running", "url": None, "pid": record.pid, "detail": ""}


def ensure_service(settings: Settings, service: Service, addresses: Addresses, report: Report) -> Addresses:
    """Start a service unless it runs, on its addresses or, where another program has taken one, on new ones. Returns
    the addresses."""
    if service.name in settings.external:
        report(f"{service.name}: external")
        return addresses
    if not _lasting_problem(settings, service, addresses):
        report(f"{service.name}: running")
        return addresses
    started, problem = time.monotonic(), ""
    for _ in range(ATTEMPTS):
        _stop(settings, service)
        addresses = reassign_ports(settings, addresses, service.name)
        service.start(settings, addresses)
        problem = _wait(settings, service, addresses)
        if not problem:
            report(f"{service.name}: started in {time.monotonic() - started:.1f} s")
            node_ip = ray_head.node_ip(settings) if service.name == "ray" else None
            return replace(addresses, node_ip=node_ip or addresses.node_ip)
    ending = serving.last_lines(settings, service.name)
    _stop(settings, service)
    raise UnavailableError(
        f"{service.name} did not come up within {time.monotonic() - started:.0f} s: {problem}. {ending}",
        remedy=f"see {processes.log_path(settings, service.name)}, then run `soldiom up` again",
    )


def _wait(settings: Settings, service: Service, addresses: Addresses) -> str:
    """Wait until a service answers: "", or what is wrong when its time is over or its process has ended."""
    deadline = time.monotonic() + service.timeout_seconds
    record = processes.read_record(settings, service.name)
    while problem := service.probe(settings, addresses):
        if record is None or not record.is_alive():
            return "its process ended"
        if problem in (ray_head.UNPROTECTED, ray_head.FOREIGN_RAY) or time.monotonic() > deadline:
            return problem
        time.sleep(0.2)
    return ""


def _lasting_problem(settings: Settings, service: Service, addresses: Addresses) -> str:
    """What is wrong with a service, or nothing. A process that is alive and only slow, on a busy machine, is given
    time: restarting Ray would end its jobs."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _runs(settings, service.name):
        problem = service.probe(settings, addresses)
        if not problem or problem == ray_head.UNPROTECTED or time.monotonic() > deadline:
            return problem
        time.sleep(0.2)
    return "it does not run"


def _ensure_api(settings: Settings, addresses: Addresses, report: Report) -> None:
    if not serving.is_installed():
        report("api: not part of this installation")
        return
    changed = applied.changes(settings)
    if processes.read_record(settings, serving.NAME) and not serving.probe(settings, addresses) and not changed:
        report("api: running")
        return
    if changed:
        report(f"api: takes over {', '.join(changed)}")
    if "SOLDIOM_ENCRYPTION_KEY" in changed and settings.encryption_keys:
        report("encryption: seal what is stored with the first key by `soldiom encryption reseal`")
    started = time.monotonic()
    serving.start(settings, addresses)
    while problem := serving.probe(settings, addresses):
        if time.monotonic() - started > serving.TIMEOUT_SECONDS:
            raise UnavailableError(
                f"The API does not answer: {problem}.", remedy=f"see {processes.log_path(settings, serving.NAME)}"
            )
        time.sleep(0.2)
    report(f"api: started in {time.monotonic() - started:.1f} s")


def _check_api(settings: Settings) -> None:
    """Refuse, before anything starts, a port that is taken, or a move of a running API."""
    current, configured = load_api_address(settings), (settings.api_host, settings.api_port)
    if _api_runs(settings) and current and current != configured:
        raise ConflictError(
            f"The API of this home runs at {current[0]}:{current[1]}, not at {configured[0]}:{configured[1]}.",
            remedy="run `soldiom down` first, or leave SOLDIOM_API_HOST and SOLDIOM_API_PORT as they were",
        )
    if "ray" in settings.external and _api_runs(settings):
        return  # the port belongs to the cluster's own proxy, whose process is none of this home's
    patience_seconds = PATIENCE_SECONDS if processes.read_record(settings, serving.NAME) else 0.0
    check_api_port(settings, lambda: processes.service_processes(settings, "ray"), patience_seconds)


def _api_runs(settings: Settings) -> bool:
    if processes.read_record(settings, serving.NAME) is None:
        return False
    if "ray" in settings.external:
        return not serving.probe(settings, Addresses())
    return _runs(settings, "ray")


def _run_after(first: "Future[Any]", function: Callable[[], T]) -> T:
    first.result()
    return function()


def _with_database(settings: Settings) -> Settings:
    """The settings with the database's address that `up` has just chosen."""
    return replace(
        settings,
        database_url=settings.database_url if "postgres" in settings.external else database_url(settings),
    )


def _runs(settings: Settings, name: str) -> bool:
    record = processes.read_record(settings, name)
    return record is not None and record.is_alive()


def _stop(settings: Settings, service: Service) -> int:
    folder = service.folder(settings) if service.folder else None
    return processes.stop(settings, service.name, folder=folder, stop_signal=service.stop_signal)


def _external_url(settings: Settings, name: str) -> str | None:
    """The address of a service placed elsewhere, without the user and password that it may hold."""
    url = {
        "postgres": settings.database_url,
        "chroma": settings.chroma_url,
        "mlflow": settings.mlflow_url,
        "ray": settings.ray_address,
    }[name]
    if url is None or "@" not in url:
        return url
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _serialized(report: Report) -> Report:
    """The same report, called by one thread at a time."""
    guard = threading.Lock()

    def serialized(message: str) -> None:
        with guard:
            report(message)

    return serialized


def _make_home(settings: Settings) -> None:
    try:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (settings.run_folder, settings.keys_folder, settings.home / "logs"):
            folder.mkdir(exist_ok=True, mode=0o700)
        for folder in settings.home.iterdir():  # PostgreSQL's user enters the home, so each folder in it is closed
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and status.st_mode & 0o077:
                folder.chmod(0o700)
    except OSError as error:
        raise UnavailableError(
            f"The home folder {settings.home} cannot be made: {error.strerror}.",
            remedy="set SOLDIOM_HOME to a folder you can write to",
        ) from error


@contextmanager
def lock(settings: Settings, patience_seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """One `up`, `down` or restart at a time in a home. The lock is the kernel's, so a killed holder leaves nothing
    behind."""
    path = settings.run_folder / "lock"
    with path.open("a") as file:
        deadline = time.monotonic() + patience_seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConflictError(
                        f"Another `soldiom up` or `down` is at work in {settings.home} ({patience_seconds:.0f} s).",
                        remedy="wait for it or end it",
                    ) from None
                time.sleep(0.1)
        yield
