"""Which repositories a declaration means: GitHub's search, cut into slices where it finds more than it shows."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from soldiom_ray.collect.github_api import GithubApi
from soldiom_ray.collect.text import LeftOut
from soldiom_ray.collect.work import Gathered
from soldiom_ray.domains.schema import GithubSource
from soldiom_ray.errors import UnavailableError

SHOWN = 1000
"""Search never shows more results than this, whatever `total_count` says."""

PER_PAGE = 100
FIRST_DAY = date(2007, 10, 1)


@dataclass(frozen=True, slots=True)
class Found:
    """A repository of the search: `id` stays when its name changes, `query` is the search that found it."""

    id: int
    name: str
    stars: int
    pushed_at: str
    query: str


def search(
    api: GithubApi,
    declared: GithubSource,
    pushed: date,
    today: date,
    gathered: Gathered,
    report: Callable[[float, str], None],
) -> list[Found]:
    """Repositories of every topic and language, each once, most stars first, at most max_repositories."""
    queries = [
        " ".join(
            part
            for part in (
                f"topic:{topic}",
                f'language:"{language}"',
                f"stars:>{declared.min_stars}",
                f"pushed:>={pushed}",
                "archived:false",
            )
            if part
        )
        for topic in declared.topics
        for language in declared.languages
    ]
    found: dict[int, Found] = {}
    for number, query in enumerate(queries):
        report(number / len(queries), f"searching GitHub: {len(found)} repositories")
        for item in _slices(api, query, declared.max_repositories, FIRST_DAY, today, gathered):
            if not _fits(item, declared, pushed):
                gathered.facts["search_misfits"] += 1
            elif item["id"] in found:
                gathered.facts["search_repeats"] += 1
            else:
                found[item["id"]] = Found(
                    int(item["id"]),
                    str(item["full_name"]),
                    int(item["stargazers_count"]),
                    str(item["pushed_at"]),
                    query,
                )
    report(1.0, f"GitHub has {len(found)} such repositories")
    ordered = sorted(found.values(), key=lambda one: (-one.stars, one.id))
    gathered.facts["repositories_found"] = len(ordered)
    return ordered[: declared.max_repositories]


def _slices(
    api: GithubApi, query: str, limit: int | None, first: date, last: date, gathered: Gathered, whole: bool = True
) -> list[dict[str, Any]]:
    """All results of a query. Where there are more than search shows, its days of creation are halved (that date never
    changes while we look). Who wants only the best few hundred needs no slices: results come by stars."""
    text = query if whole else f"{query} created:{first}..{last}"
    total, incomplete, items, more = _page(api, text, 1)
    few = limit is not None and limit <= SHOWN
    if (total > SHOWN and not few) or incomplete:
        if first < last:
            middle = first + (last - first) // 2
            older = _slices(api, query, limit, first, middle, gathered, whole=False)
            return older + _slices(api, query, limit, middle + timedelta(days=1), last, gathered, whole=False)
        gathered.facts["search_cut"] += max(0, total - SHOWN)
        gathered.facts["search_incomplete"] += incomplete
    wanted = min(total, SHOWN, limit if few and limit else SHOWN)
    page = 1
    while more and len(items) < wanted:
        page += 1
        _, _, further, more = _page(api, text, page)
        items += further
    return items


def _page(api: GithubApi, query: str, page: int) -> tuple[int, bool, list[dict[str, Any]], bool]:
    parameters = {"q": query, "sort": "stars", "order": "desc", "per_page": str(PER_PAGE), "page": str(page)}
    try:
        for _ in range(3):
            headers, data = api.get("/search/repositories", parameters, resource="search")
            if not data.get("incomplete_results"):
                break
    except LeftOut as left:
        raise UnavailableError(
            f"GitHub's search does not answer: {left.why or left.outcome}.",
            remedy="run it again later; repositories that were read are kept",
        ) from left
    more = 'rel="next"' in headers.get("link", "") and page * PER_PAGE < SHOWN
    return int(data.get("total_count", 0)), bool(data.get("incomplete_results")), list(data.get("items", ())), more


def _fits(item: dict[str, Any], declared: GithubSource, pushed: date) -> bool:
    """Search lags behind: a result may no longer be what was asked for."""
    return (
        int(item.get("stargazers_count") or 0) > declared.min_stars
        and str(item.get("pushed_at") or "")[:10] >= pushed.isoformat()
        and not item.get("archived")
        and not item.get("private")
    )
