"""Commands for models: the registry, endpoints, answers."""

import sys
from typing import Annotated, Any

import typer

from soldiom_ray.cli.output import Json, follow, print_items, print_json, print_table
from soldiom_ray.settings import load_settings

models_app = typer.Typer(help="The registry: list, show, card, promote, delete.", no_args_is_help=True)
Model = Annotated[str, typer.Argument(help="A model's id, or family/name for its newest version.")]


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    app.add_typer(models_app, name="models")
    for command in (deploy, undeploy, infer, chat):
        app.command()(command)


@models_app.command("list")
def list_models(
    family: Annotated[str | None, typer.Option(help="base, fine-tuned or specialized.")] = None, json: Json = False
) -> None:
    """Show registered models."""
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session

    with open_session(load_settings()) as session:
        rows, _ = models.list_models(session, "default", family=family, limit=200)
        items = [models.as_dict(row) for row in rows]
    print_items(
        items,
        ["id", "family", "name", "version", "base_model", "license", "deployed", "created_at"],
        json,
        "No models yet.",
    )


@models_app.command("show")
def show_model(model: Model, json: Json = False) -> None:
    """Show a model: versions, metrics, lineage."""
    shown = _get(model)
    if json:
        print_json(shown)
    else:
        rows = [{"what": k, "value": v} for k, v in shown.items() if k not in ("card", "lineage")]
        print_table(rows, ["what", "value"])


@models_app.command("card")
def card(model: Model, json: Json = False) -> None:
    """Print a model's card."""
    shown = _get(model)
    print_json({"id": shown["id"], "card": shown["card"]}) if json else print(shown["card"])


@models_app.command("promote")
def promote(
    model: Model,
    force: Annotated[bool, typer.Option("--force", help="Although its gate did not pass.")] = False,
    json: Json = False,
) -> None:
    """Make a version the champion of its name; refused when its gate did not pass."""
    from soldiom_ray.registry import promote as promote_version

    promoted = promote_version(load_settings(), _get(model)["id"], force=force)
    print_json(promoted) if json else print(f"Model {promoted['id']} is now the champion of {promoted['name']}.")


@models_app.command("delete")
def delete(model: Model, json: Json = False) -> None:
    """Delete a version; refused while it is deployed."""
    from soldiom_ray.registry import remove

    model_id = _get(model)["id"]
    remove(load_settings(), model_id)
    print_json({"id": model_id, "deleted": True}) if json else print(f"Model {model_id} is deleted.")


def deploy(
    model: Model,
    replicas: Annotated[int, typer.Option(min=1, max=64)] = 1,
    json: Json = False,
) -> None:
    """Serve a model; returns when it answers."""
    from soldiom_ray import launch
    from soldiom_ray.domains.recipes import validate_recipe

    settings = load_settings()
    shown = _get(model)
    content = {"name": shown["name"], "version": shown["id"], "deploy": {"replicas": replicas}}
    job = follow(
        settings, launch.launch_job(settings, validate_recipe(content, "soldiom deploy"), kind="deploy", owner="cli")
    )
    made: dict[str, Any] = {
        "id": shown["id"],
        "url": f"{settings.api_url}/api/inference/{shown['id']}",
        "job": job["id"],
    }
    print_json(made) if json else print(f"Serving {shown['name']} at {made['url']}")


def undeploy(model: Model, json: Json = False) -> None:
    """Stop serving a model."""
    from soldiom_ray import launch

    model_id = _get(model)["id"]
    launch.undeploy(load_settings(), model_id, "default")
    print_json({"id": model_id, "deployed": False}) if json else print(f"Model {model_id} is no longer served.")


def infer(
    model: Model,
    text: Annotated[str, typer.Argument(help="The input; - reads it from stdin.")],
    max_tokens: Annotated[int, typer.Option(min=1)] = 128,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.0,
    json: Json = False,
) -> None:
    """One answer from a deployed model."""
    from soldiom_ray.cli.client import call

    settings = load_settings()
    content = sys.stdin.read() if text == "-" else text
    body = {"input": content, "parameters": {"max_tokens": max_tokens, "temperature": temperature}}
    answer = call(settings, "POST", f"/api/inference/{_get(model)['id']}", body)
    print_json(answer) if json else print(answer["output"])


def chat(model: Model, max_tokens: Annotated[int, typer.Option(min=1)] = 256, json: Json = False) -> None:
    """A conversation with a deployed model; an empty line ends it. With --json: one JSON line per answer."""
    from soldiom_ray.cli.client import stream

    settings = load_settings()
    model_id = _get(model)["id"]
    messages: list[dict[str, str]] = []
    while text := _ask(quiet=json):
        messages.append({"role": "user", "content": text})
        body = {"messages": messages, "parameters": {"max_tokens": max_tokens, "temperature": 0.7}, "stream": True}
        pieces = []
        for event in stream(settings, f"/api/inference/{model_id}", body):
            pieces.append(str(event.get("text", "")))
            if not json:
                print(pieces[-1], end="", flush=True)
        print() if not json else print_json({"output": "".join(pieces)})
        messages.append({"role": "assistant", "content": "".join(pieces)})


def _ask(quiet: bool) -> str:
    try:
        return input("" if quiet else "you> ").strip()
    except EOFError:
        return ""


def _get(model: str) -> dict[str, Any]:
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session

    with open_session(load_settings()) as session:
        return models.as_dict(models.get(session, model, "default"), with_card=True)
