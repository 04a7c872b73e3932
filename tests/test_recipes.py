"""Keys of recipes that were renamed: refused with the new name, read where they are stored, and hashed as before."""

import pytest

from soldiom_ray.domains.recipes import as_dict, parse_recipe, read_stored_recipe
from soldiom_ray.domains.schema import Prepare, Train, hash_input
from soldiom_ray.errors import InputError

FORMER = """name: former
dataset: dataset-1
prepare: {licences: {use: commercial}}
train: {recompute: true}
"""


def test_a_former_key_is_refused_and_its_new_name_said() -> None:
    with pytest.raises(InputError) as caught:
        parse_recipe(FORMER.replace("dataset: dataset-1", "documents: [documents-1]"))
    assert [(problem.loc, problem.msg, problem.line) for problem in caught.value.problems] == [
        ("prepare.licences", "is called `license`", 3),
        ("train.recompute", "is called `activation_checkpointing`", 4),
    ]


def test_a_stored_recipe_may_have_former_keys() -> None:
    stored = {
        "name": "stored",
        "documents": ["documents-1"],
        "prepare": {"licences": {"use": "commercial"}},
        "train": {"recompute": True},
    }
    recipe = read_stored_recipe(stored, "job 1")
    assert recipe.prepare and recipe.prepare.license.use == "commercial"
    assert recipe.train and recipe.train.activation_checkpointing is True
    assert read_stored_recipe(as_dict(recipe), "job 2") == recipe


def test_what_ids_hash_has_the_former_keys_so_that_artifacts_made_before_are_found() -> None:
    prepare, train = hash_input("prepare", Prepare()), hash_input("train", Train(activation_checkpointing=True))
    assert prepare.keys() - Prepare.model_fields.keys() == {"licences"}
    assert train.keys() - Train.model_fields.keys() == {"recompute"} and train["recompute"] is True
    assert prepare["licences"] == Prepare().license.model_dump(mode="json")


def test_a_training_without_a_base_has_the_one_that_fits_its_task_or_is_told_to_name_one() -> None:
    assert Train().base_model == Train(task="preference").base_model == "builtin/smollm2-135m-instruct"
    assert Train(task="text_classification").base_model == "builtin/all-MiniLM-L6-v2"
    assert Train(task="text_classification", base_model="org/model").base_model == "org/model"
    for task in ("seq2seq_lm", "image_classification"):
        recipe = f"name: x\ndataset: dataset-1\ntrain: {{task: {task}, method: full}}\n"
        with pytest.raises(InputError) as caught:
            parse_recipe(recipe)
        assert [(problem.loc, problem.line) for problem in caught.value.problems] == [("train", 3)]
        assert "name a Hugging Face folder or hub id" in caught.value.problems[0].msg
        train = parse_recipe(recipe.replace("full", "full, architecture: {hidden_size: 8}")).train
        assert train and train.base_model == "" and hash_input("train", train)["base_model"] == "builtin/tiny"


def test_keys_that_came_later_change_the_id_only_where_they_are_used() -> None:
    added = {"pairs", "max_characters"}
    assert not hash_input("prepare", Prepare()).keys() & added
    used = hash_input("prepare", Prepare(pairs="docstrings", max_characters=500))
    assert {key: used[key] for key in added} == {"pairs": "docstrings", "max_characters": 500}


@pytest.mark.parametrize(
    ("text", "path", "read_as"),
    [
        *((f"name: {word}", "name", read_as) for word, read_as in (
            ("no", "false"), ("yes", "true"), ("ON", "true"), ("off", "false"), ("null", "no value"), ("~", "no value"),
            ("1.0", "the number 1.0"), ("012", "the number 10"), ("12:30", "the number 750"),
            ("2024-03-01", "a date"), ("1_000", "the number 1000"),
        )),
        ("{name: x, collect: [{source: github, topics: [no]}]}", "collect[0].topics[0]", "false"),
        ("{name: x, train: {base_model: 7}}", "train.base_model", "the number 7"),
        ("{name: x, collect: [{source: files, paths: [a], columns: {yes: b, c: on}}]}", "collect[0].columns.c", "true"),
    ],
)  # fmt: skip
def test_words_that_yaml_takes_for_something_else_are_told_to_be_quoted(text: str, path: str, read_as: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_recipe(text)
    problem = next(problem for problem in raised.value.problems if problem.loc == path)
    word = problem.msg.split()[1]
    assert problem.line == 1
    assert problem.msg == f'is {word} without quotes, which YAML reads as {read_as}; write "{word}"'
    assert word in text


def test_keys_are_text_and_choices_are_named_as_they_were_written() -> None:
    with pytest.raises(InputError) as raised:
        parse_recipe("{name: x, on: 3, prepare: {filters: [off]}, train: {method: no}}")
    assert [problem.msg.partition(";")[0] for problem in raised.value.problems] == [
        *("is unknown", "is 'off'", "is 'no'"),
    ]
    with pytest.raises(InputError, match="month must be in"):
        parse_recipe("name: 2024-13-01")
