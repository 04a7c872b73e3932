"""A training in MLflow: what it was made from, its curves, what it used. A thread of its own talks to MLflow, so that
neither a server that is away nor one that hangs holds the training up."""

import logging
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from soldiom_ray.train.state import Metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
RUN_TAG = "soldiom.run"
BUFFERED_POINTS = 100_000
"""What is buffered for an MLflow that is away; beyond that the oldest are dropped."""
BATCH_POINTS, BATCH_PARAMETERS = 1000, 100
"""What MLflow takes in one call."""
LONGEST_PAUSE_SECONDS = 30.0
END_SECONDS = 15.0
"""How long the end of a training waits for MLflow."""


@dataclass(frozen=True)
class Origin:
    """What a training is made from: parameters as they were declared, and its inputs."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    dataset: str = ""
    """Its id: `dataset-HASH`."""
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Point:
    key: str
    value: float
    step: int | None
    """None: seconds since the run began."""
    unix_seconds: float


class Tracker:
    """One run in MLflow, found again by its name when a training is started anew. Only `settle` and `end`
    wait, and not for long; nothing raises."""

    def __init__(self, url: str | None, experiment: str, name: str, origin: Origin | None = None) -> None:
        self.run_id: str | None = None
        self.url, self.experiment, self.name, self.origin = url, experiment, name, origin or Origin()
        self._points: deque[_Point] = deque(maxlen=BUFFERED_POINTS)
        self._logged: set[tuple[str, int]] = set()
        self._end: tuple[str, Mapping[str, bytes]] | None = None
        self._client: MlflowClient | None = None
        self._began, self._given_up = 0.0, False
        self._wake, self._idle, self._closed = threading.Event(), threading.Event(), threading.Event()
        if url is None:
            log.warning("MLflow is not running; this training is not tracked")
            self._idle.set()
            return
        self._wake.set()
        threading.Thread(target=self._work, daemon=True, name="mlflow").start()

    def add(self, points: Iterable[Metrics]) -> None:
        """Points of the curves, their step as MLflow's step. A point that is added twice is logged once."""
        self._queue(
            _Point(key, float(value), int(point["step"]), time.time())
            for point in points
            for key, value in point.items()
            if key != "step"
        )

    def add_usage(self, usage: Iterable[tuple[str, Metrics]]) -> None:
        """What workers use, among MLflow's system metrics."""
        self._queue(
            _Point(f"system/{worker}/{key}", float(value), None, time.time())
            for worker, sample in usage
            for key, value in sample.items()
        )

    def settle(self, seconds: float = END_SECONDS) -> str | None:
        """Wait a moment until MLflow has all that was added; its run's id, when there is one."""
        self._idle.wait(seconds)
        return self.run_id

    def end(self, status: str, numbers: Mapping[str, float], files: Mapping[str, bytes] | None = None) -> None:
        """The last numbers and files (by name); the run is FINISHED, FAILED or KILLED."""
        if self.url is None:
            return
        self._queue(_Point(key, float(value), 0, time.time()) for key, value in numbers.items())
        self._end = (status, files or {})
        self._wake.set()
        if not self._closed.wait(END_SECONDS):
            self._given_up = True
            log.warning("MLflow did not take everything", extra={"data": {"points": len(self._points)}})

    def _queue(self, points: Iterable[_Point]) -> None:
        if self.url is not None:
            self._points.extend(points)
            self._idle.clear()
            self._wake.set()

    def _work(self) -> None:
        retrying = Retrying(  # whatever MLflow's client or the network raises: tracking must not end a training
            retry=retry_if_exception_type(Exception),
            wait=wait_exponential(1.0, LONGEST_PAUSE_SECONDS),
            stop=lambda _: self._given_up,
            before_sleep=_log_silence,
            retry_error_callback=lambda _: True,
        )
        ended = False
        while not ended and not self._given_up:
            self._wake.wait()
            self._wake.clear()
            ended = retrying(self._deliver)
            if retrying.statistics["attempt_number"] > 1 and not self._given_up:
                log.info("MLflow answers again")

    def _deliver(self) -> bool:
        """Log all that waits; whether that was the end. What fails is logged again by the next call."""
        client = self._client or self._begin()
        run = str(self.run_id)
        while batch := [self._points.popleft() for _ in range(min(BATCH_POINTS, len(self._points)))]:
            try:
                self._log_batch(client, run, batch)
            except BaseException:
                self._points.extendleft(reversed(batch))
                raise
        if (end := self._end) is not None:
            status, files = end
            with tempfile.TemporaryDirectory(prefix="soldiom-") as folder:
                for name, data in files.items():
                    (path := Path(folder) / name).write_bytes(data)
                    client.log_artifact(run, str(path))
            client.set_terminated(run, status=status)
            self._closed.set()
        if not self._points:
            self._idle.set()
        return end is not None

    def _log_batch(self, client: "MlflowClient", run: str, batch: list[_Point]) -> None:
        from mlflow.entities import Metric

        fresh = {
            (point.key, step): Metric(point.key, point.value, int(point.unix_seconds * 1000), step)
            for point in batch
            if (step := int(point.unix_seconds - self._began) if point.step is None else point.step) is not None
            and (point.key, step) not in self._logged
        }
        if fresh:
            client.log_batch(run, metrics=list(fresh.values()))
        self._logged |= fresh.keys()

    def _begin(self) -> "MlflowClient":
        """Make the run, or find the one of an earlier start of the same training."""
        import os

        os.environ.update(PATIENCE)
        import mlflow
        from mlflow.entities import Param

        client = mlflow.MlflowClient(tracking_uri=self.url)
        known = client.get_experiment_by_name(self.experiment)
        experiment_id = known.experiment_id if known else client.create_experiment(self.experiment)
        runs = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{self.name}'", max_results=1)
        run = runs[0] if runs else client.create_run(experiment_id, run_name=self.name, tags={RUN_TAG: self.name})
        if runs:
            client.update_run(run.info.run_id, status="RUNNING")
            for key in run.data.metrics:
                self._logged |= {(key, m.step) for m in client.get_metric_history(run.info.run_id, key)}
        for key, value in self.origin.tags.items():
            client.set_tag(run.info.run_id, key, value)
        parameters = [
            Param(key, value) for key, value in flattened(self.origin.parameters).items() if key not in run.data.params
        ]
        for start in range(0, len(parameters), BATCH_PARAMETERS):
            client.log_batch(run.info.run_id, params=parameters[start : start + BATCH_PARAMETERS])
        if self.origin.dataset and not run.inputs.dataset_inputs:
            client.log_inputs(run.info.run_id, datasets=[_input(self.origin)])
        self.run_id, self._client, self._began = run.info.run_id, client, run.info.start_time / 1000
        return client


def _log_silence(state: RetryCallState) -> None:
    """Log the first call that fails."""
    if state.attempt_number == 1 and state.outcome is not None:
        log.warning(
            "MLflow does not answer; the training continues, its points are buffered",
            extra={"data": {"error": type(state.outcome.exception()).__name__}},
        )


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values under dotted names, as text; lists joined by commas."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            flat[prefix + key] = ", ".join(map(str, value))[:500]
        else:
            flat[prefix + key] = str(value)[:500]
    return flat


def _input(origin: Origin) -> Any:
    """The dataset as MLflow's input of a run."""
    import json

    from mlflow.entities import Dataset, DatasetInput, InputTag

    kind, _, digest = origin.dataset.rpartition("-")
    dataset = Dataset(
        name=origin.dataset,
        digest=digest[:36],
        source_type="soldiom",
        source=json.dumps({"artifact": origin.dataset, "kind": kind}),
        profile=json.dumps(dict(origin.counts)),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""With its own defaults MLflow's client waits four minutes for a server that is gone (measured: 246 s a call)."""
