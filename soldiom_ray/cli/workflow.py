"""Commands for whole workflows: run a recipe, check it, print it filled in."""

import time
from pathlib import Path
from typing import Annotated

import typer

from soldiom_ray.cli.output import Json, follow, note, print_json, say
from soldiom_ray.errors import InputError
from soldiom_ray.settings import load_settings

recipe_app = typer.Typer(help="Check a recipe, or print it filled in.", no_args_is_help=True)
PREFIX = "domain:"
"""`soldiom run domain:NAME`: the workflow of a domain in place of a recipe's file."""
RecipeFile = Annotated[Path, typer.Argument(help="A recipe file (YAML).")]


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    app.command()(run)
    app.add_typer(recipe_app, name="recipe")


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (YAML), or domain:NAME for the workflow of a domain.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="domain: a folder or file to learn from, or MODEL=PATH for one model; may be repeated."),
    ] = None,
    base: Annotated[str | None, typer.Option(help="domain: the base of its language models.")] = None,
    model: Annotated[str | None, typer.Option(help="domain: make this model only.")] = None,
    deploy: Annotated[bool, typer.Option(help="domain: serve what was made.")] = True,
    started: Annotated[float | None, typer.Option(hidden=True, help="Unix time at which the caller began.")] = None,
    json: Json = False,
) -> None:
    """Run a whole workflow: a recipe as one Ray job, of a domain one job per model. Run again, it resumes where it
    stopped."""
    if str(recipe).startswith(PREFIX):
        from soldiom_ray.cli.specialists import run_domain

        run_domain(str(recipe).removeprefix(PREFIX), data or [], base, model, deploys=deploy, json=json)
        return
    if data or base or model:
        raise InputError("--data, --base and --model belong to domain:NAME.", remedy="write them into the recipe")
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
