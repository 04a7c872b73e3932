"""The packs: read as a whole, shipped in the package, laid under recipes, and made on the data that is named."""

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from soldiom_ray.api.bodies import TrainingBody
from soldiom_ray.api.submit import training_recipe
from soldiom_ray.cli.app import app
from soldiom_ray.domains.pack_runs import plan_run
from soldiom_ray.domains.recipes import parse_recipe, validate_recipe
from soldiom_ray.domains.specialists import Pack, find_capability, find_pack, packs, read_pack, with_domain
from soldiom_ray.errors import InputError, NotFoundError

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "soldiom_ray" / "domains" / "packs"
SMALL = """
name: kitchen
title: Kitchen
description: Recipes of food.
notice: Written by a model; taste before you serve it.
not_for: [allergies]
train: {epochs: 2}
models:
  cook:
    description: answers
    name: kitchen-help
    data: {paths: [cook.jsonl]}
    train: {rank: 4}
capabilities:
  ask:
    description: An answer.
    input: {type: object, additionalProperties: false, required: [text], properties: {text: {type: string}}}
    output: {type: object, additionalProperties: false, required: [answer], properties: {answer: {type: string}}}
    by: {generate: cook}
"""


def test_every_pack_has_a_notice_its_limits_and_an_example_of_each_capability() -> None:
    assert set(packs()) == {"forensic", "medical", "legal", "financial", "code", "moderation", "translation"}
    for pack in packs().values():
        assert pack.not_for and pack.datasets and all(each.license for each in pack.datasets)
        assert all(capability.example for capability in pack.capabilities.values())


def test_every_model_of_a_pack_has_a_name_of_its_own_in_the_registry() -> None:
    names = [model.registered for pack in packs().values() for model in pack.models.values()]
    assert len(names) == len(set(names))
    assert {"fine-tuned/forensic-analyzer", "fine-tuned/medical-diagnosis", "fine-tuned/legal-research"} <= set(names)


def test_the_package_ships_every_pack() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["soldiom_ray"]
    shipped = {path for pattern in patterns for path in (ROOT / "soldiom_ray").glob(pattern)}
    assert len(set(FOLDER.iterdir())) == len(packs()) and set(FOLDER.iterdir()) <= shipped


def test_all_mistakes_of_a_pack_are_told_together_with_their_lines() -> None:
    text = (
        SMALL.replace("generate: cook", "generate: chef, prompt: '{txt}'")
        .replace("rank: 4", "rnak: 4")
        .replace("additionalProperties: false, required: [answer]", "required: [answers]")
        .replace("[cook.jsonl]", "[../cook.jsonl]")
    )
    with pytest.raises(InputError) as raised:
        read_pack(text, "kitchen.yaml")
    told = {problem.loc: (problem.line, problem.msg) for problem in raised.value.problems}
    assert told["models.cook.train.rnak"][0] == 13
    assert 'Did you mean "rank"?' in told["models.cook.train.rnak"][1]
    assert told["models.cook.data.paths"][0] == 12
    assert "no model of the pack" in told["capabilities.ask.by.generate"][1]
    assert "no field of the input" in told["capabilities.ask.by.prompt"][1]
    assert told["capabilities.ask.output"][0] == 18 and len(told) >= 5
    with pytest.raises(InputError, match=r"(?s)3 mistakes.*line 2: not_for.*line 5: notice.*line 6: not_four"):
        read_pack(
            SMALL.replace("not_for", "not_four").replace("Written by a model; taste before you serve it.", "Taste."),
            "kitchen.yaml",
        )
    with pytest.raises(InputError, match="exactly one"):
        read_pack(SMALL.replace("generate: cook", "generate: cook, retrieve: true"), "kitchen.yaml")
    with pytest.raises(InputError, match="names 'a question' and says nothing of it"):
        read_pack(SMALL.replace("type: string", "type: string, description: a dish, a question", 1), "kitchen.yaml")


def test_the_headings_of_a_model_lie_over_those_of_its_pack() -> None:
    pack = read_pack(SMALL, "kitchen.yaml")
    headings = pack.headings("cook")
    assert headings["train"] == {"epochs": 2, "rank": 4}
    assert headings["register"] == {"family": "fine-tuned", "name": "kitchen-help", "specialization": "kitchen"}


def test_a_recipe_of_a_domain_has_its_defaults_below_what_it_says() -> None:
    text = "{name: mine, domain: %s, dataset: d, train: {rank: 4}, evaluate: , register: }"
    legal = parse_recipe(text % "legal")
    assert legal.train and legal.evaluate and legal.register_ and legal.deploy is None
    assert (legal.train.rank, legal.train.epochs, legal.train.task) == (4, 3, "causal_lm")
    assert len(legal.evaluate.gate.all) == 2 and legal.register_.specialization == "legal"
    assert legal.register_.name is None
    spam = parse_recipe(text % "moderation/spam").train
    assert spam and (spam.task, spam.base_model) == ("text_classification", "builtin/all-MiniLM-L6-v2")
    own = parse_recipe("{name: mine, domain: legal, dataset: d, evaluate: {gate: {metric: loss}}, train: {epochs: 1}}")
    assert own.evaluate and own.evaluate.gate.metric == "loss" and not own.evaluate.gate.all


def test_an_unknown_domain_is_a_mistake_of_the_recipe_like_others() -> None:
    with pytest.raises(InputError) as raised:
        parse_recipe("name: x\ndomain: legl\ndataset: d\ntrain: {rnak: 4}\n")
    assert [(problem.loc, problem.line) for problem in raised.value.problems] == [("domain", 2), ("train.rnak", 4)]
    assert 'Did you mean "legal"?' in raised.value.problems[0].msg
    assert "makes no model" in with_domain({"domain": "legal/x"})[1][0].msg


def test_a_recipe_that_comes_through_the_api_has_the_defaults_of_its_domain_and_their_mistakes() -> None:
    recipe = {"name": "mine", "domain": "legal", "dataset": "d", "evaluate": None, "register": {}}
    made = training_recipe(TrainingBody(recipe=recipe, base_model="builtin/tiny", config={"rank": 2}))
    assert made.train and (made.train.rank, made.train.epochs, made.train.base_model) == (2, 3, "builtin/tiny")
    assert made.evaluate and made.register_ and made.register_.specialization == "legal"
    with pytest.raises(InputError) as raised:
        training_recipe(TrainingBody(recipe=recipe | {"domain": "legl"}, config={"rank": 2}))
    assert [problem.loc for problem in raised.value.problems] == ["body.recipe.domain"]


def test_options_of_a_domain_do_not_go_with_a_recipe(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["run", str(tmp_path / "mine.yaml"), "--data", str(tmp_path)])
    assert isinstance(done.exception, InputError) and "domain:NAME" in done.exception.what


def test_a_stored_recipe_stays_as_it_was_written_whatever_its_domain() -> None:
    stored = validate_recipe({"name": "x", "domain": "kitchen", "dataset": "d", "train": {}})
    assert stored.train and stored.train.epochs == 1


def legal() -> Pack:
    return find_pack("legal")


def test_a_run_makes_the_models_whose_files_are_in_the_folder_and_says_why_not_others(tmp_path: Path) -> None:
    passages = tmp_path / "legal_plain_english" / "train.jsonl"
    passages.parent.mkdir()
    passages.write_text("{}")
    planned = plan_run(legal(), tmp_path, {})
    assert list(planned.recipes) == ["plain-english"] and "legal_clauses.jsonl" in planned.left_out["clauses"]
    recipe = validate_recipe(planned.recipes["plain-english"])
    assert (
        recipe.collect
        == validate_recipe({"name": "x", "collect": [{"source": "files", "paths": [str(passages)]}]}).collect
    )
    assert recipe.register_ and recipe.register_.name == "legal-research" and recipe.deploy is not None
    assert validate_recipe(plan_run(legal(), tmp_path, {}, deploys=False).recipes["plain-english"]).deploy is None


def test_a_folder_of_ones_own_is_the_data_of_the_first_model_and_each_model_may_have_its_own(tmp_path: Path) -> None:
    (tmp_path / "contracts.txt").write_text("x")
    own = plan_run(legal(), tmp_path, {}, base="builtin/tiny").recipes
    assert list(own) == ["plain-english"] and own["plain-english"]["collect"][0]["paths"] == [str(tmp_path)]
    assert own["plain-english"]["train"]["base_model"] == "builtin/tiny"
    both = plan_run(legal(), tmp_path, {"clauses": tmp_path / "contracts.txt"}, base="builtin/tiny").recipes
    assert both["clauses"]["collect"][0]["paths"] == [str(tmp_path / "contracts.txt")]
    assert "base_model" not in both["clauses"]["train"]
    spam = plan_run(find_pack("moderation"), tmp_path, {}, model="spam").recipes
    assert list(spam) == ["spam"]
    german = plan_run(find_pack("translation"), tmp_path, {}, model="german").recipes["german"]
    assert "columns" not in german["collect"][0]


def test_without_data_only_models_with_sources_of_their_own_are_made() -> None:
    assert list(plan_run(find_pack("code"), None, {}).recipes) == ["explain"]
    with pytest.raises(InputError, match="--data FOLDER"):
        plan_run(legal(), None, {})
    with pytest.raises(NotFoundError, match="no-such"):
        plan_run(legal(), Path("/no-such"), {})
    with pytest.raises(NotFoundError, match='Did you mean "clauses"'):
        plan_run(legal(), None, {"clause": ROOT})


def test_names_that_are_near_are_told() -> None:
    with pytest.raises(NotFoundError, match='Did you mean "legal"'):
        find_pack("leagl")
    with pytest.raises(NotFoundError, match='Did you mean "summarize"'):
        find_capability(legal(), "summarise")


def test_domains_are_listed_and_shown() -> None:
    listed = CliRunner().invoke(app, ["domains", "list", "--json"])
    assert listed.exit_code == 0 and '"id": "legal"' in listed.stdout
    shown = CliRunner().invoke(app, ["domains", "show", "legal"])
    assert shown.exit_code == 0 and "no legal advice" in shown.stdout and "fine-tuned/legal-research" in shown.stdout
