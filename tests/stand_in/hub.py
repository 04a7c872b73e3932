"""The Hub's part: listings with a cursor, files with their metadata, gated repositories."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

PAGE = 3


@dataclass
class HubRepository:
    """A model or dataset; `told` goes into its JSON as it stands."""

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

    @property
    def sha(self) -> str:
        return hashlib.sha1(self.id.encode(), usedforsecurity=False).hexdigest()


class HubWorld:
    """All models and datasets."""

    def __init__(self, stand_in: Any) -> None:
        self.stand_in = stand_in
        self.repositories: list[HubRepository] = []

    def answer(self, request: Any, make: Any) -> Any:
        found = re.fullmatch(r"/api/(models|datasets)", request.path)
        if found:
            return self._list(found[1], request, make)
        found = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/[^/]+)?", request.path)
        if found:
            one = self._one(found[1], found[2])
            return make(200, _json(_shown(one)), _TYPE) if one else _missing(make)
        found = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request.path)
        if not found:
            return _missing(make)
        one = self._one("datasets" if found[1] else "models", found[2])
        return self._file(one, found[4], request, make) if one else _missing(make)

    def _one(self, kind: str, name: str) -> HubRepository | None:
        return next((one for one in self.repositories if one.kind == kind and one.id == name), None)

    def _list(self, kind: str, request: Any, make: Any) -> Any:
        filters = request.query.get("filter", [])
        task = request.query.get("pipeline_tag", [None])[0]
        hits = [one for one in self.repositories if one.kind == kind and (task is None or one.task == task)]
        hits = [one for one in hits if all(wanted in (*one.tags, one.library) for wanted in filters)]
        hits.sort(key=lambda one: (-one.downloads, one.id))
        start = int(request.query.get("cursor", ["0"])[0])
        headers = dict(_TYPE)
        if start + PAGE < len(hits):
            query = {key: value for key, value in request.query.items() if key != "cursor"} | {
                "cursor": [str(start + PAGE)]
            }
            headers["Link"] = f'<{self.stand_in.url}{request.path}?{urlencode(query, doseq=True)}>; rel="next"'
        return make(200, _json([_shown(one) for one in hits[start : start + PAGE]]), headers)

    def _file(self, one: HubRepository, name: str, request: Any, make: Any) -> Any:
        if one.gated and not name.endswith(".md.public"):
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to {one.id} is restricted."}
            return make(403, b"", headers)
        if name not in one.files:
            return make(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        data = one.files[name]
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": one.sha,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if part and request.method == "GET":
            first, last = int(part[1]), min(int(part[2] or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return make(206, data[first : last + 1], headers)
        return make(200, data, headers)


_TYPE = {"Content-Type": "application/json; charset=utf-8"}


def _shown(one: HubRepository) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "_id": one.sha[:24],
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


def _missing(make: Any) -> Any:
    return make(404, _json({"error": "Repository not found"}), _TYPE | {"X-Error-Code": "RepoNotFound"})


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
