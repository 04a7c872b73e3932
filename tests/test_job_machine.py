"""The life of jobs against a model of it: Hypothesis makes up what is done to them, in any order, and after each step
the database says what the model says. `make security` takes 2,000 steps (SOLDIOM_MACHINE_STEPS)."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from soldiom_ray.db import jobs
from soldiom_ray.db.engine import migrate, open_database, open_session
from soldiom_ray.errors import ConflictError, NotFoundError, UnavailableError
from soldiom_ray.records import ENDED
from soldiom_ray.settings import Settings, load_settings

STEPS = int(os.environ.get("SOLDIOM_MACHINE_STEPS", "200"))
LENGTH = 40
TENANTS = ("a", "b")


@dataclass
class Expected:
    """What is to be true of a job."""

    tenant: str
    name: str
    status: str = "pending"
    progress: float = 0.0
    cancel: bool = False
    key: str | None = None
    error: str | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class JobMachine(RuleBasedStateMachine):
    """Everything that may happen to the jobs of two tenants. `home` is set by the test."""

    home: Settings
    made = Bundle("made")

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, Expected] = {}
        self.prefix = os.urandom(6).hex()  # jobs of earlier runs stay in the database

    @rule(
        target=made, tenant=st.sampled_from(TENANTS), name=st.sampled_from("xy"), key=st.sampled_from([None, "1", "2"])
    )
    def create(self, tenant: str, name: str, key: str | None) -> Any:
        used = next((e for e in self.jobs.values() if key and e.tenant == tenant and e.key == key), None)
        with open_session(self.home) as session:
            values: dict[str, Any] = {"kind": "test", "config": {"name": name}, "tenant": self.prefix + tenant}
            values |= {"name": self.prefix + name, "idempotency_key": key and self.prefix + key}
            if used and used.name != name:
                with pytest.raises(ConflictError):
                    jobs.create(session, **values)
                return multiple()
            made = jobs.create(session, **values)
            session.flush()
            assert (made.id in self.jobs) is bool(used)
            self.jobs.setdefault(made.id, Expected(tenant, name, key=key))
            return str(made.id)

    @rule(job=made)
    def begin(self, job: str) -> None:
        with open_session(self.home) as session:
            jobs.update(session, job, status="running")
        if not self.jobs[job].ended:
            self.jobs[job].status = "running"

    @rule(job=made, progress=st.floats(-1, 2))
    def beat(self, job: str, progress: float) -> None:
        expected = self.jobs[job]
        with open_session(self.home) as session:
            stops = jobs.record_heartbeat(session, job, progress, "train", "")
        assert stops is (expected.cancel or expected.status in ("cancelled", "failed"))
        if not expected.ended:
            expected.progress = min(max(progress, 0.0), 1.0)

    @rule(job=made, status=st.sampled_from(["completed", "cancelled"]))
    def end(self, job: str, status: str) -> None:
        expected = self.jobs[job]
        with open_session(self.home) as session:
            jobs.update(session, job, status=status)
        if not expected.ended:
            expected.status = status
            expected.progress = 1.0 if status == "completed" else expected.progress
        elif expected.status == status == "completed":
            expected.progress = 1.0

    @rule(job=made, what=st.sampled_from(["first", "second"]))
    def fail(self, job: str, what: str) -> None:
        expected = self.jobs[job]
        with open_session(self.home) as session:
            jobs.fail(session, job, UnavailableError(what))
        if not expected.ended or expected.status == "failed":
            expected.status, expected.error = "failed", what

    @rule(job=made, tenant=st.sampled_from(TENANTS))
    def cancel(self, job: str, tenant: str) -> None:
        expected = self.jobs[job]
        with open_session(self.home) as session:
            if tenant != expected.tenant:
                with pytest.raises(NotFoundError):
                    jobs.request_cancel(session, job, self.prefix + tenant)
            elif expected.ended:
                with pytest.raises(ConflictError):
                    jobs.request_cancel(session, job, self.prefix + tenant)
            else:
                jobs.request_cancel(session, job, self.prefix + tenant)
                expected.cancel = True

    @invariant()
    def the_database_says_the_same(self) -> None:
        with open_session(self.home) as session:
            for tenant in TENANTS:
                shown, _ = jobs.list_jobs(session, self.prefix + tenant, limit=200)
                found = {row.id: row for row in shown}
                assert found.keys() == {job for job, each in self.jobs.items() if each.tenant == tenant}
                for job, row in found.items():
                    expected = self.jobs[job]
                    assert (row.status, row.cancel_requested) == (expected.status, expected.cancel)
                    assert row.progress == pytest.approx(expected.progress) and row.error == expected.error
                    assert (row.completed_at is not None) is expected.ended


def test_jobs_live_as_their_model_does(postgres_url: str, tmp_path: Path) -> None:
    JobMachine.home = load_settings({"SOLDIOM_HOME": str(tmp_path), "SOLDIOM_DATABASE_URL": postgres_url})
    migrate(JobMachine.home)
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            JobMachine,
            settings=settings(
                max_examples=max(1, STEPS // LENGTH),
                stateful_step_count=LENGTH,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        open_database(JobMachine.home).dispose()
