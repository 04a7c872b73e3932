"""Commands that train and score: train, evaluate."""

from typing import Annotated, Any

import typer

from soldiom_ray.cli.jobs import run_job, stage_of
from soldiom_ray.cli.options import RecipeCommand, drop_unset, recipe_option
from soldiom_ray.cli.output import Json, print_json, say
from soldiom_ray.cli.trials import live_table
from soldiom_ray.domains.tasks import CHAT_TASKS, IMAGE_CLASSIFICATION, SERVED_TASKS
from soldiom_ray.errors import InputError
from soldiom_ray.settings import load_settings


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    for command in (train, evaluate):
        app.command(cls=RecipeCommand)(command)


def train(
    data: Annotated[str, typer.Option(help="Id of a prepared dataset.")],
    base: Annotated[str | None, recipe_option("train.base_model")] = None,
    method: Annotated[str | None, recipe_option("train.method")] = None,
    task: Annotated[str | None, recipe_option("train.task")] = None,
    name: Annotated[str, typer.Option(help="Name of the tuned model.")] = "tuned",
    rank: Annotated[int | None, recipe_option("train.rank")] = None,
    epochs: Annotated[float | None, recipe_option("train.epochs")] = None,
    max_tokens: Annotated[int | None, recipe_option("train.max_tokens")] = None,
    sequence_length: Annotated[int | None, recipe_option("train.sequence_length")] = None,
    batch_tokens: Annotated[int | None, recipe_option("train.batch_tokens")] = None,
    learning_rate: Annotated[float | None, recipe_option("train.learning_rate")] = None,
    workers: Annotated[int | None, recipe_option("train.workers")] = None,
    strategy: Annotated[str | None, recipe_option("train.strategy")] = None,
    template_gaps: Annotated[str | None, recipe_option("train.template_gaps")] = None,
    auto: Annotated[
        bool,
        typer.Option("--auto", help="Choose base and settings by trials within --minutes, and write down why."),
    ] = False,
    minutes: Annotated[float | None, recipe_option("auto.minutes", scope="with --auto:")] = None,
    bases: Annotated[
        list[str] | None, recipe_option("auto.bases", scope="with --auto, may be repeated:", metavar="BASE")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting of `train` in a recipe; may be repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """Train, evaluate and register: a dataset and a base model become a registered version."""
    options = drop_unset(
        base_model=base,
        task=task,
        method=method,
        rank=rank,
        epochs=epochs,
        max_tokens=max_tokens,
        sequence_length=sequence_length,
        batch_tokens=batch_tokens,
        learning_rate=learning_rate,
        workers=workers,
        strategy=strategy,
        template_gaps=template_gaps,
    )
    heading = read_settings(settings or []) | options
    if auto != (minutes is not None):
        raise InputError("--auto and --minutes go together.", remedy="for example: --auto --minutes 20")
    if bases and not auto:
        raise InputError("--bases are tried with --auto.", remedy="name one --base, or add --auto --minutes 20")
    content = {"name": name, "dataset": data, "train": heading, "evaluate": {}, "register": {}}
    if auto:
        content["auto"] = {"minutes": minutes, **drop_unset(bases=bases)}
    job = run_job(content, "train", live_table if auto else None)
    result = {
        "id": job["result"]["run"],
        "model_id": job["result"]["model_id"],
        "metrics": job["metrics"],
        "notes": stage_of(job, "train")["details"].get("notes") or [],
        "job": job["id"],
    }
    if json:
        print_json(result | _examples(job))
        return
    _print_scores(job)
    say(_time_spent(stage_of(job, "train")))
    next_step = _next_step(job["config"]["train"]["task"], result["model_id"])
    say(f"Run {result['id']}, model {result['model_id']}.{next_step}")


def _next_step(task: str, model: str) -> str:
    if task not in SERVED_TASKS:
        return ""
    question = "picture.png" if task == IMAGE_CLASSIFICATION else '"a text"'
    ask = f"soldiom chat {model}" if task in CHAT_TASKS else f"soldiom infer {model} {question}"
    return f" Next: soldiom deploy {model}, then {ask}"


def evaluate(
    model_run: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model's id, family/name for its newest version, or a run's id.")
    ],
    data: Annotated[
        str | None, typer.Option(help="Id of a prepared dataset; default: the one it was trained on.")
    ] = None,
    max_tokens: Annotated[int | None, recipe_option("evaluate.max_tokens")] = None,
    examples: Annotated[int | None, recipe_option("evaluate.examples")] = None,
    answers: Annotated[int | None, recipe_option("evaluate.answers")] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Name of a model behind the OpenAI protocol that compares the answers of base and tuned model."
        ),
    ] = None,
    judge_url: Annotated[str | None, recipe_option("evaluate.judge.url", "--judge-url")] = None,
    red_team: Annotated[bool, recipe_option("evaluate.red_team", "--red-team")] = False,
    json: Json = False,
) -> None:
    """Score a model against its base on held-out data, with a confidence interval and the gate's verdict, and show a
    few held-out prompts answered by both."""
    if judge_url and not judge:
        raise InputError("--judge-url names no model.", remedy="add --judge NAME")
    judging = {"model": judge, **({"url": judge_url, "private": True} if judge_url else {})} if judge else None
    heading = drop_unset(max_tokens=max_tokens, examples=examples, answers=answers, judge=judging) | (
        {"red_team": True} if red_team else {}
    )
    content = {"name": "evaluation", "run": model_run, "evaluate": heading}
    job = run_job(content | drop_unset(dataset=data), "evaluate")
    result = {"id": job["result"]["scores"], "metrics": job["metrics"], "job": job["id"]}
    if json:
        print_json(result | _examples(job))
    else:
        _print_scores(job)


def read_settings(texts: list[str]) -> dict[str, Any]:
    """`--set NAME=VALUE` as the recipe's heading has it; values are read as YAML."""
    import yaml

    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text!r} has no value.", remedy="write it as NAME=VALUE, such as dora=true")
        try:
            settings[name.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(
                f"The value of --set {name} cannot be read.", remedy="write a number, a word or YAML"
            ) from error
    return settings


def _examples(job: dict[str, Any]) -> dict[str, Any]:
    from soldiom_ray.cli.summary import scored_examples
    from soldiom_ray.examples import examples_as_dicts

    return {"examples": examples_as_dicts(scored_examples(load_settings(), job))}


def _time_spent(stage: dict[str, Any]) -> str:
    """How the seconds of a training were divided, the largest part first, or that it was made before."""
    parts = dict(stage["details"].get("seconds_by_part") or {})
    total = parts.pop("total", 0.0)
    if stage["reused"] or not total:
        return "Trained before from the same inputs: reused."
    shares = sorted(parts.items(), key=lambda part: -part[1])
    shown = ", ".join(f"{name.replace('_', ' ')} {seconds:.0f}" for name, seconds in shares if seconds >= 0.5)
    return f"Training took {total:.0f} s: {shown}."


def _print_scores(job: dict[str, Any]) -> None:
    from soldiom_ray.cli.summary import print_examples, print_scores, scored_examples

    print_scores(job["metrics"])
    print_examples(scored_examples(load_settings(), job))
