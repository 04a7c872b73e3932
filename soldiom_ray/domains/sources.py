"""The sources of a recipe's heading `collect`, each with its options and their defaults."""

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from soldiom_ray.domains.connections import check_database_url, check_endpoint
from soldiom_ray.domains.references import DATABASE, ENDPOINT, INPUT, PATH, SPEECH
from soldiom_ray.records import DocumentKind, Record

EMPTY_PATH = "`{}` holds an empty path, which would be the working folder: name that one `.`"


class LocalSource(Record):
    """A folder, a git checkout, or installed Python packages by distribution name ("stdlib": the standard library)."""

    source: Literal["local"]
    path: str | None = Field(None, description="a folder or a git checkout", json_schema_extra=PATH)
    packages: tuple[str, ...] = Field(
        (), description="installed Python packages by distribution name; stdlib: the standard library"
    )
    include: tuple[str, ...] = Field(
        ("*.py", "*.pyi", "*.md", "*.rst", "*.txt", "*.ipynb", "*.yaml", "*.yml", "*.toml"),
        description="file patterns to take",
    )
    exclude: tuple[str, ...] = Field((), description="file patterns to leave out")
    max_documents: int | None = Field(None, ge=1, description="at most this many documents, spread over the packages")
    max_bytes: int = Field(1_000_000, ge=1, description="larger files are left out and counted as too_large")

    @model_validator(mode="after")
    def _has_files(self) -> "LocalSource":
        if self.path is not None and not self.path.strip():
            raise ValueError(EMPTY_PATH.format("path"))
        if (self.path is None) == (not self.packages):
            raise ValueError("give either `path` (a folder) or `packages` (names of installed Python packages)")
        return self


class FilesSource(Record):
    """A user's own files: files and folders by `paths`, or `inputs` uploaded before (ids of user inputs). The documents
    have `source: user`, as those of databases and endpoints do."""

    source: Literal["files"] = "files"
    paths: tuple[str, ...] = Field((), description="files or folders", json_schema_extra=PATH)
    inputs: tuple[str, ...] = Field((), description="ids of user inputs", json_schema_extra=INPUT)
    include: tuple[str, ...] = Field((), description="file patterns to take; empty: all")
    exclude: tuple[str, ...] = Field((), description="file patterns to leave out")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="role (text, question, answer, ...) -> name of a column or field; unset: guessed",
    )
    license: str = Field("", description="license of these files (SPDX), where a record does not name its own")
    ocr: bool = Field(True, description="read scans and images")
    pictures: bool = Field(
        False, description="take pictures themselves and nothing else: images and arrays of them (.npz), with labels"
    )
    speech_model: str = Field(
        "",
        description="writes transcripts of speech: pocketsphinx, or the folder of a Whisper model",
        json_schema_extra=SPEECH,
    )
    max_bytes: int = Field(50_000_000, ge=1, description="larger files are left out and counted as too_large")

    @model_validator(mode="after")
    def _has_files(self) -> "FilesSource":
        if not all(path.strip() for path in self.paths):
            raise ValueError(EMPTY_PATH.format("paths"))
        if not self.paths and not self.inputs:
            raise ValueError("give `paths` (files or folders) or `inputs` (ids of user inputs)")
        return self


class GithubSource(Record):
    """GitHub repositories found by the search API for each topic and language, each repository once."""

    source: Literal["github"] = "github"
    topics: tuple[str, ...] = Field(
        ("machine-learning", "deep-learning", "ai"), description="topics of the repositories; empty: any"
    )
    languages: tuple[str, ...] = Field(
        ("Python", "Jupyter Notebook"), description="main languages of the repositories; empty: any"
    )
    min_stars: int = Field(1000, ge=0, le=10_000_000, description="repositories with more stars than this")
    pushed_within_days: int = Field(183, ge=1, le=40_000, description="repositories pushed to within this many days")
    max_repositories: int | None = Field(
        None, ge=1, description="at most this many repositories, those with most stars first"
    )
    kinds: tuple[DocumentKind, ...] = Field(
        ("architecture", "training", "configuration", "dataset", "documentation", "test", "other"),
        min_length=1,
        description="kinds of file to take",
    )
    max_bytes: int = Field(1_000_000, ge=1, description="larger files are left out and counted as too_large")

    @model_validator(mode="after")
    def _fits_search_syntax(self) -> "GithubSource":
        for topic in self.topics:
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,49}", topic):
                meant = re.sub(r"[^a-z0-9]+", "-", topic.lower()).strip("-")[:50]
                hint = f'. Did you mean "{meant}"?' if meant and meant != topic else ""
                raise ValueError(
                    f"`topics` holds {topic[:60]!r}; a topic is at most 50 lower-case letters, digits and hyphens{hint}"
                )
        for language in self.languages:
            if not language.strip() or len(language) > 60 or '"' in language or not language.isprintable():
                raise ValueError(f"`languages` holds {language[:60]!r}; a language has 1 to 60 characters, no quotes")
        return self


class HuggingfaceSource(Record):
    """Model or dataset repositories of the Hugging Face Hub."""

    source: Literal["huggingface"] = "huggingface"
    kind: Literal["models", "datasets"] = Field("models", description="which repositories of the Hub to take")
    tasks: tuple[str, ...] = Field((), description="tasks of the repositories, such as text-generation; empty: all")
    libraries: tuple[str, ...] = Field((), description="libraries of the models, such as transformers; empty: all")
    min_downloads: int = Field(10_000, ge=0, description="repositories with more downloads than this in 30 days")
    min_likes: int = Field(100, ge=0, description="repositories with more likes than this")
    limit: int | None = Field(None, ge=1, description="at most this many repositories, those with most downloads first")
    weights: bool = Field(False, description="fetch the models' weights too: safetensors, configuration and tokenizer")
    data: bool = Field(
        False, description="fetch the datasets' files too: Parquet, JSON Lines, JSON, CSV; each row is a document"
    )
    max_bytes: int = Field(
        64_000_000, ge=1, description="data files larger than this, packed or unpacked, are left out"
    )
    max_repository_bytes: int = Field(512_000_000, ge=1, description="limit for the data files of one dataset together")

    @model_validator(mode="after")
    def _content_fits_kind(self) -> "HuggingfaceSource":
        if self.weights and self.kind == "datasets":
            raise ValueError("`weights` belongs to models; for the files of datasets set `data`")
        if self.data and self.kind == "models":
            raise ValueError("`data` belongs to datasets (kind: datasets); for the files of models set `weights`")
        return self

    @property
    def order(self) -> Literal["downloads", "likes"]:
        """The figure by which the listing is sorted: its threshold ends the listing early."""
        return "downloads" if self.min_downloads or not self.min_likes else "likes"


class DatabaseSource(Record):
    """Rows of a PostgreSQL, MySQL or MariaDB server, or of an SQLite file: a query, some tables, or all tables of the
    default schema. When the recipe is launched, the password moves from `url` to the owner's stored secrets."""

    model_config = ConfigDict(hide_input_in_errors=True)

    source: Literal["database"] = "database"
    url: str = Field(
        max_length=2000,
        description="postgresql://, mysql:// or mariadb://USER:PASSWORD@HOST/DATABASE",
        json_schema_extra=DATABASE,
    )
    query: str = Field("", max_length=100_000, description="one SELECT, instead of tables")
    tables: tuple[str, ...] = Field((), description="tables as NAME or SCHEMA.NAME; empty: all of the default schema")
    columns: dict[str, str] = Field(
        default_factory=dict, description="role (text, question, ...) -> column; unset: guessed"
    )
    group_by: str = Field(
        "", description="column whose equal values stay in one split, such as a customer or a conversation"
    )
    max_rows: int | None = Field(None, ge=1, description="at most this many rows of each table")
    max_bytes: int = Field(10_000_000, ge=1, description="larger rows are left out and counted as too_large")
    timeout_seconds: int = Field(600, ge=1, le=86_400, description="time limit of each statement")
    private: bool = Field(False, description="administrators only: may reach private addresses and files")

    @model_validator(mode="after")
    def _is_readable(self) -> "DatabaseSource":
        if self.query and self.tables:
            raise ValueError("give either `query` or `tables`")
        check_database_url(self.url)
        return self


class UrlSource(Record):
    """Data of an HTTP endpoint: JSON, JSON Lines, CSV or any other supported document. When the recipe is launched, the
    values of `headers` move to the owner's stored secrets; an empty value stands for the stored one."""

    model_config = ConfigDict(hide_input_in_errors=True)

    source: Literal["url"] = "url"
    url: str = Field(
        max_length=2000,
        description="http:// or https:// address that gives JSON, JSON Lines, CSV or documents",
        json_schema_extra=ENDPOINT,
    )
    records: str = Field("", description="path to the list of records in a JSON answer, such as data.items")
    next: str = Field("", description="path to the address (or cursor) of the next page; a Link header is followed too")
    cursor: str = Field("", description="query parameter that takes the cursor that `next` names")
    page: str = Field("", description="query parameter that counts the pages, from 1 to the first without records")
    headers: dict[str, str] = Field(default_factory=dict, max_length=20, description="request headers, such as a key")
    columns: dict[str, str] = Field(
        default_factory=dict, description="role (text, question, ...) -> field; unset: guessed"
    )
    max_pages: int = Field(100, ge=1, le=100_000, description="at most this many pages in each poll")
    polls: int = Field(1, ge=1, le=100_000, description="how often the endpoint is polled")
    interval_seconds: float = Field(60.0, ge=0, le=86_400, description="pause between two polls")
    max_bytes: int = Field(20_000_000, ge=1, description="size limit of each answer, unpacked")
    timeout_seconds: float = Field(60.0, gt=0, le=3600, description="time limit of each request, from start to end")
    private: bool = Field(False, description="administrators only: may reach private addresses")

    @model_validator(mode="after")
    def _is_requestable(self) -> "UrlSource":
        check_endpoint(self.url, userinfo=True)
        if self.cursor and not self.next:
            raise ValueError("`cursor` needs `next`: where the cursor stands in the answer")
        if self.page and self.next:
            raise ValueError("give either `page` or `next`")
        if any(
            not name.replace("-", "").isalnum() or not (name + value).isprintable() or not (name + value).isascii()
            for name, value in self.headers.items()
        ):
            raise ValueError("`headers` holds a name or value that cannot be sent")
        return self


Source = Annotated[
    LocalSource | FilesSource | GithubSource | HuggingfaceSource | DatabaseSource | UrlSource,
    Field(discriminator="source"),
]
