"""Source `github`: repositories found by search, each listed by one tree and read from one archive.

Planning searches and reads the trees, with the ETags of the last time: a second crawl of an unchanged world is answered
by 304s, and what is new shows in the trees' hashes, not in a date. The tasks download what is not stored yet.
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from soldiom_ray import licenses
from soldiom_ray.artifacts import Context
from soldiom_ray.collect.github.accounts import FOLDER, Accounts, learn_owners
from soldiom_ray.collect.github.api import GithubApi
from soldiom_ray.collect.github.archive import UnpackedArchive, unpack
from soldiom_ray.collect.github.search import Repository, Search
from soldiom_ray.collect.github.tree import RepositoryTree, TreeReader
from soldiom_ray.collect.local import is_license_name
from soldiom_ray.collect.source_files import Origin, add_file, is_included
from soldiom_ray.collect.task_cache import read_cached, write_cached
from soldiom_ray.collect.tasks import Task, TaskList, TaskResult
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.sources import GithubSource, LocalSource
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, open_storage

CODE = 2
"""Increment when the same repository would now give other documents."""

MAX_ARCHIVE_BYTES = 512 << 20
IN_MEMORY_BYTES = 8 << 20
"""Archives up to this are never written to disk."""

MAX_MISSES = 3
"""After this many crawls an archive that cannot be fetched or opened no longer triggers another attempt."""

INCLUDE: tuple[str, ...] = LocalSource.model_fields["include"].default


@dataclass(frozen=True)
class ReadRepository:
    """A task: one repository's archive. Its result is cached by the hash of its content, so a crawl that stopped
    goes on without downloading again."""

    tree: RepositoryTree
    declared: GithubSource
    settings: Settings
    owners: tuple[str, ...]
    collected_at: datetime
    misses: int = 0
    local_only: bool = False

    def run(self) -> TaskResult:
        """The repository's documents, from the cache or from its archive."""
        storage = open_storage(self.settings)
        result = read_cached(storage, self._key)
        if result is None:
            result = TaskResult()
            try:
                complete = self._read(result, storage)
            except SkippedError as skipped:
                complete = skipped.reason != "unavailable"
                result.skip("github", self.tree.repository.name, "", f"repository_{skipped.reason}", skipped.detail)
            result.facts["repositories"] = int(bool(result.documents))
            if complete:
                write_cached(storage, self._key, result)
            else:
                record_miss(storage, self.tree, self.misses)
        metadata = _metadata(self.tree.repository)
        result.documents = [document.model_copy(update={"metadata": metadata}) for document in result.documents]
        return result

    @property
    def _key(self) -> str:
        made_from = [
            CODE,
            self.tree.repository.name,
            self.tree.sha,
            sorted(self.declared.kinds),
            self.declared.max_bytes,
        ]
        digest = hashlib.sha256(json.dumps([*made_from, INCLUDE]).encode()).hexdigest()[:16]
        return f"{FOLDER}/read/{self.tree.repository.id}/{digest}"

    def _read(self, result: TaskResult, storage: Storage) -> bool:
        """Whether the archive opened to its end; one that was cut short is fetched twice."""
        api = GithubApi(self.settings, Accounts(self.settings, self.owners), lambda message: None)
        repository = self.tree.repository
        for _ in range(2):
            with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as archive:
                path = f"/repos/{repository.name}/tarball/{quote(repository.branch, safe='')}"
                moved_to = api.download(path, archive, MAX_ARCHIVE_BYTES)
                archive.seek(0)
                unpacked = unpack(archive, _is_read, self.declared.max_bytes)
            if not unpacked.damaged:
                break
        if moved_to:
            result.facts["renamed"] += not self.tree.renamed
            repository = TreeReader(api).current(repository)
        self._add_files(result, repository, unpacked, storage)
        return not unpacked.damaged

    def _add_files(
        self, result: TaskResult, repository: Repository, unpacked: UnpackedArchive, storage: Storage
    ) -> None:
        commit = unpacked.commit or repository.branch
        origin = Origin(
            source="github",
            group=repository.name,
            url=f"{repository.page}/blob/{commit}/{{}}",
            commit=unpacked.commit,
            license=_license(repository, unpacked.files),
            rule=f"github {repository.query}",
        )
        for path, data in sorted(unpacked.files.items()):
            if is_included(path, INCLUDE, ()):
                add_file(result, origin, path, data, self.collected_at, self.declared.kinds, storage)
            else:
                unpacked.unwanted += 1
        for path, reason, detail in unpacked.skipped:
            result.skip("github", repository.name, path, reason, detail)
        result.outcomes["not_included"] += unpacked.unwanted
        result.outcomes += Counter()
        if unpacked.case_colliding:
            result.facts["case_colliding"] = unpacked.case_colliding


@dataclass
class GithubPlan:
    """The trees of the repositories that the search found."""

    declared: GithubSource
    settings: Settings
    collected_at: datetime
    owners: tuple[str, ...]
    trees: Sequence[RepositoryTree]
    result: TaskResult
    misses: Mapping[str, int] = field(default_factory=dict)

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """The repositories by number and name, with the hash of each tree."""
        contents = sorted(
            [tree.repository.id, tree.repository.name, tree.reason, tree.sha, self.misses.get(_missed_name(tree), 0)]
            for tree in self.trees
        )
        digest = hashlib.sha256(json.dumps(contents).encode()).hexdigest()
        return {"api": self.settings.github_api_url, "repositories": len(contents), "sha256": digest}

    def list_tasks(self, report: Callable[[float, str], None]) -> TaskList:
        """One task per repository that has something to read, most stars first."""
        tasks: list[Task] = []
        for tree in self.trees:
            name = tree.repository.name
            if tree.reason:
                self.result.skip("github", name, "", f"repository_{tree.reason}", tree.detail)
                continue
            for path, sha in tree.submodules:
                self.result.skip("github", name, path, "submodule", f"another repository, at {sha[:12]}")
            if tree.repository.size_kib * 1024 > 4 * MAX_ARCHIVE_BYTES:
                self.result.skip("github", name, "", "repository_too_large", f"{tree.repository.size_kib} KiB")
            elif tree.may_include(INCLUDE):
                misses = self.misses.get(_missed_name(tree), 0)
                tasks.append(ReadRepository(tree, self.declared, self.settings, self.owners, self.collected_at, misses))
            else:
                detail = f"{tree.files} files, none of a kind that is read"
                self.result.skip("github", name, "", "repository_nothing_wanted", detail)
        accounts = Accounts(self.settings, self.owners)
        return TaskList(tasks, self.result, lambda: _pause_message(accounts))


def plan(declared: GithubSource, context: Context, collected_at: datetime) -> GithubPlan:
    """Search, and read the tree of every repository. Raises InputError, UnavailableError; `context.report` gets
    the progress and may raise CancelledError."""
    settings = context.settings

    def report(message: str) -> None:
        context.report(0.0, f"github: {message}")

    owners = learn_owners(settings, lambda one_token: GithubApi(one_token, Accounts(one_token), report).account())
    api = GithubApi(settings, Accounts(settings, owners), report)
    result = TaskResult(facts=Counter(repositories=0))
    pushed = (collected_at - timedelta(days=declared.pushed_within_days)).date()
    search = Search(api, declared, pushed, collected_at.date(), result, report)
    repositories = search.run()
    trees = TreeReader(api).read_all(repositories, lambda number: report(f"looking at {number} of {len(repositories)}"))
    result.facts["renamed"] = sum(tree.renamed for tree in trees)
    result.facts["tree_truncated"] = sum(tree.truncated for tree in trees)
    result.facts["requests_to_look"] = api.requests
    result.facts["requests_unchanged"] = api.unchanged
    return GithubPlan(declared, settings, collected_at, owners, trees, result, _misses(open_storage(settings)))


def record_miss(storage: Storage, tree: RepositoryTree, misses: int) -> None:
    """Record that this content could not be read completely, so that the next crawl is not mistaken for a finished
    one."""
    storage.write(f"{FOLDER}/missed/{_missed_name(tree)}", str(min(misses + 1, MAX_MISSES)).encode())


def _misses(storage: Storage) -> dict[str, int]:
    keys = storage.keys(f"{FOLDER}/missed")
    return {key.rpartition("/")[2]: int(storage.read(key)) for key in keys}


def _missed_name(tree: RepositoryTree) -> str:
    return hashlib.sha256(f"{tree.repository.id} {tree.sha}".encode()).hexdigest()[:32]


def _pause_message(accounts: Accounts) -> str:
    seconds = accounts.paused_seconds()
    return f"; GitHub's limit: {seconds:.0f} s to wait" if seconds > 1 else ""


def _is_read(path: str) -> bool:
    return is_included(path, INCLUDE, ()) or ("/" not in path and is_license_name(path))


def _metadata(repository: Repository) -> str:
    """The repository's metadata, the same on each of its documents."""
    fields = {
        "repository_id": repository.id,
        "description": repository.description,
        "topics": list(repository.topics),
        "stars": repository.stars,
        "forks": repository.forks,
        "language": repository.language,
        "license": repository.license,
        "homepage": repository.homepage,
        "created_at": repository.created_at,
        "pushed_at": repository.pushed_at,
    }
    return json.dumps({name: value for name, value in fields.items() if value not in ("", [])})


def _license(repository: Repository, files: Mapping[str, bytes]) -> str:
    declared = licenses.from_name(repository.license)
    if declared:
        return declared
    texts = [
        data.decode("utf-8", "replace")
        for path, data in sorted(files.items())
        if "/" not in path and is_license_name(path)
    ]
    return next((spdx for text in texts if (spdx := licenses.from_text(text))), "")
