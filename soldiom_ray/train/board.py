"""Where a training's rank 0 and its driver meet: progress goes one way, the wish to stop the other."""

import logging
import time
from collections.abc import Callable
from typing import Any

from soldiom_ray.errors import CancelledError, SoldiomError

log = logging.getLogger(__name__)
POST_SECONDS = 0.5


class Board:
    """The actor. It lives on the driver's node and is gone with the driver."""

    def __init__(self) -> None:
        self.fraction, self.message, self.posted = 0.0, "waiting for workers", 0.0
        self.records: list[dict[str, float | int]] = []
        self.stopping = False
        self.error: SoldiomError | None = None

    def post(self, fraction: float, message: str, records: list[dict[str, float | int]]) -> bool:
        """From rank 0: progress and new points of the curves. Returns whether to stop."""
        self.fraction, self.message, self.posted = fraction, message, time.time()
        self.records.extend(records)
        return self.stopping

    def take(self) -> tuple[float, str, list[dict[str, float | int]]]:
        """From the driver: the newest progress, and the points not taken yet."""
        records, self.records = self.records, []
        return self.fraction, self.message, records

    def stop(self) -> None:
        """From the driver: ask the workers to stop."""
        self.stopping = True

    def fail(self, error: SoldiomError) -> None:
        """From a worker: an error that trying again does not cure."""
        self.error = self.error or error

    def verdict(self) -> tuple[bool, SoldiomError | None]:
        """(whether to stop, the error that ended the training)."""
        return self.stopping, self.error


class Reporter:
    """Rank 0's side of the board: few calls, and CancelledError when the driver wants to stop."""

    def __init__(self, board: Any) -> None:
        self.board = board
        self.waiting: list[dict[str, float | int]] = []
        self.posted = 0.0

    def report(self, fraction: float, message: str) -> None:
        """Post when the last post is some time ago."""
        if time.monotonic() - self.posted >= POST_SECONDS:
            self.flush(fraction, message)

    def flush(self, fraction: float, message: str) -> None:
        """Post now."""
        import ray

        records, self.waiting, self.posted = self.waiting, [], time.monotonic()
        if ray.get(self.board.post.remote(fraction, message, records)):
            raise CancelledError("The training was asked to stop.")

    def observe(self, record: dict[str, float | int]) -> None:
        """Keep a point of the curves for the next post."""
        self.waiting.append(record)


class Tracker:
    """The run in MLflow. When MLflow is away the training goes on: one warning, and no further calls."""

    def __init__(self, url: str | None, experiment: str, name: str, parameters: dict[str, Any]) -> None:
        self.run_id: str | None = None
        self._client: Any = None
        if url is None:
            log.warning("MLflow is not running; this training is not tracked")
            return

        def begin() -> None:
            import os

            for variable, value in _PATIENCE.items():
                os.environ[variable] = value
            import mlflow

            client = mlflow.MlflowClient(tracking_uri=url)
            found = client.get_experiment_by_name(experiment)
            place = found.experiment_id if found else client.create_experiment(experiment)
            self.run_id = client.create_run(place, run_name=name).info.run_id
            self._client = client
            client.log_batch(
                self.run_id, params=[mlflow.entities.Param(key, str(value)[:500]) for key, value in parameters.items()]
            )

        self._try(begin)

    def add(self, records: list[dict[str, float | int]]) -> None:
        """Log points of the curves, their step as MLflow's step."""
        metrics = [(key, float(value), int(r["step"])) for r in records for key, value in r.items() if key != "step"]
        self._log(metrics)

    def end(self, status: str, numbers: dict[str, float]) -> None:
        """Log the last numbers and close the run: FINISHED, FAILED or KILLED."""
        self._log([(key, float(value), 0) for key, value in numbers.items()])
        if self._client is not None:
            self._try(lambda: self._client.set_terminated(self.run_id, status=status))

    def _log(self, metrics: list[tuple[str, float, int]]) -> None:
        if self._client is None or not metrics:
            return

        def send() -> None:
            import mlflow

            stamp = int(time.time() * 1000)
            for start in range(0, len(metrics), 1000):
                batch = [
                    mlflow.entities.Metric(key, value, stamp, step)
                    for key, value, step in metrics[start : start + 1000]
                ]
                self._client.log_batch(self.run_id, metrics=batch)

        self._try(send)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever its client or the network raises: tracking must not end a training
            self._client = None
            log.warning(
                "MLflow does not answer; the training goes on untracked",
                extra={"data": {"error": type(error).__name__}},
            )


_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""With its own defaults MLflow's client waits four minutes for a server that is gone (measured: 246 s a call)."""
