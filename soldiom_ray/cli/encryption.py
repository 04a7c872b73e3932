"""`soldiom encryption`: how what the home stores is sealed, and sealing it with the newest key."""

import typer

from soldiom_ray.cli.output import Json, print_json, print_table, say
from soldiom_ray.errors import DamagedError
from soldiom_ray.settings import load_settings

encryption_app = typer.Typer(help="How what is stored is sealed, and changing the key.", no_args_is_help=True)
MEANINGS = {
    "newest": "with the first key of SOLDIOM_ENCRYPTION_KEY",
    "earlier": "with another key of it",
    "none": "not sealed",
    "unreadable": "with a key that is not there, or damaged",
}


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    app.add_typer(encryption_app, name="encryption")


@encryption_app.command("status")
def status(json: Json = False) -> None:
    """Count what is stored by how it is sealed."""
    from soldiom_ray.resealing import seals

    settings = load_settings()
    counts = seals(settings)
    if json:
        print_json({"keys": len(settings.encryption_keys), **counts})
        return
    _show(counts, f"{len(settings.encryption_keys)} keys")


@encryption_app.command("reseal")
def reseal(json: Json = False) -> None:
    """Seal everything with the first key of SOLDIOM_ENCRYPTION_KEY. To change the key: set NEW,OLD, run `soldiom up`,
    then this, then `embed` for each index, which gives its vectors the new key, and leave OLD away."""
    from soldiom_ray import resealing

    done = resealing.reseal(load_settings(), lambda message: None if json else say(message))
    if json:
        print_json(done)
    else:
        _show(done, "sealed before; now all with the newest key" + " but the unreadable" * bool(done["unreadable"]))
        say(f"Secrets of connections: {done['secrets']}.")
    if unreadable := done["unreadable"]:
        raise DamagedError(
            f"{len(unreadable)} do not open and stay as they are: {', '.join(unreadable[:5])}.",
            remedy="add the key they were written with to SOLDIOM_ENCRYPTION_KEY, or restore them from a copy",
        )


def _show(counts: dict[str, dict[str, int]], title: str) -> None:
    rows = [
        {"sealed": name, "objects": counts["objects"].get(name, 0), "texts": counts["texts"].get(name, 0), "": meaning}
        for name, meaning in MEANINGS.items()
    ]
    print_table(rows, ["sealed", "objects", "texts", ""], title)
