"""A repository of the stand-in: what it holds, and how it shows itself as JSON, tree and archive."""

import gzip
import hashlib
import io
import re
import tarfile
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Repository:
    """A repository. `life`: ok, deleted (404), blocked (451), forbidden (403), empty (409). `old_name` is the name that
    search still shows; it answers with 301 to the new one unless another repository took it. `extra` are tar members to
    put into the archive as they stand."""

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
    branch: str = "main"
    old_branch: str | None = None
    submodules: tuple[str, ...] = ("vendored",)
    symlinks: tuple[str, ...] = ()

    @property
    def id(self) -> int:
        return int(hashlib.sha256(self.full_name.encode()).hexdigest()[:7], 16) + 1

    @property
    def commit(self) -> str:
        digest = hashlib.sha1(self.full_name.encode(), usedforsecurity=False)
        for path, data in sorted(self.files.items()):
            digest.update(f"{path} {blob_sha(data)}\n".encode())
        return digest.hexdigest()

    @property
    def listed_name(self) -> str:
        """The name search still shows."""
        return self.old_name or self.full_name


def shown(repository: Repository) -> dict[str, Any]:
    """The repository's JSON."""
    return {
        "id": repository.id,
        "full_name": repository.full_name,
        "name": repository.full_name.partition("/")[2],
        "html_url": f"https://github.com/{repository.full_name}",
        "description": f"About {repository.full_name}",
        "homepage": None,
        "stargazers_count": repository.stars,
        "forks_count": repository.stars // 10,
        "topics": list(repository.topics),
        "language": repository.language,
        "pushed_at": repository.pushed_at,
        "created_at": repository.created_at,
        "archived": repository.archived,
        "private": False,
        "default_branch": repository.branch,
        "size": 10,
        "license": {"spdx_id": repository.license} if repository.license else None,
    }


def listed(repository: Repository) -> dict[str, Any]:
    """The same as search shows it, which may lag behind."""
    return shown(repository) | {
        "full_name": repository.listed_name,
        "default_branch": repository.old_branch or repository.branch,
    }


def matches(repository: Repository, criteria: dict[str, str]) -> bool:
    """Whether search would find the repository, by the qualifiers this project uses (see `qualifiers`)."""
    since, _, until = criteria.get("created", "..").partition("..")
    return (
        criteria.get("topic", "") in ("", *repository.topics)
        and criteria.get("language", "").strip('"') in ("", repository.language)
        and _stars_fit(repository.stars, criteria.get("stars", ""))
        and repository.pushed_at[:10] >= criteria.get("pushed", ">=").removeprefix(">=")
        and (since or "0") <= repository.created_at[:10] <= (until or "9")
        and not (criteria.get("archived") == "false" and repository.archived)
    )


def qualifiers(query: str) -> dict[str, str]:
    """`topic:x stars:>1` as a dictionary."""
    return dict(re.findall(r'(\w+):("[^"]*"|\S+)', query))


def _stars_fit(stars: int, bounds: str) -> bool:
    if ".." in bounds:
        least, most = bounds.split("..")
        return int(least) <= stars <= int(most)
    return stars > int(bounds.removeprefix(">") or -1)


def tree(repository: Repository, url: str) -> dict[str, Any]:
    """A recursive tree; a truncated one shows only its first entry."""
    entries = [
        entry(path, "blob", "100644", blob_sha(data)) | {"size": len(data)} for path, data in repository.files.items()
    ]
    entries += [entry(path, "blob", "120000", blob_sha(path.encode())) for path in repository.symlinks]
    entries += [entry(path, "commit", "160000", "0" * 40) for path in repository.submodules]
    entries.sort(key=lambda item: str(item["path"]))
    return {
        "sha": repository.commit,
        "url": f"{url}/repos/{repository.full_name}/git/trees/{repository.commit}",
        "tree": entries[:1] if repository.truncated else entries,
        "truncated": repository.truncated,
    }


def entry(path: str, kind: str, mode: str, sha: str) -> dict[str, Any]:
    """One line of a tree."""
    return {"path": path, "type": kind, "mode": mode, "sha": sha}


def blob_sha(data: bytes) -> str:
    """The hash git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def tarball(repository: Repository) -> bytes:
    """The archive as GitHub makes it: one top folder, the commit in the header's comment."""
    top = f"{repository.full_name.replace('/', '-')}-{repository.commit[:7]}"
    sink = io.BytesIO()
    with tarfile.open(
        fileobj=sink, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": repository.commit}
    ) as archive:
        for path, data in sorted(repository.files.items()):
            member = tarfile.TarInfo(f"{top}/{path}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for path in repository.symlinks:
            member = tarfile.TarInfo(f"{top}/{path}")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
        for member in repository.extra:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return gzip.compress(sink.getvalue(), 1)
