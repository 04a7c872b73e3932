"""What the tests of crawling GitHub share."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from collecting import make_context
from stand_in import StandIn

from soldiom_ray.artifacts import Context
from soldiom_ray.collect import collect, github
from soldiom_ray.collect.github.accounts import Accounts
from soldiom_ray.collect.github.api import GithubApi
from soldiom_ray.collect.github.search import Repository, Search
from soldiom_ray.collect.tasks import TaskResult
from soldiom_ray.domains.sources import GithubSource
from soldiom_ray.records import Manifest

FOREVER = 40_000
"""pushed_within_days that the made-up dates always pass"""


def declare(**declared: Any) -> GithubSource:
    """A source of one query that asks for any date."""
    defaults = {"topics": ("machine-learning",), "languages": ("Python",), "pushed_within_days": FOREVER}
    return GithubSource(**{**defaults, **declared})


def crawl(
    server: StandIn, home: Path, *, tokens: str = "one", messages: list[str] | None = None, **declared: Any
) -> tuple[Context, Manifest]:
    """A whole collection from the stand-in server."""
    context = make_context(home, messages, SOLDIOM_GITHUB_API_URL=server.url, SOLDIOM_GITHUB_TOKEN=tokens)
    return context, collect(context, [declare(**declared)])


def look(server: StandIn, home: Path, *, tokens: str = "one", **declared: Any) -> github.GithubPlan:
    """A crawl up to the trees."""
    context = make_context(home, SOLDIOM_GITHUB_API_URL=server.url, SOLDIOM_GITHUB_TOKEN=tokens)
    return github.plan(declare(**declared), context, datetime.now(UTC))


def open_api(server: StandIn, home: Path, tokens: str = "one") -> GithubApi:
    """The API by itself, every token an account of its own."""
    settings = make_context(home, SOLDIOM_GITHUB_API_URL=server.url, SOLDIOM_GITHUB_TOKEN=tokens).settings
    return GithubApi(settings, Accounts(settings), lambda message: None)


def find(server: StandIn, home: Path, **declared: Any) -> tuple[list[Repository], TaskResult]:
    """A search by itself."""
    result = TaskResult()
    run = Search(
        open_api(server, home), declare(**declared), date(2000, 1, 1), date(2026, 11, 24), result, lambda message: None
    )
    return run.run(), result
