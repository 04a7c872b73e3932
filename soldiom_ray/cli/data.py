"""Commands for data: collect, prepare, embed, search, datasets."""

from pathlib import Path
from typing import Annotated, Any

import typer

from soldiom_ray.cli.output import Json, follow, print_json, print_table
from soldiom_ray.errors import InputError
from soldiom_ray.settings import load_settings

collect_app = typer.Typer(help="Collect documents from a source.", no_args_is_help=True)

Name = Annotated[str, typer.Option(help="Name of what is made.")]
Many = list[str]
Pictures = Annotated[
    bool,
    typer.Option(
        "--pictures",
        help="For files: take pictures themselves (images, .npz), labelled by folder or table, nothing else.",
    ),
]


def add_commands(app: typer.Typer) -> None:
    """Put the commands for data under the program."""
    from soldiom_ray.cli import own_data  # noqa: F401 - its commands come under `collect`

    app.add_typer(collect_app, name="collect")
    for command in (prepare, embed, search):
        app.command()(command)


@collect_app.command("local")
def collect_local(
    path: Annotated[Path | None, typer.Argument(help="A folder or a git checkout.")] = None,
    packages: Annotated[
        Many | None, typer.Option(help="Installed Python packages instead; comma separated or repeated.")
    ] = None,
    include: Annotated[Many | None, typer.Option(help="File patterns to take, such as '*.py'.")] = None,
    exclude: Annotated[Many | None, typer.Option(help="File patterns to leave out.")] = None,
    max_documents: Annotated[int | None, typer.Option(help="At most so many, spread over the packages.")] = None,
    name: Name = "local",
    json: Json = False,
) -> None:
    """Collect a folder, a git checkout, or installed Python packages."""
    source = {
        "source": "local",
        "path": str(path.expanduser().absolute()) if path else None,
        "packages": split_list(packages),
        "include": split_list(include),
        "exclude": split_list(exclude),
        "max_documents": max_documents,
    }
    collect_source(name, source, json)


@collect_app.command("github")
def collect_github(
    topics: Annotated[Many | None, typer.Option(help="Default: machine-learning, deep-learning, ai.")] = None,
    languages: Annotated[Many | None, typer.Option(help="Default: Python, Jupyter Notebook.")] = None,
    min_stars: Annotated[int | None, typer.Option(help="More stars than this (default 1000).")] = None,
    pushed_within_days: Annotated[int | None, typer.Option(help="Updated within so many days (default 183).")] = None,
    max_repositories: Annotated[int | None, typer.Option(help="At most so many, most stars first.")] = None,
    kinds: Annotated[
        Many | None, typer.Option(help="Kinds of file kept, such as architecture or training; default: all.")
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Larger files are left out (default 1000000).")] = None,
    name: Name = "github",
    json: Json = False,
) -> None:
    """Collect repositories of GitHub. Run it again to collect what changed: what did not is not downloaded again."""
    source = {
        "source": "github",
        "topics": split_list(topics),
        "languages": split_list(languages),
        "min_stars": min_stars,
        "pushed_within_days": pushed_within_days,
        "max_repositories": max_repositories,
        "kinds": split_list(kinds),
        "max_bytes": max_bytes,
    }
    collect_source(name, source, json)


@collect_app.command("huggingface")
def collect_huggingface(
    kind: Annotated[str, typer.Option(help="models or datasets.")] = "models",
    tasks: Annotated[Many | None, typer.Option(help="Such as text-generation.")] = None,
    libraries: Annotated[Many | None, typer.Option(help="Such as transformers.")] = None,
    min_downloads: Annotated[
        int | None, typer.Option(help="More downloads in 30 days than this (default 10000).")
    ] = None,
    min_likes: Annotated[int | None, typer.Option(help="More likes than this (default 100).")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many.")] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Fetch the weights too (safetensors only).")] = False,
    data: Annotated[
        bool, typer.Option("--data", help="Fetch the datasets' files too (Parquet, JSONL, JSON, CSV).")
    ] = False,
    max_bytes: Annotated[int | None, typer.Option(help="Largest data file (default 64 MB).")] = None,
    max_repository_bytes: Annotated[
        int | None, typer.Option(help="Data files of one dataset, all together (default 512 MB).")
    ] = None,
    name: Name = "huggingface",
    json: Json = False,
) -> None:
    """Collect model or dataset cards of the Hugging Face Hub, with their content where it is asked for."""
    source = {
        "source": "huggingface",
        "kind": kind,
        "tasks": split_list(tasks),
        "libraries": split_list(libraries),
        "min_downloads": min_downloads,
        "min_likes": min_likes,
        "limit": limit,
        "weights": weights or None,
        "data": data or None,
        "max_bytes": max_bytes,
        "max_repository_bytes": max_repository_bytes,
    }
    collect_source(name, source, json)


def prepare(
    datasets: Annotated[
        list[str],
        typer.Argument(help="Ids of collected documents; or files and folders to collect.", metavar="DATASET..."),
    ],
    column: Annotated[Many | None, typer.Option(help="For files: which column is what.", metavar="ROLE=COLUMN")] = None,
    license: Annotated[str | None, typer.Option(help="For files: their licence (SPDX).")] = None,  # noqa: A002
    pictures: Pictures = False,
    split_by: Annotated[
        str | None, typer.Option(help="group, repository, conversation, document or time; default: group.")
    ] = None,
    filters: Annotated[Many | None, typer.Option(help="Filters in order; default: all for text and code.")] = None,
    test_share: Annotated[float | None, typer.Option(help="Share of the groups held out for the test.")] = None,
    name: Name = "prepared",
    json: Json = False,
) -> None:
    """Clean, filter, redact, deduplicate and split: documents become a versioned dataset."""
    declared: dict[str, Any] = {"filters": split_list(filters)} if filters else {}
    split = {key: value for key, value in (("test", test_share), ("by", split_by)) if value is not None}
    paths = [str(Path(one).expanduser().absolute()) for one in datasets if Path(one).expanduser().exists()]
    content: dict[str, Any] = {
        "name": name,
        "documents": [one for one in datasets if not Path(one).expanduser().exists()],
        "prepare": declared | ({"split": split} if split else {}),
    }
    if paths:
        source: dict[str, Any] = {
            "source": "files",
            "paths": paths,
            "columns": pairs(column, "--column"),
            "license": license or "",
        }
        source["pictures"] = pictures
        content["collect"] = [{key: value for key, value in source.items() if value}]
    job = _run(content, "prepare")
    stage = _stage(job, "prepare")
    counts = stage["details"]["counts"]
    made = {
        "id": job["result"]["dataset"],
        "counts": counts,
        "drops": stage["details"].get("drops", {}),
        "job": job["id"],
    }
    if json:
        print_json(made)
    else:
        print(f"Dataset {made['id']}: {counts.get('kept', 0)} of {counts.get('documents', 0)} documents kept")
        print_table([{"what": key, "count": value} for key, value in sorted(counts.items())], ["what", "count"])


def embed(
    dataset: Annotated[str, typer.Argument(help="Id of a prepared dataset.")],
    model: Annotated[str | None, typer.Option(help="Embedding model; default all-MiniLM-L6-v2.")] = None,
    max_passages: Annotated[int | None, typer.Option(help="At most so many passages.")] = None,
    name: Name = "index",
    json: Json = False,
) -> None:
    """Make a dataset searchable."""
    declared = {key: value for key, value in (("model", model), ("max_passages", max_passages)) if value is not None}
    job = _run({"name": name, "dataset": dataset, "embed": declared}, "embed")
    made = {"id": job["result"]["index"], "counts": _stage(job, "embed")["details"]["counts"], "job": job["id"]}
    print_json(made) if json else print(f"Index {made['id']}: {made['counts'].get('passages', 0)} passages")


def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", help="How many passages.", min=1, max=50)] = 5,
    where: Annotated[
        Many | None,
        typer.Option(
            "--filter", metavar="NAME=VALUE", help="license, source, group, kind, language, path (start), ..."
        ),
    ] = None,
    mode: Annotated[str, typer.Option(help="By meaning (dense), by words (lexical), or both (hybrid).")] = "hybrid",
    json: Json = False,
) -> None:
    """Find the passages that answer a question best, with their sources."""
    from soldiom_ray.cli.client import call

    asked = {"query": query, "k": k, "mode": mode, "filters": pairs(where, "--filter")}
    items = call(load_settings(), "POST", "/api/search", asked)["items"]
    if json:
        print_json({"items": items})
        return
    for item in items:
        about = item["metadata"]
        lines = f":{about['start_line']}-{about['end_line']}" if about.get("start_line") else ""
        page = f", page {about['page']}" if about.get("page") else ""
        licence = f"  [{about['license']}]" if about.get("license") else ""
        package = f"{about.get('group', '')} {about.get('version', '')}"
        print(f"{item['score']:.3f}  {package}  {about.get('path', '')}{lines}{page}{licence}")
        for line in item["text"].strip().splitlines()[:6]:
            print(f"       {line[:110]}")
        print()


def collect_source(name: str, source: dict[str, Any], as_json: bool) -> None:
    """Run a collection of one source, follow it and print what it made."""
    given = {key: value for key, value in source.items() if value not in (None, [], {})}
    job = _run({"name": name, "collect": [given]}, "collect")
    details = _stage(job, "collect")["details"]
    counts = details["counts"]
    made = {
        "id": job["result"]["documents"][0],
        "documents": counts.get("documents", 0),
        "outcomes": details.get("outcomes", {}),
        "columns": details.get("columns", {}),
        "counts": counts,
        "job": job["id"],
    }
    if source["source"] == "github":
        made["repositories"] = details.get("repositories", 0)
    if as_json:
        print_json(made)
        return
    print(f"Documents {made['id']}: {made['documents']}")
    print_table(
        [{"outcome": key, "count": value} for key, value in sorted(made["outcomes"].items())], ["outcome", "count"]
    )
    if made["columns"]:
        told = ", ".join(f"{role} = {' or '.join(columns)}" for role, columns in made["columns"].items())
        print(f"Columns: {told}   (another choice: --column ROLE=COLUMN)")
    print(f"Next: soldiom prepare {made['id']}")


def _run(content: dict[str, Any], kind: str) -> dict[str, Any]:
    from soldiom_ray import launch
    from soldiom_ray.domains.recipes import validate_recipe

    settings = load_settings()
    recipe = validate_recipe(content, f"soldiom {kind}")
    return follow(settings, launch.launch_job(settings, recipe, kind=kind, owner="cli"))


def _stage(job: dict[str, Any], name: str) -> dict[str, Any]:
    stage: dict[str, Any] = next(stage for stage in job["stages"] if stage["stage"] == name)
    return stage


def split_list(values: Many | None) -> list[str]:
    """Values given repeatedly, separated by commas, or both."""
    return [part.strip() for value in values or () for part in value.split(",") if part.strip()]


def pairs(values: Many | None, option: str) -> dict[str, str]:
    """NAME=VALUE options as a mapping. Raises InputError for one of another form."""
    found = {}
    for value in values or ():
        name, sign, meant = value.partition("=")
        if not (name and sign and meant):
            raise InputError(f"{option} needs NAME=VALUE.", remedy=f"for example {option} text=body")
        found[name.strip()] = meant.strip()
    return found
