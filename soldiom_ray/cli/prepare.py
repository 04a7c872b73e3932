"""Commands that turn documents into a dataset and an index, and search it: prepare, embed, search."""

from pathlib import Path
from typing import Annotated, Any

import typer

from soldiom_ray.cli.jobs import run_job, stage_of
from soldiom_ray.cli.mapping import mapping_lines, read_mapping, sample_lines
from soldiom_ray.cli.options import Name, RecipeCommand, drop_unset, find_field, pairs, recipe_option, split_list
from soldiom_ray.cli.output import Json, print_json, print_table, say
from soldiom_ray.cli.paths import named_path
from soldiom_ray.cli.summary import print_sides
from soldiom_ray.domains.door_defaults import MODE, MOST_PASSAGES, PASSAGES
from soldiom_ray.settings import load_settings


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    for command in (prepare, embed, search):
        app.command(cls=RecipeCommand)(command)


def prepare(
    datasets: Annotated[
        list[str],
        typer.Argument(help="Ids of collected documents; or files and folders to collect.", metavar="DATASET..."),
    ],
    column: Annotated[
        list[str] | None, recipe_option("collect.files.columns", scope="For files:", metavar="ROLE=COLUMN")
    ] = None,
    license: Annotated[str | None, recipe_option("collect.files.license", scope="For files:")] = None,  # noqa: A002
    pictures: Annotated[bool, recipe_option("collect.files.pictures", "--pictures", scope="For files:")] = False,
    split_by: Annotated[str | None, recipe_option("prepare.split.by")] = None,
    filters: Annotated[list[str] | None, recipe_option("prepare.filters")] = None,
    test_share: Annotated[float | None, recipe_option("prepare.split.test")] = None,
    pairs_of: Annotated[str | None, recipe_option("prepare.pairs", "--pairs")] = None,
    max_characters: Annotated[int | None, recipe_option("prepare.max_characters")] = None,
    name: Name = "prepared",
    json: Json = False,
) -> None:
    """Clean, filter, redact, deduplicate and split: documents become a versioned dataset."""
    paths = [text for text in datasets if named_path(text, "DATASET").exists()]
    content: dict[str, Any] = {
        "name": name,
        "documents": [text for text in datasets if text not in paths],
        "prepare": drop_unset(
            filters=split_list(filters),
            split=drop_unset(test=test_share, by=split_by),
            pairs=pairs_of,
            max_characters=max_characters,
        ),
    }
    if paths:
        options = drop_unset(
            paths=[str(Path(path).expanduser().absolute()) for path in paths],
            columns=pairs(column, "--column"),
            license=license or None,
            pictures=pictures or None,
        )
        content["collect"] = [{"source": "files", **options}]
    job = run_job(content, "prepare")
    stage = stage_of(job, "prepare")
    details = stage["details"]
    counts = details["counts"]
    mapping, samples = read_mapping(load_settings(), stage["artifact_id"])
    result = {
        "id": job["result"]["dataset"],
        "counts": counts,
        "drops": details.get("drops", {}),
        "sides": details.get("sides", {}),
        "warnings": details.get("warnings", []),
        "mapping": mapping,
        "samples": samples,
        "job": job["id"],
    }
    if json:
        print_json(result)
    else:
        say("\n".join([*mapping_lines(mapping), *sample_lines(samples)]))
        whole = f"{counts.get('documents', 0)} documents"
        whole = f"{counts['functions']} functions in {whole}" if "functions" in counts else whole
        say(f"Dataset {result['id']}: {counts.get('kept', 0)} of {whole} kept")
        print_table([{"what": key, "count": value} for key, value in sorted(counts.items())], ["what", "count"])
        print_sides(details)


def embed(
    dataset: Annotated[str, typer.Argument(help="Id of a prepared dataset.")],
    model: Annotated[str | None, recipe_option("embed.model")] = None,
    max_passages: Annotated[int | None, recipe_option("embed.max_passages")] = None,
    sides: Annotated[list[str] | None, recipe_option("embed.splits", "--splits", "--sides")] = None,
    name: Name = "index",
    json: Json = False,
) -> None:
    """Make a dataset searchable."""
    options = drop_unset(model=model, max_passages=max_passages, splits=split_list(sides))
    job = run_job({"name": name, "dataset": dataset, "embed": options}, "embed")
    details = stage_of(job, "embed")["details"]
    counts, of_sides = details["counts"], details.get("sides", {})
    result = {"id": job["result"]["index"], "counts": counts, "sides": of_sides, "job": job["id"]}
    if json:
        print_json(result)
        return
    sides_indexed = ", ".join(f"{count} of {side}" for side, count in of_sides.items())
    say(f"Index {result['id']}: {counts.get('passages', 0)} passages ({sides_indexed})")
    left = [side for side in find_field("embed.splits").default if side not in of_sides]
    if left:
        say(f"Not indexed, because the dataset holds none or --sides did not name them: {', '.join(left)}")


def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", help="How many passages.", min=1, max=MOST_PASSAGES)] = PASSAGES,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter", metavar="NAME=VALUE", help="license, source, group, kind, language, path (start), ..."
        ),
    ] = None,
    mode: Annotated[str, typer.Option(help="By meaning (dense), by words (lexical), or both (hybrid).")] = MODE,
    json: Json = False,
) -> None:
    """Find the passages that answer a question best, with their sources."""
    from soldiom_ray.cli.client import call

    body = {"query": query, "k": k, "mode": mode, "filters": pairs(filters, "--filter")}
    items = call(load_settings(), "POST", "/api/search", body)["items"]
    if json:
        print_json({"items": items})
        return
    for item in items:
        say(f"{item['score']:.3f}  {_place(item['metadata'])}")
        for line in item["text"].strip().splitlines()[:6]:
            say(f"       {line[:110]}")
        say()


def _place(metadata: dict[str, Any]) -> str:
    """Where a passage stands: package and version, path, lines or page, license."""
    lines = f":{metadata['start_line']}-{metadata['end_line']}" if metadata.get("start_line") else ""
    page = f", page {metadata['page']}" if metadata.get("page") else ""
    license_note = f"  [{metadata['license']}]" if metadata.get("license") else ""
    package = f"{metadata.get('group', '')} {metadata.get('version', '')}"
    return f"{package}  {metadata.get('path', '')}{lines}{page}{license_note}"
