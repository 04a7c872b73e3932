"""Commands for work: whole workflows, training, evaluation, jobs, recipes."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from soldiom_ray.cli.output import Json, follow, note, print_items, print_json, print_table
from soldiom_ray.cli.planning import plan
from soldiom_ray.errors import InputError
from soldiom_ray.models.task_models import TASK_MODELS
from soldiom_ray.settings import Settings, load_settings

jobs_app = typer.Typer(help="Jobs: list, show, logs, cancel.", no_args_is_help=True)
recipe_app = typer.Typer(help="Check a recipe, or print it filled in.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    for command in (run, plan, train, evaluate):
        app.command()(command)
    app.add_typer(jobs_app, name="jobs")
    app.add_typer(recipe_app, name="recipe")


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (YAML).")],
    started: Annotated[float | None, typer.Option(hidden=True, help="Unix time at which the caller began.")] = None,
    json: Json = False,
) -> None:
    """Run a whole workflow as one Ray job; run again, it goes on where it stopped."""
    from soldiom_ray import launch
    from soldiom_ray.cli.summary import print_summary, try_model
    from soldiom_ray.domains.recipes import load_recipe

    began = time.time()
    loaded = _absolute_paths(load_recipe(recipe))
    settings = load_settings()
    job = launch.running_job(settings, loaded, "workflow")
    if job:
        note(f"Job {job['id']} runs this recipe already; following it.")
    else:
        job = launch.launch_job(settings, loaded, kind="workflow", owner="cli")
    job = follow(settings, job)
    answer = try_model(settings, job) if loaded.deploy else None
    if json:
        print_json({"id": job["id"], "metrics": job["metrics"], "answer": answer, **job})
    else:
        print_summary(settings, job, answer, {"before the job": began - started} if started else {})


def train(
    base: Annotated[str, typer.Option(help="builtin/tiny, a Hugging Face folder or hub id, or a registered model.")],
    data: Annotated[str, typer.Option(help="Id of a prepared dataset.")],
    method: Annotated[str, typer.Option(help="full, lora or prompt.")] = "lora",
    task: Annotated[
        str,
        typer.Option(help="causal_lm, preference, seq2seq_lm, text_classification or image_classification."),
    ] = "causal_lm",
    name: Annotated[str, typer.Option(help="Name of the tuned model.")] = "tuned",
    rank: Annotated[int | None, typer.Option(help="LoRA rank (16).")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data (1).")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Stop after so many tokens.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens per sequence (512).")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens per step (8192).")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default by method and task.")] = None,
    workers: Annotated[int | None, typer.Option(help="Ray Train workers (1).")] = None,
    strategy: Annotated[str | None, typer.Option(help="single, ddp, fsdp, zero2 or zero3 (auto).")] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting of `train` in a recipe; may be repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """Train, evaluate and register: a dataset and a base model become a version."""
    given = {
        "rank": rank,
        "epochs": epochs,
        "max_tokens": max_tokens,
        "sequence_length": sequence_length,
        "batch_tokens": batch_tokens,
        "learning_rate": learning_rate,
        "workers": workers,
        "strategy": strategy,
    }
    declared = {"base_model": _absolute(base), "task": task, "method": method}
    declared |= _settings(options or []) | {key: value for key, value in given.items() if value is not None}
    job = _run({"name": name, "dataset": data, "train": declared, "evaluate": {}, "register": {}}, "train")
    made = {
        "id": job["result"]["run"],
        "model_id": job["result"]["model_id"],
        "metrics": job["metrics"],
        "job": job["id"],
    }
    if json:
        print_json(made)
        return
    _print_metrics(job["metrics"])
    next_step = f" Next: soldiom deploy {made['model_id']}" if TASK_MODELS[task].generates else ""
    print(f"Run {made['id']}, model {made['model_id']}.{next_step}")


def _settings(options: list[str]) -> dict[str, Any]:
    """`--set NAME=VALUE` as a recipe's heading has them; values are read as YAML."""
    import yaml

    read = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise InputError(f"--set {option!r} has no value.", remedy="write it as NAME=VALUE, such as dora=true")
        try:
            read[name.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(
                f"The value of --set {name} cannot be read.", remedy="write a number, a word or YAML"
            ) from error
    return read


def evaluate(
    model_run: Annotated[str, typer.Argument(metavar="RUN", help="Id of a training run.")],
    data: Annotated[
        str | None, typer.Option(help="Id of a prepared dataset; default: the one it was trained on.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="At most so many tokens.")] = None,
    json: Json = False,
) -> None:
    """Score a run against its base on held-out data, with a confidence interval and the gate's verdict."""
    declared = {"max_tokens": max_tokens} if max_tokens else {}
    content = {"name": "evaluation", "run": model_run, "evaluate": declared} | ({"dataset": data} if data else {})
    job = _run(content, "evaluate")
    made = {"id": job["result"]["scores"], "metrics": job["metrics"], "job": job["id"]}
    if json:
        print_json(made)
    else:
        _print_metrics(job["metrics"])


@jobs_app.command("list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="pending, running, completed, failed or cancelled.")] = None,
    json: Json = False,
) -> None:
    """Show jobs, newest first."""
    from soldiom_ray.db import jobs
    from soldiom_ray.db.engine import open_session

    with open_session(load_settings()) as session:
        rows, _ = jobs.list_jobs(session, "default", status=status, limit=100)
        items = [jobs.as_dict(row) for row in rows]
    print_items(
        items, ["id", "kind", "name", "status", "progress", "stage", "created_at", "error"], json, "No jobs yet."
    )


@jobs_app.command("show")
def show_job(job: Annotated[str, typer.Argument(help="Its id.")], json: Json = False) -> None:
    """Show a job and its stages."""
    from soldiom_ray import launch

    shown = launch.show_job(load_settings(), job, "default")
    if json:
        print_json(shown)
        return
    rows = {name: value for name, value in shown.items() if name not in ("stages", "config", "problem")}
    if "problem" in shown:
        rows["error"] = f"{shown['problem']['title']}: {shown['error']}"
    print_table([{"what": name, "value": value} for name, value in rows.items()], ["what", "value"])
    print_table(shown["stages"], ["stage", "status", "seconds", "reused", "artifact_id", "message"])


@jobs_app.command("logs")
def job_logs(
    job: Annotated[str, typer.Argument(help="Its id.")],
    follow_log: Annotated[bool, typer.Option("--follow", help="Go on until the job has ended.")] = False,
    json: Json = False,
) -> None:
    """Print what a job's process has written, for people; with --json the JSON lines (in one document, unless
    followed)."""
    from soldiom_ray import launch
    from soldiom_ray.logs import readable

    settings = load_settings()
    if json and not follow_log:
        print_json({"id": job, "logs": launch.job_logs(settings, job, "default")})
        return
    if follow_log:
        pieces = launch.follow_logs(settings, job, "default")
    else:
        pieces = iter([launch.job_logs(settings, job, "default")])
    if json:
        for piece in pieces:
            print(piece, end="", flush=True)
    else:
        for line in readable(pieces):
            print(line, flush=True)


@jobs_app.command("cancel")
def cancel(job: Annotated[str, typer.Argument(help="Its id.")], json: Json = False) -> None:
    """Stop a job; its checkpoint is kept. Returns when it has ended."""
    from soldiom_ray import launch

    settings = load_settings()
    launch.cancel_job(settings, job, "default")
    *_, ended = launch.wait_for_job(settings, job)
    print_json(ended) if json else print(f"Job {job} is {ended['status']}.")


@recipe_app.command("check")
def check_recipe(recipe: Annotated[Path, typer.Argument(help="A recipe file.")], json: Json = False) -> None:
    """Tell every mistake of a recipe, with its line."""
    from soldiom_ray.domains.recipes import load_recipe

    loaded = load_recipe(recipe)
    print_json({"id": loaded.name, "problems": []}) if json else print(f"{recipe} is a good recipe.")


@recipe_app.command("show")
def show_recipe(recipe: Annotated[Path, typer.Argument(help="A recipe file.")], json: Json = False) -> None:
    """Print a recipe filled in with every default."""
    from soldiom_ray.domains.recipes import as_dict, as_yaml, load_recipe

    loaded = load_recipe(recipe)
    print_json(as_dict(loaded)) if json else print(as_yaml(loaded), end="")


def _run(content: dict[str, Any], kind: str) -> dict[str, Any]:
    from soldiom_ray import launch
    from soldiom_ray.domains.recipes import validate_recipe

    settings: Settings = load_settings()
    recipe = validate_recipe(content, f"soldiom {kind}")
    return follow(settings, launch.launch_job(settings, recipe, kind=kind, owner="cli"))


def _print_metrics(metrics: dict[str, Any]) -> None:
    from soldiom_ray.cli.summary import metric_rows

    print_table(metric_rows(metrics), ["metric", "before", "after", "difference", "interval"])
    if metrics.get("gate"):
        print(metrics["gate"].get("verdict", ""))


def _absolute(name: str) -> str:
    """A base model given as a folder, so that a job elsewhere finds it."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.is_dir() else name


def _absolute_paths(recipe: Any) -> Any:
    """The recipe with local paths made absolute: its job runs in another folder."""
    from soldiom_ray.domains.recipes import as_dict, validate_recipe

    content = as_dict(recipe)
    for source in content.get("collect", []):
        if source.get("path"):
            source["path"] = str(Path(source["path"]).expanduser().absolute())
        if source.get("paths"):
            source["paths"] = [str(Path(path).expanduser().absolute()) for path in source["paths"]]
    if "train" in content:
        content["train"]["base_model"] = _absolute(content["train"]["base_model"])
    return validate_recipe(content)
