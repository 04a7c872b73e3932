"""`soldiom collect`: one command per source, and single inputs."""

import sys
from typing import Annotated, Any
from urllib.parse import quote

import typer

from soldiom_ray.cli.jobs import run_job, stage_of
from soldiom_ray.cli.mapping import mapping_lines, read_mapping
from soldiom_ray.cli.options import Name, RecipeCommand, drop_unset, pairs, recipe_option, split_list
from soldiom_ray.cli.output import Json, print_json, print_table, say
from soldiom_ray.cli.paths import named_path
from soldiom_ray.errors import InputError
from soldiom_ray.settings import environment_value, load_settings

collect_app = typer.Typer(help="Collect documents from a source.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    app.add_typer(collect_app, name="collect")


@collect_app.command("local", cls=RecipeCommand)
def collect_local(
    path: Annotated[str | None, typer.Argument(help="A folder or a git checkout.")] = None,
    packages: Annotated[list[str] | None, recipe_option("collect.local.packages")] = None,
    include: Annotated[list[str] | None, recipe_option("collect.local.include")] = None,
    exclude: Annotated[list[str] | None, recipe_option("collect.local.exclude")] = None,
    max_documents: Annotated[int | None, recipe_option("collect.local.max_documents")] = None,
    max_bytes: Annotated[int | None, recipe_option("collect.local.max_bytes")] = None,
    name: Name = "local",
    json: Json = False,
) -> None:
    """Collect a folder, a git checkout, or installed Python packages."""
    options = drop_unset(
        path=str(named_path(path, "PATH").absolute()) if path is not None else None,
        packages=split_list(packages),
        include=split_list(include),
        exclude=split_list(exclude),
        max_documents=max_documents,
        max_bytes=max_bytes,
    )
    _collect("local", options, name, json)


@collect_app.command("github", cls=RecipeCommand)
def collect_github(
    topics: Annotated[list[str] | None, recipe_option("collect.github.topics")] = None,
    languages: Annotated[list[str] | None, recipe_option("collect.github.languages")] = None,
    min_stars: Annotated[int | None, recipe_option("collect.github.min_stars")] = None,
    pushed_within_days: Annotated[int | None, recipe_option("collect.github.pushed_within_days")] = None,
    max_repositories: Annotated[int | None, recipe_option("collect.github.max_repositories")] = None,
    kinds: Annotated[list[str] | None, recipe_option("collect.github.kinds")] = None,
    max_bytes: Annotated[int | None, recipe_option("collect.github.max_bytes")] = None,
    name: Name = "github",
    json: Json = False,
) -> None:
    """Collect repositories of GitHub. Run it again to update: what has not changed is not downloaded again."""
    options = drop_unset(
        topics=split_list(topics),
        languages=split_list(languages),
        min_stars=min_stars,
        pushed_within_days=pushed_within_days,
        max_repositories=max_repositories,
        kinds=split_list(kinds),
        max_bytes=max_bytes,
    )
    _collect("github", options, name, json)


@collect_app.command("huggingface", cls=RecipeCommand)
def collect_huggingface(
    kind: Annotated[str | None, recipe_option("collect.huggingface.kind")] = None,
    tasks: Annotated[list[str] | None, recipe_option("collect.huggingface.tasks")] = None,
    libraries: Annotated[list[str] | None, recipe_option("collect.huggingface.libraries")] = None,
    min_downloads: Annotated[int | None, recipe_option("collect.huggingface.min_downloads")] = None,
    min_likes: Annotated[int | None, recipe_option("collect.huggingface.min_likes")] = None,
    limit: Annotated[int | None, recipe_option("collect.huggingface.limit")] = None,
    weights: Annotated[bool, recipe_option("collect.huggingface.weights", "--weights")] = False,
    data: Annotated[bool, recipe_option("collect.huggingface.data", "--data")] = False,
    max_bytes: Annotated[int | None, recipe_option("collect.huggingface.max_bytes")] = None,
    max_repository_bytes: Annotated[int | None, recipe_option("collect.huggingface.max_repository_bytes")] = None,
    name: Name = "huggingface",
    json: Json = False,
) -> None:
    """Collect model or dataset cards of the Hugging Face Hub; with --weights or --data, their files too."""
    options = drop_unset(
        kind=kind,
        tasks=split_list(tasks),
        libraries=split_list(libraries),
        min_downloads=min_downloads,
        min_likes=min_likes,
        limit=limit,
        weights=weights or None,
        data=data or None,
        max_bytes=max_bytes,
        max_repository_bytes=max_repository_bytes,
    )
    _collect("huggingface", options, name, json)


@collect_app.command("files", cls=RecipeCommand)
def collect_files(
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="Files or folders: documents, tables, mail, archives, images, audio, video."),
    ] = None,
    inputs: Annotated[list[str] | None, recipe_option("collect.files.inputs")] = None,
    include: Annotated[list[str] | None, recipe_option("collect.files.include")] = None,
    exclude: Annotated[list[str] | None, recipe_option("collect.files.exclude")] = None,
    column: Annotated[list[str] | None, recipe_option("collect.files.columns", metavar="ROLE=COLUMN")] = None,
    license: Annotated[str | None, recipe_option("collect.files.license")] = None,  # noqa: A002
    ocr: Annotated[bool | None, recipe_option("collect.files.ocr")] = None,
    pictures: Annotated[bool, recipe_option("collect.files.pictures", "--pictures")] = False,
    speech_model: Annotated[str | None, recipe_option("collect.files.speech_model")] = None,
    max_bytes: Annotated[int | None, recipe_option("collect.files.max_bytes")] = None,
    name: Name = "files",
    json: Json = False,
) -> None:
    """Collect your own documents."""
    options = drop_unset(
        paths=[str(named_path(path, "PATHS").absolute()) for path in paths or ()],
        inputs=split_list(inputs),
        include=split_list(include),
        exclude=split_list(exclude),
        columns=pairs(column, "--column"),
        license=license,
        ocr=ocr,
        pictures=pictures or None,
        speech_model=speech_model,
        max_bytes=max_bytes,
    )
    _collect("files", options, name, json)


@collect_app.command("input")
def collect_input(
    text: Annotated[str | None, typer.Argument(help="A text; `-` reads it from standard input.")] = None,
    query: Annotated[str | None, typer.Option(help="A question that was asked.")] = None,
    answer: Annotated[str | None, typer.Option(help="Its answer.")] = None,
    rating: Annotated[int | None, typer.Option(help="How good the answer was, 1 to 5.", min=1, max=5)] = None,
    comment: Annotated[str | None, typer.Option(help="What was wrong or right with it.")] = None,
    correction: Annotated[str | None, typer.Option(help="What it should have said.")] = None,
    name: Name = "input",
    json: Json = False,
) -> None:
    """Collect one text, a question with its answer, or feedback on an answer."""
    from soldiom_ray.cli.client import call

    fields = drop_unset(query=query, answer=answer, rating=rating, comment=comment, correction=correction)
    if (text is None) == (not fields):
        raise InputError("Give either a text or fields of an answer.", remedy="for example --query TEXT --answer TEXT")
    content = sys.stdin.read() if text == "-" else text if text is not None else fields
    body = {"user_id": "cli", "input_type": "text" if text is not None else "structured", "content": content}
    user_input = call(load_settings(), "POST", "/api/training/collect/user-input", body)
    _collect("files", {"inputs": [user_input["id"]]}, name, json)


@collect_app.command("database", cls=RecipeCommand)
def collect_database(
    url: Annotated[str, typer.Argument(help="postgresql://, mysql:// or mariadb://USER@HOST/DATABASE, or a file.")],
    query: Annotated[str | None, recipe_option("collect.database.query")] = None,
    table: Annotated[list[str] | None, recipe_option("collect.database.tables")] = None,
    column: Annotated[list[str] | None, recipe_option("collect.database.columns", metavar="ROLE=COLUMN")] = None,
    group_by: Annotated[str | None, recipe_option("collect.database.group_by")] = None,
    max_rows: Annotated[int | None, recipe_option("collect.database.max_rows")] = None,
    max_bytes: Annotated[int | None, recipe_option("collect.database.max_bytes")] = None,
    timeout_seconds: Annotated[int | None, recipe_option("collect.database.timeout_seconds")] = None,
    password_env: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="Environment variable with the password.")
    ] = None,
    name: Name = "database",
    json: Json = False,
) -> None:
    """Collect rows of a live database without changing it. The password is stored for you alone and never shown."""
    from soldiom_ray.domains.connections import with_password

    if "://" not in url:
        file = named_path(url, "URL").absolute()
        url = f"sqlite://{quote(str(file))}"
    if password_env:
        url = with_password(url, environment_value(password_env))
    options = drop_unset(
        url=url,
        query=query,
        tables=table,
        columns=pairs(column, "--column"),
        group_by=group_by,
        max_rows=max_rows,
        max_bytes=max_bytes,
        timeout_seconds=timeout_seconds,
        private=True,
    )
    _collect("database", options, name, json)


@collect_app.command("url", cls=RecipeCommand)
def collect_url(
    url: Annotated[str, typer.Argument(help="An http or https address that gives JSON, JSON Lines, CSV or documents.")],
    records: Annotated[str | None, recipe_option("collect.url.records")] = None,
    next_: Annotated[str | None, recipe_option("collect.url.next", "--next")] = None,
    cursor: Annotated[str | None, recipe_option("collect.url.cursor")] = None,
    page: Annotated[str | None, recipe_option("collect.url.page")] = None,
    header_env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VARIABLE", help="A header whose value an environment variable holds."),
    ] = None,
    column: Annotated[list[str] | None, recipe_option("collect.url.columns", metavar="ROLE=COLUMN")] = None,
    max_pages: Annotated[int | None, recipe_option("collect.url.max_pages")] = None,
    polls: Annotated[int | None, recipe_option("collect.url.polls")] = None,
    interval_seconds: Annotated[float | None, recipe_option("collect.url.interval_seconds")] = None,
    max_bytes: Annotated[int | None, recipe_option("collect.url.max_bytes")] = None,
    timeout_seconds: Annotated[float | None, recipe_option("collect.url.timeout_seconds")] = None,
    private: Annotated[bool, typer.Option("--private", help="Allow private addresses.")] = False,
    name: Name = "url",
    json: Json = False,
) -> None:
    """Collect what an HTTP endpoint returns, page by page. What has not changed since the last time costs a 304."""
    options = drop_unset(
        url=url,
        records=records,
        next=next_,
        cursor=cursor,
        page=page,
        headers={key: environment_value(value) for key, value in pairs(header_env, "--header-env").items()},
        columns=pairs(column, "--column"),
        max_pages=max_pages,
        polls=polls,
        interval_seconds=interval_seconds,
        max_bytes=max_bytes,
        timeout_seconds=timeout_seconds,
        private=private,
    )
    _collect("url", options, name, json)


def _collect(source: str, options: dict[str, Any], name: str, as_json: bool) -> None:
    """Run a collection from one source, follow it and print the result."""
    job = run_job({"name": name, "collect": [{"source": source, **options}]}, "collect")
    stage = stage_of(job, "collect")
    details = stage["details"]
    counts = details["counts"]
    mapping, _ = read_mapping(load_settings(), stage["artifact_id"])
    result = {
        "id": job["result"]["documents"][0],
        "documents": counts.get("documents", 0),
        "outcomes": details.get("outcomes", {}),
        "columns": details.get("columns", {}),
        "mapping": mapping,
        "counts": counts,
        "job": job["id"],
    }
    if source == "github":
        result["repositories"] = details.get("repositories", 0)
    if as_json:
        print_json(result)
        return
    say(f"Documents {result['id']}: {result['documents']}")
    outcomes = [{"outcome": key, "count": value} for key, value in sorted(result["outcomes"].items())]
    print_table(outcomes, ["outcome", "count"])
    for line in mapping_lines(mapping):
        say(line)
    say(f"Next: soldiom prepare {result['id']}")
