"""`soldiom dataset`: documents, datasets and indexes that were made."""

from json import loads
from pathlib import Path
from typing import Annotated, Any

import typer

from soldiom_ray.cli.output import Json, print_items, print_json, print_table, say
from soldiom_ray.settings import HOME_TENANT, load_settings

dataset_app = typer.Typer(help="Show documents, datasets and indexes.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    app.add_typer(dataset_app, name="dataset")


@dataset_app.command("list")
def list_datasets(json: Json = False) -> None:
    """List collected documents, prepared datasets and indexes, newest first."""
    from soldiom_ray.db import datasets
    from soldiom_ray.db.engine import open_session

    with open_session(load_settings()) as session:
        rows, _ = datasets.list_datasets(session, HOME_TENANT, limit=200)
        items = [datasets.as_dict(row) for row in rows]
    print_items(
        items,
        ["artifact_id", "stage", "name", "source", "num_samples", "size_bytes", "created_at"],
        json,
        "Nothing collected yet.",
    )


@dataset_app.command("show")
def show_dataset(
    dataset: Annotated[str, typer.Argument(help="Id of the dataset.")],
    folder: Annotated[Path | None, typer.Option(help="Write the card and its pictures into this folder.")] = None,
    json: Json = False,
) -> None:
    """Show counts and the dataset card; with --folder, write the card and its pictures there."""
    manifest, artifacts = _open(dataset)
    names = {entry.name for entry in manifest.files}
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        for name in sorted(name for name in names if name.endswith((".md", ".png"))):
            (folder / name).write_bytes(artifacts.read(manifest, name))
    card = artifacts.read(manifest, "card.md").decode() if "card.md" in names else ""
    if json:
        print_json({**manifest.model_dump(mode="json"), "card": card})
    elif card:
        say(card)
    else:
        print_table(
            [{"what": key, "count": value} for key, value in sorted(manifest.counts.items())],
            ["what", "count"],
            manifest.id,
        )


@dataset_app.command("delete")
def delete(
    dataset: Annotated[str, typer.Argument(help="Id of documents, a dataset or an index.")], json: Json = False
) -> None:
    """Delete documents, a dataset or an index; refused while a model, another dataset or a job uses it. `soldiom gc`
    then removes the raw bytes that nothing refers to any more."""
    from soldiom_ray.deletion import delete_dataset
    from soldiom_ray.records import COMMAND_LINE

    removed = delete_dataset(load_settings(), dataset, HOME_TENANT, COMMAND_LINE)
    print_json(removed) if json else say(f"{removed['artifact_id']} is deleted; `soldiom gc` frees its raw bytes.")


@dataset_app.command("share")
def share(
    dataset: Annotated[str, typer.Argument(help="Id of documents, a dataset or an index.")],
    private: Annotated[bool, typer.Option("--private", help="Its owner and admins alone see it, from now on.")] = False,
    json: Json = False,
) -> None:
    """Let all users see and use documents, a dataset or an index that one of them owns."""
    from soldiom_ray.db import datasets
    from soldiom_ray.db.engine import open_session

    with open_session(load_settings()) as session:
        row = datasets.get(session, dataset, HOME_TENANT)
        share_row(session, row, "dataset", shared=not private)
        shown = datasets.as_dict(row)
    print_json(shown) if json else say(f"{shown['artifact_id']} is {'private' if private else 'shared'}.")


def share_row(session: Any, row: Any, noun: str, *, shared: bool) -> None:
    """Share something or make it private, as the operator; a row of the audit trail says so."""
    from soldiom_ray.db import audit, ownership
    from soldiom_ray.records import COMMAND_LINE

    ownership.share(session, row, f"{noun} {row.id}", shared=shared)
    audit.append(session, COMMAND_LINE, f"share {noun}", row.id, "allow", {"shared": shared}, row.tenant)


@dataset_app.command("preview")
def preview_dataset(
    dataset: Annotated[str, typer.Argument(help="Id of the dataset.")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    limit: Annotated[int, typer.Option(help="At most this many samples.", min=1)] = 5,
    json: Json = False,
) -> None:
    """Show the first samples of a split."""
    manifest, artifacts = _open(dataset)
    folder = "documents/" if manifest.kind == "documents" else f"{split}/"
    items = artifacts.preview(manifest, folder, limit)
    if json:
        print_json({"items": items})
    for item in () if json else items:
        lines = "\n".join(line for line in (_describe_picture(item), item["text"][:600].rstrip()) if line)
        say(f"--- {item['group']} {item['path']} [{item['license']}]\n{lines}\n")


@dataset_app.command("dropped")
def dropped(
    dataset: Annotated[str, typer.Argument(help="Id of the dataset.")],
    reason: Annotated[str | None, typer.Option(help="Only documents dropped for this reason.")] = None,
    limit: Annotated[int, typer.Option(help="At most this many rows.", min=1)] = 1000,
    json: Json = False,
) -> None:
    """List every document that was left out, with the reason and the value that decided."""
    from itertools import islice

    manifest, artifacts = _open(dataset)
    matches = (row for row in artifacts.rows(manifest, "dropped/") if reason in (None, row["reason"]))
    print_items(
        list(islice(matches, limit)), ["source", "group", "path", "reason", "value"], json, "Nothing was dropped."
    )


@dataset_app.command("documents")
def list_documents(
    dataset: Annotated[str, typer.Argument(help="Id of collected documents.")],
    license: Annotated[str | None, typer.Option(help="Only documents of this license (SPDX).")] = None,  # noqa: A002
    kind: Annotated[str | None, typer.Option(help="Only documents of this kind.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Only the document of the file with this hash.")] = None,
    limit: Annotated[int, typer.Option(help="At most this many rows.", min=1)] = 1000,
    json: Json = False,
) -> None:
    """List where each collected document came from, under which license and by which rule."""
    from soldiom_ray.db import datasets, documents
    from soldiom_ray.db.engine import open_session

    with open_session(load_settings()) as session:
        artifact = datasets.get(session, dataset, HOME_TENANT).artifact_id
        rows, _ = documents.list_documents(session, artifact, license=license, kind=kind, sha256=sha256, limit=limit)
        items = [documents.as_dict(row) for row in rows]
    print_items(items, ["group", "path", "license", "kind", "sha256", "url", "rule"], json, "No document matches.")


def _describe_picture(item: dict[str, Any]) -> str:
    """A line about a sample's picture; empty for other samples."""
    if not item.get("image"):
        return ""
    metadata = loads(item["metadata"])
    label = f", label {metadata['label']}" if "label" in metadata else ""
    size = f"{metadata.get('width')} x {metadata.get('height')}"
    return f"(picture, {metadata.get('format')}, {size}{label}; --json holds it)"


def _open(dataset: str) -> tuple[Any, Any]:
    from soldiom_ray.artifacts import Artifacts
    from soldiom_ray.db import datasets
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.storage import open_storage

    settings = load_settings()
    with open_session(settings) as session:
        artifact = datasets.get(session, dataset, HOME_TENANT).artifact_id
    artifacts = Artifacts(open_storage(settings))
    return artifacts.get(artifact), artifacts
