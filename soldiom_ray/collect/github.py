"""Source `github`: repositories found by search, each read from one archive."""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from soldiom_ray import licenses
from soldiom_ray.artifacts import Context
from soldiom_ray.collect.archive import Unpacked, unpack
from soldiom_ray.collect.files import Origin, add_file, wanted
from soldiom_ray.collect.github_api import GithubApi
from soldiom_ray.collect.github_search import Found, search
from soldiom_ray.collect.kept import keep, read_kept
from soldiom_ray.collect.limiter import Limiter, open_limiter
from soldiom_ray.collect.local import is_license_name
from soldiom_ray.collect.text import LeftOut
from soldiom_ray.collect.work import Gathered, Task, Todo
from soldiom_ray.domains.schema import GithubSource, LocalSource
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage

CODE = 1
MAX_ARCHIVE_BYTES = 512 << 20
INCLUDE: tuple[str, ...] = LocalSource.model_fields["include"].default


@dataclass(frozen=True)
class ReadRepository:
    """A task: one repository. What it gave is kept in storage, so a crawl that stopped goes on without downloading
    again; a push makes it another repository."""

    found: Found
    declared: GithubSource
    settings: Settings
    limiter: Limiter
    collected_at: datetime
    here: bool = False

    def run(self) -> Gathered:
        storage = open_storage(self.settings)
        kept = read_kept(storage, self._key)
        if kept is not None:
            return kept
        gathered = Gathered()
        api = GithubApi(self.settings.github_api_url, self.settings.github_tokens, self.limiter, lambda message: None)
        try:
            self._read(api, gathered)
        except LeftOut as left:
            gathered.leave_out("github", self.found.name, "", f"repository_{left.outcome}", left.why)
            if left.outcome == "unavailable":
                return gathered
        gathered.facts["repositories"] = int(bool(gathered.documents))
        keep(storage, self._key, gathered)
        return gathered

    @property
    def _key(self) -> str:
        filters = json.dumps([CODE, sorted(self.declared.kinds), self.declared.max_bytes, INCLUDE])
        digest = hashlib.sha256(f"{self.found.pushed_at}\0{filters}".encode()).hexdigest()[:16]
        return f"raw/github/{self.found.id}/{digest}"

    def _read(self, api: GithubApi, gathered: Gathered) -> None:
        _, repository = api.get(f"/repos/{self.found.name}")
        if int(repository.get("id") or 0) != self.found.id:
            raise LeftOut("not_found", "another repository has this name now")
        name, branch = str(repository["full_name"]), str(repository["default_branch"])
        if name != self.found.name:
            gathered.facts["renamed"] += 1
        if int(repository.get("size") or 0) * 1024 > 4 * MAX_ARCHIVE_BYTES:
            raise LeftOut("too_large", f"{repository['size']} KiB")
        _, tree = api.get(f"/repos/{name}/git/trees/{branch}", {"recursive": "1"})
        paths = [str(entry["path"]) for entry in tree.get("tree", ()) if entry.get("type") == "blob"]
        if tree.get("truncated"):
            gathered.facts["tree_truncated"] += 1
        elif not any(wanted(path, INCLUDE, ()) for path in paths):
            raise LeftOut("nothing_wanted", f"{len(paths)} files, none of a kind that is read")
        with tempfile.TemporaryDirectory(prefix="soldiom-") as folder:
            archive = Path(folder) / "archive.tar.gz"
            api.download(f"/repos/{name}/tarball/{branch}", archive, MAX_ARCHIVE_BYTES)
            unpacked = unpack(archive, _is_read, self.declared.max_bytes)
        self._take(gathered, repository, unpacked)

    def _take(self, gathered: Gathered, repository: Mapping[str, Any], unpacked: Unpacked) -> None:
        name = str(repository["full_name"])
        commit = unpacked.commit or str(repository["default_branch"])
        origin = Origin(
            source="github",
            group=name,
            url=f"{repository.get('html_url') or f'https://github.com/{name}'}/blob/{commit}/{{}}",
            commit=unpacked.commit,
            license=_license(repository, unpacked.files),
            rule=f"github {self.found.query}",
            metadata=json.dumps(
                {
                    "stars": repository.get("stargazers_count"),
                    "pushed_at": repository.get("pushed_at"),
                    "topics": repository.get("topics") or [],
                }
            ),
        )
        for path, data in sorted(unpacked.files.items()):
            if wanted(path, INCLUDE, ()):
                add_file(gathered, origin, path, data, self.collected_at, self.declared.kinds)
            else:
                unpacked.not_wanted += 1
        for path, outcome, why in unpacked.left_out:
            gathered.leave_out("github", name, path, outcome, why)
        gathered.outcomes["not_included"] += unpacked.not_wanted
        gathered.outcomes += Counter()


@dataclass
class GithubPlan:
    """A search. Its results move, so the fingerprint holds the day: the same day's second run is free."""

    declared: GithubSource
    settings: Settings
    collected_at: datetime

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"api": self.settings.github_api_url, "day": self.collected_at.date().isoformat()}

    def todo(self, report: Callable[[float, str], None]) -> Todo:
        """Search, then one task per repository, most stars first."""
        limiter = open_limiter(self.settings.github_api_url, self.settings.github_tokens)
        shown = [0.0]

        def told(share: float, message: str) -> None:
            shown[0] = share
            report(share, message)

        api = GithubApi(
            self.settings.github_api_url,
            self.settings.github_tokens,
            limiter,
            lambda message: report(shown[0], message),
        )
        gathered = Gathered(facts=Counter(repositories=0))
        pushed = (self.collected_at - timedelta(days=self.declared.pushed_within_days)).date()
        found = search(api, self.declared, pushed, self.collected_at.date(), gathered, told)
        tasks: list[Task] = [
            ReadRepository(one, self.declared, self.settings, limiter, self.collected_at) for one in found
        ]
        return Todo(tasks, gathered, lambda: _pause_message(limiter))


def plan(declared: GithubSource, context: Context, collected_at: datetime) -> GithubPlan:
    """What a crawl of today would be made from; nothing is fetched yet."""
    return GithubPlan(declared, context.settings, collected_at)


def _pause_message(limiter: Limiter) -> str:
    seconds = limiter.paused_seconds()
    return f"; GitHub's limit: {seconds:.0f} s to wait" if seconds > 1 else ""


def _is_read(path: str) -> bool:
    return wanted(path, INCLUDE, ()) or ("/" not in path and is_license_name(path))


def _license(repository: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    told = licenses.from_name(str((repository.get("license") or {}).get("spdx_id") or ""))
    if told:
        return told
    texts = [
        data.decode("utf-8", "replace")
        for path, data in sorted(files.items())
        if "/" not in path and is_license_name(path)
    ]
    return next((spdx for text in texts if (spdx := licenses.from_text(text))), "")
