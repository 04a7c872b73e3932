"""`soldiom jobs logs --follow` over services that drop the connection."""

from collections.abc import Iterator
from typing import Any

import pytest

from soldiom_ray import launch
from soldiom_ray.errors import UnavailableError
from soldiom_ray.settings import load_settings

Answer = tuple[str, str] | Exception


def answering(answers: list[Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    """The database and Ray, in the order of their answers: (status, log), or the connection breaks; the last stays."""
    log = ""

    def given() -> Iterator[Answer]:
        yield from answers
        while True:
            yield answers[-1]

    come = given()

    def show_job(*_: Any) -> dict[str, str]:
        nonlocal log
        answer = next(come)
        if isinstance(answer, Exception):
            raise answer
        status, log = answer
        return {"status": status}

    monkeypatch.setattr(launch, "show_job", show_job)
    monkeypatch.setattr(launch, "job_logs", lambda *_: log)


def test_a_log_is_taken_up_where_the_connection_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = UnavailableError("Ray's job server does not answer.")
    answering(
        [("running", "one\n"), gone, ConnectionResetError(), ("running", "one\ntwo\n"), ("completed", "one\ntwo\n3")],
        monkeypatch,
    )
    assert list(launch.follow_logs(load_settings({}), "job", "default", poll_seconds=0)) == ["one\n", "two\n", "3"]


def test_services_that_stay_away_end_it_with_their_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "AWAY_SECONDS", 0.2)
    answering([("running", "one\n"), UnavailableError("Ray's job server does not answer.")], monkeypatch)
    pieces = launch.follow_logs(load_settings({}), "job", "default", poll_seconds=0.05)
    assert next(pieces) == "one\n"
    with pytest.raises(UnavailableError, match="job server"):
        next(pieces)
