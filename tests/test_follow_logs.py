"""`soldiom jobs logs`: for people, and with `--follow` over services that drop the connection."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from soldiom_ray import launch, logs
from soldiom_ray.errors import UnavailableError
from soldiom_ray.settings import load_settings

Reply = tuple[str, str] | Exception


def replying(replies: list[Reply], monkeypatch: pytest.MonkeyPatch) -> None:
    """The database and Ray, in the order of their replies: (status, log), or the connection breaks; the last stays."""
    log = ""

    def endless() -> Iterator[Reply]:
        yield from replies
        while True:
            yield replies[-1]

    coming = endless()

    def show_job(*_: Any) -> dict[str, str]:
        nonlocal log
        reply = next(coming)
        if isinstance(reply, Exception):
            raise reply
        status, log = reply
        return {"status": status}

    monkeypatch.setattr(launch, "show_job", show_job)
    monkeypatch.setattr(launch, "job_logs", lambda *_: log)


def test_a_log_is_taken_up_where_the_connection_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = UnavailableError("Ray's job server does not reply.")
    replying(
        [("running", "one\n"), gone, ConnectionResetError(), ("running", "one\ntwo\n"), ("completed", "one\ntwo\n3")],
        monkeypatch,
    )
    assert list(launch.follow_logs(load_settings({}), "job", "default", poll_seconds=0)) == ["one\n", "two\n", "3"]


def test_services_that_stay_away_end_it_with_their_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "AWAY_SECONDS", 0.2)
    replying([("running", "one\n"), UnavailableError("Ray's job server does not reply.")], monkeypatch)
    pieces = launch.follow_logs(load_settings({}), "job", "default", poll_seconds=0.05)
    assert next(pieces) == "one\n"
    with pytest.raises(UnavailableError, match="job server"):
        next(pieces)


def record(level: int, message: str, data: dict[str, Any] | None = None, error: Exception | None = None) -> str:
    """A line as a job writes it."""
    fault = (type(error), error, error.__traceback__) if error else None
    written = logging.LogRecord("soldiom_ray.x", level, "x.py", 1, message, (), fault)
    written.created, written.data = 1_800_000_000.5, data
    return logs.JsonLines().format(written) + "\n"


def test_a_log_is_readable_however_its_pieces_are_cut() -> None:
    try:
        raise ValueError("no room")
    except ValueError as error:
        failed = record(logging.ERROR, "job failed unexpectedly", error=error)
    token = logs.stage.set("train")
    ours = record(logging.INFO, "stage done", {"seconds": 1.5, "reused": False, "name": "a b", "counts": {"x": 1}})
    refused = record(logging.ERROR, "job failed", {"type": "InputError", "error": "No file.\nRemedy: name one"})
    logs.stage.reset(token)
    text = ours + "Loading weights: 100 %\n{not ours}\n[1]\n" + refused + failed
    expected = list(logs.readable([text]))
    assert expected[:4] == [
        '2027-01-15 08:00:00  train     info     stage done  seconds=1.5  reused=false  name="a b"  counts={"x":1}',
        "Loading weights: 100 %",
        "{not ours}",
        "[1]",
    ]
    assert expected[4].splitlines() == [
        "2027-01-15 08:00:00  train     error    job failed  type=InputError",
        "    error:",
        "    No file.",
        "    Remedy: name one",
    ]
    assert expected[5].splitlines()[1] == "    Traceback (most recent call last):"
    assert expected[5].splitlines()[-1] == "    ValueError: no room"
    for size in (1, 7, 100):
        assert list(logs.readable(text[at : at + size] for at in range(0, len(text), size))) == expected


def test_a_long_log_keeps_its_beginning_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "LOG_CHARACTERS", 100)
    assert launch.shorten_log("short") == "short"
    text = launch.shorten_log("a" * 200 + "b" * 200)
    assert text.startswith("a" * 25 + "\n… 300 characters") and text.endswith("b" * 75)
