"""GitHub's part: search that filters, repositories with their lives, trees, archives, rate limits."""

import gzip
import hashlib
import io
import json
import re
import tarfile
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode


@dataclass
class Repository:
    """A repository. `life`: ok, deleted (404), blocked (451), empty (409). `old_name` answers with 301 to the new one;
    `extra` are tar members to put into the archive as they stand."""

    full_name: str
    files: dict[str, bytes] = field(default_factory=dict)
    stars: int = 2000
    topics: tuple[str, ...] = ("machine-learning",)
    language: str = "Python"
    pushed_at: str = "2026-11-01T00:00:00Z"
    created_at: str = "2020-05-05T00:00:00Z"
    archived: bool = False
    license: str | None = "MIT"
    life: str = "ok"
    old_name: str | None = None
    truncated: bool = False
    extra: tuple[tarfile.TarInfo, ...] = ()
    archive: bytes | None = None
    topics_shown: bool = True

    @property
    def id(self) -> int:
        return int(hashlib.sha256(self.full_name.encode()).hexdigest()[:7], 16) + 1

    @property
    def commit(self) -> str:
        return hashlib.sha1(self.full_name.encode(), usedforsecurity=False).hexdigest()

    @property
    def listed_name(self) -> str:
        """The name search still shows."""
        return self.old_name or self.full_name


class GithubWorld:
    """All repositories. `limits` are per resource: (how many requests, window in seconds)."""

    def __init__(self, stand_in: Any) -> None:
        self.stand_in = stand_in
        self.repositories: list[Repository] = []
        self.limits: dict[str, tuple[int, float]] = {"core": (5000, 3600.0), "search": (3000, 60.0)}
        self.used: dict[tuple[str, str], list[float]] = {}
        self.archive_elsewhere = False
        self.incomplete_searches = 0

    def answer(self, request: Any, make: Any) -> Any:
        resource = "search" if request.path.startswith("/search") else "core"
        limited = request.path.startswith(("/repos", "/search", "/repositories"))
        rate = self._count(request.headers.get("authorization", "").rpartition(" ")[2], resource) if limited else {}
        if rate.pop("over", None):
            return make(429, _json({"message": "API rate limit exceeded for user ID 1."}), rate | _TYPE)
        answer = self._answer(request, make)
        answer.headers = rate | answer.headers
        return answer

    def _answer(self, request: Any, make: Any) -> Any:
        if request.path == "/search/repositories":
            return self._search(request, make)
        if found := re.fullmatch(r"/archive/([^/]+/[^/]+)", request.path):
            repository = next(one for one in self.repositories if one.full_name == found[1])
            return make(200, repository.archive or tarball(repository), {"Content-Type": "application/x-gzip"})
        found = re.fullmatch(r"/(?:repos/([^/]+/[^/]+)|repositories/(\d+))(/.*)?", request.path)
        if not found:
            return make(404, _json({"message": "Not Found"}), _TYPE)
        return self._repository(found, request, make)

    def _repository(self, found: Any, request: Any, make: Any) -> Any:
        rest = found[3] or ""
        moved = next((one for one in self.repositories if one.old_name and one.old_name == found[1]), None)
        if moved:
            target = f"{self.stand_in.url}/repositories/{moved.id}{rest}"
            return make(301, _json({"message": "Moved Permanently", "url": target}), _TYPE | {"Location": target})
        wanted = (found[1], int(found[2] or 0))
        repository = next((one for one in self.repositories if one.full_name == wanted[0] or one.id == wanted[1]), None)
        if repository is None or repository.life == "deleted":
            return make(404, _json({"message": "Not Found"}), _TYPE)
        if repository.life == "blocked":
            body = {"message": "Repository access blocked", "block": {"reason": "dmca"}}
            return make(451, _json(body), _TYPE)
        if not rest:
            return make(200, _json(self._shown(repository)), _TYPE)
        if repository.life == "empty":
            return make(409, _json({"message": "Git Repository is empty."}), _TYPE)
        if rest.startswith("/git/trees/"):
            return make(200, _json(tree(repository)), _TYPE)
        if rest.startswith("/tarball/"):
            host = self.stand_in.other_url if self.archive_elsewhere else self.stand_in.url
            return make(302, b"", {"Location": f"{host}/archive/{quote(repository.full_name)}"})
        return make(404, _json({"message": "Not Found"}), _TYPE)

    def _search(self, request: Any, make: Any) -> Any:
        query = request.query["q"][0]
        page, size = int(request.query.get("page", ["1"])[0]), int(request.query.get("per_page", ["30"])[0])
        if (page - 1) * size >= 1000:
            return make(422, _json({"message": "Only the first 1000 search results are available"}), _TYPE)
        if len(re.sub(r"\S+:\S+", "", query)) > 256:
            return make(422, _json({"message": "The search is longer than 256 characters."}), _TYPE)
        hits = sorted((one for one in self.repositories if matches(one, query)), key=lambda one: -one.stars)
        shown = hits[:1000][(page - 1) * size : page * size]
        incomplete = self.incomplete_searches > 0
        self.incomplete_searches -= incomplete
        body = {
            "total_count": len(hits),
            "incomplete_results": incomplete,
            "items": [self._shown(one) | {"full_name": one.listed_name} for one in shown],
        }
        headers = dict(_TYPE)
        if page * size < min(len(hits), 1000):
            following = urlencode({"q": query, "page": page + 1, "per_page": size})
            headers["Link"] = f'<{self.stand_in.url}/search/repositories?{following}>; rel="next"'
        return make(200, _json(body), headers)

    def _shown(self, one: Repository) -> dict[str, Any]:
        return {
            "id": one.id,
            "full_name": one.full_name,
            "name": one.full_name.partition("/")[2],
            "html_url": f"https://github.com/{one.full_name}",
            "stargazers_count": one.stars,
            "topics": list(one.topics),
            "language": one.language,
            "pushed_at": one.pushed_at,
            "created_at": one.created_at,
            "archived": one.archived,
            "private": False,
            "default_branch": "main",
            "size": 10,
            "license": {"spdx_id": one.license} if one.license else None,
        }

    def _count(self, identity: str, resource: str) -> dict[str, Any]:
        limit, window = self.limits[resource]
        now = time.time()
        used = [moment for moment in self.used.get((identity, resource), []) if moment > now - window]
        over = len(used) >= limit
        if not over:
            used.append(now)
        self.used[identity, resource] = used
        return {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(limit - len(used)),
            "X-RateLimit-Used": str(len(used)),
            "X-RateLimit-Reset": str(int(used[0] + window) + 1),
            "X-RateLimit-Resource": resource,
        } | ({"over": True} if over else {})


_TYPE = {"Content-Type": "application/json; charset=utf-8"}


def matches(one: Repository, query: str) -> bool:
    """Whether search would find the repository, by the qualifiers this project uses."""
    told = dict(re.findall(r'(\w+):("[^"]*"|\S+)', query))
    created = one.created_at[:10]
    since, _, until = told.get("created", "..").partition("..")
    return (
        told.get("topic", "") in ("", *one.topics)
        and told.get("language", "").strip('"') in ("", one.language)
        and one.stars > int(told.get("stars", ">-1").removeprefix(">"))
        and one.pushed_at[:10] >= told.get("pushed", ">=").removeprefix(">=")
        and (since or "0") <= created <= (until or "9")
        and not (told.get("archived") == "false" and one.archived)
    )


def tree(one: Repository) -> dict[str, Any]:
    """A recursive tree; a truncated one shows only its first entry."""
    entries = [
        {
            "path": path,
            "type": "blob",
            "mode": "100644",
            "size": len(data),
            "sha": hashlib.sha256(data).hexdigest()[:40],
        }
        for path, data in sorted(one.files.items())
    ]
    entries.append({"path": "vendored", "type": "commit", "mode": "160000", "sha": "0" * 40})
    return {"sha": one.commit, "tree": entries[:1] if one.truncated else entries, "truncated": one.truncated}


def tarball(one: Repository) -> bytes:
    """The archive as GitHub makes it: one top folder, the commit in the header's comment."""
    top = f"{one.full_name.replace('/', '-')}-{one.commit[:7]}"
    sink = io.BytesIO()
    with tarfile.open(
        fileobj=sink, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": one.commit}
    ) as archive:
        for path, data in sorted(one.files.items()):
            member = tarfile.TarInfo(f"{top}/{path}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member in one.extra:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return gzip.compress(sink.getvalue(), 1)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
