"""Commands of federated training: federate (the coordinator's), site (of a site and its administrator)."""

from pathlib import Path
from typing import Annotated, Any

import typer

from soldiom_ray.cli.options import split_list
from soldiom_ray.cli.output import Json, follow, note, print_items, print_json, print_table, say
from soldiom_ray.errors import InputError
from soldiom_ray.settings import load_settings

site_app = typer.Typer(
    help="Train together with others and keep the data: set up, serve and watch a site.", no_args_is_help=True
)
Federation = Annotated[str, typer.Argument(help="The federation's id, or `all` for everything that waits.")]
Round = Annotated[int | None, typer.Argument(help="The round's number.")]


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    app.command()(federate)
    app.add_typer(site_app, name="site")


def federate(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (YAML) with `train` and `federate`.")],
    sites: Annotated[
        list[str] | None,
        typer.Option(help="Names of known sites, or homes of sites on this machine; by commas, or repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """Train one adapter at several sites that keep their data, and register it. Run again, it goes on after the last
    round that was joined."""
    from soldiom_ray import launch
    from soldiom_ray.domains.recipes import as_dict, load_recipe, validate_recipe, with_absolute_paths
    from soldiom_ray.records import COMMAND_LINE

    content = as_dict(load_recipe(recipe))
    content["federate"] = {**content.get("federate", {})} | ({"sites": named} if (named := split_list(sites)) else {})
    content.setdefault("register", {})
    loaded = with_absolute_paths(validate_recipe(content, str(recipe)))
    settings = load_settings()
    job = launch.running_job(settings, loaded, "federate")
    if job:
        note(f"Job {job['id']} runs this federation already; following it.")
    job = follow(settings, job or launch.launch_job(settings, loaded, kind="federate", owner=COMMAND_LINE))
    made = next(stage for stage in job["stages"] if stage["stage"] == "train")["details"].get("federation") or {}
    result = {"id": job["result"]["run"], "model_id": job["result"]["model_id"], "job": job["id"], "federation": made}
    if json:
        print_json(result)
        return
    print_table(
        [_round_row(record) for record in made.get("rounds", ())], ["round", "validation_loss", "used", "missing"]
    )
    say(f"Run {result['id']}, model {result['model_id']}. Next: soldiom deploy {result['model_id']}")


def _round_row(record: dict[str, Any]) -> dict[str, Any]:
    missing = [f"{name}: {state}" for name, state in record["sites"].items() if state != "came"]
    return {
        "round": record["round"] if record["used"] else "result",
        "validation_loss": record["validation_loss"],
        "used": len(record["used"]),
        "missing": "; ".join(missing),
    }


@site_app.command("init")
def init_site(
    data: Annotated[str, typer.Option(help="Id of the prepared dataset of this home that the site trains on.")],
    name: Annotated[str | None, typer.Option(help="Name of the site; default: the home's folder.")] = None,
    address: Annotated[
        str | None, typer.Option(help="https://HOST:PORT where coordinators reach it; default: this machine alone.")
    ] = None,
    approve: Annotated[
        str, typer.Option(help="each: every update waits for you; always: updates leave at once.")
    ] = "each",
    max_norm: Annotated[float | None, typer.Option(help="With always: a longer update waits all the same.")] = None,
    base: Annotated[list[str] | None, typer.Option(help="Patterns of bases that may be trained.")] = None,
    secure_only: Annotated[
        bool, typer.Option("--secure-only", help="Updates leave in sums alone (`federate.secure_aggregation`).")
    ] = False,
    json: Json = False,
) -> None:
    """Make this home a site: its settings, a new key and certificate, and the invitation for a coordinator."""
    from pydantic import ValidationError

    from soldiom_ray.artifacts import Artifacts
    from soldiom_ray.federate.site_settings import SiteSettings, create_site, free_port
    from soldiom_ray.storage import open_storage

    settings = load_settings()
    Artifacts(open_storage(settings)).get(data)
    values: dict[str, Any] = {
        "name": name or settings.home.name.lower().lstrip("."),
        "dataset": data,
        "approve": approve,
        "secure_only": secure_only,
    }
    values |= {"max_norm": max_norm} if max_norm is not None else {}
    values |= {"bases": split_list(base)} if base else {}
    try:
        site = SiteSettings.model_validate(values)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        raise InputError(f"--{'-'.join(map(str, detail['loc'])).replace('_', '-')}: {detail['msg']}.") from None
    path = create_site(settings, site, address or f"https://127.0.0.1:{free_port()}")
    if json:
        print_json({"id": site.name, "invitation": str(path)})
        return
    say(
        f"Site {site.name} is set up. Give {path} to the coordinator on a way that nobody else reads (it holds the"
        f" key), who adds it with `soldiom site add`. Next: soldiom site serve"
    )


@site_app.command("trust")
def trust(
    name: Annotated[str | None, typer.Argument(help="Another site's name; without: show who is confirmed.")] = None,
    print_: Annotated[
        str | None,
        typer.Argument(metavar="FINGERPRINT", help="Of its certificate: its own `soldiom site trust` says it."),
    ] = None,
    json: Json = False,
) -> None:
    """Confirm another site, so that no coordinator can put keys of its own in its place. Where some are confirmed, this
    site masks its updates with no others. It holds when the site is served anew."""
    from soldiom_ray.federate.site_settings import confirm_peer, fingerprint, load_identity, load_site

    settings = load_settings()
    site, _ = load_site(settings)
    if name is not None:
        if print_ is None:
            raise InputError("No fingerprint is given.", remedy="`soldiom site trust` at that site says it")
        site = confirm_peer(settings, site, name, print_)
    own = fingerprint(load_identity(settings, site).certificate)
    items = [{"id": site.name, "fingerprint": own, "state": "this site"}]
    items += [{"id": peer, "fingerprint": given, "state": "confirmed"} for peer, given in sorted(site.peers.items())]
    print_items(items, ["id", "fingerprint", "state"], json, "")


@site_app.command("serve")
def serve(
    host: Annotated[str | None, typer.Option(help="Where it listens; default: the host of its address.")] = None,
) -> None:
    """Serve this home's site until interrupted."""
    from soldiom_ray import logs
    from soldiom_ray.federate.server import serve_site

    logs.start_logging()
    serve_site(load_settings(), host)


@site_app.command("pending")
def show_pending(
    all_: Annotated[bool, typer.Option("--all", help="Also what has left, and what was refused.")] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="Every tensor with its shape and norm.")] = False,
    json: Json = False,
) -> None:
    """Show what would leave this site: rounds, samples, loss, norms, bytes."""
    outbox, site = _outbox()
    items = [_entry_row(entry, outbox.state(entry, site), tensors) for entry in outbox.entries()]
    items = [item for item in items if all_ or item["state"] == "pending"]
    columns = [
        "federation",
        "recipe",
        "round",
        "state",
        "leaves",
        "samples",
        "validation_loss",
        "norm",
        "bytes",
        "created_at",
    ]
    print_items(items, columns, json, "Nothing waits to leave this site.")
    if tensors and not json:
        for item in items:
            rows = [{"tensor": name, **values} for name, values in item["tensors"].items()]
            print_table(rows, ["tensor", "shape", "norm"], f"round {item['round']} of {item['federation']}")


@site_app.command("approve")
def approve_update(federation: Federation, number: Round = None, json: Json = False) -> None:
    """Let an update leave this site."""
    _decide(federation, number, approved=True, json=json)


@site_app.command("refuse")
def refuse_update(federation: Federation, number: Round = None, json: Json = False) -> None:
    """Keep an update here for ever."""
    _decide(federation, number, approved=False, json=json)


@site_app.command("add")
def add(
    invitation: Annotated[Path, typer.Argument(help="The invitation file that the site made.")],
    address: Annotated[str | None, typer.Option(help="Another address than the invitation's.")] = None,
    json: Json = False,
) -> None:
    """As a coordinator: know a site by its invitation."""
    from soldiom_ray.federate.client import SiteClient
    from soldiom_ray.federate.site_settings import add_site, read_invitation

    given = read_invitation(invitation)
    given = given.model_copy(update={"address": address}) if address else given
    SiteClient(given).close()  # its certificate can be read
    add_site(load_settings(), given)
    print_json({"id": given.name, "address": given.address}) if json else say(f"Site {given.name} is known.")


@site_app.command("list")
def list_sites(json: Json = False) -> None:
    """As a coordinator: the sites that this home knows, and whether they answer."""
    from soldiom_ray.errors import SoldiomError
    from soldiom_ray.federate.client import SiteClient
    from soldiom_ray.federate.site_settings import known_sites

    items = []
    for invitation in known_sites(load_settings()):
        client = SiteClient(invitation)
        try:
            state = f"runs version {client.info().version}"
        except SoldiomError as error:
            state = error.what
        finally:
            client.close()
        items.append({"id": invitation.name, "address": invitation.address, "state": state})
    print_items(items, ["id", "address", "state"], json, "No sites are known. soldiom site add INVITATION")


@site_app.command("remove")
def remove(name: Annotated[str, typer.Argument(help="The site's name.")], json: Json = False) -> None:
    """As a coordinator: forget a site and its key."""
    from soldiom_ray.federate.site_settings import remove_site

    remove_site(load_settings(), name)
    print_json({"id": name}) if json else say(f"Site {name} is forgotten.")


def _outbox() -> Any:
    from soldiom_ray.federate.outbox import Outbox
    from soldiom_ray.federate.site_settings import load_site
    from soldiom_ray.storage import open_storage

    settings = load_settings()
    site, _ = load_site(settings)
    return Outbox(open_storage(settings)), site


def _decide(federation: str, number: int | None, *, approved: bool, json: bool) -> None:
    from soldiom_ray.records import COMMAND_LINE

    outbox, site = _outbox()
    if federation != "all" and number is None:
        raise InputError("No round is named.", remedy="give FEDERATION and ROUND, or `all`")
    entries = outbox.entries() if federation == "all" else [outbox.one(federation, number)]
    if federation == "all":
        entries = [each for each in entries if outbox.state(each, site) == "pending"]
    for entry in entries:
        outbox.decide(entry, approved=approved, by=COMMAND_LINE)
    word = "approved" if approved else "refused"
    items = [{"federation": entry.federation, "round": entry.round, "state": word} for entry in entries]
    print_json({"items": items}) if json else say(f"{len(items)} update(s) {word}.")


def _entry_row(entry: Any, state: str, tensors: bool) -> dict[str, Any]:
    report = entry.report
    row = {
        "id": f"{entry.federation}/{entry.round}",
        "federation": entry.federation,
        "recipe": entry.recipe,
        "round": entry.round,
        "state": state,
        "leaves": f"in a sum of {entry.secure.threshold} or more sites" if entry.secure else "as it is",
        "samples": report.samples,
        "validation_loss": report.validation_loss,
        "norm": report.norm,
        "bytes": report.size_bytes,
        "created_at": entry.created_at.isoformat(timespec="seconds"),
    }
    if entry.secure:
        row["sites"] = list(entry.secure.sites)
    if tensors:
        row["tensors"] = {name: {"shape": list(shape), "norm": norm} for name, (shape, norm) in report.tensors.items()}
    return row
