"""What a repository holds now, from one request: its recursive tree, asked for by the repository's number.

`/repositories/ID/…` is where GitHub itself redirects a renamed repository to. It means the same repository whatever its
name, and the response has the name of today; the old one may belong to another repository by now.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from soldiom_ray.collect.github.api import GithubApi
from soldiom_ray.collect.github.search import NAME, Repository, repository_fields, to_repository
from soldiom_ray.collect.source_files import is_included
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.errors import UnavailableError

MAX_SUBMODULES = 200
MAX_SUFFIXES = 400
MAX_UNANSWERED = 10
"""So many repositories in a row without an answer mean that GitHub itself does not answer."""


@dataclass(frozen=True, slots=True)
class RepositoryTree:
    """A repository after its tree was read: `repository` has today's name, `sha` stands for its content. With
    `reason` there is nothing to read. Of a truncated tree not all files are known."""

    repository: Repository
    reason: str = ""
    detail: str = ""
    sha: str = ""
    truncated: bool = False
    renamed: bool = False
    submodules: tuple[tuple[str, str], ...] = ()
    suffixes: tuple[str, ...] = ()
    files: int = 0

    def may_include(self, include: Iterable[str]) -> bool:
        """Whether some file's suffix may pass the patterns."""
        unsure = self.truncated or len(self.suffixes) >= MAX_SUFFIXES
        return unsure or any(is_included(f"x{suffix}", include, ()) for suffix in self.suffixes)


@dataclass
class TreeReader:
    """Reads trees. `by_name` is learned: a server that knows repositories by their names alone is asked by name."""

    api: GithubApi
    by_name: bool = False

    def read_all(self, repositories: Iterable[Repository], report: Callable[[int], None]) -> list[RepositoryTree]:
        """Every repository's tree, in their order. Raises UnavailableError when GitHub stops answering."""
        trees: list[RepositoryTree] = []
        unanswered = 0
        for number, repository in enumerate(repositories):
            report(number)
            trees.append(self.read(repository))
            unanswered = unanswered + 1 if trees[-1].reason == "unavailable" else 0
            if unanswered >= MAX_UNANSWERED:
                raise UnavailableError(
                    f"GitHub does not answer: {trees[-1].detail}, for {MAX_UNANSWERED} repositories in a row.",
                    remedy="run it again later; it goes on from here",
                )
        return trees

    def read(self, repository: Repository) -> RepositoryTree:
        """One repository's tree, or the reason why it is skipped."""
        try:
            return self._read(repository)
        except SkippedError as skipped:
            return RepositoryTree(repository, skipped.reason, skipped.detail)

    def current(self, repository: Repository) -> Repository:
        """The repository as it is now, by its number. Raises SkippedError not_found when it is gone."""
        fields = self.api.get(
            f"/repositories/{repository.id}", extract=lambda headers, data: repository_fields(data)
        ).value
        return _same_repository(repository, fields)

    def _read(self, repository: Repository) -> RepositoryTree:
        if self.by_name:
            return self._by_name(repository)
        try:
            fields = self._tree(f"/repositories/{repository.id}", repository.branch)
        except SkippedError as skipped:
            if skipped.reason != "not_found":
                raise
            return self._read_moved(repository)
        return _to_tree(repository, replace(repository, name=fields["name"] or repository.name), fields)

    def _read_moved(self, repository: Repository) -> RepositoryTree:
        """No tree by that number: the repository is gone, its branch has another name, or the server wants names."""
        try:
            current = self.current(repository)
        except SkippedError:
            current = self._current_by_name(repository)
        if current.branch != repository.branch:
            try:
                return _to_tree(repository, current, self._tree(f"/repositories/{current.id}", current.branch))
            except SkippedError as skipped:
                if skipped.reason != "not_found":
                    raise
        fields = self._tree(f"/repos/{current.name}", current.branch)
        self.by_name = True
        return _to_tree(repository, current, fields)

    def _by_name(self, repository: Repository) -> RepositoryTree:
        try:
            response = self.api.get(*_address(f"/repos/{repository.name}", repository.branch), extract=tree_fields)
        except SkippedError as skipped:
            current = self._current_by_name(repository) if skipped.reason == "not_found" else repository
            if current.branch == repository.branch:
                raise
            return _to_tree(repository, current, self._tree(f"/repos/{current.name}", current.branch))
        same = response.value["name"].lower() in ("", repository.name.lower()) and not response.moved_to
        return _to_tree(repository, repository if same else self._current_by_name(repository), response.value)

    def _current_by_name(self, repository: Repository) -> Repository:
        """The repository that has this name now, if it is still the same."""
        fields = self.api.get(f"/repos/{repository.name}", extract=lambda headers, data: repository_fields(data)).value
        return _same_repository(repository, fields)

    def _tree(self, path: str, branch: str) -> dict[str, Any]:
        value: dict[str, Any] = self.api.get(*_address(path, branch), extract=tree_fields).value
        return value


def _address(path: str, branch: str) -> tuple[str, dict[str, str]]:
    return f"{path}/git/trees/{quote(branch, safe='')}", {"recursive": "1"}


def _same_repository(repository: Repository, fields: Mapping[str, Any]) -> Repository:
    if fields["id"] != repository.id:
        raise SkippedError("not_found", "another repository has this name now")
    if fields["gone"]:
        raise SkippedError("forbidden", "private, archived or disabled by now")
    return to_repository(fields, repository.query)


def _to_tree(repository: Repository, current: Repository, fields: Mapping[str, Any]) -> RepositoryTree:
    return RepositoryTree(
        current,
        sha=fields["sha"],
        truncated=fields["truncated"],
        renamed=current.name.lower() != repository.name.lower(),
        submodules=tuple((path, sha) for path, sha in fields["submodules"]),
        suffixes=tuple(fields["endings"]),
        files=fields["files"],
    )


def tree_fields(headers: Mapping[str, str], data: Any) -> dict[str, Any]:
    """The used part of a tree, without its up to 100,000 entries."""
    entries = [entry for entry in data["tree"] if isinstance(entry, dict)]
    name = re.search(rf"/repos/({NAME})/git/trees/", str(data.get("url") or ""), re.ASCII)
    files = [str(entry["path"]) for entry in entries if entry["type"] == "blob" and entry.get("mode") != "120000"]
    submodules = [[_text(entry["path"]), _text(entry["sha"])] for entry in entries if entry["type"] == "commit"]
    return {
        "sha": str(data["sha"]),
        "name": name[1] if name else "",
        "truncated": bool(data.get("truncated")),
        "files": len(files),
        "endings": sorted({_text(PurePosixPath(path).suffix.lower()[:20]) for path in files})[:MAX_SUFFIXES],
        "submodules": submodules[:MAX_SUBMODULES],
    }


def _text(value: Any) -> str:
    """A string of the response without lone surrogates, which could not be encoded."""
    return str(value).encode("utf-8", "replace").decode()
