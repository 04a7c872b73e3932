"""`soldiom models`, and commands that serve a model and ask it once: deploy, undeploy, infer."""

import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soldiom_ray.cli.jobs import run_job, stage_of
from soldiom_ray.cli.options import RecipeCommand, drop_unset, recipe_option
from soldiom_ray.cli.output import Json, output_text, print_items, print_json, print_table, say
from soldiom_ray.cli.paths import named_path
from soldiom_ray.domains.tasks import IMAGE_CLASSIFICATION
from soldiom_ray.errors import InputError
from soldiom_ray.settings import HOME_TENANT, Settings, load_settings

if TYPE_CHECKING:
    from soldiom_ray.artifacts import Artifacts

models_app = typer.Typer(help="List, show, promote and delete registered models.", no_args_is_help=True)
Model = Annotated[str, typer.Argument(help="A model's id, family/name for its newest version, or a run's id.")]


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    app.add_typer(models_app, name="models")
    app.command(cls=RecipeCommand)(compress)
    app.command(cls=RecipeCommand)(deploy)
    for command in (undeploy, infer):
        app.command()(command)


@models_app.command("list")
def list_models(
    family: Annotated[str | None, typer.Option(help="base, fine-tuned or specialized.")] = None, json: Json = False
) -> None:
    """List registered models, newest first."""
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.domains.hosting import served_by

    with open_session(load_settings()) as session:
        rows, _ = models.list_models(session, HOME_TENANT, family=family, limit=200)
        items = [models.as_dict(row) | {"served_by": served_by(session, row)} for row in rows]
    print_items(
        items,
        ["id", "family", "name", "version", "base_model", "license", "deployed", "served_by", "created_at"],
        json,
        "No models yet.",
    )


@models_app.command("show")
def show_model(model: Model, json: Json = False) -> None:
    """Show a model: its version, metrics, license, lineage."""
    record = get_model(model)
    if json:
        print_json(record)
    else:
        rows = [{"what": name, "value": value} for name, value in record.items() if name not in ("card", "lineage")]
        print_table(rows, ["what", "value"])


@models_app.command("card")
def card(model: Model, json: Json = False) -> None:
    """Print a model's card."""
    record = get_model(model)
    print_json({"id": record["id"], "card": record["card"]}) if json else say(record["card"])


@models_app.command("promote")
def promote(
    model: Model,
    force: Annotated[
        bool, typer.Option("--force", help="Promote it even if its gate did not pass; needs --reason.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why the gate is overridden; goes to the audit trail.")] = "",
    json: Json = False,
) -> None:
    """Make a version the champion of its name. Refused when its gate did not pass."""
    from soldiom_ray.records import COMMAND_LINE
    from soldiom_ray.registry import promote as promote_version

    promoted = promote_version(
        load_settings(), get_model(model)["id"], actor=COMMAND_LINE, is_admin=True, force=force, reason=reason
    )
    print_json(promoted) if json else say(f"Model {promoted['id']} is now the champion of {promoted['name']}.")


@models_app.command("share")
def share(
    model: Model,
    private: Annotated[bool, typer.Option("--private", help="Its owner and admins alone see it, from now on.")] = False,
    json: Json = False,
) -> None:
    """Let all users see a version that one of them owns, and train on it. A deployed one they may ask anyway."""
    from soldiom_ray.cli.datasets import share_row
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session

    with open_session(load_settings()) as session:
        row = models.get(session, model, HOME_TENANT)
        share_row(session, row, "model", shared=not private)
        shown = models.as_dict(row)
    print_json(shown) if json else say(f"{row.id} is {'private' if private else 'shared'}.")


@models_app.command("catalog")
def catalog(json: Json = False) -> None:
    """List well-known base models: what `base_model` takes, license, size, tasks, and what the license asks for."""
    from soldiom_ray.registry import catalog as base_models

    items = base_models()
    if not json:
        for item in items:
            item["tasks"] = ", ".join(item["tasks"])
            item["name_starts_with"] = item["name_starts_with"] or "-"
    print_items(items, ["name", "model", "license", "parameters", "tasks", "gated", "name_starts_with"], json, "")


@models_app.command("rollback")
def rollback(model: Model, json: Json = False) -> None:
    """Make the champion before this one the champion again."""
    from soldiom_ray.records import COMMAND_LINE
    from soldiom_ray.registry import rollback as roll_back

    champion = roll_back(load_settings(), get_model(model)["id"], actor=COMMAND_LINE)
    name = f"{champion['family']}/{champion['name']}"
    print_json(champion) if json else say(f"Version {champion['version']} is the champion of {name} again.")


@models_app.command("lineage")
def lineage(model: Model, json: Json = False) -> None:
    """Show what a model was made from, down to sources and licences, and what was built on it."""
    from soldiom_ray.registry import lineage as lineage_of

    record = lineage_of(load_settings(), get_model(model)["id"])
    if json:
        print_json(record)
        return
    rows = [{"what": what, "value": value} for what, value in record["made_from"].items() if what != "documents"]
    rows += [{"what": "documents", "value": each["id"]} for each in record["made_from"]["documents"] or ()]
    for each in record["ingredients"]:
        size = f", {each['documents']} documents of {each['sources']} source(s)" if each["documents"] else ""
        rows.append({"what": each["part"], "value": f"{each['license'] or 'no licence'}{size}: {each['subject']}"})
    for what in ("built_on", "bases_of"):
        label = {"built_on": "built on", "bases_of": "base of"}[what]
        rows += [{"what": label, "value": f"{each['name']}@{each['version']} ({each['id']})"} for each in record[what]]
    print_table(rows, ["what", "value"])


@models_app.command("sbom")
def sbom(model: Model) -> None:
    """Print a model's bill of materials (CycloneDX 1.6, JSON): weights, bases, data by licence, libraries."""
    from soldiom_ray.registry import materials

    print_json(materials(load_settings(), get_model(model)["id"]))


@models_app.command("export")
def export(
    model: Model, folder: Annotated[Path, typer.Argument(help="A new folder, or an empty one.")], json: Json = False
) -> None:
    """Write a version into a folder for other programs: its weights, verified and in clear, its card, its bill of
    materials, and the notices that its licences ask for."""
    from soldiom_ray.models.export import export_model
    from soldiom_ray.registry import materials

    run, (settings, artifacts), record = _run_of(model), _artifacts(), get_model(model)
    written = export_model(
        settings,
        artifacts,
        run,
        folder.expanduser(),
        card=record["card"],
        notices=record.get("notices") or [],
        materials=materials(settings, record["id"]),
    )
    if json:
        print_json({"id": record["id"], "folder": str(folder), "files": written})
        return
    say(f"{record['name']} version {record['version']}: {len(written)} files in {folder}.")
    for notice in record.get("notices") or []:
        say(f"Whoever gets it must be told: {notice}")


@models_app.command("verify")
def verify(model: Model, json: Json = False) -> None:
    """Check that a model's weights are those that this home, or a signer it trusts, has signed. Exit code 1: they are
    not."""
    from soldiom_ray.models.signing import verify_run

    run, (settings, artifacts) = _run_of(model), _artifacts()
    signer = verify_run(settings, artifacts, run)
    result = {"id": model, "run": run, "signed": True, "signer": signer}
    print_json(result) if json else say(f"The weights of {run} are as they were signed (key {signer[:16]}).")


@models_app.command("sign")
def sign(model: Model, json: Json = False) -> None:
    """Sign the weights of a model or run as they are now: of one that was brought here from elsewhere."""
    from soldiom_ray.models.signing import sign_run

    run, (settings, artifacts) = _run_of(model), _artifacts()
    sign_run(settings, artifacts, run)
    print_json({"id": model, "run": run, "signed": True}) if json else say(f"The weights of {run} are signed.")


@models_app.command("delete")
def delete(model: Model, json: Json = False) -> None:
    """Delete a version. Refused while it is deployed or another model is built on it."""
    from soldiom_ray.registry import remove

    model_id = get_model(model)["id"]
    remove(load_settings(), model_id)
    print_json({"id": model_id, "deleted": True}) if json else say(f"Model {model_id} is deleted.")


def deploy(
    model: Model,
    replicas: Annotated[int | None, recipe_option("deploy.replicas")] = None,
    use: Annotated[str | None, recipe_option("deploy.use")] = None,
    content_filter: Annotated[str | None, recipe_option("deploy.filter", "--filter")] = None,
    watermark: Annotated[bool, recipe_option("deploy.watermark", "--watermark")] = False,
    share: Annotated[float | None, recipe_option("deploy.share")] = None,
    json: Json = False,
) -> None:
    """Serve a model. Returns when its endpoint answers."""
    record = get_model(model)
    declared = drop_unset(replicas=replicas, use=use, filter=content_filter, watermark=watermark or None, share=share)
    content = {"name": record["name"], "version": record["id"], "deploy": declared}
    job = run_job(content, "deploy")
    url = f"{load_settings().api_url}/api/inference/{record['id']}"
    result = {"id": record["id"], "url": url, "job": job["id"]}
    print_json(result) if json else say(f"Serving {record['name']} at {url}")


def compress(
    model: Model,
    to: Annotated[str, recipe_option("compress.to")],
    json: Json = False,
) -> None:
    """Make a version of a model with smaller weights, score it against the model itself on the held-out data, and
    register it as NAME-FORMAT."""
    from soldiom_ray.cli.summary import print_scores
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.domains.compression import COMPRESS, compression, savings
    from soldiom_ray.domains.recipes import as_dict

    with open_session(load_settings()) as session:
        recipe = compression(session, model, HOME_TENANT, to)
    job = run_job(as_dict(recipe), COMPRESS)
    made = stage_of(job, "compress")["details"]["compression"]
    result = {
        "id": job["result"]["run"],
        "model_id": job["result"]["model_id"],
        "compression": made,
        "metrics": job["metrics"],
        "job": job["id"],
    }
    if json:
        print_json(result)
        return
    print_scores(job["metrics"], "Held-out data: base is the uncompressed model, tuned the compressed one")
    titles = ("what", "uncompressed", "compressed")
    print_table([dict(zip(titles, row, strict=True)) for row in savings(made)], list(titles))
    served = f"soldiom deploy {result['model_id']}"
    file = f"soldiom models export {result['model_id']} FOLDER"
    say(f"Model {result['model_id']}. Next: {file if to.startswith('gguf') else served}")


def undeploy(model: Model, json: Json = False) -> None:
    """Stop serving a model."""
    from soldiom_ray import launch

    model_id = get_model(model)["id"]
    launch.undeploy(load_settings(), model_id, HOME_TENANT)
    print_json({"id": model_id, "deployed": False}) if json else say(f"Model {model_id} is no longer served.")


def infer(
    model: Model,
    text: Annotated[
        str | None,
        typer.Argument(help="The input; `-` reads it from standard input. For an image classifier: a picture's file."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a text: a file of inputs, a line each, or JSON lines with `input`. A job answers."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="With --file: JSON lines to write; unset: beside it, NAME.answers.jsonl.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="At most this many tokens in the answer; unset: 128.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="0, or unset: always the likeliest token.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False,
    json: Json = False,
) -> None:
    """Ask a deployed model, the way it was trained: a model of conversations takes a text as the user's turn, a
    classifier names its label and the likeliest ones' probabilities. With --file ask it many inputs; when the command
    is given again after it was stopped, those that were answered are not asked again."""
    from soldiom_ray.cli.batches import answer_file
    from soldiom_ray.cli.client import call

    if (text is None) == (file is None) or (output and not file):
        raise InputError("One text or one file is asked.", remedy="give a TEXT, or --file with or without --output")
    settings = load_settings()
    record = get_model(model, served=True)
    if file is not None:
        if record["task"] == IMAGE_CLASSIFICATION:
            raise InputError(f"Model {model} classifies pictures.", remedy="name a model that reads texts")
        options = {"raw": raw, "parameters": drop_unset(max_tokens=max_tokens, temperature=temperature)}
        answer_file(record["id"], file, output, options, json)
        return
    text = text or ""
    asked = _picture(text) if record["task"] == IMAGE_CLASSIFICATION else _text(text)
    parameters = drop_unset(max_tokens=max_tokens, temperature=temperature)
    body = asked | {"raw": raw, "parameters": parameters}
    answer = call(settings, "POST", f"/api/inference/{record['id']}", body)
    print_json(answer) if json else say(output_text(answer["output"]))


def _text(text: str) -> dict[str, str]:
    return {"input": sys.stdin.read() if text == "-" else text}


def _picture(name: str) -> dict[str, str]:
    path = named_path(name, "TEXT")
    if not path.is_file():
        raise InputError(f"{name!r} is no file.", remedy="name a PNG or JPEG file: this model classifies pictures")
    return {"image": base64.b64encode(path.read_bytes()).decode()}


def _run_of(model: str) -> str:
    """The run that a model was made by; a run's id is its own. InputError for a base model, which no run has made."""
    from soldiom_ray.records import RUN_ID

    if RUN_ID.fullmatch(model):
        return model
    if run := get_model(model)["run_artifact"]:
        return str(run)
    raise InputError(
        f"{model} is a base model: no run of this home has made it.", remedy="name a model that was trained"
    )


def _artifacts() -> "tuple[Settings, Artifacts]":
    from soldiom_ray.artifacts import Artifacts
    from soldiom_ray.storage import open_storage

    settings = load_settings()
    return settings, Artifacts(open_storage(settings))


def get_model(model: str, *, served: bool = False) -> dict[str, Any]:
    """The model; with `served`, of a name the newest version that is deployed."""
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.domains.hosting import served_by

    find = models.get_served if served else models.get
    with open_session(load_settings()) as session:
        row = find(session, model, HOME_TENANT)
        return models.as_dict(row, with_card=True) | {"served_by": served_by(session, row)}
