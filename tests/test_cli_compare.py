"""`soldiom compare`: what is a prompt and what a model, and two models side by side."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_server import answered_by

from soldiom_ray.cli import evaluation
from soldiom_ray.cli.evaluation import _prompts, compare
from soldiom_ray.cli.inputs import read_inputs
from soldiom_ray.db import models
from soldiom_ray.db.engine import open_session
from soldiom_ray.deploy.app import ModelEndpoint
from soldiom_ray.errors import InputError, NotFoundError
from soldiom_ray.settings import Settings

QUESTION = "def read rows(rows):"


def test_what_holds_a_space_is_a_prompt_and_a_word_is_none_unless_it_is_said_to_be(tmp_path: Path) -> None:
    names = ["a", "b", QUESTION]
    assert _prompts(names, None, None) == [QUESTION] and names == ["a", "b"]
    assert _prompts(["a", "b", "c"], None, None) == []  # three runs whose scores are compared
    assert _prompts(["a", "b"], "Hello", None) == ["Hello"]
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\ntwo words\n")
    assert _prompts(["a", "b"], None, file) == ["one", "two words"]
    for arguments in ((["a", "b", QUESTION], "Hello", None), (["a", "b", QUESTION], None, file)):
        with pytest.raises(InputError, match="more than one way"):
            _prompts(*arguments)
    with pytest.raises(InputError, match="for two models; 1 are named"):
        _prompts(["a", QUESTION], None, None)


def test_a_file_of_inputs_is_read_and_every_wrong_line_is_told(tmp_path: Path) -> None:
    file = tmp_path / "inputs.jsonl"
    file.write_text('"one"\n{"input": "two\\nlines", "more": 1}\n')
    assert read_inputs(file) == ["one", "two\nlines"]
    file.write_text('"one"\n17\n{"text": "x"}\nword\n')
    with pytest.raises(InputError) as refused:
        read_inputs(file)
    assert [problem.line for problem in refused.value.problems] == [2, 3, 4] and "word" not in str(refused.value)
    file.write_text("\n")
    with pytest.raises(InputError, match="holds no inputs"):
        read_inputs(file)
    with pytest.raises(InputError, match="No such file"):
        read_inputs(tmp_path / "none.txt")


@pytest.fixture
def settings(
    api_settings: Settings, api_url: str, api_keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Those of the command line, which finds the API's address and key in them."""
    made = replace(api_settings, api_host="127.0.0.1", api_port=int(api_url.rpartition(":")[2]))
    made.local_key_path.parent.mkdir(parents=True, exist_ok=True)
    made.local_key_path.write_text(api_keys["admin"])
    for module in ("evaluation", "side_by_side"):
        monkeypatch.setattr(f"soldiom_ray.cli.{module}.load_settings", lambda: made)
    monkeypatch.setenv("SOLDIOM_HOME", str(made.home))
    return made


def test_a_deployed_model_and_a_base_answer_side_by_side(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_session(settings) as session:
        row = models.create(session, family="base", name="served", base_model="builtin/tiny", deployed=True)
        model_id, name = row.id, f"base/served@{row.version}"
        row.license = "LicenseRef-Gemma"
    endpoint = ModelEndpoint(model_id, None, "builtin/tiny", 1, "1")
    answered_by(endpoint, monkeypatch)
    options: dict[str, Any] = {"prompt": None, "file": None, "max_tokens": 12}
    compare(["base/served", "builtin/tiny", QUESTION], **options, json=True)
    shown = json.loads(capsys.readouterr().out)
    served, loaded = shown["models"]
    assert shown["prompts"] == [QUESTION]
    assert (served["name"], served["where"], loaded["where"]) == (name, "endpoint", "this process")
    [one], [other] = served["answers"], loaded["answers"]
    assert one["output"] == other["output"] and one["usage"] == other["usage"]  # asked alike, answered alike
    assert served["tokens_per_second"] > 0 < loaded["tokens_per_second"] and served["notices"]
    compare(["base/served", "builtin/tiny", QUESTION], **options)
    printed = capsys.readouterr()
    assert name in printed.out and "tokens/s" in printed.out and served["notices"][0][:20] in printed.err
    with pytest.raises(NotFoundError, match="nothing-here"):
        compare(["base/served", "nothing-here", QUESTION], **options)
    endpoint.engine.close()  # type: ignore[attr-defined]


def test_an_unknown_third_name_says_how_a_word_is_asked(settings: Settings) -> None:
    assert evaluation.load_settings() is settings
    with pytest.raises(NotFoundError, match="Hello") as refused:
        compare(["Hello", "b", "c"], prompt=None, file=None)
    assert "--prompt" in refused.value.remedy
