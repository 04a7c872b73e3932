"""A training in MLflow: what is logged, and that a server that is away, hangs or fails never holds a training up."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from soldiom_ray.train import tracking
from soldiom_ray.train.tracking import Origin, Tracker, flattened

POINTS: list[dict[str, float | int]] = [
    {"step": 0, "tokens": 0, "validation_loss": 3.0},
    {"step": 5, "tokens": 500, "validation_loss": 2.0, "train_loss": 2.5},
]


def client_at(place: Path) -> Any:
    """A real MLflow store in a folder, with an experiment whose files lie there too."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{place}/mlflow.db")
    client.create_experiment("quickstart", artifact_location=str(place / "files"))
    return client


def test_a_training_is_tracked_with_its_origin_curves_usage_and_files(tmp_path: Path) -> None:
    client = client_at(tmp_path)
    parameters = {"method": "lora", "architecture": {"hidden_size": 32}, "target_modules": ["q", "v"]}
    origin = Origin(parameters, {"soldiom.base_hash": "abc"}, "dataset-0123456789abcdef", {"train": 60})
    tracker = Tracker(client.tracking_uri, "quickstart", "run-1", origin)
    tracker.add(POINTS)
    tracker.add_usage([("worker_0", {"cpu_percent": 98.5, "resident_mib": 700})])
    assert tracker.settle(60) is not None
    tracker.end("FINISHED", {"cpu_seconds": 1.5}, {"curves.png": b"a picture"})
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED" and run.data.tags["soldiom.base_hash"] == "abc"
    assert run.data.params == {"method": "lora", "architecture.hidden_size": "32", "target_modules": "q, v"}
    assert run.data.metrics["validation_loss"] == 2.0 and run.data.metrics["cpu_seconds"] == 1.5
    assert run.data.metrics["system/worker_0/cpu_percent"] == 98.5
    assert [m.step for m in client.get_metric_history(tracker.run_id, "validation_loss")] == [0, 5]
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.name == "dataset-0123456789abcdef" and json.loads(given.dataset.profile) == {"train": 60}
    assert [file.path for file in client.list_artifacts(tracker.run_id)] == ["curves.png"]


def test_a_training_started_anew_goes_on_in_its_run_and_tells_no_point_twice(tmp_path: Path) -> None:
    client = client_at(tmp_path)
    first = Tracker(client.tracking_uri, "quickstart", "run-1")
    first.add(POINTS)
    assert first.settle(60)
    first.end("FAILED", {})
    again = Tracker(client.tracking_uri, "quickstart", "run-1")
    again.add([*POINTS, {"step": 9, "train_loss": 2.0}])
    assert again.settle(60) == first.run_id
    again.add(POINTS)
    again.end("FINISHED", {})
    assert client.get_run(again.run_id).info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(again.run_id, "train_loss")] == [5, 9]


def test_an_mlflow_that_is_away_is_told_of_once_and_waited_for_a_moment_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "END_SECONDS", 0.5)
    tracker = Tracker("http://127.0.0.1:9", "quickstart", "run-1")
    for step in range(5):
        tracker.add([{"step": step, "train_loss": 1.0}])
    while "MLflow does not answer" not in caplog.text:
        time.sleep(0.05)
    assert tracker.settle(0.1) is None
    tracker.end("FINISHED", {})
    assert caplog.text.count("MLflow does not answer") == 1 and "did not take everything" in caplog.text


@contextlib.contextmanager
def a_server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_POST = do_GET  # noqa: N815 (the name that http.server asks for)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("how", ["hangs", "fails"])
def test_an_mlflow_that_hangs_or_fails_holds_nothing_up(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "END_SECONDS", 0.5)
    released, asked = threading.Event(), threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.set()
        if how == "hangs":
            released.wait()
        else:
            handler.send_error(500)

    with a_server(answer) as url:
        tracker = Tracker(url, "quickstart", "run-1")
        assert asked.wait(60)
        for step in range(1000):
            tracker.add([{"step": step, "train_loss": 1.0}])
        tracker.end("FINISHED", {})
        released.set()  # the server has not answered until here


def test_points_are_kept_for_an_mlflow_that_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_at(tmp_path)
    answers: list[bool] = []
    begin = Tracker._begin

    def away_twice(self: Tracker) -> Any:
        if self.name != "kept":  # another test's, whose MLflow never answered
            return begin(self)
        answers.append(len(answers) >= 2)
        if not answers[-1]:
            raise ConnectionError("refused")
        return begin(self)

    monkeypatch.setattr(Tracker, "_begin", away_twice)
    tracker = Tracker(client.tracking_uri, "quickstart", "kept")
    tracker.add(POINTS)
    assert tracker.settle(60) and answers == [False, False, True]
    assert [m.step for m in client.get_metric_history(tracker.run_id, "validation_loss")] == [0, 5]
    tracker.end("FINISHED", {})


def test_nested_parameters_are_told_flat_and_short() -> None:
    flat = flattened({"a": {"b": 1, "c": {"d": None}}, "e": ["x", 2], "f": "y" * 900})
    assert flat == {"a.b": "1", "a.c.d": "None", "e": "x, 2", "f": "y" * 500}
