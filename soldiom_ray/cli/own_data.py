"""Commands that collect a team's own data: files, single inputs, databases, endpoints."""

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from soldiom_ray.cli.client import call
from soldiom_ray.cli.data import Many, Name, Pictures, collect_app, collect_source, pairs, split_list
from soldiom_ray.cli.output import Json
from soldiom_ray.domains.connections import with_password
from soldiom_ray.errors import InputError
from soldiom_ray.settings import environment_value, load_settings

Columns = Annotated[
    Many | None,
    typer.Option(metavar="ROLE=COLUMN", help="Which column is the text, question, answer, ...; default: guessed."),
]


@collect_app.command("files")
def collect_files(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Files or folders: documents, tables, mail, archives, images, audio, video."),
    ] = None,
    inputs: Annotated[Many | None, typer.Option(help="Ids of user inputs, besides or instead of paths.")] = None,
    include: Annotated[Many | None, typer.Option(help="File patterns to take, such as '*.pdf'; default: all.")] = None,
    exclude: Annotated[Many | None, typer.Option(help="File patterns to leave out.")] = None,
    column: Columns = None,
    license: Annotated[str | None, typer.Option(help="Of these files (SPDX).")] = None,  # noqa: A002
    ocr: Annotated[bool, typer.Option("--ocr/--no-ocr", help="Read scans and images.")] = True,
    pictures: Pictures = False,
    speech_model: Annotated[
        str | None, typer.Option(help="Writes transcripts: pocketsphinx, or the folder of a Whisper model.")
    ] = None,
    name: Name = "files",
    json: Json = False,
) -> None:
    """Collect your own documents."""
    source = {
        "source": "files",
        "paths": [str(path.expanduser().absolute()) for path in paths or ()],
        "inputs": split_list(inputs),
        "include": split_list(include),
        "exclude": split_list(exclude),
        "columns": pairs(column, "--column"),
        "license": license,
        "ocr": ocr,
        "pictures": pictures or None,
        "speech_model": speech_model,
    }
    collect_source(name, source, json)


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
    given = {"query": query, "answer": answer, "rating": rating, "comment": comment, "correction": correction}
    fields = {key: value for key, value in given.items() if value is not None}
    if (text is None) == (not fields):
        raise InputError("Give either a text or fields of an answer.", remedy="for example --query TEXT --answer TEXT")
    content = sys.stdin.read() if text == "-" else text if text is not None else fields
    body = {"user_id": "cli", "input_type": "text" if text is not None else "structured", "content": content}
    made = call(load_settings(), "POST", "/api/training/collect/user-input", body)
    collect_source(name, {"source": "files", "inputs": [made["id"]]}, json)


@collect_app.command("database")
def collect_database(
    url: Annotated[str, typer.Argument(help="postgresql://, mysql:// or mariadb://USER@HOST/DATABASE, or a file.")],
    query: Annotated[str | None, typer.Option(help="One SELECT.")] = None,
    table: Annotated[
        Many | None, typer.Option(help="NAME or SCHEMA.NAME, repeated; default: all of the default schema.")
    ] = None,
    column: Columns = None,
    group_by: Annotated[str | None, typer.Option(help="Column whose equal values stay together.")] = None,
    max_rows: Annotated[int | None, typer.Option(help="At most so many, of each table.")] = None,
    timeout_seconds: Annotated[int | None, typer.Option(help="For each statement (default 600).")] = None,
    password_env: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="Environment variable with the password.")
    ] = None,
    name: Name = "database",
    json: Json = False,
) -> None:
    """Collect rows of a live database, without changing it. The password is kept for you alone, never shown."""
    if "://" not in url:
        url = f"sqlite://{quote(str(Path(url).expanduser().absolute()))}"
    if password_env:
        url = with_password(url, environment_value(password_env))
    source = {
        "source": "database",
        "url": url,
        "query": query,
        "tables": table,
        "columns": pairs(column, "--column"),
        "group_by": group_by,
        "max_rows": max_rows,
        "timeout_seconds": timeout_seconds,
        "private": True,
    }
    collect_source(name, source, json)


@collect_app.command("url")
def collect_url(
    url: Annotated[str, typer.Argument(help="An http or https address that gives JSON, JSON Lines, CSV or documents.")],
    records: Annotated[str | None, typer.Option(help="Where the list of records stands, such as data.items.")] = None,
    next_: Annotated[
        str | None, typer.Option("--next", help="Where the next page's address or cursor stands, such as links.next.")
    ] = None,
    cursor: Annotated[str | None, typer.Option(help="Query parameter that takes the cursor.")] = None,
    page: Annotated[str | None, typer.Option(help="Query parameter that counts pages from 1.")] = None,
    header_env: Annotated[
        Many | None, typer.Option(metavar="NAME=VARIABLE", help="A header whose value an environment variable holds.")
    ] = None,
    column: Columns = None,
    max_pages: Annotated[int | None, typer.Option(help="At most so many (default 100).")] = None,
    polls: Annotated[int | None, typer.Option(help="How often the endpoint is asked (default once).")] = None,
    interval_seconds: Annotated[float | None, typer.Option(help="Between two polls (default 60).")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Of one answer, unpacked (default 20000000).")] = None,
    private: Annotated[bool, typer.Option("--private", help="Let it reach private addresses.")] = False,
    name: Name = "url",
    json: Json = False,
) -> None:
    """Collect what an HTTP endpoint gives, page by page. What did not change since the last time costs a 304."""
    source = {
        "source": "url",
        "url": url,
        "records": records,
        "next": next_,
        "cursor": cursor,
        "page": page,
        "headers": {key: environment_value(value) for key, value in pairs(header_env, "--header-env").items()},
        "columns": pairs(column, "--column"),
        "max_pages": max_pages,
        "polls": polls,
        "interval_seconds": interval_seconds,
        "max_bytes": max_bytes,
        "private": private,
    }
    collect_source(name, source, json)
