"""What a workflow prints at its end, the recipes that come with the project, and turns of several lines."""

import io
import json
import shlex
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from preparing import context_in, document, documents_of

from soldiom_ray.cli.chat import _read_turn
from soldiom_ray.cli.output import follow
from soldiom_ray.cli.summary import _next_steps, _prompt
from soldiom_ray.collect import collect
from soldiom_ray.domains.recipes import as_dict, load_recipe
from soldiom_ray.domains.schema import Prepare, Register, SplitRule
from soldiom_ray.domains.sources import LocalSource
from soldiom_ray.prepare import prepare
from soldiom_ray.records import Manifest
from soldiom_ray.register.card import _how_to_ask, _intended_use
from soldiom_ray.settings import load_settings

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_project_is_valid(path: Path) -> None:
    assert load_recipe(path).name == path.stem


def test_the_quickstart_reads_packages_that_come_with_the_environment() -> None:
    recipe = load_recipe(ROOT / "recipes" / "quickstart.yaml")
    assert recipe.collect and recipe.prepare and isinstance(recipe.collect[0], LocalSource)
    packages = recipe.collect[0].packages
    assert set(recipe.prepare.split.test_groups) < set(packages)
    assert set(map(_normalized, packages)) <= _installed_with("soldiom", "all")


def _installed_with(name: str, extra: str) -> set[str]:
    """Distributions that an installation of one brings, on every Python and platform."""
    from packaging.requirements import Requirement

    closure: set[str] = set()
    waiting = [(name, frozenset({extra, ""}))]
    seen = set()
    while waiting:
        current, extras = waiting.pop()
        if (current, extras) in seen:
            continue
        seen.add((current, extras))
        closure.add(_normalized(current))
        try:
            required = metadata.requires(current) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, required):
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": each}) for each in extras):
                waiting.append((requirement.name, frozenset({"", *requirement.extras})))
    return closure


def _normalized(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def finished_job(recipe: Path, prompt_format: str, **config: Any) -> dict[str, Any]:
    return {
        "config": as_dict(load_recipe(recipe)) | config,
        "metrics": {},
        "result": {"model_id": "model-1", "dataset": "dataset-1"},
        "stages": [{"stage": "train", "details": {"prompt_format": prompt_format}}],
    }


def test_the_hint_at_the_end_names_the_model_and_recipes_that_exist(tmp_path: Path) -> None:
    settings = load_settings({"SOLDIOM_HOME": str(tmp_path)})
    quickstart = ROOT / "recipes" / "quickstart.yaml"
    text = _next_steps(settings, finished_job(quickstart, "chat"), "")
    assert "soldiom chat fine-tuned/quickstart\n" in text
    for name in ("own-code", "own-folder"):
        assert f"recipes/{name}.yaml" in text and "PATH" in (ROOT / "recipes" / f"{name}.yaml").read_text()
    assert "def area(r)" in text
    own = finished_job(quickstart, "chat", collect=[{"source": "local", "path": "/code"}]) | {"metrics": {"tuned": {}}}
    assert "PATH" not in (hints := _next_steps(settings, own, "")) and "soldiom report fine-tuned/quickstart" in hints
    texts = finished_job(quickstart, "text", register=None, prepare={})
    assert "soldiom infer model-1 'import torch'" in _next_steps(settings, texts, "")
    asked = _next_steps(settings, texts, "What the tenant's deposit\nis for")
    assert """soldiom infer model-1 'What the tenant'"'"'s deposit'""" in asked
    command = next(line for line in asked.splitlines() if " -d " in line)
    assert json.loads(shlex.split(command)[-1])["input"] == "What the tenant's deposit"


def test_a_repository_becomes_pairs_by_the_recipe_for_own_code(tmp_path: Path) -> None:
    path = tmp_path / "own-code.yaml"
    path.write_text(
        (ROOT / "recipes" / "own-code.yaml").read_text().replace("PATH", str(ROOT / "soldiom_ray" / "prepare"))
    )
    recipe, context = load_recipe(path), context_in(tmp_path)
    assert recipe.collect and recipe.prepare
    dataset = prepare(context, [collect(context, recipe.collect)], recipe.prepare)
    assert dataset.counts["train"] > 50 and dataset.counts["test"] > 3
    rows = list(context.artifacts.rows(dataset, "train/"))
    assert all(json.loads(row["messages"])[0]["content"].startswith("Write a one-line docstring") for row in rows)


def test_the_model_is_tried_with_a_held_out_question_where_there_is_one(tmp_path: Path) -> None:
    code = "def {0}(a):\n    '''Tell how far {0} is from here.'''\n    return a - {1}\n"
    context = context_in(tmp_path)
    rows = [document(code.format(*pair), *pair[:1] * 2, language="python") for pair in (("rome", 1), ("oslo", 2))]
    documents = documents_of(context, rows)
    split = SplitRule(test=0, validation=0, test_groups=("rome",))
    pairs = prepare(context, [documents], Prepare(filters=(), pairs="docstrings", split=split))
    asked = _prompt(context.settings, pairs.id)
    assert asked.startswith("Write a one-line docstring") and "def rome(a):\n    return a - 1" in asked


def test_the_model_is_tried_with_what_it_learnt_from_where_nothing_is_held_out(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    rows = [document("Rome is old. " * 9, "rome", "rome"), document("Oslo is cold. " * 9, "oslo", "oslo")]
    rule = SplitRule(test=0, validation=0)
    texts = prepare(context, [documents_of(context, rows)], Prepare(filters=(), split=rule))
    assert _prompt(context.settings, texts.id).startswith(("Rome is old.", "Oslo is cold."))


def test_where_stderr_is_no_terminal_a_line_tells_how_far_a_stage_is_and_each_note_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = {"stage": "train", "status": "running", "progress": 0.25, "message": "step 3 of 12", "seconds": None}
    running |= {"details": {"notes": ["A long note. " * 20]}, "reused": False}
    ended = running | {"status": "completed", "seconds": 2.0}
    states = [{"status": status, "stages": [stage]} for status, stage in (("running", running), ("completed", ended))]
    monkeypatch.setattr("soldiom_ray.launch.wait_for_job", lambda *_: iter(states))
    monkeypatch.setattr("soldiom_ray.cli.output.SILENT_SECONDS", 0.0)
    assert follow(load_settings(), {"id": "job-1"}) == states[-1]
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert lines == [f"Note: {'A long note. ' * 20}", "train     25 %: step 3 of 12", "train     2.0 s"]


@pytest.mark.parametrize(
    ("prompt_format", "use", "asking"),
    [
        ("chat", "answers like the conversations it was trained on", "becomes the user's turn"),
        ("text", "continues text like the text it was trained on", "continues what it is given"),
    ],
)
def test_a_card_says_what_the_model_does_with_an_input_and_how_to_ask_it(
    prompt_format: str, use: str, asking: str
) -> None:
    details = {"prompt_format": prompt_format}
    run = Manifest(kind="run", id="run-1", made_from={}, details=details, created_at=datetime.now(UTC))
    assert use in _intended_use(run, Register(), None)
    assert asking in _how_to_ask(run)[0]


def test_a_turn_of_several_lines_ends_where_its_fence_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nSay: ```\ndef f():\n\n    return 1\n```\n```open\nx\n"))
    turns = [_read_turn(quiet=True) for _ in range(4)]
    assert turns == ["hello", "Say: ```\ndef f():\n\n    return 1\n```", "```open\nx", ""]
