"""A conversation on the terminal: its commands, what it keeps, and what an error leaves of it."""

import io
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from soldiom_ray.cli import chat as terminal
from soldiom_ray.errors import BusyError, SoldiomError


class Answers:
    """Stands for the stream of the API: every answer says how many messages it saw, and what the last one was."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, settings: Any, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.bodies.append(json.loads(json.dumps(body)))
        said = body["messages"][-1]["content"]
        if said == "fail":
            raise BusyError("The queue is full.")
        yield {"text": f"{len(body['messages'])} "}
        yield {"text": said.upper()}
        yield {"finish_reason": "stop", "notices": ["Built with a base."]}

    @property
    def messages(self) -> list[list[str]]:
        """What each call's messages said."""
        return [[message["content"] for message in body["messages"]] for body in self.bodies]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    made = Answers()
    monkeypatch.setattr("soldiom_ray.cli.client.stream", made)
    monkeypatch.setattr(terminal, "get_model", lambda model, served: {"id": "m", "task": "causal_lm"})
    return made


def talk(monkeypatch: pytest.MonkeyPatch, *lines: str, at_terminal: bool = False, **options: Any) -> None:
    typed = io.StringIO("".join(f"{line}\n" for line in lines))
    monkeypatch.setattr(typed, "isatty", lambda: at_terminal)
    monkeypatch.setattr("sys.stdin", typed)
    terminal.chat("m", **options)


def test_commands_ask_again_begin_anew_and_end(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk(monkeypatch, "one", "two", "/retry", "/system Be brief.", "three", " /etc is a folder", "/quit", "never")
    first = ["one", "1 ONE"]
    assert answers.messages == [
        ["one"], [*first, "two"], [*first, "two"], ["Be brief.", "three"],
        ["Be brief.", "three", "2 THREE", "/etc is a folder"],
    ]  # fmt: skip
    shown = capsys.readouterr()
    assert "3 TWO" in shown.out and shown.err.count("Built with a base.") == 1
    talk(monkeypatch, "one", system="Answer in verse.")
    assert answers.messages[-1] == ["Answer in verse.", "one"]


def test_a_conversation_is_saved_for_its_owner_as_a_sample(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, other = tmp_path / "talk.jsonl", tmp_path / "other.jsonl"
    other.write_text("another's")
    save = f"/save {path}"
    talk(monkeypatch, save, f"/save {other}", "one", save, "two", save, f"/save {other}", "/save", at_terminal=True)
    [line] = path.read_text().splitlines()
    assert [message["role"] for message in json.loads(line)["messages"]] == ["user", "assistant"] * 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and other.read_text() == "another's"


def test_an_error_leaves_the_conversation_and_a_wrong_command_is_named(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk(monkeypatch, "/retry", "one", "fail", "/retry", "/frobnicate", "two", at_terminal=True)
    assert answers.messages == [["one"], ["one", "1 ONE", "fail"], ["one", "1 ONE", "fail"], ["one", "1 ONE", "two"]]
    told = capsys.readouterr().err
    assert "Nothing was said yet" in told and told.count("The queue is full") == 2 and "no command /frobnicate" in told
    with pytest.raises(SoldiomError, match="queue is full"):  # a program that pipes its turns in learns it at once
        talk(monkeypatch, "fail", "one")


def test_a_program_gets_documents_and_no_commands(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk(monkeypatch, "/retry", "one", json=True)
    printed = json.loads(f"[{capsys.readouterr().out.replace('}', '},').rstrip().rstrip(',')}]")
    assert printed == [{"output": "1 /RETRY"}, {"output": "3 ONE"}]
