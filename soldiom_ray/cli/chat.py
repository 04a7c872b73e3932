"""`soldiom chat`: a conversation with a deployed model on the terminal."""

import json as json_module
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from soldiom_ray.cli.models import Model, get_model
from soldiom_ray.cli.output import Json, note, print_json, say
from soldiom_ray.domains.tasks import CHAT_TASKS
from soldiom_ray.errors import ConflictError, InputError, SoldiomError
from soldiom_ray.settings import Settings, load_settings

COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)
HELP = """\
  /retry         another answer to what you said last
  /system TEXT   begin anew, with this system prompt; without TEXT, with the one that the model was trained with
  /save FILE     keep the conversation as a line of JSON, which `soldiom collect` reads as a sample
  /exit          end the conversation, as an empty line does
Several lines, such as code, go between two lines of ```. A turn that begins with a slash goes after a space."""


def add_commands(app: typer.Typer) -> None:
    """Put this module's command under the program."""
    app.command()(chat)


def chat(
    model: Model,
    system: Annotated[str | None, typer.Option(help="A system prompt instead of the one it was trained with.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="At most this many tokens in the answer.")] = 256,
    json: Json = False,
) -> None:
    """Talk to a deployed model; an empty line ends the conversation. A line that opens a fence (```) begins a text of
    several lines, up to the line that closes it. /retry, /system, /save and /exit are commands, /help names them. With
    --json: one JSON document per answer, and no commands."""
    record = get_model(model, served=True)
    if record["task"] is not None and record["task"] not in CHAT_TASKS:
        raise InputError(
            f"Model {model} was trained for {record['task']}; it holds no conversation.",
            remedy=f"ask it with `soldiom infer {model} TEXT`",
        )
    conversation = Conversation(load_settings(), record["id"], max_tokens, system)
    at_terminal = sys.stdin.isatty() and not json
    if at_terminal:
        note("/help names the commands. An empty line ends the conversation.")
    while text := _read_turn(quiet=json):
        try:
            if json:
                print_json({"output": conversation.ask(text.strip())})
            elif not _answered(conversation, text):
                return
        except SoldiomError as error:
            if not at_terminal:
                raise
            note(str(error))  # what was said before stays


class Conversation:
    """What was said so far. A turn that the model does not answer is not part of it; /retry asks it again."""

    def __init__(self, settings: Settings, model_id: str, max_tokens: int, system: str | None) -> None:
        self._settings, self._model_id, self._max_tokens = settings, model_id, max_tokens
        self._messages: list[dict[str, str]] = []
        self._last, self._before = "", self._messages
        self._notices: list[str] = []
        self._noticed: set[str] = set()
        self._saved: Path | None = None
        self.begin(system)

    def begin(self, system: str | None) -> None:
        """Forget what was said; `system` is the model's own prompt where it is None."""
        self._messages = [] if system is None else [{"role": "system", "content": system}]
        self._last = ""

    def ask(self, text: str, show: Callable[[str], None] = lambda piece: None) -> str:
        """The model's answer, shown piece by piece."""
        from soldiom_ray.cli.client import stream

        self._last, self._before = text, self._messages
        messages = [*self._messages, {"role": "user", "content": text}]
        parameters = {"max_tokens": self._max_tokens, "temperature": 0.7}
        body = {"messages": messages, "parameters": parameters, "stream": True}
        pieces = []
        for event in stream(self._settings, f"/api/inference/{self._model_id}", body):
            pieces.append(str(event.get("text", "")))
            show(pieces[-1])
            self._notices += event.get("notices", ())
        answer = "".join(pieces)
        self._messages = [*messages, {"role": "assistant", "content": answer}]
        return answer

    def retry(self, show: Callable[[str], None]) -> str:
        """Another answer to the last turn, in place of the one before. InputError when nothing was said."""
        if not self._last:
            raise InputError("Nothing was said yet.", remedy="say something first")
        self._messages = self._before
        return self.ask(self._last, show)

    def save(self, name: str) -> Path:
        """Write the conversation to a file that only its owner reads, anew where this one was saved there before.
        InputError without a name or an answer, or where the file cannot be written; ConflictError for another file."""
        path = Path(name).expanduser().absolute()
        if not name or not any(message["role"] == "assistant" for message in self._messages):
            missing = "a file is named" if not name else "the model has answered"
            raise InputError(f"Nothing is saved before {missing}.", remedy="say `/save FILE` after an answer")
        how = os.O_TRUNC if path == self._saved else os.O_EXCL
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600), "w", encoding="utf-8") as file:
                file.write(json_module.dumps({"messages": self._messages}, ensure_ascii=False) + "\n")
        except FileExistsError as error:
            raise ConflictError(f"There is a file {name!r} already.", remedy="name another") from error
        except OSError as error:
            raise InputError(f"{name!r} cannot be written: {error.strerror}.", remedy="name another file") from error
        self._saved = path
        return path

    def take_notices(self) -> list[str]:
        """What the licences want shown with answers, each notice once in a conversation."""
        new = [notice for notice in dict.fromkeys(self._notices) if notice not in self._noticed]
        self._noticed.update(new)
        self._notices = []
        return new


def _answered(conversation: Conversation, text: str) -> bool:
    """Say a turn to the model, or do what a command asks for; whether the conversation goes on."""
    command = COMMAND.fullmatch(text)
    if command is None:
        _show(lambda show: conversation.ask(text.strip(), show), conversation)
        return True
    name, argument = command[1], (command[2] or "").strip()
    if name in ("exit", "quit"):
        return False
    if name == "retry":
        _show(conversation.retry, conversation)
    elif name == "system":
        conversation.begin(argument or None)
        note("A new conversation, with this system prompt." if argument else "A new conversation.")
    elif name == "save":
        note(f"Saved: {conversation.save(argument)}")
    elif name == "help":
        note(HELP)
    else:
        raise InputError(f"There is no command /{name}.", remedy="see /help; a turn with a slash goes after a space")
    return True


def _show(ask: Callable[[Callable[[str], None]], str], conversation: Conversation) -> None:
    """Print an answer as it comes, and after the first one what the licences want shown."""
    ask(lambda piece: say(piece, end="", flush=True))
    say()
    for notice in conversation.take_notices():
        note(notice)


def _read_turn(*, quiet: bool) -> str:
    """What the user says: a line, or all lines of an open fence; empty at the end of the input."""
    lines: list[str] = []
    while not lines or "\n".join(lines).count("```") % 2:
        try:
            lines.append(input("" if quiet else "...> " if lines else "you> "))
        except EOFError:
            break
    return "\n".join(lines) if "".join(lines).strip() else ""
