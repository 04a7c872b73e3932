"""Which repositories a declaration means: GitHub's search, cut into slices where it finds more than it shows."""

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
from soldiom_ray.domains.schema import GithubSource
from soldiom_ray.errors import UnavailableError

SHOWN = 1000
"""Search never shows more results than this, whatever `total_count` says."""

PER_PAGE = 100
PASSES = 3
"""How often a slice is read when it gave other repositories than it counts: stars move while its pages are read."""

FIRST_DAY = date(2007, 10, 1)
Page = tuple[int, bool, list[dict[str, Any]], bool]
"""How many results there are, whether search did not come to an end, the results, whether another page follows."""

NAME = r"[\w.-]+/[\w.-]+"


@dataclass(frozen=True, slots=True)
class Found:
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
    """A part of a query: days of creation (both in), and numbers of stars (both in; `most` None has no end)."""

    subject: tuple[str, ...]
    pushed: date
    first: date
    last: date
    least: int
    most: int | None = None
    whole: bool = True

    @property
    def query(self) -> str:
        """As GitHub's search takes it: qualifiers only, so neither its 256 characters of text nor its five operators
        are ever used up."""
        days = "" if self.whole else f"created:{self.first}..{self.last}"
        stars = f"stars:>{self.least - 1}" if self.most is None else f"stars:{self.least}..{self.most}"
        pushed = f"pushed:>={self.pushed}"
        return " ".join(part for part in (*self.subject, stars, pushed, "archived:false", days) if part)

    def halves(self, most_stars: int) -> "tuple[Slice, Slice] | None":
        """Two slices instead of one: by days first, since a day of creation never changes; a single day by stars, at
        their geometric mean, of which there are ever fewer. None when it is one day and one number of stars."""
        if self.first < self.last:
            middle = self.first + (self.last - self.first) // 2
            older, younger = (
                replace(self, last=middle, whole=False),
                replace(self, first=middle + timedelta(days=1), whole=False),
            )
            return older, younger
        most = self.most if self.most is not None else max(most_stars, self.least)
        if self.least < most:
            middle_stars = min(most - 1, max(self.least, math.isqrt(self.least * most)))
            return replace(self, most=middle_stars, whole=False), replace(self, least=middle_stars + 1, whole=False)
        return None


@dataclass
class Search:
    """One run of the search: what it asks for, what it found so far."""

    api: GithubApi
    declared: GithubSource
    pushed: date
    today: date
    result: TaskResult
    report: Callable[[float, str], None]
    splits_left: int = 16
    """How many slices are halved only because search did not come to an end in them."""

    def run(self) -> list[Found]:
        """Repositories of every topic and language, each once, most stars first, at most max_repositories."""
        found: dict[int, Found] = {}
        slices = self._queries()
        for number, part in enumerate(slices):
            label = part.query
            for item in self._read(part, number / len(slices), found).values():
                if item["id"] in found:
                    self.result.facts["search_repeats"] += 1
                elif self._fits(item):
                    found[item["id"]] = to_found(item, label)
                else:
                    self.result.facts["search_misfits"] += 1
        self.report(1.0, f"GitHub has {len(found)} such repositories")
        ordered = sorted(found.values(), key=lambda one: (-one.stars, one.id))
        self.result.facts["repositories_found"] = len(ordered)
        return ordered[: self.declared.max_repositories]

    def _queries(self) -> list[Slice]:
        subjects = [
            (*([f"topic:{topic}"] if topic else []), *([f'language:"{language}"'] if language else []))
            for topic in self.declared.topics or ("",)
            for language in self.declared.languages or ("",)
        ]
        least = self.declared.min_stars + 1
        return [Slice(subject, self.pushed, FIRST_DAY, self.today, least) for subject in subjects]

    def _read(self, part: Slice, share: float, found: Mapping[int, Any]) -> dict[int, dict[str, Any]]:
        """All results of a slice by id, its halves' where there are more than search shows. Who wants only the best few
        hundred needs no slices: results come by stars."""
        limit = self.declared.max_repositories
        few = limit is not None and limit <= SHOWN
        self.report(share, f"searching GitHub: {len(found)} repositories")
        total, incomplete, items, more = self._page(part.query, 1)
        if (total > SHOWN and not few) or (incomplete and self.splits_left > 0):
            halves = part.halves(max((item["stars"] for item in items), default=0))
            self.splits_left -= total <= SHOWN
            if halves:
                return self._read(halves[0], share, found) | self._read(halves[1], share, found)
            self.result.facts["search_cut"] += max(0, total - SHOWN)
        self.result.facts["search_incomplete"] += incomplete
        read: dict[int, dict[str, Any]] = {}
        wanted = self._pages(part.query, (total, incomplete, items, more), limit if few else None, read)
        for _ in range(PASSES - 1):
            before = len(read)
            if before >= wanted:
                break
            self.result.facts["search_read_again"] += 1
            page = self._page(part.query, 1, fresh=True)
            wanted = self._pages(part.query, page, limit if few else None, read, fresh=True)
            if len(read) == before:
                break
        self.result.facts["search_expected"] += wanted
        self.result.facts["search_fetched"] += len(read)
        self.result.facts["search_missing"] += max(0, wanted - len(read))
        return read

    def _pages(
        self, query: str, page: Page, limit: int | None, read: dict[int, dict[str, Any]], *, fresh: bool = False
    ) -> int:
        """Read on from a first page into `read`, until there are `limit` that fit; how many there should be now."""
        number = 1
        while True:
            total, _, items, more = page
            read.update({item["id"]: item for item in items})
            if limit is not None and sum(map(self._fits, read.values())) >= limit:
                return len(read)
            if not more:
                return min(total, SHOWN)
            number += 1
            page = self._page(query, number, fresh=fresh)

    def _page(self, query: str, number: int, *, fresh: bool = False) -> Page:
        parameters = {"q": query, "sort": "stars", "order": "desc", "per_page": str(PER_PAGE), "page": str(number)}
        try:
            for again in range(PASSES):
                told = self.api.get(
                    "/search/repositories", parameters, shape=_shape, resource="search", fresh=fresh or again > 0
                ).value
                if not told["incomplete"]:
                    break
        except SkippedError as skipped:
            raise UnavailableError(
                f"GitHub's search does not answer: {skipped.detail or skipped.reason}.",
                remedy="run it again later; repositories that were read are kept",
            ) from skipped
        return told["total"], told["incomplete"], told["items"], told["more"] and number * PER_PAGE < SHOWN

    def _fits(self, item: Mapping[str, Any]) -> bool:
        """Search lags behind: a result may no longer be what was asked for."""
        return bool(
            item["stars"] > self.declared.min_stars
            and item["pushed_at"][:10] >= self.pushed.isoformat()
            and not item["gone"]
        )


def _shape(headers: Mapping[str, str], data: Any) -> dict[str, Any]:
    """What is kept of a page. One result of another form is left out, and then missed by the count."""
    items = []
    for item in data["items"]:
        with suppress(KeyError, TypeError, ValueError, AttributeError, OverflowError):
            items.append(repository_shape(item))
    if data["items"] and not items:
        raise ValueError("no repositories")
    return {
        "total": int(data["total_count"]),
        "incomplete": bool(data.get("incomplete_results")),
        "items": items,
        "more": 'rel="next"' in headers.get("link", ""),
    }


def to_found(item: Mapping[str, Any], query: str) -> Found:
    """A repository from what `repository_shape` kept of it."""
    told = {name: value for name, value in item.items() if name != "gone"}
    return Found(query=query, **{**told, "topics": tuple(item["topics"])})


def repository_shape(item: Mapping[str, Any]) -> dict[str, Any]:
    """What is used of a repository as the API shows it. Raises KeyError, TypeError, ValueError for anything else."""
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
    """A string of the answer, short enough to go with every document, without halves of characters."""
    return str(item.get(name) or "")[:characters].encode("utf-8", "replace").decode()
