"""Source `github`: repositories found by search, each seen by one tree and read from one archive.

Planning searches and reads the trees, with the ETags of the last time: a second crawl of an unchanged world is answered
by 304s, and what is new is told by the trees' hashes, not by a date. The tasks download what is not kept yet.
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
from soldiom_ray.collect.github.archive import Unpacked, unpack
from soldiom_ray.collect.github.search import Found, Search
from soldiom_ray.collect.github.tree import Looked, Trees
from soldiom_ray.collect.local import is_license_name
from soldiom_ray.collect.source_files import Origin, add_file, is_included
from soldiom_ray.collect.task_cache import read_cached, write_cached
from soldiom_ray.collect.tasks import Task, TaskList, TaskResult
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.schema import GithubSource, LocalSource
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, open_storage

CODE = 2
"""Raise it when the same repository would now give other documents."""

MAX_ARCHIVE_BYTES = 512 << 20
IN_MEMORY_BYTES = 8 << 20
"""Archives up to this are never written to disk."""

MAX_MISSES = 3
"""After so many crawls an archive that does not come or does not open no longer makes a crawl try again."""

INCLUDE: tuple[str, ...] = LocalSource.model_fields["include"].default


@dataclass(frozen=True)
class ReadRepository:
    """A task: one repository's archive. What it gave is kept by the hash of its content, so a crawl that stopped goes
    on without downloading again."""

    looked: Looked
    declared: GithubSource
    settings: Settings
    owners: tuple[str, ...]
    collected_at: datetime
    misses: int = 0
    local_only: bool = False

    def run(self) -> TaskResult:
        storage = open_storage(self.settings)
        result = read_cached(storage, self._key)
        if result is None:
            result = TaskResult()
            try:
                whole = self._read(result, storage)
            except SkippedError as skipped:
                whole = skipped.reason != "unavailable"
                result.skip("github", self.looked.found.name, "", f"repository_{skipped.reason}", skipped.detail)
            result.facts["repositories"] = int(bool(result.documents))
            if whole:
                write_cached(storage, self._key, result)
            else:
                miss(storage, self.looked, self.misses)
        metadata = _metadata(self.looked.found)
        result.documents = [one.model_copy(update={"metadata": metadata}) for one in result.documents]
        return result

    @property
    def _key(self) -> str:
        decides = [CODE, self.looked.found.name, self.looked.sha, sorted(self.declared.kinds), self.declared.max_bytes]
        digest = hashlib.sha256(json.dumps([*decides, INCLUDE]).encode()).hexdigest()[:16]
        return f"{FOLDER}/read/{self.looked.found.id}/{digest}"

    def _read(self, result: TaskResult, storage: Storage) -> bool:
        """Whether the archive opened to its end; one that was cut short is fetched twice."""
        api = GithubApi(self.settings, Accounts(self.settings, self.owners), lambda message: None)
        found = self.looked.found
        for _ in range(2):
            with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as archive:
                path = f"/repos/{found.name}/tarball/{quote(found.branch, safe='')}"
                moved_to = api.download(path, archive, MAX_ARCHIVE_BYTES)
                archive.seek(0)
                unpacked = unpack(archive, _is_read, self.declared.max_bytes)
            if not unpacked.damaged:
                break
        if moved_to:
            result.facts["renamed"] += not self.looked.renamed
            found = Trees(api).current(found)
        self._take(result, found, unpacked, storage)
        return not unpacked.damaged

    def _take(self, result: TaskResult, found: Found, unpacked: Unpacked, storage: Storage) -> None:
        commit = unpacked.commit or found.branch
        origin = Origin(
            source="github",
            group=found.name,
            url=f"{found.page}/blob/{commit}/{{}}",
            commit=unpacked.commit,
            license=_license(found, unpacked.files),
            rule=f"github {found.query}",
        )
        for path, data in sorted(unpacked.files.items()):
            if is_included(path, INCLUDE, ()):
                add_file(result, origin, path, data, self.collected_at, self.declared.kinds, storage)
            else:
                unpacked.not_wanted += 1
        for path, outcome, why in unpacked.left_out:
            result.skip("github", found.name, path, outcome, why)
        result.outcomes["not_included"] += unpacked.not_wanted
        result.outcomes += Counter()
        if unpacked.case_colliding:
            result.facts["case_colliding"] = unpacked.case_colliding


@dataclass
class GithubPlan:
    """A search and the trees of what it found."""

    declared: GithubSource
    settings: Settings
    collected_at: datetime
    owners: tuple[str, ...]
    looked: Sequence[Looked]
    result: TaskResult
    misses: Mapping[str, int] = field(default_factory=dict)

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Which repositories, by number and name, with what in them."""
        told = sorted(
            [one.found.id, one.found.name, one.reason, one.sha, self.misses.get(_missed_name(one), 0)]
            for one in self.looked
        )
        digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        return {"api": self.settings.github_api_url, "repositories": len(told), "sha256": digest}

    def list_tasks(self, report: Callable[[float, str], None]) -> TaskList:
        """One task per repository that has something to read, most stars first."""
        tasks: list[Task] = []
        for one in self.looked:
            name = one.found.name
            if one.reason:
                self.result.skip("github", name, "", f"repository_{one.reason}", one.detail)
                continue
            for path, sha in one.submodules:
                self.result.skip("github", name, path, "submodule", f"another repository, at {sha[:12]}")
            if one.found.size_kib * 1024 > 4 * MAX_ARCHIVE_BYTES:
                self.result.skip("github", name, "", "repository_too_large", f"{one.found.size_kib} KiB")
            elif one.has(INCLUDE):
                misses = self.misses.get(_missed_name(one), 0)
                tasks.append(ReadRepository(one, self.declared, self.settings, self.owners, self.collected_at, misses))
            else:
                why = f"{one.files} files, none of a kind that is read"
                self.result.skip("github", name, "", "repository_nothing_wanted", why)
        accounts = Accounts(self.settings, self.owners)
        return TaskList(tasks, self.result, lambda: _pause_message(accounts))


def plan(declared: GithubSource, context: Context, collected_at: datetime) -> GithubPlan:
    """Search, and look at every repository found. Raises InputError, UnavailableError; `context.report` hears of the
    progress and may raise CancelledError."""
    settings = context.settings
    said = [0.0]

    def report(share: float, message: str) -> None:
        said[0] = share
        context.report(0.0, f"github: {message}")

    def waiting(message: str) -> None:
        report(said[0], message)

    owners = learn_owners(settings, lambda one: GithubApi(one, Accounts(one), waiting).account())
    api = GithubApi(settings, Accounts(settings, owners), waiting)
    result = TaskResult(facts=Counter(repositories=0))
    pushed = (collected_at - timedelta(days=declared.pushed_within_days)).date()
    found = Search(api, declared, pushed, collected_at.date(), result, report).run()
    looked = Trees(api).look_at_all(found, lambda number: report(0.0, f"looking at {number} of {len(found)}"))
    result.facts["renamed"] = sum(one.renamed for one in looked)
    result.facts["tree_truncated"] = sum(one.truncated for one in looked)
    result.facts["requests_to_look"] = api.requests
    result.facts["requests_unchanged"] = api.unchanged
    return GithubPlan(declared, settings, collected_at, owners, looked, result, _misses(open_storage(settings)))


def miss(storage: Storage, looked: Looked, misses: int) -> None:
    """Write down that this content could not be read whole, so that the next crawl is not taken for a finished one."""
    storage.write(f"{FOLDER}/missed/{_missed_name(looked)}", str(min(misses + 1, MAX_MISSES)).encode())


def _misses(storage: Storage) -> dict[str, int]:
    keys = storage.keys(f"{FOLDER}/missed")
    return {key.rpartition("/")[2]: int(storage.read(key)) for key in keys}


def _missed_name(looked: Looked) -> str:
    return hashlib.sha256(f"{looked.found.id} {looked.sha}".encode()).hexdigest()[:32]


def _pause_message(accounts: Accounts) -> str:
    seconds = accounts.paused_seconds()
    return f"; GitHub's limit: {seconds:.0f} s to wait" if seconds > 1 else ""


def _is_read(path: str) -> bool:
    return is_included(path, INCLUDE, ()) or ("/" not in path and is_license_name(path))


def _metadata(found: Found) -> str:
    """What is known of the repository, the same on each of its documents."""
    told = {
        "repository_id": found.id,
        "description": found.description,
        "topics": list(found.topics),
        "stars": found.stars,
        "forks": found.forks,
        "language": found.language,
        "license": found.license,
        "homepage": found.homepage,
        "created_at": found.created_at,
        "pushed_at": found.pushed_at,
    }
    return json.dumps({name: value for name, value in told.items() if value not in ("", [])})


def _license(found: Found, files: Mapping[str, bytes]) -> str:
    told = licenses.from_name(found.license)
    if told:
        return told
    texts = [
        data.decode("utf-8", "replace")
        for path, data in sorted(files.items())
        if "/" not in path and is_license_name(path)
    ]
    return next((spdx for text in texts if (spdx := licenses.from_text(text))), "")
