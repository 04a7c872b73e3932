"""`soldiom new-domain`: a team's own documents become a domain with a first model."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from soldiom_ray.cli.output import Json, follow, print_json, say
from soldiom_ray.cli.paths import named_path
from soldiom_ray.cli.specialists import make_models
from soldiom_ray.errors import InputError, NotFoundError
from soldiom_ray.settings import load_settings, write_private


def add_commands(app: typer.Typer) -> None:
    """Put this module's command under the program."""
    app.command("new-domain")(new_domain)


def new_domain(
    name: Annotated[str, typer.Argument(help="What the domain is to be called: small letters, digits, hyphens.")],
    folder: Annotated[str, typer.Option("--from", metavar="FOLDER", help="The team's documents, tables or pictures.")],
    title: Annotated[str, typer.Option(help="Its title; unset: its name.")] = "",
    pictures: Annotated[bool, typer.Option("--pictures", help="Take pictures and nothing else.")] = False,
    base: Annotated[str | None, typer.Option(help="Another base for a language model.")] = None,
    makes: Annotated[bool, typer.Option("--model/--no-model", help="Make the first model, or the pack alone.")] = True,
    deploys: Annotated[bool, typer.Option("--deploy/--no-deploy", help="Serve the model once it is made.")] = True,
    json: Json = False,
) -> None:
    """Make a domain of a team's own documents: read them, write a pack, make a first model, say what is missing."""
    from soldiom_ray.domains.new_pack import new_pack

    pack_file, documents = _pack_file(name), named_path(folder, "--from").absolute()
    if not documents.is_dir():
        raise NotFoundError(f"There is no folder {folder!r}.", remedy="name a folder of documents with --from")
    pack = new_pack(name, title, str(documents), *_counted(name, documents, pictures=pictures))
    write_private(pack_file, pack.text)
    made = make_models(name, [], base, None, deploys=deploys, quiet=json) if makes else []
    if json:
        print_json(
            {"id": name, "pack": str(pack_file), "use": pack.use, "missing": list(pack.missing), "items": list(made)}
        )
        return
    say(f"The pack: {pack_file}\nMissing:\n" + "\n".join(f"- {each}" for each in pack.missing))
    say(f"Ask it: soldiom domains show {name}" if makes else f"Make it: soldiom run domain:{name}")


def _pack_file(name: str) -> Path:
    """Where the new pack goes. InputError for a name that no domain can have, or that one has, or a model of one."""
    from soldiom_ray.domains.specialists import NAME, built_in_packs, own_folder

    others = {model.registered: pack.name for pack in built_in_packs().values() for model in pack.models.values()}
    registered = f"fine-tuned/{name}"
    why = (
        "a domain of this name comes with Soldiom"
        if name in built_in_packs()
        else "a name has small letters, digits and hyphens, and begins with a letter"
        if not re.fullmatch(NAME, name)
        else f"its model would be the next version of {registered}, a model of the domain {others[registered]}"
        if registered in others
        else ""
    )
    if why:
        raise InputError(f"{name[:60]!r} cannot be the name of a new domain: {why}.", remedy="choose another name")
    if (path := own_folder() / f"{name}.yaml").exists():
        raise InputError(
            f"There is a domain {name!r} already: {path}.",
            remedy=f"edit it and run `soldiom run domain:{name}`, or delete it and begin again",
        )
    return path


def _counted(name: str, folder: Path, *, pictures: bool) -> tuple[dict[str, int], dict[str, Any], int]:
    """(counts, details) of the dataset that the documents become, and how many of its training samples are a question
    and its answer."""
    from soldiom_ray import launch
    from soldiom_ray.artifacts import Artifacts
    from soldiom_ray.domains.recipes import validate_recipe
    from soldiom_ray.records import COMMAND_LINE
    from soldiom_ray.storage import open_storage

    settings = load_settings()
    source = {"source": "files", "paths": [str(folder)], "pictures": pictures}
    recipe = validate_recipe({"name": name, "collect": [source], "prepare": {}}, f"the documents of {name}")
    job = follow(settings, launch.launch_job(settings, recipe, kind="workflow", owner=COMMAND_LINE))
    artifacts = Artifacts(open_storage(settings))
    dataset = artifacts.get(job["result"]["dataset"])
    pairs = sum(bool(row["messages"]) for row in artifacts.rows(dataset, "train/", ["messages"]))
    return dict(dataset.counts), dict(dataset.details), pairs
