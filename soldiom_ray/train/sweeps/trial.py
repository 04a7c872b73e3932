"""What a trial's actor runs: one training as a run of Ray Train, its validations reported to Ray Tune.

Ray Tune keeps the actor for the next trial, whose workers are started while this one still trains: they read their
libraries then instead of afterwards."""

import logging
import math
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soldiom_ray import logs
from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import CancelledError, SoldiomError
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage
from soldiom_ray.train.driver import Attempt, run_on_ray
from soldiom_ray.train.ray_train import Placement
from soldiom_ray.train.state import Metrics
from soldiom_ray.train.sweeps.trials import SMALLER_IS_BETTER
from soldiom_ray.train.tracking import Origin, Tracker

log = logging.getLogger(__name__)
STOP_SECONDS = "30"
"""How long Ray Tune waits for a trial that it stops before it takes another actor for the next one."""
_waiting: list[Attempt] = []
"""Workers of this actor's next trial."""
ACTOR_MARKS = 256
_marks: list[range] = []
"""Marks of what this actor's trials reserve, drawn by its first trial."""


@dataclass(frozen=True)
class TrialSetup:
    """What all trials of a sweep share. It is sent to their actors."""

    settings: Settings
    dataset: Manifest
    declared: Train
    metric: str
    experiment: str
    sweep_id: str
    parent_run: str | None
    """The sweep's run in MLflow."""
    tenant: str
    placement: Placement
    marks: range
    """Of what the trials reserve: see `release_placements`."""
    last: int
    """The number of the last trial, after which no other is prepared."""
    starts_ahead: bool = True


def declared_with(declared: Train, settings: Mapping[str, Any]) -> Train:
    """The training of a trial."""
    return Train.model_validate(declared.model_dump(mode="json") | dict(settings))


def run_trial(config: Mapping[str, Any], setup: TrialSetup) -> dict[str, Any] | None:
    """Train to the end; the last report to Ray Tune, which names the run, or why there is none."""
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = STOP_SECONDS
    logs.start_logging()
    trial = _Trial(setup, int(config["number"]), config["settings"])
    try:
        run = trial.train()
    except CancelledError:
        return None
    except SoldiomError as error:
        return trial.failed(error.what)
    except Exception as error:  # the sweep goes on; the message, which may hold a user's text, stays in the log
        log.exception("a trial failed unexpectedly")
        return trial.failed(f"{type(error).__name__}; see the job's log.")
    return trial.report_of(run)


class _Trial:
    """One trial from its start to its last report."""

    def __init__(self, setup: TrialSetup, number: int, settings: Mapping[str, Any]) -> None:
        from ray.train._internal.session import get_session

        self.setup, self.number, self.settings = setup, number, settings
        self.began, self.start_seconds = time.monotonic(), 0.0
        self.attempt: Attempt | None = None
        self.best: float | None = None
        self.validated = 0
        self.tracked = False
        self.run: str | None = None
        self._stopped = get_session().stop_event  # what Ray Tune sets to stop a trial; `tune.report` looks at it too
        artifacts = Artifacts(open_storage(setup.settings))
        self.context = Context(
            setup.settings, artifacts, self._look_for_stop, tenant=setup.tenant, recipe=setup.experiment
        )

    def train(self) -> Manifest:
        """The run of this trial, made now or before."""
        declared = declared_with(self.setup.declared, self.settings)
        attempt = self.attempt = _waiting.pop() if _waiting else self._attempt(declared)
        try:
            return run_on_ray(
                self.context, self.setup.dataset, declared, attempt=attempt, observe=self._observe, tags=self._tags()
            )
        finally:
            if attempt.waits:
                _waiting.append(attempt)

    def report_of(self, run: Manifest) -> dict[str, Any]:
        """The last report of a trial that was trained to its end."""
        value = self.best if self.best is not None else self._value_of(run.details["best_validation"])
        self.run = run.id
        return self._report(value, finished=True)

    def failed(self, reason: str) -> dict[str, Any]:
        """The last report of a trial that failed; MLflow has a run of it, too."""
        if not self.tracked:
            name = f"{self.setup.sweep_id}-trial-{self.number}"
            origin = Origin(dict(self.settings), self._tags() | {"soldiom.failure": reason[:500]})
            Tracker(self.setup.settings.mlflow_url, self.setup.experiment, name, origin).end("FAILED", {})
        return self._report(self.best, failure=reason)

    def _attempt(self, declared: Train) -> Attempt:
        mark = self._marks().start + secrets.randbelow(ACTOR_MARKS)
        return Attempt(self.context, declared, self.setup.placement, mark)

    def _marks(self) -> range:
        if not _marks:
            first = self.setup.marks.start + secrets.randbelow(len(self.setup.marks) - ACTOR_MARKS)
            _marks.append(range(first, first + ACTOR_MARKS))
        return _marks[0]

    def _observe(self, points: Sequence[Metrics]) -> None:
        """Report validations to Ray Tune. SystemExit when Ray Tune ends the trial; SoldiomError where the loss is no
        number."""
        from ray import tune

        self.tracked = True
        self.run = self.attempt.run_id if self.attempt else None
        self.start_seconds = self.start_seconds or time.monotonic() - self.began
        for point in points:
            bad = [name for name, value in point.items() if name.endswith("loss") and not math.isfinite(value)]
            if bad:
                raise SoldiomError(f"{bad[0]} is {point[bad[0]]} at step {point['step']}.")
            if point["step"] and "validation_loss" in point:
                value = self._value_of(point)
                if value is None:
                    continue
                better = min if self.setup.metric in SMALLER_IS_BETTER else max
                self.best = value if self.best is None else better(value, self.best)
                self.validated += 1
                tune.report(self._report(self.best))
        self._start_ahead()

    def _start_ahead(self) -> None:
        if self.setup.starts_ahead and not _waiting and self.number < self.setup.last:
            attempt = self._attempt(self.setup.declared)
            attempt.start()
            _waiting.append(attempt)

    def _value_of(self, point: Mapping[str, float]) -> float | None:
        """The metric at a validation; SoldiomError where this task does not have it."""
        name = f"validation_{self.setup.metric}"
        if name not in point:
            known = ", ".join(key.removeprefix("validation_") for key in point if key.startswith("validation_"))
            raise SoldiomError(f"The metric {self.setup.metric!r} is not measured; known here: {known}.")
        return float(point[name])

    def _report(self, value: float | None, **more: Any) -> dict[str, Any]:
        seconds = {"seconds": time.monotonic() - self.began, "start_seconds": self.start_seconds}
        run = {"run": self.run, "validated": self.validated, "first_mark": self._marks().start}
        return seconds | run | ({} if value is None else {"value": value}) | more

    def _tags(self) -> dict[str, str]:
        tags = {"soldiom.sweep": self.setup.sweep_id, "soldiom.trial": str(self.number)}
        return tags | ({"mlflow.parentRunId": self.setup.parent_run} if self.setup.parent_run else {})

    def _look_for_stop(self, fraction: float, message: str) -> None:
        if self._stopped.is_set():
            raise CancelledError(f"Trial {self.number} was stopped.")
