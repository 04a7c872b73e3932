"""The supervisor's patience, without services; tests/test_services.py kills real ones."""

import time
from pathlib import Path

import pytest

from soldiom_ray.errors import UnavailableError
from soldiom_ray.services import processes, supervision, supervisor
from soldiom_ray.services.processes import ProcessRecord
from soldiom_ray.settings import load_settings


def test_a_service_that_crashes_at_once_is_tried_ever_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object, name: str) -> bool:
        raise UnavailableError(f"{name} did not come up")

    monkeypatch.setattr(supervisor.Supervisor, "_start_again", fail)
    settings = load_settings({"SOLDIOM_HOME": str(tmp_path)})
    watcher = supervisor.Supervisor(settings)
    delays = []
    for _ in range(10):
        watcher._restart("chroma", "process 1 ended")
        entry = supervision.history(settings)["chroma"]
        delays.append(round(entry.next_at - time.time()))
        watcher._restart("chroma", "process 1 ended")  # too early: nothing happens
        assert supervision.history(settings)["chroma"] == entry
        watcher.restarts["chroma"].next_at = 0.0
    assert delays == [1, 1, 2, 4, 8, 16, 32, 60, 60, 60] and entry.count == 0
    assert "did not come up" in entry.reason


def test_what_down_stopped_is_left_alone_and_without_services_there_is_no_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarted: list[str] = []
    settings = load_settings({"SOLDIOM_HOME": str(tmp_path)})
    supervision.ensure(settings)
    assert not supervision.is_running(settings)
    watcher = supervisor.Supervisor(settings)
    processes.write_record(settings, "chroma", ProcessRecord(2**22 - 1, 1))

    def note(_: object, name: str, reason: str) -> None:
        restarted.append(name)
        processes.delete_record(settings, "chroma")

    monkeypatch.setattr(supervisor.Supervisor, "_restart", note)
    watcher.run()  # ends by itself when the last record is gone
    assert restarted == ["chroma"]


def test_a_fault_of_one_look_does_not_end_the_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings({"SOLDIOM_HOME": str(tmp_path)})
    watcher = supervisor.Supervisor(settings)
    processes.write_record(settings, "chroma", ProcessRecord(2**22 - 1, 1))
    faults: list[Exception] = [OSError(28, "No space left on device"), ValueError("a broken file")]

    def look(_: object) -> None:
        if faults:
            raise faults.pop(0)
        processes.delete_record(settings, "chroma")

    monkeypatch.setattr(supervisor, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(supervisor.Supervisor, "_look", look)
    watcher.run()
    assert not faults
