"""`soldiom domains`, the workflow of a domain (`soldiom run domain:NAME`), and asking one: `soldiom ask`."""

import base64
import csv
import io
import json as json_module
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from soldiom_ray.cli.options import pairs
from soldiom_ray.cli.output import Json, follow, note, print_items, print_json, print_table, say
from soldiom_ray.cli.paths import named_path
from soldiom_ray.errors import InputError, NotFoundError, SoldiomError
from soldiom_ray.settings import load_settings

PICTURES = (".png", ".jpg", ".jpeg")
TABLES = (".csv", ".tsv")

domains_app = typer.Typer(help="List and show the specialisations.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    app.add_typer(domains_app, name="domains")
    app.command()(ask)


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
    """`soldiom run domain:NAME`."""
    from soldiom_ray.domains.pack_runs import plan_run
    from soldiom_ray.domains.specialists import find_pack

    items = make_models(domain, data, base, model, deploys=deploys, quiet=json)
    notice = find_pack(domain).notice
    if json:
        folder, data_of = _read_data(data)
        left_out = dict(plan_run(find_pack(domain), folder, data_of, model=model).left_out)
        print_json({"id": domain, "items": items, "left_out": left_out, "notice": notice})
    else:
        say(f"Ask it: soldiom domains show {domain}\n{notice}")


def make_models(
    domain: str, data: Sequence[str], base: str | None, model: str | None, *, deploys: bool, quiet: bool
) -> list[dict[str, Any]]:
    """Make the models of a domain, one job after the other: what became of each. Run again, it resumes where it
    stopped."""
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
        if not quiet:
            print_scores(job["metrics"])
            say(f"Model {items[-1]['model_id']} is {items[-1]['registered_as']}.\n")
    return items


def ask(
    domain: Annotated[str, typer.Argument(help="The domain's name, such as legal.")],
    capability: Annotated[str, typer.Argument(help="What it is asked for; `soldiom domains show DOMAIN` lists them.")],
    file: Annotated[
        str,
        typer.Argument(
            help="A document of any format that is collected, a table as CSV, or the input as JSON; `-`: stdin."
        ),
    ] = "-",
    field: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another field of the input; may be repeated."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Another model than the domain's newest that is deployed.")] = None,
    json: Json = False,
) -> None:
    """Ask a specialist. Rules answer here, without services; models have to be deployed."""
    from urllib.parse import quote, urlencode

    from soldiom_ray.cli.client import call
    from soldiom_ray.domains.specialist_answers import answer_by_rule, check_input
    from soldiom_ray.domains.specialists import find_capability, find_pack

    asked = find_capability(find_pack(domain), capability)
    fields = pairs(field, "--set")
    if asked.by.picture and Path(file).suffix.lower() in PICTURES:
        fields |= {asked.by.picture: base64.b64encode(_existing(file).read_bytes()).decode()}
        file = "-"
    value = check_input(asked, _read_input(asked.input, file, fields), "input")
    if asked.by.rule:
        answer = json_module.loads(answer_by_rule(domain, capability, value))
    else:
        query = f"?{urlencode({'model': model})}" if model else ""
        answer = call(load_settings(), "POST", f"/api/specialists/{quote(domain)}/{quote(capability)}{query}", value)
    if json:
        print_json(answer)
        return
    say(_shown(answer["output"]))
    note(answer["notice"])


def _read_input(schema: Mapping[str, Any], file: str, fields: Mapping[str, str]) -> object:
    """The input: an object that a file of JSON holds, or the file's text in the longest text that the input takes, with
    the fields that were given."""
    properties = schema.get("properties", {})
    values = {name: _typed(value, properties.get(name, {})) for name, value in fields.items()}
    texts = [name for name in properties if properties[name].get("type") == "string" and name not in values]
    longest = max(texts, key=lambda name: properties[name].get("maxLength", 0), default=None)
    if not set(schema.get("required", ())) - values.keys() and file == "-":
        return values
    tables = [name for name in properties if properties[name].get("items", {}).get("type") == "array"]
    if tables and Path(file).suffix.lower() in TABLES:
        return {tables[0]: _read_rows(file)} | values
    text = _read_text(file)
    try:
        content = json_module.loads(text) if text.lstrip().startswith(("{", "[")) else None
    except ValueError:
        content = None
    if isinstance(content, dict) and content.keys() & properties.keys():
        return content | values
    lists = [name for name in properties if properties[name].get("type") == "array" and name not in values]
    if isinstance(content, list) and lists:
        return {lists[0]: content} | values
    return ({longest: text} if longest else {}) | values


def _read_rows(file: str) -> list[list[str]]:
    """The rows of a file of separated values."""
    text = _read_text(file)
    try:
        form: type[csv.Dialect] = csv.Sniffer().sniff(text[:4096], delimiters=",;\t")
    except csv.Error:
        form = csv.excel_tab if file.lower().endswith(".tsv") else csv.excel
    return list(csv.reader(io.StringIO(text, newline=""), form))


def _typed(value: str, schema: Mapping[str, Any]) -> object:
    if schema.get("type") in (None, "string"):
        return value
    try:
        return json_module.loads(value)
    except ValueError:
        return value


def _read_text(file: str) -> str:
    """The text of standard input, of a text file, or of a document, which another process reads: this one knows no
    stage."""
    if file == "-":
        return sys.stdin.read()
    path = _existing(file)
    if path.suffix.lower() in (".json", ".txt", ".md", ".log", ".jsonl", ".csv", ".tsv", ".py", ""):
        return path.read_bytes().decode("utf-8", errors="replace")
    command = [sys.executable, "-W", "ignore", "-m", "soldiom_ray.collect.file_text", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    answer = json_module.loads(done.stdout) if done.stdout else {"error": {"what": f"{file!r} cannot be read."}}
    if "error" in answer:
        raise SoldiomError.from_dict(answer["error"])
    return str(answer["text"])


def _existing(file: str) -> Path:
    path = named_path(file, "FILE")
    if not path.is_file():
        raise NotFoundError(f"There is no file {file!r}.", remedy="name a file, or - for standard input")
    return path


def _shown(output: Mapping[str, Any]) -> str:
    """An answer for people: its one text as it is, anything else as JSON."""
    texts = [value for value in output.values() if isinstance(value, str)]
    if len(output) == 1 and texts:
        return texts[0]
    return json_module.dumps(output, ensure_ascii=False, indent=2)


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
            data_of[name] = named_path(path, f"--data {name}=").absolute()
        else:
            folders.append(named_path(text, "--data").absolute())
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
