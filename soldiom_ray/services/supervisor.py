"""The supervisor of a home: one detached process that restarts services that died, from `up` until `down`.

`up` leaves it; `up` and `status` start it again when it was killed. It restarts only what has a record, so nothing that
`down` stopped, and holds the same lock as `up` and `down` while it works. What it did is in `run/restarts.json`.
"""

import fcntl
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any

from soldiom_ray.errors import ConflictError, SoldiomError
from soldiom_ray.logs import start_logging
from soldiom_ray.records import now
from soldiom_ray.services import processes, serving
from soldiom_ray.services.addresses import Addresses, load_addresses, save_addresses
from soldiom_ray.services.start import BY_NAME, SERVICES, Service, ensure_service, lock
from soldiom_ray.services.supervision import HISTORY, NAME, Restarts, history
from soldiom_ray.settings import Settings, load_settings, write_private

POLL_SECONDS = 1.0
PROBE_EVERY_SECONDS = 15.0
DEAF_SECONDS = 90.0
"""A service that is alive and has not answered for so long is restarted. Not Ray: that would end its jobs."""
LONGEST_DELAY_SECONDS = 60.0
STEADY_SECONDS = 60.0
"""A service that lived so long counts as healthy again: its next restart comes at once."""
UP_SECONDS = 600.0

logger = logging.getLogger("soldiom_ray.services.supervisor")  # also where this is `__main__`


class Supervisor:
    """Looks at every service once a second. It ends when no service of the home has a record any more."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.record = processes.own_record()
        self.restarts = history(settings)
        self._last_answer: dict[str, float] = {}
        self._last_probe: dict[str, float] = {}
        self._alive_since: dict[str, float] = {}

    def run(self) -> None:
        """Until `down`."""
        while any(processes.read_record(self.settings, service.name) for service in SERVICES):
            try:
                self._look()
            except Exception:  # a full disk, a broken file: whatever it is, the next look may find it gone
                logger.exception("a look at the services failed")
            time.sleep(POLL_SECONDS)

    def _look(self) -> None:
        for service in SERVICES:
            self._look_at(service)
        self._look_at_the_api()
        if processes.read_record(self.settings, NAME) != self.record:
            processes.write_record(self.settings, NAME, self.record)  # a second one had started, and ended at once

    def _look_at(self, service: Service) -> None:
        record = processes.read_record(self.settings, service.name)
        if record is None or service.name in self.settings.external:
            return
        moment = time.monotonic()
        if record.is_alive():
            restarts, since = self.restarts.get(service.name), self._alive_since.setdefault(service.name, moment)
            if restarts and restarts.failures and moment - since > STEADY_SECONDS:
                restarts.failures = 0
                self._save()
            if service.name == "ray" or not self._is_deaf(service.name, service.probe):
                return
            reason = f"process {record.pid} did not answer for {DEAF_SECONDS:.0f} s"
        else:
            processes.reap([record.pid])
            reason = f"process {record.pid} ended"
        self._alive_since.pop(service.name, None)
        self._restart(service.name, reason)

    def _look_at_the_api(self) -> None:
        """Serve restarts the API's processes itself; when that fails for long, or only its record is left after Ray
        was restarted, `up` does."""
        ray = processes.read_record(self.settings, "ray")
        if processes.read_record(self.settings, serving.NAME) is None or ray is None or not ray.is_alive():
            self._last_answer[serving.NAME] = time.monotonic()
        elif self._is_deaf(serving.NAME, serving.probe):
            self._restart(serving.NAME, f"it did not answer for {DEAF_SECONDS:.0f} s")

    def _is_deaf(self, name: str, probe: Any) -> bool:
        moment = time.monotonic()
        self._last_answer.setdefault(name, moment)
        if moment - self._last_probe.get(name, 0.0) >= PROBE_EVERY_SECONDS:
            self._last_probe[name] = moment
            if not probe(self.settings, load_addresses(self.settings) or Addresses()):
                self._last_answer[name] = time.monotonic()
        return time.monotonic() - self._last_answer[name] > DEAF_SECONDS

    def _restart(self, name: str, reason: str) -> None:
        """Restart a service, when its next try is due and neither `up` nor `down` is at work."""
        restarts = self.restarts.setdefault(name, Restarts())
        if restarts.next_at > time.time() and restarts.next_at - time.time() <= LONGEST_DELAY_SECONDS:
            return
        restarts.failures += 1
        delay = 0.0 if restarts.failures == 1 else min(LONGEST_DELAY_SECONDS, 2.0 ** (restarts.failures - 2))
        restarts.reason, restarts.at = reason, now().isoformat(timespec="seconds")
        restarts.next_at = time.time() + max(delay, POLL_SECONDS)
        try:
            restarted = self._start_again(name)
        except (SoldiomError, OSError, subprocess.SubprocessError) as error:
            restarts.reason = f"{reason}; {error.what if isinstance(error, SoldiomError) else type(error).__name__}"
            logger.warning("restart failed", extra={"data": {"service": name, "reason": restarts.reason}})
        else:
            if not restarted:
                restarts.failures -= 1
                return
            restarts.count += 1
            logger.warning("restarted", extra={"data": {"service": name, "reason": reason}})
        self._last_answer[name] = time.monotonic()
        self._save()

    def _start_again(self, name: str) -> bool:
        """Start a dead service on its addresses; False when another process of this home has done so, or stopped it."""
        if name in ("ray", serving.NAME):
            return self._run_up()
        try:
            with lock(self.settings, patience_seconds=0.0):
                self.settings = load_settings()
                record = processes.read_record(self.settings, name)
                if record is None:
                    return False
                addresses = load_addresses(self.settings) or Addresses()
                try:
                    changed = ensure_service(self.settings, BY_NAME[name], addresses, _ignore)
                except SoldiomError:
                    processes.write_record(self.settings, name, record)  # so that it is tried again
                    raise
                if changed != addresses:
                    save_addresses(self.settings, changed)
        except ConflictError:
            return False
        return processes.read_record(self.settings, name) != record

    def _run_up(self) -> bool:
        """`soldiom up`: Ray needs the API and the deployed models on it again."""
        environment = dict(os.environ)
        if "postgres" in self.settings.external and self.settings.database_url:
            environment["SOLDIOM_DATABASE_URL"] = self.settings.database_url
        before = processes.read_record(self.settings, "ray")
        command = [sys.executable, "-c", "from soldiom_ray.cli import main; main()", "up"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=UP_SECONDS, check=False)
        if done.returncode:
            raise SoldiomError((done.stderr.strip().splitlines() or ["`soldiom up` failed"])[-1][:300])
        return processes.read_record(self.settings, "ray") != before

    def _save(self) -> None:
        entries = {name: asdict(entry) for name, entry in self.restarts.items()}
        write_private(self.settings.run_folder / HISTORY, json.dumps(entries))


def _ignore(_: str) -> None:
    """Reports of starting services are for whoever typed `up`."""


def main() -> int:
    """The process; at most one in a home: the second finds the lock taken."""
    start_logging()
    settings = load_settings()
    with (settings.run_folder / "supervisor.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        Supervisor(settings).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
