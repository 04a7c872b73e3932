"""What a repository holds now, from one request: its recursive tree, asked for by the repository's number.

`/repositories/ID/…` is where GitHub itself redirects a renamed repository to. It means the same repository whatever it
is called, and its answer tells the name of today; a name may belong to another repository by now.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from soldiom_ray.collect.github.api import GithubApi
from soldiom_ray.collect.github.search import NAME, Found, repository_shape, to_found
from soldiom_ray.collect.source_files import is_included
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.errors import UnavailableError

MAX_SUBMODULES = 200
MAX_ENDINGS = 400
IN_A_ROW = 10
"""So many repositories that do not answer, one after the other, are GitHub not answering."""


@dataclass(frozen=True, slots=True)
class Looked:
    """A repository after its tree was read: `found` has the name of today, `sha` stands for its content. With
    `reason` there is nothing to read. A truncated tree says nothing of what it left out."""

    found: Found
    reason: str = ""
    detail: str = ""
    sha: str = ""
    truncated: bool = False
    renamed: bool = False
    submodules: tuple[tuple[str, str], ...] = ()
    endings: tuple[str, ...] = ()
    files: int = 0

    def has(self, include: Iterable[str]) -> bool:
        """Whether some file's ending may pass the patterns."""
        unsure = self.truncated or len(self.endings) >= MAX_ENDINGS
        return unsure or any(is_included(f"x{ending}", include, ()) for ending in self.endings)


@dataclass
class Trees:
    """Reads trees. `by_name` is learned: a server that knows repositories by their names alone is asked so."""

    api: GithubApi
    by_name: bool = False

    def look_at_all(self, found: Iterable[Found], report: Callable[[int], None]) -> list[Looked]:
        """Every repository's tree, in their order. Raises UnavailableError when GitHub stops answering."""
        looked: list[Looked] = []
        silent = 0
        for number, one in enumerate(found):
            report(number)
            looked.append(self.look_at(one))
            silent = silent + 1 if looked[-1].reason == "unavailable" else 0
            if silent >= IN_A_ROW:
                raise UnavailableError(
                    f"GitHub does not answer: {looked[-1].detail}, for {IN_A_ROW} repositories in a row.",
                    remedy="run it again later; it goes on from here",
                )
        return looked

    def look_at(self, found: Found) -> Looked:
        """One repository's tree, or the reason why it is skipped."""
        try:
            return self._look_at(found)
        except SkippedError as skipped:
            return Looked(found, skipped.reason, skipped.detail)

    def current(self, found: Found) -> Found:
        """The repository as it is now, by its number. Raises SkippedError not_found when it is gone."""
        told = self.api.get(f"/repositories/{found.id}", shape=lambda headers, data: repository_shape(data)).value
        return _known_as(found, told)

    def _look_at(self, found: Found) -> Looked:
        if self.by_name:
            return self._by_name(found)
        try:
            told = self._tree(f"/repositories/{found.id}", found.branch)
        except SkippedError as skipped:
            if skipped.reason != "not_found":
                raise
            return self._once_more(found)
        return _looked(found, replace(found, name=told["name"] or found.name), told)

    def _once_more(self, found: Found) -> Looked:
        """No tree by that number: the repository is gone, its branch has another name, or the server wants names."""
        try:
            now = self.current(found)
        except SkippedError:
            now = self._named(found)
        if now.branch != found.branch:
            try:
                return _looked(found, now, self._tree(f"/repositories/{now.id}", now.branch))
            except SkippedError as skipped:
                if skipped.reason != "not_found":
                    raise
        told = self._tree(f"/repos/{now.name}", now.branch)
        self.by_name = True
        return _looked(found, now, told)

    def _by_name(self, found: Found) -> Looked:
        try:
            answer = self.api.get(*_address(f"/repos/{found.name}", found.branch), shape=_shape)
        except SkippedError as skipped:
            now = self._named(found) if skipped.reason == "not_found" else found
            if now.branch == found.branch:
                raise
            return _looked(found, now, self._tree(f"/repos/{now.name}", now.branch))
        same = answer.value["name"].lower() in ("", found.name.lower()) and not answer.moved_to
        return _looked(found, found if same else self._named(found), answer.value)

    def _named(self, found: Found) -> Found:
        """The repository that has this name now, when it is still the same one."""
        told = self.api.get(f"/repos/{found.name}", shape=lambda headers, data: repository_shape(data)).value
        return _known_as(found, told)

    def _tree(self, place: str, branch: str) -> dict[str, Any]:
        value: dict[str, Any] = self.api.get(*_address(place, branch), shape=_shape).value
        return value


def _address(place: str, branch: str) -> tuple[str, dict[str, str]]:
    return f"{place}/git/trees/{quote(branch, safe='')}", {"recursive": "1"}


def _known_as(found: Found, told: Mapping[str, Any]) -> Found:
    if told["id"] != found.id:
        raise SkippedError("not_found", "another repository has this name now")
    if told["gone"]:
        raise SkippedError("forbidden", "private, archived or disabled by now")
    return to_found(told, found.query)


def _looked(found: Found, now: Found, told: Mapping[str, Any]) -> Looked:
    return Looked(
        now,
        sha=told["sha"],
        truncated=told["truncated"],
        renamed=now.name.lower() != found.name.lower(),
        submodules=tuple((path, sha) for path, sha in told["submodules"]),
        endings=tuple(told["endings"]),
        files=told["files"],
    )


def _shape(headers: Mapping[str, str], data: Any) -> dict[str, Any]:
    """What is kept of a tree: not its 100,000 entries."""
    entries = [entry for entry in data["tree"] if isinstance(entry, dict)]
    named = re.search(rf"/repos/({NAME})/git/trees/", str(data.get("url") or ""), re.ASCII)
    files = [str(entry["path"]) for entry in entries if entry["type"] == "blob" and entry.get("mode") != "120000"]
    submodules = [[_text(entry["path"]), _text(entry["sha"])] for entry in entries if entry["type"] == "commit"]
    return {
        "sha": str(data["sha"]),
        "name": named[1] if named else "",
        "truncated": bool(data.get("truncated")),
        "files": len(files),
        "endings": sorted({_text(PurePosixPath(path).suffix.lower()[:20]) for path in files})[:MAX_ENDINGS],
        "submodules": submodules[:MAX_SUBMODULES],
    }


def _text(value: Any) -> str:
    """A string of the answer without halves of characters, which could not be written down."""
    return str(value).encode("utf-8", "replace").decode()
