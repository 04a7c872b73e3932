"""Sweeps: spaces and their mistakes; one on a real Ray that is cancelled, goes on, and takes the best of its trials."""

import json
import math
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from conftest import NO_DASHBOARD
from process_title import title_of
from test_tasks import dataset_of, encoder, sentences
from test_train_tracking import client_at
from training import context_in, dataset_in, declared, two_layer_model

from soldiom_ray.domains.recipes import validate_recipe
from soldiom_ray.domains.schema import Train
from soldiom_ray.domains.search import Auto, Sweep, draw_trials, read_domain
from soldiom_ray.errors import CancelledError, InputError, SoldiomError
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage
from soldiom_ray.train.sweeps.trials import Trial, TrialBook

__all__ = ["encoder"]


def recipe(space: dict[str, Any], **sweep: Any) -> Sweep:
    train = {"base_model": "builtin/tiny"}
    content = {"name": "x", "dataset": "dataset-1", "train": train, "sweep": {"space": space, **sweep}}
    read = validate_recipe(content).sweep
    assert read is not None
    return read


@pytest.mark.parametrize(
    ("value", "kind", "extremes"),
    [
        ("1e-5..1e-3", "loguniform", (1e-5, 1e-3)),
        ("0.1..0.5", "uniform", (0.1, 0.5)),
        ("4..64", "integers", (4, 64)),
        ("8,16", "choice", (8, 16)),
        ("full,lora", "choice", ("full", "lora")),
        ("{uniform: [0, 0.1]}", "uniform", (0, 0.1)),
        ([1, 2], "choice", (1, 2)),
        ({"loguniform": ["1e-5", 0.001]}, "loguniform", (1e-5, 1e-3)),
    ],
)
def test_values_are_read_as_they_are_written(value: Any, kind: str, extremes: tuple[Any, ...]) -> None:
    domain = read_domain(value)
    assert domain.kind == kind and tuple(domain.extremes()) == extremes


@pytest.mark.parametrize(
    ("space", "more", "said"),
    [
        ({"lerning_rate": [1, 2]}, {}, '`space.lerning_rate` is no setting of `train`.*Did you mean "learning_rate"'),
        ({"rank": {"choice": []}}, {}, "`space.rank` has a choice without values; give at least one"),
        ({"dropout": {"uniform": [0.5, 0.1]}}, {}, "from 0.5 to 0.1; give the lower bound first"),
        ({"learning_rate": {"loguniform": [0, 1]}}, {}, "from 0, which has no logarithm; begin above 0"),
        ({"rank": {"integers": [1.5, 4]}}, {}, "give whole numbers"),
        ({"rank": {"randnt": [1, 4]}}, {}, "known: choice, uniform, loguniform, integers"),
        ({"rank": [0, 8]}, {}, "`space.rank` may become 0: Input should be greater than or equal to 1"),
        ({"method": ["lora", "lore"]}, {}, "`space.method` may become 'lore'"),
        ({"base_model": ["/etc", "builtin/tiny"]}, {}, "`space.base_model` is the same for all trials"),
        ({}, {}, "`space` is empty: name at least one"),
        ({"rank": [8]}, {"trials": 0}, "sweep.trials: is 0: Input should be greater"),
        ({"rank": [8]}, {"minutes": 0}, "sweep.minutes: is 0: Input should be greater than 0"),
        ({"rank": [8]}, {"minutes": "inf"}, "sweep.minutes: .*finite"),
    ],
)
def test_a_mistake_in_a_space_is_named_with_its_value_and_remedy(
    space: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        recipe(space, **more)
    assert re.search(said, str(caught.value)), str(caught.value)


def test_a_random_search_repeats_itself_and_tries_nothing_twice() -> None:
    sweep = recipe({"rank": [8, 16], "method": "full,lora"}, trials=20)
    assert draw_trials(sweep) == draw_trials(sweep) and len(draw_trials(sweep)) == 4
    other = recipe({"learning_rate": "1e-5..1e-2"}, trials=20, seed=3)
    assert len(draw_trials(other)) == 20 and draw_trials(other)[:5] == draw_trials(
        recipe(other.space, trials=5, seed=3)
    )


def test_the_book_of_trials_reads_back_and_knows_the_best(tmp_path: Path) -> None:
    storage = open_storage(load_settings({"SOLDIOM_HOME": str(tmp_path)}))
    book = TrialBook(storage, "sweep-0", "loss")
    for number, (status, values) in enumerate(
        [("completed", (3.0, 2.0)), ("pruned", (1.0,)), ("completed", (2.5, 1.5)), ("failed", ()), ("running", (0.5,))],
        1,
    ):
        book.put(Trial(number=number, settings={"rank": number}, status=status, values=values))
    again = TrialBook(storage, "sweep-0", "loss")
    best = again.best()
    assert again.trials == book.trials and best is not None and best.number == 3
    assert [trial.number for trial in again.unfinished()] == [5]
    assert [row["status"] for row in again.table()] == ["completed", "pruned", "best", "failed", "running"]


def test_halving_lets_trials_wait_for_one_another_and_the_best_go_on_also_after_a_kill(tmp_path: Path) -> None:
    from ray.tune.search import Searcher

    from soldiom_ray.train.sweeps.search import RecordedSearch, rungs_of

    sweep = recipe({"learning_rate": "1e-5..1e-2"}, trials=12, scheduler="halving")
    book = TrialBook(open_storage(load_settings({"SOLDIOM_HOME": str(tmp_path)})), "sweep-0", "loss")
    rungs, validations = rungs_of(sweep, 8), 0
    assert rungs == [1, 4]

    def losses(rate: float, count: int) -> tuple[float, ...]:
        return tuple(abs(math.log10(rate) + 3) + 1 / number for number in range(1, count + 1))

    for lives in (5, 8, 100):  # it is killed twice
        search = RecordedSearch(book, sweep, draw_trials(sweep), "min", rungs)
        for life in range(lives):
            config = search.suggest(f"{life}")
            if config == Searcher.FINISHED:
                break
            number, until = config["number"], config["until"]
            values = losses(config["settings"]["learning_rate"], until or 7)
            validations += len(values) - len(book.trials[number].values)
            book.change(number, values=values, status="pruned" if until else "completed")
            search.on_trial_complete(f"{life}")
    assert validations == 12 * 1 + 3 * 3 + 1 * 3
    (completed,) = (trial for trial in book.in_order() if trial.status == "completed")
    assert completed.value == min(losses(trial.settings["learning_rate"], 7)[-1] for trial in book.in_order())
    assert sorted(len(trial.values) for trial in book.in_order()) == [1] * 9 + [4, 4, 7]


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    import ray

    os.environ["RAY_API_SERVER_ADDRESS"] = NO_DASHBOARD
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    yield
    ray.shutdown()


@pytest.mark.service
def test_a_sweep_goes_on_after_a_stop_prunes_outlives_a_failed_trial_and_takes_the_best(
    ray_here: None, tmp_path: Path
) -> None:
    from soldiom_ray.train import sweep

    (tmp_path / "mlflow").mkdir()
    client = client_at(tmp_path / "mlflow")
    context = context_in(tmp_path)
    settings = replace(context.settings, mlflow_url=client.tracking_uri)
    shown: dict[str, Any] = {}

    lock = threading.Lock()  # as a job's own report has one, which no process can send to another
    reported: list[tuple[float, str]] = []

    def report(fraction: float, message: str) -> None:
        with lock:
            assert 0 <= fraction <= 1
            reported.append((fraction, message))

    def stop_after_the_first(fraction: float, message: str) -> None:
        report(fraction, message)
        if message.startswith("trial 2"):
            raise CancelledError("stop")

    context = replace(context, settings=settings, show=shown.update, report=report, recipe="quickstart")
    dataset = dataset_in(context.artifacts)
    train = declared(two_layer_model(tmp_path / "base"), validations=None)
    search = Sweep(space={"learning_rate": [1e-2, 1e-7, 1e30]}, trials=3, seed=1)
    assert draw_trials(search)[0] == {"learning_rate": 1e-2}
    with pytest.raises(CancelledError):
        sweep(replace(context, report=stop_after_the_first), dataset, train, search)
    assert shown["trials"][0]["status"] == "best"
    assert any(0 < share < 1 / 3 and "validation" in message for share, message in reported)  # of the first trial
    first = shown["trials"][0]
    workers: set[int] = set()

    def see_workers(fraction: float, message: str) -> None:
        children = psutil.Process().children(recursive=True)
        workers.update(each.pid for each in children if "RayTrainWorker" in title_of(each))

    run, made = sweep(replace(context, report=see_workers), dataset, train, search)
    assert len(workers) == 1, "both trials are run by the same workers"
    trials = {row["settings"]["learning_rate"]: row for row in made.details["trials"]}
    assert {rate: row["status"] for rate, row in trials.items()} == {1e-2: "best", 1e-7: "pruned", 1e30: "failed"}
    assert first in made.details["trials"]  # it was not run again
    assert trials[1e-7]["validations"] == 1 and "loss is" in trials[1e30]["reason"]
    assert run.id == made.details["best_run"] and run.details["learning_rate"] == 1e-2
    assert sweep(context, dataset, train, search) == (run, made)
    assert not [key for key in context.artifacts.storage.keys("run") if "checkpoints" in key]
    assert len({key.split("/")[1] for key in context.artifacts.storage.keys("tokens")}) == 1
    experiment = client.get_experiment_by_name("quickstart").experiment_id
    (parent,) = client.search_runs([experiment], f"tags.`soldiom.run` = '{made.id}'")
    nested = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    ends = {float(r.data.params["learning_rate"]): (r.info.status, r.data.tags["soldiom.trial_status"]) for r in nested}
    assert ends == {1e-2: ("FINISHED", "completed"), 1e-7: ("KILLED", "pruned"), 1e30: ("FAILED", "failed")}
    assert parent.info.status == "FINISHED" and parent.data.metrics["best_loss"] == made.details["best_value"]


def test_a_sweep_whose_trials_all_fail_says_why(tmp_path: Path) -> None:
    from soldiom_ray.train import sweep
    from soldiom_ray.train.sweeps import driver

    context = context_in(tmp_path)
    train = declared(two_layer_model(tmp_path / "base"), validations=None)
    search = Sweep(space={"learning_rate": [1e30, 1e29]}, trials=2)

    def fail(self: Any, parent_run: str | None, experiment: str) -> None:
        self.book.put(Trial(number=1, settings={"learning_rate": 1e30}, status="failed", reason="loss is nan."))
        self.book.put(Trial(number=2, settings={"learning_rate": 1e29}, status="failed", reason="loss is nan."))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver._Search, "_run_trials", fail)
        with pytest.raises(SoldiomError, match=r"None of the 2 trials came to an end \(trial 2: loss is nan"):
            sweep(context, dataset_in(context.artifacts), train, search)
    assert not [key for key in context.artifacts.storage.keys("sweep") if "/trials/" in key]  # another call tries again


def test_what_a_lost_actor_reserved_is_known_before_its_first_report(tmp_path: Path) -> None:
    from soldiom_ray.train.sweeps.search import Watch
    from soldiom_ray.train.sweeps.trial import marks_of

    book, lost = TrialBook(open_storage(load_settings({"SOLDIOM_HOME": str(tmp_path)})), "sweep-0", "loss"), []
    watch = Watch(book, lambda: False, lambda: None, lost.append)

    def trial(number: int, actor: str, status: str = "RUNNING") -> Any:
        handle = SimpleNamespace(_actor_id=SimpleNamespace(hex=lambda: actor))
        state = SimpleNamespace(ray_actor=handle)
        return SimpleNamespace(config={"number": number}, status=status, temporary_state=state)

    trials = [trial(1, "0a", "TERMINATED"), trial(2, "0b"), trial(3, "0c"), trial(4, "0a", "ERROR")]
    for each in trials[:3]:
        book.put(Trial(number=each.config["number"], settings={}))
        watch.on_trial_start(0, trials, each)
    watch.on_trial_error(0, trials, trials[1])
    assert lost == ["0b"]
    watch.on_trial_error(0, trials, trials[3])  # before its start in the actor of one that has ended
    assert lost == ["0b", "0a"]
    ranges = {marks_of(range(7, 7 + (1 << 20)), f"{number:032x}") for number in range(50)}
    assert all(7 <= each.start < each.stop <= 7 + (1 << 20) for each in ranges) and len(ranges) > 45


@pytest.mark.service
def test_when_the_minutes_are_over_the_trial_that_is_ahead_is_trained_to_its_end(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soldiom_ray.train import sweep
    from soldiom_ray.train.sweeps import driver

    later = 0.0
    notes: list[str] = []

    def report(fraction: float, message: str) -> None:
        nonlocal later
        if message.startswith("trial 1") and "best loss" in message:
            later += 3600

    context = replace(context_in(tmp_path), report=report, notify=notes.extend)
    dataset, train = dataset_in(context.artifacts), declared(two_layer_model(tmp_path / "base"), validations=None)
    train = train.model_copy(update={"max_tokens": 512 * 800})
    search = Sweep(space={"learning_rate": [1e-2, 3e-3]}, minutes=60)
    hours = iter(range(0, 3600 * 100, 3600))
    monkeypatch.setattr(driver, "time", SimpleNamespace(monotonic=lambda: next(hours)))
    with pytest.raises(SoldiomError, match="The time was over before the first validation of the first trial"):
        sweep(context, dataset, train, search)
    monkeypatch.setattr(driver, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + later))
    run, made = sweep(context, dataset, train, search)
    assert notes == ["The time was over before a trial had ended: trial 1 is trained on."]
    assert (
        made.details["trials"][0]["status"] == "best"
        and run.id == made.details["best_run"]
        and run.counts["tokens"] >= 512 * 800
    )


@pytest.mark.service
def test_a_sweep_outlives_a_trial_that_does_not_fit_into_memory_and_the_kill_of_a_trial(
    ray_here: None, tmp_path: Path
) -> None:
    from soldiom_ray.train import sweep

    killed: list[int] = []

    def report(fraction: float, message: str) -> None:
        if "best loss" in message and not killed:
            children = psutil.Process().children(recursive=True)
            killed.extend(each.pid for each in children if title_of(each).startswith("ray::ImplicitFunc"))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    context = replace(context_in(tmp_path), report=report)
    base = two_layer_model(tmp_path / "base")
    train = declared(base, method="lora", validations=None, max_tokens=512 * 200)
    search = Sweep(space={"rank": [4, 10**7]}, trials=2, seed=1, scheduler="halving")
    run, made = sweep(context, dataset_in(context.artifacts), train, search)
    trials = {trial["settings"]["rank"]: trial for trial in made.details["trials"]}
    assert killed and trials[4]["status"] == "best" and run.id == made.details["best_run"]
    assert trials[4]["validations"] > 4, "after the kill it went on from rung to rung"
    assert trials[10**7]["status"] == "failed" and "GiB" in trials[10**7]["reason"]


@pytest.mark.service
def test_settings_are_chosen_within_a_time_and_the_defaults_stay_where_nothing_is_better(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soldiom_ray.train import train_auto
    from soldiom_ray.train.sweeps import auto

    monkeypatch.setattr(auto, "CANDIDATES", 2)
    context = context_in(tmp_path)
    dataset = dataset_in(context.artifacts)
    train = declared(two_layer_model(tmp_path / "base"), validations=None, learning_rate=None)
    other = str(two_layer_model(tmp_path / "other", pieces=280))
    usual, measured, reasons = train_auto(context, dataset, train, Auto(minutes=0.001, bases=(other,)))
    assert usual.id == measured.details["best_run"] and " 0 s were left, too little" in reasons[-1]
    choice = Auto(minutes=30, bases=(other, str(tmp_path / "nowhere")))
    run, search, why = train_auto(context, dataset, train, choice)
    first, second, third = search.details["trials"]
    assert (
        first["settings"] == {} and second["settings"] == {"base_model": other, "epochs": 100} and why[0] == reasons[0]
    )
    assert "nowhere is left out" in why[2] and "bits per byte" in why[3] and "base_model" in third["settings"]
    assert "2 other settings were tried" in why[-2] and ("the defaults stay" in why[-1]) == (run.id == usual.id)
    bytes_per_loss = first["bits_per_byte"] / usual.details["best_validation_loss"]
    assert 0.1 < bytes_per_loss < 1.5 and search.details["best_value"] <= first["bits_per_byte"]
    assert run.details["validation_tokens"] == usual.details["validation_tokens"]
    assert train_auto(context, dataset, train, choice) == (run, search, why)


@pytest.mark.service
def test_trainings_by_steps_are_tried_beside_a_linear_head(
    ray_here: None, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soldiom_ray.train import train_auto
    from soldiom_ray.train.sweeps import auto

    monkeypatch.setattr(auto, "CANDIDATES", 1)
    context = context_in(tmp_path)
    rows = [{"text": text, "metadata": json.dumps({"label": ", ".join(has) or "none"})} for text, has in sentences(120)]
    dataset = dataset_of(context.artifacts, rows)
    train = Train(task="text_classification", base_model=str(encoder), sequence_length=32)
    usual, measured, reasons = train_auto(context, dataset, train, Auto(minutes=0.0001))
    assert usual.id == measured.details["best_run"] and usual.details["head"] == "linear"
    assert reasons[0].startswith("A linear head") and "too little to train by steps" in reasons[1]
    run, search, why = train_auto(context, dataset, train, Auto(minutes=5))
    assert why[0] == reasons[0] and why[1].startswith("By steps: With the defaults (")
    assert ("the linear head stays" in why[-1]) == (run.id == usual.id)
    best = min(usual.details["best_validation_loss"], search.details["best_value"])
    assert run.details["best_validation_loss"] <= best / 0.99, "within the gain that is no chance"
    assert train_auto(context, dataset, train, Auto(minutes=5)) == (run, search, why)
