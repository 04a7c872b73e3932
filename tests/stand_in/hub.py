"""The Hub's part: listings with a cursor, trees, files with redirects and ranges, limits in headers."""

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlencode

PAGE = 3
TREE_PAGE = 4
WINDOW_SECONDS = 300


@dataclass
class HubRepository:
    """A model or dataset; `entry` goes into its JSON as it stands. `lfs` names the files that lie on the other host,
    `served` what is sent in the place of a file, `revision` makes another commit, `key` is the Hub's own name of it."""

    id: str
    kind: str = "models"
    files: dict[str, bytes] = field(default_factory=dict)
    downloads: int = 50_000
    likes: int = 500
    task: str | None = None
    library: str | None = None
    gated: str | bool = False
    tags: tuple[str, ...] = ()
    card: dict[str, Any] = field(default_factory=dict)
    entry: dict[str, Any] = field(default_factory=dict)
    lfs: tuple[str, ...] = ()
    served: dict[str, bytes] = field(default_factory=dict)
    revision: int = 0
    key: str = ""

    @property
    def sha(self) -> str:
        name = f"{self.id}@{self.revision}" if self.revision else self.id
        return hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()


@dataclass
class Window:
    """A limit's state: requests that are left, and when that is over."""

    limit: int
    seconds: float
    left: int
    ends: float = 0.0


class HubWorld:
    """All models and datasets.

    `after_page` is called with the number of each page of a listing that was answered. `renamed` leads from (kind, old
    name) to a new one. `ranges` False makes a server that ignores Range. `limit` sets limits; `sins` counts requests
    that came while one was used up. `before` is called with each request.
    """

    def __init__(self, stand_in: Any) -> None:
        self.stand_in = stand_in
        self.repositories: list[HubRepository] = []
        self.after_page: Callable[[int], None] = lambda number: None
        self.before: Callable[[Any], None] = lambda request: None
        self.renamed: dict[tuple[str, str], str] = {}
        self.ranges = True
        self.pages = 0
        self.sins = 0
        self.windows: dict[str, Window] = {}

    def limit(self, bucket: str, requests: int, seconds: float = WINDOW_SECONDS) -> None:
        """So many requests a window for the bucket "api" or "resolvers"."""
        self.windows[bucket] = Window(requests, seconds, requests)

    def answer(self, request: Any, make: Any) -> Any:
        self.before(request)
        bucket = "resolvers" if "/resolve" in request.path else "api"
        window = self.windows.get(bucket)
        if window is None or request.path.startswith("/lfs/"):
            return self._answer(request, make)
        now = time.time()
        if now >= window.ends:
            window.left, window.ends = window.limit, now + window.seconds
        limit_headers = {"RateLimit-Policy": f'"fixed window";"{bucket}";q={window.limit};w={int(window.seconds)}'}
        if window.left <= 0:
            self.sins += 1
            limit_headers["RateLimit"] = f'"{bucket}";r=0;t={int(window.ends - now)}'
            return make(429, b"We had to rate limit your IP.", limit_headers)
        window.left -= 1
        answer = self._answer(request, make)
        answer.headers = answer.headers | limit_headers
        answer.headers["RateLimit"] = f'"{bucket}";r={window.left};t={int(window.ends - now)}'
        return answer

    def _answer(self, request: Any, make: Any) -> Any:
        path = unquote(request.path)
        if match := re.fullmatch(r"/lfs/resolve/([0-9a-f]{64})", path):
            return self._lfs(match[1], request, make)
        if match := re.fullmatch(r"/api/(models|datasets)", path):
            return self._list(match[1], request, make)
        if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/]+)/?", path):
            return self._tree(match[1], match[2], request, make)
        if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            repository = self._repository_named(match[1], match[2])
            return (
                make(200, _json(_shown(repository)), dict(_TYPE))
                if repository
                else self._missing(match[1], match[2], path, make)
            )
        match = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not match:
            return _not_found(make)
        kind = "datasets" if match[1] else "models"
        repository = self._repository_named(kind, match[2])
        return (
            self._file(repository, match[4], request, make) if repository else self._missing(kind, match[2], path, make)
        )

    def _repository_named(self, kind: str, name: str) -> HubRepository | None:
        return next(
            (repository for repository in self.repositories if repository.kind == kind and repository.id == name), None
        )

    def _missing(self, kind: str, name: str, path: str, make: Any) -> Any:
        new = self.renamed.get((kind, name))
        if new is None:
            return _not_found(make)
        return make(307, b"", {"Location": path.replace(name, new, 1)})

    def _list(self, kind: str, request: Any, make: Any) -> Any:
        filters = request.query.get("filter", [])
        task = request.query.get("pipeline_tag", [None])[0]
        key = request.query.get("sort", ["downloads"])[0]
        hits = [
            repository
            for repository in self.repositories
            if repository.kind == kind and (task is None or repository.task == task)
        ]
        hits = [
            repository
            for repository in hits
            if all(wanted in (*repository.tags, repository.library) for wanted in filters)
        ]
        hits.sort(key=lambda repository: (-getattr(repository, key), repository.id))
        cursor = json.loads(request.query.get("cursor", ["null"])[0])
        if cursor:  # a place in the order, not a number of entries, as at the Hub
            hits = [repository for repository in hits if [-getattr(repository, key), repository.id] > cursor]
        shown = hits[:PAGE]
        headers = dict(_TYPE)
        if len(hits) > PAGE:
            last = json.dumps([-getattr(shown[-1], key), shown[-1].id])
            query = {name: value for name, value in request.query.items() if name != "cursor"} | {"cursor": [last]}
            headers["Link"] = f'<{self.stand_in.url}{request.path}?{urlencode(query, doseq=True)}>; rel="next"'
        answer = make(200, _json([_shown(repository) for repository in shown]), headers)
        self.pages += 1
        self.after_page(self.pages)
        return answer

    def _tree(self, kind: str, name: str, request: Any, make: Any) -> Any:
        repository = self._repository_named(kind, name)
        if repository is None:
            return self._missing(kind, name, request.path, make)
        entries: list[dict[str, Any]] = []
        for path, data in sorted(repository.files.items()):
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _blob(data)}
            if path in repository.lfs:
                sha256 = hashlib.sha256(data).hexdigest()
                entry |= {"oid": _blob(sha256.encode()), "lfs": {"oid": sha256, "size": len(data), "pointerSize": 134}}
            entries.append(entry)
        folders = sorted({path.rpartition("/")[0] for path in repository.files if "/" in path})
        entries.extend({"type": "directory", "path": path, "size": 0, "oid": _blob(b"")} for path in folders)
        start = int(request.query.get("cursor", ["0"])[0])
        headers = dict(_TYPE)
        if start + TREE_PAGE < len(entries):
            query = {"recursive": "true", "cursor": start + TREE_PAGE}
            headers["Link"] = f'<{self.stand_in.url}{request.path}?{urlencode(query)}>; rel="next"'
        return make(200, _json(entries[start : start + TREE_PAGE]), headers)

    def _file(self, repository: HubRepository, name: str, request: Any, make: Any) -> Any:
        if repository.gated and not name.endswith(".md.public"):
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to {repository.id} is restricted."}
            return make(403, b"", headers)
        if name not in repository.files:
            return make(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        data = repository.files[name]
        headers = {
            "X-Repo-Commit": repository.sha,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if name in repository.lfs:
            sha256 = hashlib.sha256(data).hexdigest()
            place = f"{self.stand_in.other_url}/lfs/resolve/{sha256}"
            linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data)), "Location": place}
            return make(302, b"", headers | linked)
        headers["ETag"] = f'"{hashlib.sha256(data).hexdigest()}"'
        return self._part(repository.served.get(name, data), headers, request, make)

    def _lfs(self, sha256: str, request: Any, make: Any) -> Any:
        for repository in self.repositories:
            for name in repository.lfs:
                if hashlib.sha256(repository.files[name]).hexdigest() == sha256:
                    data = repository.served.get(name, repository.files[name])
                    return self._part(data, {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"}, request, make)
        return make(404, b"", {})

    def _part(self, data: bytes, headers: dict[str, str], request: Any, make: Any) -> Any:
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if not part or request.method != "GET" or not self.ranges:
            return make(200, data, headers)
        first, last = int(part[1]), min(int(part[2] or len(data) - 1), len(data) - 1)
        if first >= len(data):
            return make(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return make(206, data[first : last + 1], headers)


_TYPE = {"Content-Type": "application/json; charset=utf-8"}


def _shown(repository: HubRepository) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "_id": repository.key or hashlib.sha256(repository.id.encode()).hexdigest()[:24],
        "id": repository.id,
        "sha": repository.sha,
        "downloads": repository.downloads,
        "downloadsAllTime": repository.downloads * 20,
        "likes": repository.likes,
        "gated": repository.gated,
        "private": False,
        "disabled": False,
        "tags": [tag for tag in (*repository.tags, repository.library) if tag],
        "lastModified": "2026-10-01T00:00:00.000Z",
        "cardData": repository.card,
        "siblings": [{"rfilename": name} for name in sorted(repository.files)],
    }
    if repository.kind == "models":
        shown |= {"modelId": repository.id, "pipeline_tag": repository.task, "library_name": repository.library}
    return shown | repository.entry


def _not_found(make: Any) -> Any:
    return make(401, _json({"error": "Repository not found"}), _TYPE | {"X-Error-Code": "RepoNotFound"})


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
