"""`soldiom usage` and `soldiom quota`: what was used, and how much may be."""

from datetime import timedelta
from typing import Annotated, Any, get_args

import typer

from soldiom_ray.cli.output import Json, print_items, print_json, say
from soldiom_ray.errors import InputError
from soldiom_ray.settings import HOME_TENANT, load_settings

quota_app = typer.Typer(help="How much a tenant, a key or a user may use: list, set, remove.", no_args_is_help=True)
Subject = Annotated[str, typer.Option("--for", help="key:ID, user:NAME, or nothing: the whole tenant, its budget.")]
Resource = Annotated[str, typer.Argument(help="tokens, bytes or device_minutes.")]
Period = Annotated[str, typer.Option(help="Calendar day or month, in UTC.")]
Tenant = Annotated[str, typer.Option(help="Whose.")]


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    app.command("usage")(show_usage)
    app.add_typer(quota_app, name="quota")


def show_usage(
    by: Annotated[str, typer.Option(help="key, user, model, hour, several with commas; or job.")] = "model",
    days: Annotated[int, typer.Option(help="Of the last so many days.", min=1, max=3650)] = 30,
    tenant: Tenant = HOME_TENANT,
    json: Json = False,
) -> None:
    """Show what was used: requests, errors, tokens, bytes, and device seconds of jobs."""
    from soldiom_ray.db import usage
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.records import now

    groups = [part.strip() for part in by.split(",") if part.strip()]
    if groups != ["job"] and not (groups and set(groups) <= usage.GROUPS.keys()):
        raise InputError(f"--by is {by!r}; known: {', '.join(usage.GROUPS)}, job", remedy="name some of these")
    span: dict[str, Any] = {"since": now() - timedelta(days=days), "until": now() + timedelta(hours=1)}
    with open_session(load_settings()) as session:
        if groups == ["job"]:
            items = usage.of_jobs(session, tenant, **span)
            columns = ["job", "name", "kind", "key", "status", "device_seconds"]
        else:
            items = usage.report(session, tenant, groups, **span)
            columns = [*groups, *usage.COUNTS]
    print_items(items, columns, json, "Nothing was used.")


@quota_app.command("list")
def list_quotas(tenant: Tenant = HOME_TENANT, json: Json = False) -> None:
    """List the quotas, with what of each was used."""
    from soldiom_ray.db import quotas
    from soldiom_ray.db.engine import open_session

    with open_session(load_settings()) as session:
        items = [quotas.as_dict(session, row) for row in quotas.of_tenant(session, tenant)]
    columns = ["subject", "resource", "period", "amount", "used", "renewed_in_seconds"]
    print_items(items, columns, json, "There are no quotas.")


@quota_app.command("set")
def set_quota(
    resource: Resource,
    amount: Annotated[int, typer.Argument(help="How much.", min=0)],
    subject: Subject = "",
    period: Period = "month",
    tenant: Tenant = HOME_TENANT,
    json: Json = False,
) -> None:
    """Set how much may be used. What is refused then: requests with status 429, jobs; a running job stops."""
    _put(resource, amount, subject, period, tenant, json)


@quota_app.command("remove")
def remove_quota(
    resource: Resource,
    subject: Subject = "",
    period: Period = "month",
    tenant: Tenant = HOME_TENANT,
    json: Json = False,
) -> None:
    """Remove a quota."""
    _put(resource, None, subject, period, tenant, json)


def _put(resource: str, amount: int | None, subject: str, period: str, tenant: str, json: bool) -> None:
    from soldiom_ray.db import audit, quotas
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.records import COMMAND_LINE

    for name, value, known in (
        ("The resource", resource, quotas.RESOURCES),
        ("--period", period, get_args(quotas.Period)),
    ):
        if value not in known:
            raise InputError(f"{name} is {value!r}; known: {', '.join(known)}", remedy="name one of these")
    named: dict[str, Any] = {"subject": subject, "resource": resource, "period": period, "amount": amount}
    with open_session(load_settings()) as session:
        row = quotas.put(session, tenant, subject, resource, period, amount)
        audit.append(session, COMMAND_LINE, "quota set", subject or "tenant", "allow", named, tenant)
        shown = quotas.as_dict(session, row) if row else named
    whose, limit = subject or "the tenant", "no limit" if amount is None else str(amount)
    print_json(shown) if json else say(f"{resource} a {period} of {whose}: {limit}.")
