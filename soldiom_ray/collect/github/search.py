"""The repositories that match a declaration: GitHub's search, cut into slices where it has more results than it
gives."""

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

from soldiom_ray.collect.github.api import GithubApi
from soldiom_ray.collect.tasks import TaskResult
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.sources import GithubSource
from soldiom_ray.errors import UnavailableError

MAX_RESULTS = 1000
"""Search never gives more results than this, whatever `total_count` says."""

PER_PAGE = 100
MAX_PASSES = 3
"""How often a slice is read when it gave other repositories than it counts: stars move while its pages are read."""

FIRST_DAY = date(2007, 10, 1)
SearchPage = tuple[int, bool, list[dict[str, Any]], bool]
"""How many results there are, whether the search timed out, the results, whether another page follows."""

NAME = r"[\w.-]+/[\w.-]+"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of the search: `id` stays when its name changes, `query` is the search that found it."""

    id: int
    name: str
    stars: int
    pushed_at: str
    query: str
    branch: str = "HEAD"
    license: str = ""
    topics: tuple[str, ...] = ()
    description: str = ""
    forks: int = 0
    language: str = ""
    created_at: str = ""
    homepage: str = ""
    page: str = ""
    size_kib: int = 0


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a query: days of creation (both in), and numbers of stars (both in; None has no upper end)."""

    subject: tuple[str, ...]
    pushed: date
    first: date
    last: date
    min_stars: int
    max_stars: int | None = None
    every_day: bool = True

    @property
    def query(self) -> str:
        """GitHub's search syntax: qualifiers only, so the limits of 256 characters of text and five operators never
        apply."""
        days = "" if self.every_day else f"created:{self.first}..{self.last}"
        stars = (
            f"stars:>{self.min_stars - 1}" if self.max_stars is None else f"stars:{self.min_stars}..{self.max_stars}"
        )
        pushed = f"pushed:>={self.pushed}"
        return " ".join(part for part in (*self.subject, stars, pushed, "archived:false", days) if part)

    def halves(self, most_stars: int) -> "tuple[Slice, Slice] | None":
        """Two slices instead of one: by days first, since a day of creation never changes; a single day by stars, at
        their geometric mean, since high counts are rarer. None for one day and one number of stars."""
        if self.first < self.last:
            middle = self.first + (self.last - self.first) // 2
            older, younger = (
                replace(self, last=middle, every_day=False),
                replace(self, first=middle + timedelta(days=1), every_day=False),
            )
            return older, younger
        max_stars = self.max_stars if self.max_stars is not None else max(most_stars, self.min_stars)
        if self.min_stars < max_stars:
            middle_stars = min(max_stars - 1, max(self.min_stars, math.isqrt(self.min_stars * max_stars)))
            return replace(self, max_stars=middle_stars, every_day=False), replace(
                self, min_stars=middle_stars + 1, every_day=False
            )
        return None


@dataclass
class Search:
    """One run of the search for a declaration."""

    api: GithubApi
    declared: GithubSource
    pushed: date
    today: date
    result: TaskResult
    report: Callable[[str], None]
    splits_left: int = 16
    """How many slices are halved only because the search timed out in them."""

    def run(self) -> list[Repository]:
        """Repositories of every topic and language, each once, most stars first, at most max_repositories."""
        repositories: dict[int, Repository] = {}
        for query_slice in self._slices():
            for item in self._read(query_slice, len(repositories)).values():
                if item["id"] in repositories:
                    self.result.facts["search_repeats"] += 1
                elif self._matches(item):
                    repositories[item["id"]] = to_repository(item, query_slice.query)
                else:
                    self.result.facts["search_misfits"] += 1
        self.report(f"GitHub has {len(repositories)} such repositories")
        ordered = sorted(repositories.values(), key=lambda repository: (-repository.stars, repository.id))
        self.result.facts["repositories_found"] = len(ordered)
        return ordered[: self.declared.max_repositories]

    def _slices(self) -> list[Slice]:
        subjects = [
            (*([f"topic:{topic}"] if topic else []), *([f'language:"{language}"'] if language else []))
            for topic in self.declared.topics or ("",)
            for language in self.declared.languages or ("",)
        ]
        min_stars = self.declared.min_stars + 1
        return [Slice(subject, self.pushed, FIRST_DAY, self.today, min_stars) for subject in subjects]

    def _read(self, query_slice: Slice, count: int) -> dict[int, dict[str, Any]]:
        """All results of a slice by id, its halves' where there are more than search gives. Where only the first few
        hundred are wanted no slices are needed, since results come by stars."""
        limit = self.declared.max_repositories
        is_short = limit is not None and limit <= MAX_RESULTS
        self.report(f"searching GitHub: {count} repositories")
        total, incomplete, items, more = self._page(query_slice.query, 1)
        if (total > MAX_RESULTS and not is_short) or (incomplete and self.splits_left > 0):
            halves = query_slice.halves(max((item["stars"] for item in items), default=0))
            self.splits_left -= total <= MAX_RESULTS
            if halves:
                return self._read(halves[0], count) | self._read(halves[1], count)
            self.result.facts["search_cut"] += max(0, total - MAX_RESULTS)
        self.result.facts["search_incomplete"] += incomplete
        read: dict[int, dict[str, Any]] = {}
        wanted = self._pages(query_slice.query, (total, incomplete, items, more), limit if is_short else None, read)
        for _ in range(MAX_PASSES - 1):
            before = len(read)
            if before >= wanted:
                break
            self.result.facts["search_read_again"] += 1
            page = self._page(query_slice.query, 1, fresh=True)
            wanted = self._pages(query_slice.query, page, limit if is_short else None, read, fresh=True)
            if len(read) == before:
                break
        self.result.facts["search_expected"] += wanted
        self.result.facts["search_fetched"] += len(read)
        self.result.facts["search_missing"] += max(0, wanted - len(read))
        return read

    def _pages(
        self, query: str, page: SearchPage, limit: int | None, read: dict[int, dict[str, Any]], *, fresh: bool = False
    ) -> int:
        """Read on from a first page into `read`, until there are `limit` that match; how many there should be now."""
        number = 1
        while True:
            total, _, items, more = page
            read.update({item["id"]: item for item in items})
            if limit is not None and sum(map(self._matches, read.values())) >= limit:
                return len(read)
            if not more:
                return min(total, MAX_RESULTS)
            number += 1
            page = self._page(query, number, fresh=fresh)

    def _page(self, query: str, number: int, *, fresh: bool = False) -> SearchPage:
        parameters = {"q": query, "sort": "stars", "order": "desc", "per_page": str(PER_PAGE), "page": str(number)}
        try:
            for again in range(MAX_PASSES):
                page = self.api.get(
                    "/search/repositories",
                    parameters,
                    extract=search_page_fields,
                    resource="search",
                    fresh=fresh or again > 0,
                ).value
                if not page["incomplete"]:
                    break
        except SkippedError as skipped:
            raise UnavailableError(
                f"GitHub's search does not answer: {skipped.detail or skipped.reason}.",
                remedy="run it again later; repositories that were read are kept",
            ) from skipped
        return page["total"], page["incomplete"], page["items"], page["more"] and number * PER_PAGE < MAX_RESULTS

    def _matches(self, item: Mapping[str, Any]) -> bool:
        """Search lags behind: a result may no longer match what was asked for."""
        return bool(
            item["stars"] > self.declared.min_stars
            and item["pushed_at"][:10] >= self.pushed.isoformat()
            and not item["gone"]
        )


def search_page_fields(headers: Mapping[str, str], data: Any) -> dict[str, Any]:
    """The used part of a page. A malformed result is skipped, and shows as missing in the count. Raises ValueError,
    KeyError, TypeError for a page that is none."""
    items = []
    for item in data["items"]:
        with suppress(KeyError, TypeError, ValueError, AttributeError, OverflowError):
            items.append(repository_fields(item))
    if data["items"] and not items:
        raise ValueError("no repositories")
    return {
        "total": int(data["total_count"]),
        "incomplete": bool(data.get("incomplete_results")),
        "items": items,
        "more": 'rel="next"' in headers.get("link", ""),
    }


def to_repository(item: Mapping[str, Any], query: str) -> Repository:
    """A repository from its `repository_fields`."""
    fields = {name: value for name, value in item.items() if name != "gone"}
    return Repository(query=query, **{**fields, "topics": tuple(item["topics"])})


def repository_fields(item: Mapping[str, Any]) -> dict[str, Any]:
    """The used fields of a repository in the API's JSON. Raises KeyError, TypeError, ValueError for anything else."""
    name = str(item["full_name"])
    if not re.fullmatch(NAME, name, re.ASCII) or name.endswith(("/.", "/..")):
        raise ValueError("not a repository's name")
    return {
        "id": int(item["id"]),
        "name": name,
        "stars": int(item.get("stargazers_count") or 0),
        "pushed_at": _text(item, "pushed_at", 40),
        "branch": _text(item, "default_branch", 250) or "HEAD",
        "license": _text(item.get("license") or {}, "spdx_id", 100),
        "topics": [str(topic)[:100] for topic in item.get("topics") or ()],
        "description": _text(item, "description", 350),
        "forks": int(item.get("forks_count") or 0),
        "language": _text(item, "language", 100),
        "created_at": _text(item, "created_at", 40),
        "homepage": _text(item, "homepage", 350),
        "page": _text(item, "html_url", 350) or f"https://github.com/{name}",
        "size_kib": int(item.get("size") or 0),
        "gone": bool(item.get("archived") or item.get("private") or item.get("disabled")),
    }


def _text(item: Mapping[str, Any], name: str, characters: int) -> str:
    """A string of the response, short enough to go with every document, without lone surrogates."""
    return str(item.get(name) or "")[:characters].encode("utf-8", "replace").decode()
