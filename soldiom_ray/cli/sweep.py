"""`soldiom sweep`: several trainings with different settings, the best of them registered."""

from pathlib import Path
from typing import Annotated, Any

import typer

from soldiom_ray.cli.jobs import run_job, stage_of
from soldiom_ray.cli.options import RecipeCommand, drop_unset, recipe_option
from soldiom_ray.cli.output import Json, print_json, print_table, say
from soldiom_ray.cli.training import read_settings
from soldiom_ray.cli.trials import live_table, trial_columns, trial_rows
from soldiom_ray.errors import InputError

SPACE_HELP = (
    "A setting of `train` and its values; may be repeated: learning_rate=1e-5..1e-3, rank=8,16, epochs=1..4, or as in a"
    " recipe: 'dropout={uniform: [0, 0.1]}'. A range whose ends are 10 times apart is searched by orders of magnitude."
)


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    app.command(cls=RecipeCommand)(sweep)


def sweep(
    source: Annotated[
        str, typer.Argument(metavar="RECIPE|DATASET", help="A recipe with `train`, or the id of a prepared dataset.")
    ],
    space: Annotated[list[str] | None, typer.Option("--space", metavar="NAME=VALUES", help=SPACE_HELP)] = None,
    trials: Annotated[int | None, recipe_option("sweep.trials")] = None,
    minutes: Annotated[float | None, recipe_option("sweep.minutes")] = None,
    scheduler: Annotated[str | None, recipe_option("sweep.scheduler")] = None,
    searcher: Annotated[str | None, recipe_option("sweep.searcher")] = None,
    metric: Annotated[str | None, recipe_option("sweep.metric")] = None,
    concurrent: Annotated[int | None, recipe_option("sweep.concurrent")] = None,
    base: Annotated[str | None, recipe_option("train.base_model")] = None,
    method: Annotated[str | None, recipe_option("train.method")] = None,
    task: Annotated[str | None, recipe_option("train.task")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the best model.  [default: the recipe's, or tuned]")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any setting of `train` that all trials share; may be repeated."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Try several settings of a training, evaluate the best one and register it.

    Killed or cancelled, the same command goes on where it stopped."""
    shared = read_settings(settings or []) | drop_unset(base_model=base, method=method, task=task)
    options: dict[str, Any] = {"trials": trials, "minutes": minutes, "scheduler": scheduler, "searcher": searcher}
    options |= {"metric": metric, "concurrent": concurrent, "space": _read_space(space or []) or None}
    given = {key: value for key, value in options.items() if value is not None}
    content = _content(source, shared, given)
    if name is not None:
        content["name"] = name
    job = run_job(content, "workflow" if "collect" in content or "prepare" in content else "train", live_table)
    details = stage_of(job, "train")["details"]
    result = {
        "id": details.get("sweep"),
        "trials": details.get("trials") or [],
        "run": job["result"]["run"],
        "model_id": job["result"]["model_id"],
        "metrics": job["metrics"],
        "job": job["id"],
    }
    if json:
        print_json(result)
        return
    print_table(trial_rows(result["trials"]), trial_columns(result["trials"]))
    if job["metrics"]:
        from soldiom_ray.cli.summary import print_scores

        print_scores(job["metrics"])
    say(f"Sweep {result['id']}: run {result['run']}, model {result['model_id']}.")


def _content(source: str, shared: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The recipe that runs: that of a file with what the command line changes of it, or a dataset's."""
    from soldiom_ray.domains.recipes import as_dict, load_recipe

    if not Path(source).is_file():
        if Path(source).suffix in (".yaml", ".yml", ".json"):
            raise InputError(f"No recipe file {source!r}.", remedy="recipes that come with the project are in recipes/")
        sweep = {"space": {}} | given
        return {"name": "tuned", "dataset": source, "train": shared, "sweep": sweep, "evaluate": {}, "register": {}}
    content = as_dict(load_recipe(Path(source)))
    for heading, values in (("train", shared), ("sweep", given)):
        if values or heading == "sweep":
            content[heading] = {**(content.get(heading) or {}), **values}
    content["sweep"].setdefault("space", {})
    return content


def _read_space(texts: list[str]) -> dict[str, Any]:
    space = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not values.strip():
            raise InputError(f"--space {text!r} has no values.", remedy="write NAME=VALUES, such as rank=8,16")
        space[name.strip().replace("-", "_")] = values.strip()
    return space
