"""What runs where the job runs: prepare the work, start workers, follow them, try again, make the run."""

import json
import logging
import math
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from soldiom_ray.artifacts import Context, Draft
from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import CancelledError, UnavailableError
from soldiom_ray.models.planning.memory import SHARDED
from soldiom_ray.records import FileEntry, Manifest, new_id
from soldiom_ray.train.pictures import draw
from soldiom_ray.train.progress import ProgressUpdate
from soldiom_ray.train.ray_train import (
    FAILURES,
    Placement,
    RayTrainFailure,
    placement_of,
    recount_resources,
    release_after_loss,
    release_placements,
    start_runner,
)
from soldiom_ray.train.state import Metrics
from soldiom_ray.train.tracking import Origin, Tracker
from soldiom_ray.train.work import Work, prepare_work
from soldiom_ray.train.worker import run_worker

log = logging.getLogger(__name__)
CURVES_PICTURE = "curves.png"
POLL_SECONDS = 0.5
IDLE_POLL_SECONDS = 0.1
STOP_SECONDS = 25.0
"""How long the workers may take to leave a checkpoint when the job is cancelled: less than a job's process has."""
RETRY_SECONDS = 2.0
MARKS = range(1, 1 << 20)
""""Bytes of memory" by which the placement groups of one attempt are told from all others."""


def run_locally(
    context: Context, dataset: Manifest, declared: Train, observe: Callable[[Metrics], None] = lambda point: None
) -> Manifest:
    """Train in this process, without Ray."""
    draft, work = prepare_work(context, dataset, declared)
    if work is None:
        return context.artifacts.get(draft.id)
    run_worker(work, context.artifacts, context.report, observe)
    return finish(context, draft, work)


def run_on_ray(
    context: Context,
    dataset: Manifest,
    declared: Train,
    *,
    attempt: "Attempt | None" = None,
    observe: Callable[[Sequence[Metrics]], None] = lambda points: None,
    tags: Mapping[str, str] | None = None,
) -> Manifest:
    """Train on the connected Ray and make the run.

    The workers start, and read their libraries, while the dataset is still being tokenised, or were started before
    (`attempt`). `observe` is called with new points of the curves; it ends the training with what it raises. `tags` are
    for MLflow."""
    attempt = attempt or Attempt(context, declared)
    attempt.context, attempt.declared, attempt.observe = context, declared, observe
    try:
        draft, work = prepare_work(context, dataset, declared, before_tokenising=attempt.start)
    except BaseException:
        attempt.let_go()
        raise
    if work is None:
        return context.artifacts.get(draft.id)
    origin = _origin(work, dataset, draft, tags or {})
    tracker = Tracker(context.settings.mlflow_url, context.recipe or "soldiom", draft.id, origin)
    status, numbers, pictures = "FAILED", {}, {}
    try:
        hours = _train_until_done(context, work, tracker, attempt)
        more = {"mlflow_run_id": tracker.settle(), "device_hours": round(hours, 4)}
        manifest = finish(context, draft, work, more)
        status = "FINISHED"
        numbers = _numbers(manifest.details)
        pictures = {CURVES_PICTURE: context.artifacts.read(manifest, CURVES_PICTURE)}
    except (CancelledError, SystemExit):  # Ray Tune ends a trial that it stops by a SystemExit
        status = "KILLED"
        raise
    finally:
        tracker.end(status, numbers, pictures)
    return manifest


def finish(context: Context, draft: Draft, work: Work, more: dict[str, Any] | None = None) -> Manifest:
    """Make the run from what rank 0 left in storage, then remove the checkpoints. `more` goes into its details."""
    checkpoints = work.checkpoints(context.artifacts)
    result = checkpoints.result()
    draft.add_written(FileEntry.model_validate(entry) for entry in result["files"])
    draft.write("curves.json", json.dumps(result["curves"]).encode())
    draft.write(CURVES_PICTURE, draw(result["curves"], result["details"]["best_step"]))
    details = result["details"] | {"base_path_hash": draft.made_from["base"]} | (more or {})
    if work.declared.architecture:
        details["base_model"] = draft.id
    if details["sequence_length"] < work.declared.sequence_length:
        details["notice"] = (
            f"sequence_length {work.declared.sequence_length} was lowered to the model's {details['sequence_length']}"
        )
    if work.checked.notes:
        details["notes"] = work.checked.notes
    if work.checked.template:
        details["template_gaps"] = work.checked.template
    details["seconds_by_part"] = _seconds_by_part(details["seconds_by_part"], time.monotonic() - work.began)
    log.info("trained", extra={"data": details["seconds_by_part"]})
    manifest = draft.commit(counts={"steps": details["steps"], "tokens": details["tokens"]}, details=details)
    checkpoints.clear()
    return manifest


def _seconds_by_part(parts: Mapping[str, float], total: float) -> dict[str, float]:
    """The parts, and what of the total is none of them: workers that start, MLflow, a lost attempt."""
    rest = max(0.0, total - sum(parts.values()))
    return {name: round(seconds, 1) for name, seconds in {**parts, "start_and_end": rest, "total": total}.items()}


def _train_until_done(context: Context, work: Work, tracker: Tracker, attempt: "Attempt") -> float:
    """Train to the end, however often workers, nodes or Ray Train's controller are lost; the hours that workers ran,
    added up. Raises when nothing comes of it FAILURES times in a row."""
    failures, furthest, seconds = 0, 0.0, 0.0
    while True:
        try:
            failure = attempt.run(work, tracker)
        finally:
            seconds += attempt.worker_seconds
        fraction = attempt.update.fraction
        if failure is None and not attempt.update.preempted:
            return seconds / 3600
        if attempt.update.preempted:
            log.info("a node is about to be preempted; the training continues elsewhere")
        elif failure is not None:
            data = {"kind": failure.exception, "error": failure.text[-4000:]}
            log.warning("Ray Train ended with an error", extra={"data": data})
            failures = 0 if fraction > furthest else failures + 1
            furthest = max(furthest, fraction)
            if failures > FAILURES or (failures and failure.tried):
                raise _given_up(failure)
            _wait(context, fraction, RETRY_SECONDS * (1 + failures))
        attempt = attempt.again()


def _given_up(failure: RayTrainFailure) -> UnavailableError:
    times = f"The training's workers failed {FAILURES + 1} times in a row"
    if failure.cause is not None:
        return UnavailableError(
            f"{times}, at last with {failure.cause}; its checkpoints are kept.",
            problems=failure.cause.places,
            remedy="see the job's log for the other causes; run again, it goes on from the last checkpoint",
        )
    return UnavailableError(
        f"{times} ({failure.exception}); its checkpoints are kept.",
        remedy="see the job's log for the cause (often: out of memory); run again, it goes on from the last checkpoint",
    )


class Attempt:
    """The driver's side of one run of Ray Train: groups of workers, one after the other, until the training is done or
    Ray Train gives up.

    One that keeps its workers can be given another training afterwards, of the same number of workers on the same
    devices (`is_free`), until `end` is called or its process ends."""

    def __init__(
        self,
        context: Context,
        declared: Train,
        placement: Placement | None = None,
        marks: range = MARKS,
        *,
        keeps_workers: bool = False,
    ) -> None:
        self.context, self.declared, self.placement = context, declared, placement
        self.observe: Callable[[Sequence[Metrics]], None] = lambda points: None
        self.update = ProgressUpdate()
        self.worker_seconds = 0.0
        self.keeps_workers = keeps_workers
        self.is_free = False
        """Whether its workers are there, or start, and have nothing to do."""
        self._marks, self._mark = marks, secrets.choice(marks)
        self._name = f"train-{new_id()}"
        self._home = context.settings.home / "ray-train"
        self._alive: set[str] = set()
        self._runner: Any = None
        self.run_id: str | None = None
        """Of the run that it works on."""
        self._ended: Any = None
        self._stop_by = math.inf

    def start(self) -> None:
        """Let workers start, unless there are some from before; they wait for their work."""
        if self._runner is not None and self._is_fit():
            return
        self.end()
        if self.placement is None:  # decided once: when nodes are lost later, their return is waited for
            self.placement = placement_of(self.declared)
        self._look_at_nodes()
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)  # Ray Train would let everyone read it
        self._runner = start_runner()
        self._ended = self._runner.run.remote(
            self.declared,
            self._name,
            str(self._home),
            self.placement,
            self._mark,
            keeps_workers=self.keeps_workers,
        )
        self.is_free = self.keeps_workers

    def again(self) -> "Attempt":
        """Start another attempt with the same placement; it keeps no workers."""
        attempt = Attempt(self.context, self.declared, self.placement, self._marks)
        attempt.observe = self.observe
        attempt.start()
        return attempt

    def run(self, work: Work, tracker: Tracker) -> RayTrainFailure | None:
        """How it failed; None when the training is done, or the workers were preempted.

        Passes progress on; stops the workers when the job is cancelled. Raises what ended the training: an error that a
        worker raised on purpose, or one that came back."""
        import ray

        try:
            self.run_id, self.is_free = work.run, False
            self.update, self.worker_seconds, self._stop_by = ProgressUpdate(), 0.0, math.inf
            self.keeps_workers &= work.setup.strategy not in SHARDED  # what those leave in a process is not known
            ray.get(self._runner.set_work.remote(work))
            self._follow(tracker)
            self._receive(tracker)
            if self.update.error is not None:
                raise self.update.error
            if self.update.done:
                return None
            failure: RayTrainFailure | None = ray.get(self._ended)
            return failure
        except ray.exceptions.RayError as error:
            return RayTrainFailure(type(error).__name__, str(error))
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Keep the workers for other work where they are kept, whole and idle, or soon will be; else end."""
        self.is_free = self.keeps_workers and self._runner is not None and (self.is_free or self._become_idle())
        if not self.is_free:
            self.end()

    def _become_idle(self) -> bool:
        """Whether the workers have stopped within STOP_SECONDS and are fit for other work."""
        import ray

        try:
            self._stop()
            while not ray.get(self._runner.withdraw_work.remote()):
                if time.monotonic() > self._stop_by or ray.get(self._runner.is_unfit.remote()):
                    return False
                time.sleep(IDLE_POLL_SECONDS)
            return self._is_fit()
        except ray.exceptions.RayError:
            return False

    def _is_fit(self) -> bool:
        """Whether the workers could do other work."""
        import ray

        try:
            return not (ray.wait([self._ended], timeout=0)[0] or ray.get(self._runner.is_unfit.remote()))
        except ray.exceptions.RayError:
            return False

    def end(self) -> None:
        """Leave nothing of it: no process, no reservation, no file."""
        import ray

        if self._runner is None:
            return
        ended = bool(ray.wait([self._ended], timeout=0)[0])
        ray.kill(self._runner)
        marks = range(self._mark, self._mark + 1)
        (release_placements if ended else release_after_loss)(marks)
        shutil.rmtree(self._home / self._name, ignore_errors=True)
        self._runner, self.is_free = None, False

    def _follow(self, tracker: Tracker) -> None:
        """Return when it has ended, its workers are kept and have done all, or an error has ended the training (workers
        that wait for the one that failed would wait on). CancelledError when the job is cancelled and the workers have
        ended or used up STOP_SECONDS."""
        import ray

        cancelled: CancelledError | None = None
        while not ray.wait([self._ended], timeout=POLL_SECONDS)[0]:
            self._receive(tracker)
            if self.update.error is not None or self.update.done:
                break
            self._look_at_nodes()
            if cancelled is None:
                try:
                    self.context.report(self.update.fraction, self.update.message)
                except CancelledError as error:
                    cancelled = error
                    self._stop()
            if cancelled and (not self.update.started or time.monotonic() > self._stop_by):
                break
        if cancelled:
            self._receive(tracker)
            raise cancelled

    def _stop(self) -> None:
        """Ask the workers to stop, and begin their STOP_SECONDS, unless that was done before."""
        import ray

        if self._stop_by == math.inf:
            self._stop_by = time.monotonic() + STOP_SECONDS
            ray.get(self._runner.request_stop.remote())

    def _look_at_nodes(self) -> None:
        import ray

        if self.declared.min_workers is None:
            return
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if alive != self._alive:
            recount_resources()
        self._alive = alive

    def _receive(self, tracker: Tracker) -> None:
        import ray

        self.update = ray.get(self._runner.take_update.remote())
        for failure in self.update.failures:
            log.warning("a worker failed", extra={"data": {"error": str(failure), "traceback": failure.traceback}})
        self.worker_seconds = ray.get(self._runner.worker_seconds.remote())
        tracker.add(self.update.curve_points)
        tracker.add_usage(self.update.usage)
        if self.update.curve_points:
            self.observe(self.update.curve_points)


def _wait(context: Context, fraction: float, seconds: float) -> None:
    """Wait; CancelledError when the job is cancelled meanwhile."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        context.report(fraction, "starting workers again")
        time.sleep(POLL_SECONDS)


def _origin(work: Work, dataset: Manifest, draft: Draft, more: Mapping[str, str]) -> Origin:
    declared = work.declared.model_dump(mode="json", exclude_none=True)
    tags = {
        "soldiom.dataset": dataset.id,
        "soldiom.tokens": work.tokens,
        "soldiom.base_model": work.declared.base_model,
        "soldiom.base_hash": str(draft.made_from["base"]),
    }
    return Origin(declared | {"dataset": dataset.id}, tags | dict(more), dataset.id, dataset.counts)


def _numbers(details: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a run's details, nested ones under dotted names."""
    numbers: dict[str, float] = {}
    for key, value in details.items():
        if isinstance(value, Mapping):
            numbers |= _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            numbers[prefix + key] = float(value)
    return numbers
