"""The Hub's part: listings with a cursor, trees, files with redirects and ranges, limits told in headers."""

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
    """A model or dataset; `told` goes into its JSON as it stands. `lfs` names the files that lie on the other host,
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
    told: dict[str, Any] = field(default_factory=dict)
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
        told = {"RateLimit-Policy": f'"fixed window";"{bucket}";q={window.limit};w={int(window.seconds)}'}
        if window.left <= 0:
            self.sins += 1
            told["RateLimit"] = f'"{bucket}";r=0;t={int(window.ends - now)}'
            return make(429, b"We had to rate limit your IP.", told)
        window.left -= 1
        answer = self._answer(request, make)
        answer.headers = answer.headers | told
        answer.headers["RateLimit"] = f'"{bucket}";r={window.left};t={int(window.ends - now)}'
        return answer

    def _answer(self, request: Any, make: Any) -> Any:
        path = unquote(request.path)
        if found := re.fullmatch(r"/lfs/resolve/([0-9a-f]{64})", path):
            return self._lfs(found[1], request, make)
        if found := re.fullmatch(r"/api/(models|datasets)", path):
            return self._list(found[1], request, make)
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/]+)/?", path):
            return self._tree(found[1], found[2], request, make)
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            one = self._one(found[1], found[2])
            return make(200, _json(_shown(one)), dict(_TYPE)) if one else self._missing(found[1], found[2], path, make)
        found = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not found:
            return _not_found(make)
        kind = "datasets" if found[1] else "models"
        one = self._one(kind, found[2])
        return self._file(one, found[4], request, make) if one else self._missing(kind, found[2], path, make)

    def _one(self, kind: str, name: str) -> HubRepository | None:
        return next((one for one in self.repositories if one.kind == kind and one.id == name), None)

    def _missing(self, kind: str, name: str, path: str, make: Any) -> Any:
        new = self.renamed.get((kind, name))
        if new is None:
            return _not_found(make)
        return make(307, b"", {"Location": path.replace(name, new, 1)})

    def _list(self, kind: str, request: Any, make: Any) -> Any:
        filters = request.query.get("filter", [])
        task = request.query.get("pipeline_tag", [None])[0]
        key = request.query.get("sort", ["downloads"])[0]
        hits = [one for one in self.repositories if one.kind == kind and (task is None or one.task == task)]
        hits = [one for one in hits if all(wanted in (*one.tags, one.library) for wanted in filters)]
        hits.sort(key=lambda one: (-getattr(one, key), one.id))
        cursor = json.loads(request.query.get("cursor", ["null"])[0])
        if cursor:  # a place in the order, not a number of entries, as at the Hub
            hits = [one for one in hits if [-getattr(one, key), one.id] > cursor]
        shown = hits[:PAGE]
        headers = dict(_TYPE)
        if len(hits) > PAGE:
            last = json.dumps([-getattr(shown[-1], key), shown[-1].id])
            query = {name: value for name, value in request.query.items() if name != "cursor"} | {"cursor": [last]}
            headers["Link"] = f'<{self.stand_in.url}{request.path}?{urlencode(query, doseq=True)}>; rel="next"'
        answer = make(200, _json([_shown(one) for one in shown]), headers)
        self.pages += 1
        self.after_page(self.pages)
        return answer

    def _tree(self, kind: str, name: str, request: Any, make: Any) -> Any:
        one = self._one(kind, name)
        if one is None:
            return self._missing(kind, name, request.path, make)
        entries: list[dict[str, Any]] = []
        for path, data in sorted(one.files.items()):
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _blob(data)}
            if path in one.lfs:
                sha256 = hashlib.sha256(data).hexdigest()
                entry |= {"oid": _blob(sha256.encode()), "lfs": {"oid": sha256, "size": len(data), "pointerSize": 134}}
            entries.append(entry)
        folders = sorted({path.rpartition("/")[0] for path in one.files if "/" in path})
        entries.extend({"type": "directory", "path": path, "size": 0, "oid": _blob(b"")} for path in folders)
        start = int(request.query.get("cursor", ["0"])[0])
        headers = dict(_TYPE)
        if start + TREE_PAGE < len(entries):
            query = {"recursive": "true", "cursor": start + TREE_PAGE}
            headers["Link"] = f'<{self.stand_in.url}{request.path}?{urlencode(query)}>; rel="next"'
        return make(200, _json(entries[start : start + TREE_PAGE]), headers)

    def _file(self, one: HubRepository, name: str, request: Any, make: Any) -> Any:
        if one.gated and not name.endswith(".md.public"):
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to {one.id} is restricted."}
            return make(403, b"", headers)
        if name not in one.files:
            return make(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        data = one.files[name]
        headers = {"X-Repo-Commit": one.sha, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if name in one.lfs:
            sha256 = hashlib.sha256(data).hexdigest()
            place = f"{self.stand_in.other_url}/lfs/resolve/{sha256}"
            linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data)), "Location": place}
            return make(302, b"", headers | linked)
        headers["ETag"] = f'"{hashlib.sha256(data).hexdigest()}"'
        return self._part(one.served.get(name, data), headers, request, make)

    def _lfs(self, sha256: str, request: Any, make: Any) -> Any:
        for one in self.repositories:
            for name in one.lfs:
                if hashlib.sha256(one.files[name]).hexdigest() == sha256:
                    data = one.served.get(name, one.files[name])
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


def _shown(one: HubRepository) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "_id": one.key or hashlib.sha256(one.id.encode()).hexdigest()[:24],
        "id": one.id,
        "sha": one.sha,
        "downloads": one.downloads,
        "downloadsAllTime": one.downloads * 20,
        "likes": one.likes,
        "gated": one.gated,
        "private": False,
        "disabled": False,
        "tags": [tag for tag in (*one.tags, one.library) if tag],
        "lastModified": "2026-10-01T00:00:00.000Z",
        "cardData": one.card,
        "siblings": [{"rfilename": name} for name in sorted(one.files)],
    }
    if one.kind == "models":
        shown |= {"modelId": one.id, "pipeline_tag": one.task, "library_name": one.library}
    return shown | one.told


def _not_found(make: Any) -> Any:
    return make(401, _json({"error": "Repository not found"}), _TYPE | {"X-Error-Code": "RepoNotFound"})


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
