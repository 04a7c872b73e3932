"""The heartbeat of a running job: writes its progress to its row, and reads there whether it has to stop."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.orm import Session

from soldiom_ray.db import jobs
from soldiom_ray.db.engine import open_session
from soldiom_ray.errors import CancelledError, SoldiomError
from soldiom_ray.records import now
from soldiom_ray.settings import Settings

HEARTBEAT_SECONDS = 2.0

logger = logging.getLogger(__name__)


class Heartbeat:
    """Thread that writes progress and reads the request to stop every HEARTBEAT_SECONDS; at the end, the outcome."""

    def __init__(self, settings: Settings, job_id: str) -> None:
        self.settings, self.job_id = settings, job_id
        self.stages: list[str] = []
        self._details: dict[str, Any] = {}
        self.stage, self.fraction, self.message = "", 0.0, ""
        self.cancelled, self._stopped = threading.Event(), threading.Event()
        self.devices = 1
        """Of the running stage: the workers of a training; none where endpoints do the work, whose tokens are counted;
        else the driver is the only one."""
        self.refusal: SoldiomError | None = None
        """Why the job has to stop, where nobody asked it to: a quota is used up."""
        self._counting, self._counted_until = threading.Lock(), time.monotonic()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self._thread.start()

    def report(self, fraction: float, message: str) -> None:
        """Progress of the running stage, 0 to 1. Raises CancelledError when the job was asked to stop."""
        self.fraction, self.message = min(max(fraction, 0.0), 1.0), message
        if self.cancelled.is_set():
            raise CancelledError(f"Job {self.job_id} was cancelled.")

    def notify(self, notes: list[str]) -> None:
        """Sentences about the running stage, for its record."""
        if notes:
            self.show({"notes": [*self._details.get("notes", ()), *notes]})

    def show(self, details: dict[str, Any]) -> None:
        """Details of the running stage, for its record, beside those it has under other names."""
        self._details |= details
        if self.stage:
            with open_session(self.settings) as session:
                jobs.set_stage(session, self.job_id, self.stage, details=self._details)

    def begin(self, stage: str) -> None:
        """The next stage starts."""
        self.stage, self.fraction, self.message = stage, 0.0, ""
        self._details = {}
        self._write()
        self.report(0.0, "")

    def end(self, status: str, **columns: Any) -> int:
        """Stop, and write how the job ended; the process's exit code, 0."""
        self._stop()
        with self._counted_session() as session:
            if status != "completed":
                self._end_stage(session, status)
            jobs.update(session, self.job_id, status=status, completed_at=now(), **columns)
        logger.info("job ended", extra={"data": {"status": status}})
        return 0

    def fail(self, error: SoldiomError) -> int:
        """Stop, and write what ended the job; the process's exit code."""
        self._stop()
        with self._counted_session() as session:
            self._end_stage(session, "failed")
            jobs.fail(session, self.job_id, error)
        logger.info("job ended", extra={"data": {"status": "failed"}})
        return error.exit_code

    def _stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=10)

    @contextmanager
    def _counted_session(self) -> Iterator[Session]:
        """A transaction that, where it is committed, counts what was used since the last one."""
        with self._counting:
            moment = time.monotonic()
            with open_session(self.settings) as session:
                yield session
                jobs.add_device_seconds(session, self.job_id, (moment - self._counted_until) * self.devices)
            self._counted_until = moment

    def _end_stage(self, session: Session, status: str) -> None:
        if self.stage:
            jobs.set_stage(session, self.job_id, self.stage, status=status)

    def _beat(self) -> None:
        while not self._stopped.wait(HEARTBEAT_SECONDS):
            try:
                self._write()
            except SoldiomError as error:
                logger.warning("heartbeat not written", extra={"data": {"error": error.what}})

    def _write(self) -> None:
        finished = self.stages.index(self.stage) if self.stage in self.stages else 0
        progress = (finished + self.fraction) / max(len(self.stages), 1)
        with self._counted_session() as session:
            if jobs.record_heartbeat(session, self.job_id, progress, self.stage, self.message):
                self.cancelled.set()
            elif self.devices and (refusal := jobs.exhausted_quota(session, self.job_id)) is not None:
                self.refusal = refusal
                self.cancelled.set()
            if self.stage:
                jobs.set_stage(session, self.job_id, self.stage, progress=round(self.fraction, 4), message=self.message)
