"""The command line where no service is needed."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Home
from typer.testing import CliRunner

from soldiom_ray.cli.app import app
from soldiom_ray.errors import InputError

HEAVY = ("torch", "ray", "transformers", "mlflow", "chromadb", "pyarrow", "sqlalchemy", "pydantic")


def test_help_loads_no_heavy_library(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['soldiom', '--help']\n"
        "from soldiom_ray.cli.app import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "collect" in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_help_of_options_that_are_fields_of_a_recipe_is_the_schemas(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    text = " ".join(home.run("train", "--help").stdout.split())
    assert "--rank <int> LoRA rank. [default: 16]" in text
    assert "[one of: full, lora, prompt; default: lora]" in text
    assert "unset: builtin/smollm2-135m-instruct (causal_lm, preference)," in text
    assert "[default: machine-learning, deep-learning, ai]" in home.run("collect", "github", "--help").stdout
    assert "For files: take pictures themselves" in home.run("prepare", "--help").stdout


def test_every_option_that_names_a_field_of_a_recipe_names_one_that_is_described() -> None:
    import typer

    from soldiom_ray.cli.app import app
    from soldiom_ray.cli.options import FIELD, RecipeCommand, find_field

    def commands(group: Any) -> Iterator[Any]:
        for command in getattr(group, "commands", {}).values():
            yield command
            yield from commands(command)

    options = [
        (command, parameter.help.removeprefix(FIELD).partition(" ")[0])
        for command in commands(typer.main.get_command(app))
        for parameter in command.params
        if (getattr(parameter, "help", None) or "").startswith(FIELD)
    ]
    assert len(options) > 60
    for command, path in options:
        assert isinstance(command, RecipeCommand), command.name
        assert find_field(path).description, path


def test_a_recipe_with_many_mistakes_tells_them_all_with_their_lines(tmp_path: Path) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(
        "name: bad\n"
        "collect:\n"
        "  - {source: lcal, path: .}\n"
        "prepare:\n"
        "  filters: [min_words, near_dupe]\n"
        "train:\n"
        "  method: lroa\n"
        "  rnak: 3\n"
    )
    done = Home(tmp_path / "home").run("recipe", "check", str(recipe), code=2)
    assert done.stdout == ""
    assert (
        "line 3: collect[0].source: is 'lcal'; known: local, files, github, huggingface, database, url."
        ' Did you mean "local"?' in done.stderr
    )
    assert (
        "line 5: prepare.filters[1]: is 'near_dupe'" in done.stderr and 'Did you mean "near_duplicate"?' in done.stderr
    )
    assert "line 7: train.method: is 'lroa'; known: full, lora, prompt. Did you mean \"lora\"?" in done.stderr
    assert "line 8: train.rnak: is unknown" in done.stderr and 'Did you mean "rank"?' in done.stderr


def test_a_repeated_heading_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "twice.yaml"
    recipe.write_text("name: twice\ncollect: [{source: local, path: .}]\ncollect: []\n")
    done = Home(tmp_path / "home").run("recipe", "check", str(recipe), code=2)
    assert "line 3: collect: stands here a second time" in done.stderr


def test_text_that_is_not_yaml_is_one_clear_error(tmp_path: Path) -> None:
    recipe = tmp_path / "broken.yaml"
    recipe.write_text("name: [unclosed\n")
    done = Home(tmp_path / "home").run("recipe", "check", str(recipe), code=2)
    assert "is not YAML" in done.stderr and "Traceback" not in done.stderr


def test_every_recipe_that_comes_with_the_project_is_good(tmp_path: Path) -> None:
    recipes = sorted((ROOT / "recipes").glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        recipe_dict = Home(tmp_path / "home").json("recipe", "show", str(recipe))
        assert recipe_dict["name"]


def test_a_stage_without_the_one_before_it_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "gap.yaml"
    recipe.write_text("name: gap\ncollect: [{source: local, path: .}]\ntrain:\n")
    done = Home(tmp_path / "home").run("recipe", "check", str(recipe), code=2)
    assert "`train` needs `prepare`" in done.stderr


def test_wrong_settings_are_told_together_with_their_names(tmp_path: Path) -> None:
    done = Home(tmp_path / "home").run(
        "status",
        code=2,
        SOLDIOM_API_PORT="eighty",
        SOLDIOM_STORAGE="ftp://somewhere",
        SOLDIOM_RATE_LIMIT="lots",
        SOLDIOM_ENCRYPTION_KEY="short-secret",
    )
    for name in ("SOLDIOM_API_PORT", "SOLDIOM_STORAGE", "SOLDIOM_RATE_LIMIT", "SOLDIOM_ENCRYPTION_KEY"):
        assert name in done.stderr
    assert "short-secret" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["new-domain", "ours", "--from", ""],
        ["prepare", ""],
        ["collect", "files", ""],
        ["collect", "local", ""],
        ["collect", "database", ""],
        ["ask", "medical", "classify-xray", ""],
        ["run", "domain:legal", "--data", ""],
    ],
)
def test_an_empty_path_is_not_the_working_folder(arguments: list[str]) -> None:
    answer = CliRunner().invoke(app, arguments)
    assert isinstance(answer.exception, InputError)
    told = f"{answer.exception} {answer.exception.problems}"
    assert ("empty" in told or "nothing" in told) and "database" not in answer.exception.what


def test_commands_say_what_to_start_when_nothing_runs(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    for arguments in (["jobs", "list"], ["models", "list"], ["search", "attention"]):
        done = home.run(*arguments, code=3)
        assert "soldiom up" in done.stderr and "Traceback" not in done.stderr


def test_status_shows_every_service_though_none_runs(tmp_path: Path) -> None:
    done = Home(tmp_path / "home").run("status", "--json", code=3)
    services = json.loads(done.stdout)["services"]
    assert set(services) == {"postgres", "ray", "chroma", "mlflow", "api", "supervisor"}
    assert {service["state"] for service in services.values()} == {"stopped"}


def test_every_setting_and_command_is_documented() -> None:
    import re

    from soldiom_ray.cli.app import app

    settings = set(
        re.findall(r'"((?:SOLDIOM|MLFLOW|HF|RAY)_[A-Z_0-9]+)"', (ROOT / "soldiom_ray/settings.py").read_text())
    )
    pages = (ROOT / "docs/settings.md").read_text() + (ROOT / "README.md").read_text()
    assert settings - {name for name in settings if name in pages} == set()
    for command in app.registered_commands:
        assert command.callback is not None and command.callback.__doc__


HOSTILE = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj.exe\r[red]x[/red]"


def test_no_command_prints_what_commands_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from soldiom_ray.cli.output import note, print_items, print_json, print_table, say

    say(HOSTILE)
    note(HOSTILE)
    print_table([{"name": HOSTILE, "list": [HOSTILE]}], ["name", "list"], HOSTILE)
    print_items([{"name": HOSTILE}], ["name"], False, "")
    print_json({"name": HOSTILE})
    out, err = capsys.readouterr()
    document = json.loads(out[out.index("{\n") :])
    assert document == {"name": HOSTILE}
    assert not set("\x1b\x07\x9b\u202e\r") & set(out + err)
    assert "[red]x[/red]" in out and "\\x1b]0;owned" in out + err


def test_every_command_prints_through_what_spells_control_characters() -> None:
    for path in (Path(__file__).parents[1] / "soldiom_ray" / "cli").glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = [ast.unparse(call.func) for call in calls]
        printing = [name for name in names if name in ("print", "typer.echo", "sys.stdout.write", "sys.stderr.write")]
        assert len(printing) == (2 if path.name == "output.py" else 0), (path, printing)
