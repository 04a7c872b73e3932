"""What a trial's actor runs: one training as a run of Ray Train, its validations reported to Ray Tune.

Ray Tune keeps the actor for the next trial, and the actor keeps Ray Train's workers: they have read their libraries.
Workers that failed are replaced."""

import logging
import math
import os
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soldiom_ray import logs, tracing
from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import CancelledError, SoldiomError
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage
from soldiom_ray.train.driver import Attempt, run_on_ray
from soldiom_ray.train.ray_train import Placement
from soldiom_ray.train.state import Metrics
from soldiom_ray.train.sweeps.trials import Measure
from soldiom_ray.train.tracking import Origin, Tracker

log = logging.getLogger(__name__)
STOP_SECONDS = "30"
"""How long Ray Tune waits for a trial that it stops before it takes another actor for the next one."""
ACTOR_MARKS = 256
_free: list[Attempt] = []
"""Workers of this actor's trials that wait for the next one."""


@dataclass(frozen=True)
class TrialSetup:
    """What all trials of a sweep share. It is sent to their actors."""

    settings: Settings
    dataset: Manifest
    declared: Train
    measure: Measure
    experiment: str
    sweep_id: str
    parent_run: str | None
    """The sweep's run in MLflow."""
    tenant: str
    placement: Placement
    marks: range
    """Of what the trials reserve: see `release_placements`."""
    parent: str | None = None
    """The sweep's span that those of the trials belong to, as a `traceparent`."""


def declared_with(declared: Train, settings: Mapping[str, Any]) -> Train:
    """The training of a trial."""
    return Train.model_validate(declared.model_dump(mode="json") | dict(settings))


def marks_of(marks: range, actor: str) -> range:
    """Of a sweep's marks those of one actor, by its id: what it reserved can be freed whenever it is lost."""
    slot = zlib.crc32(actor.encode()) % (len(marks) // ACTOR_MARKS)
    return marks[slot * ACTOR_MARKS : (slot + 1) * ACTOR_MARKS]


def run_trial(config: Mapping[str, Any], setup: TrialSetup) -> dict[str, Any]:
    """Train to the end; the last report to Ray Tune, which names the run, or why there is none. SystemExit when Ray
    Tune has stopped the trial."""
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = STOP_SECONDS
    logs.start_logging()
    tracing.start_tracing(setup.settings, "trial")
    trial = _Trial(setup, int(config["number"]), config["settings"])
    try:
        with tracing.span("trial", setup.parent, number=trial.number):
            run = trial.train()
    except CancelledError:
        sys.exit(0)  # as Ray Tune ends a thread: after a return it would wait for another report
    except SoldiomError as error:
        return trial.failed(error.what)
    except Exception as error:  # the sweep goes on; the message, which may hold a user's text, stays in the log
        log.exception("a trial failed unexpectedly")
        return trial.failed(f"{type(error).__name__}; see the job's log.")
    finally:
        tracing.flush()
    return trial.report_of(run)


class _Trial:
    """One trial from its start to its last report."""

    def __init__(self, setup: TrialSetup, number: int, settings: Mapping[str, Any]) -> None:
        from ray.train._internal.session import get_session

        self.setup, self.number, self.settings = setup, number, settings
        self.declared = declared_with(setup.declared, settings)
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
        declared = self.declared
        attempt = self.attempt = _free.pop() if _free else self._attempt(declared)
        try:
            return run_on_ray(
                self.context, self.setup.dataset, declared, attempt=attempt, observe=self._observe, tags=self._tags()
            )
        finally:
            if attempt.is_free:
                _free.append(attempt)

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
        import ray

        marks = marks_of(self.setup.marks, ray.get_runtime_context().get_actor_id())
        return Attempt(self.context, declared, self.setup.placement, marks, keeps_workers=True)

    def _observe(self, points: Sequence[Metrics]) -> None:
        """Report validations to Ray Tune. CancelledError when Ray Tune ends the trial; SoldiomError where the loss is
        no number."""
        self.tracked = True
        self.run = self.attempt.run_id if self.attempt else None
        self.start_seconds = self.start_seconds or time.monotonic() - self.began
        for point in points:
            bad = [name for name, value in point.items() if name.endswith("loss") and not math.isfinite(value)]
            if bad:
                raise SoldiomError(f"{bad[0]} is {point[bad[0]]} at step {point['step']}.")
            if point["step"] and "validation_loss" in point:
                value = self._value_of(point)
                better = min if self.setup.measure.mode == "min" else max
                self.best = value if self.best is None else better(value, self.best)
                self.validated += 1
                self._tell_ray_tune()

    def _tell_ray_tune(self) -> None:
        from ray import tune

        try:
            tune.report(self._report(self.best))
        except SystemExit as error:  # so Ray Tune ends a thread; the workers are to stop before that
            raise self._stop() from error

    def _value_of(self, point: Mapping[str, float]) -> float:
        return self.setup.measure.value(point, self.declared.base_model)

    def _report(self, value: float | None, **more: Any) -> dict[str, Any]:
        seconds = {"seconds": time.monotonic() - self.began, "start_seconds": self.start_seconds}
        run = {"run": self.run, "validated": self.validated}
        return seconds | run | ({} if value is None else {"value": value}) | more

    def _tags(self) -> dict[str, str]:
        tags = {"soldiom.sweep": self.setup.sweep_id, "soldiom.trial": str(self.number)}
        return tags | ({"mlflow.parentRunId": self.setup.parent_run} if self.setup.parent_run else {})

    def _look_for_stop(self, fraction: float, message: str) -> None:
        if self._stopped.is_set():
            raise self._stop()

    def _stop(self) -> CancelledError:
        return CancelledError(f"Trial {self.number} was stopped.")
