"""Commands for whole workflows: run a recipe, check it, print it filled in."""

import time
from pathlib import Path
from typing import Annotated

import typer

from soldiom_ray.cli.output import Json, follow, note, print_json, say
from soldiom_ray.settings import load_settings

recipe_app = typer.Typer(help="Check a recipe, or print it filled in.", no_args_is_help=True)
RecipeFile = Annotated[Path, typer.Argument(help="A recipe file (YAML).")]


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    app.command()(run)
    app.add_typer(recipe_app, name="recipe")


def run(
    recipe: RecipeFile,
    started: Annotated[float | None, typer.Option(hidden=True, help="Unix time at which the caller began.")] = None,
    json: Json = False,
) -> None:
    """Run a whole workflow as one Ray job. Run again, it resumes where it stopped."""
    from soldiom_ray import launch
    from soldiom_ray.cli.summary import print_summary, scored_examples, try_model
    from soldiom_ray.domains.recipes import load_recipe, with_absolute_paths
    from soldiom_ray.examples import examples_as_dicts
    from soldiom_ray.records import COMMAND_LINE

    began = time.time()
    loaded = with_absolute_paths(load_recipe(recipe))
    settings = load_settings()
    job = launch.running_job(settings, loaded, "workflow")
    if job:
        note(f"Job {job['id']} runs this recipe already; following it.")
    else:
        job = launch.launch_job(settings, loaded, kind="workflow", owner=COMMAND_LINE)
    job = follow(settings, job)
    answer = try_model(settings, job) if loaded.deploy else None
    if json:
        examples = examples_as_dicts(scored_examples(settings, job))
        print_json({"id": job["id"], "metrics": job["metrics"], "examples": examples, "answer": answer, **job})
    else:
        print_summary(settings, job, answer, {"before the job": began - started} if started else {})


@recipe_app.command("check")
def check_recipe(recipe: RecipeFile, json: Json = False) -> None:
    """Report every mistake in a recipe, with its line."""
    from soldiom_ray.domains.recipes import load_recipe

    loaded = load_recipe(recipe)
    print_json({"id": loaded.name, "problems": []}) if json else say(f"{recipe} is valid.")


@recipe_app.command("show")
def show_recipe(recipe: RecipeFile, json: Json = False) -> None:
    """Print a recipe with every default filled in."""
    from soldiom_ray.domains.recipes import as_dict, as_yaml, load_recipe

    loaded = load_recipe(recipe)
    print_json(as_dict(loaded)) if json else say(as_yaml(loaded), end="")
