"""The supervisor of a home, seen from outside: start it, end it, read what it did. See `supervisor`."""

import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass

from soldiom_ray.services import processes
from soldiom_ray.settings import Settings

NAME = "supervisor"
SUPERVISED = ("postgres", "chroma", "mlflow", "ray")
HISTORY = "restarts.json"


@dataclass(slots=True)
class Restarts:
    """What happened to one service: how often it was restarted, why and when the last time, and when the next try is
    due (0: none is). `failures` counts the tries since it last ran for STEADY_SECONDS."""

    count: int = 0
    failures: int = 0
    reason: str = ""
    at: str = ""
    next_at: float = 0.0


def ensure(settings: Settings) -> None:
    """Start the supervisor of a home whose services were started, unless it runs."""
    if is_running(settings) or not any(processes.read_record(settings, name) for name in SUPERVISED):
        return
    command = [sys.executable, "-m", "soldiom_ray.services.supervisor"]
    processes.spawn(settings, NAME, command, processes.service_environment(settings, NAME, {}))


def is_running(settings: Settings) -> bool:
    """Whether the process that was started last still lives."""
    record = processes.read_record(settings, NAME)
    return record is not None and record.is_alive()


def stop(settings: Settings) -> None:
    """End the supervisor, and none of the services that it started, which are its children."""
    record = processes.read_record(settings, NAME)
    while record is not None and record.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, signal.SIGKILL)
        time.sleep(0.02)
    processes.delete_record(settings, NAME)


def history(settings: Settings) -> dict[str, Restarts]:
    """What the supervisor did to each service since the last `down`."""
    try:
        stored = json.loads((settings.run_folder / HISTORY).read_text())
        return {name: Restarts(**entry) for name, entry in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def forget(settings: Settings) -> None:
    """Remove what is known of restarts."""
    (settings.run_folder / HISTORY).unlink(missing_ok=True)
