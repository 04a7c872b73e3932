"""Errors on their way: between processes, into a row, to a client and back."""

import json
import pickle
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from soldiom_ray import errors
from soldiom_ray.api.events import DONE, event
from soldiom_ray.cli import client
from soldiom_ray.errors import BusyError, InputError, Problem, SoldiomError, TooLargeError, origin, own_error
from soldiom_ray.settings import load_settings, write_private

TYPES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SoldiomError)]
MISTAKES = [Problem("train.rank", "is 0", 7), Problem("name", "is missing")]


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_an_error_arrives_as_it_was_raised_whichever_way_it_goes(kind: type[SoldiomError]) -> None:
    error = kind("The recipe has mistakes.", remedy="correct them", problems=MISTAKES)
    if isinstance(error, BusyError):
        error.retry_after_seconds = 12.5
    for arrived in (
        SoldiomError.from_dict(error.to_dict()),
        SoldiomError.from_problem(error.to_problem()),
        pickle.loads(pickle.dumps(error)),
    ):
        assert type(arrived) is kind and str(arrived) == str(error) and arrived.problems == error.problems
        assert arrived.to_dict() == error.to_dict()
        assert (arrived.status, arrived.exit_code) == (kind.status, kind.exit_code)


def test_every_problem_type_and_name_stands_for_one_error() -> None:
    assert len({kind.title for kind in TYPES}) == len(TYPES) == len({kind.__name__ for kind in TYPES})


def test_an_error_of_a_later_version_and_a_problem_of_another_program_keep_their_words() -> None:
    later = SoldiomError.from_dict({"type": "QuotaError", "what": "The quota is used up.", "remedy": "wait"})
    assert type(later) is SoldiomError and str(later) == "The quota is used up.\nRemedy: wait"
    for status, exit_code in {400: 2, 413: 2, 422: 2, 503: 3, 404: 1, 418: 1, 500: 1}.items():
        error = SoldiomError.from_problem({"status": status, "title": "Refused", "errors": ["odd"]})
        assert (error.what, error.exit_code, error.problems) == ("Refused", exit_code, ())


def test_what_ray_wraps_is_found_and_anything_else_is_not_ours() -> None:
    from ray.exceptions import RayTaskError

    error = InputError("No file.", remedy="name another")
    wrapped = RayTaskError("work", "Traceback ...", error).as_instanceof_cause()
    assert isinstance(wrapped, InputError) and own_error(wrapped) is error
    assert type(SoldiomError.from_dict(error.to_dict())) is InputError
    assert own_error(error) is error and own_error(ValueError("x")) is None


def test_the_place_of_an_unforeseen_error_is_ours_and_tells_nothing_of_its_text() -> None:
    from ray.exceptions import RayTaskError

    with pytest.raises(AttributeError) as caught:
        SoldiomError.from_dict("a user's text")  # type: ignore[arg-type]
    assert re.fullmatch(r"soldiom_ray/errors\.py:\d+", origin(caught.value))
    remote = 'File "/x/soldiom_ray/prepare/clean.py", line 3, in f\n  File "/x/re.py", line 9, in g\nValueError: secret'
    assert origin(RayTaskError("work", remote, ValueError("secret"))) == "soldiom_ray/prepare/clean.py:3"
    assert origin(ValueError("secret")) == ""


class Api(BaseHTTPRequestHandler):
    """An API whose stream breaks off with an error after its first event, and that refuses every other call."""

    def do_POST(self) -> None:
        busy = BusyError("The queue is full.", remedy="try again", retry_after_seconds=4)
        streams = self.path == "/stream"
        body = event({"text": "one"}) + event(busy.to_problem(), "error") + DONE
        refusal = json.dumps(TooLargeError("Too many inputs.", problems=MISTAKES).to_problem()).encode()
        self.send_response(200 if streams else 413)
        self.end_headers()
        self.wfile.write(body if streams else refusal)

    def log_message(self, *_: object) -> None:
        pass


def test_the_command_line_raises_what_the_api_answers_in_a_response_and_within_a_stream(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = load_settings({"SOLDIOM_HOME": str(tmp_path), "SOLDIOM_API_PORT": str(server.server_port)})
        write_private(settings.local_key_path, "sld_a_b")
        events = client.stream(settings, "/stream", {})
        assert next(events) == {"text": "one"}
        with pytest.raises(BusyError, match="The queue is full") as busy:
            next(events)
        assert busy.value.retry_after_seconds == 4 and busy.value.remedy == "try again"
        with pytest.raises(TooLargeError) as refused:
            client.call(settings, "POST", "/call", {})
        assert refused.value.exit_code == 2 and refused.value.problems == tuple(MISTAKES)
        server.shutdown()
