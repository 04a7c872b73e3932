"""`soldiom domains`, and the workflow of a domain: `soldiom run domain:NAME`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from soldiom_ray.cli.output import Json, follow, note, print_items, print_json, print_table, say
from soldiom_ray.errors import InputError
from soldiom_ray.settings import load_settings

domains_app = typer.Typer(help="List and show the specialisations.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    app.add_typer(domains_app, name="domains")


@domains_app.command("list")
def list_domains(json: Json = False) -> None:
    """List the domains: what each can be asked, and which models it makes."""
    from soldiom_ray.domains.specialists import packs

    items = [
        {
            "id": pack.name,
            "title": pack.title,
            "capabilities": list(pack.capabilities) if json else ", ".join(pack.capabilities),
            "models": registered if json else ", ".join(registered),
        }
        for pack in packs().values()
        for registered in [[model.registered for model in pack.models.values()]]
    ]
    print_items(items, ["id", "capabilities", "models"], json, "No domain is installed.")


@domains_app.command("show")
def show_domain(
    name: Annotated[str, typer.Argument(help="The domain's name, such as legal.")], json: Json = False
) -> None:
    """Show a domain: its capabilities and models, the data it is made for, and what it must not be used for."""
    from soldiom_ray.domains.specialists import find_pack

    pack = find_pack(name)
    if json:
        shown = pack.model_dump(mode="json", by_alias=True, exclude_none=True)
        print_json({"id": pack.name, **shown, "headings": {model: pack.headings(model) for model in pack.models}})
        return
    say(f"{pack.title}: {pack.description}\n\nNotice: {pack.notice}\nNot for:")
    say("\n".join(f"- {use}" for use in pack.not_for) + "\n")
    rows: list[dict[str, Any]] = [
        {"capability": name, "by": _answered_by(each), "takes": _members(each.input), "does": each.description}
        for name, each in pack.capabilities.items()
    ]
    print_table(rows, ["capability", "by", "takes", "does"])
    say()
    rows = [
        {"model": name, "registered_as": each.registered, "reads": ", ".join(each.data.paths), "does": each.description}
        for name, each in pack.models.items()
    ]
    print_table(rows, ["model", "registered_as", "reads", "does"])
    say()
    print_table([each.model_dump() for each in pack.datasets], ["name", "license", "use"], "Public data")


def run_domain(
    domain: str,
    data: Sequence[str],
    base: str | None,
    model: str | None,
    *,
    deploys: bool,
    json: bool,
) -> None:
    """Make the models of a domain, one job after the other; run again, it resumes where it stopped."""
    from soldiom_ray import launch
    from soldiom_ray.cli.summary import print_scores
    from soldiom_ray.domains.pack_runs import plan_run
    from soldiom_ray.domains.recipes import validate_recipe, with_absolute_paths
    from soldiom_ray.domains.specialists import find_pack
    from soldiom_ray.records import COMMAND_LINE

    pack, (folder, data_of) = find_pack(domain), _read_data(data)
    planned = plan_run(pack, folder, data_of, model=model, base=base, deploys=deploys)
    settings = load_settings()
    recipes = {
        name: with_absolute_paths(validate_recipe(content, f"domain:{domain}, model {name}"))
        for name, content in planned.recipes.items()
    }
    for name, reason in planned.left_out.items():
        note(f"The model {name} is not made: {reason}.")
    items = []
    for name, recipe in recipes.items():
        note(f"{pack.name}: making {pack.models[name].registered} ({pack.models[name].description})")
        job = launch.running_job(settings, recipe, "workflow")
        job = job or launch.launch_job(settings, recipe, kind="workflow", owner=COMMAND_LINE)
        job = follow(settings, job)
        items.append(_made(name, pack.models[name].registered, job))
        if not json:
            print_scores(job["metrics"])
            say(f"Model {items[-1]['model_id']} is {items[-1]['registered_as']}.\n")
    if json:
        print_json({"id": pack.name, "items": items, "left_out": dict(planned.left_out), "notice": pack.notice})
    else:
        say(f"Ask it: soldiom domains show {pack.name}\n{pack.notice}")


def _made(name: str, registered: str, job: Mapping[str, Any]) -> dict[str, Any]:
    seconds = {stage["stage"]: stage["seconds"] for stage in job["stages"]}
    result = job["result"]
    made = {"model": name, "registered_as": registered, "job": job["id"], "model_id": result["model_id"]}
    return made | {"metrics": job["metrics"], "seconds": seconds, "endpoint": result["endpoint"]}


def _read_data(texts: Sequence[str]) -> tuple[Path | None, dict[str, Path]]:
    """(the folder for all models, the data of single models) from `--data PATH` and `--data MODEL=PATH`."""
    folders: list[Path] = []
    data_of: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if equals and "/" not in name:
            data_of[name] = Path(path).expanduser().absolute()
        else:
            folders.append(Path(text).expanduser().absolute())
    if len(folders) > 1:
        raise InputError(
            f"--data names {len(folders)} folders.", remedy="name one folder, or the data of each model: MODEL=PATH"
        )
    return folders[0] if folders else None, data_of


def _answered_by(capability: Any) -> str:
    by = capability.by
    return f"rule {by.rule}" if by.rule else f"{by.kind} {by.model}" if by.model else by.kind


def _members(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    return ", ".join(name if name in required else f"[{name}]" for name in schema.get("properties", {}))
