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


def shown(one: Repository) -> dict[str, Any]:
    """The repository's JSON."""
    return {
        "id": one.id,
        "full_name": one.full_name,
        "name": one.full_name.partition("/")[2],
        "html_url": f"https://github.com/{one.full_name}",
        "description": f"About {one.full_name}",
        "homepage": None,
        "stargazers_count": one.stars,
        "forks_count": one.stars // 10,
        "topics": list(one.topics),
        "language": one.language,
        "pushed_at": one.pushed_at,
        "created_at": one.created_at,
        "archived": one.archived,
        "private": False,
        "default_branch": one.branch,
        "size": 10,
        "license": {"spdx_id": one.license} if one.license else None,
    }


def listed(one: Repository) -> dict[str, Any]:
    """The same as search shows it, which may lag behind."""
    return shown(one) | {"full_name": one.listed_name, "default_branch": one.old_branch or one.branch}


def matches(one: Repository, told: dict[str, str]) -> bool:
    """Whether search would find the repository, by the qualifiers this project uses (see `qualifiers`)."""
    since, _, until = told.get("created", "..").partition("..")
    return (
        told.get("topic", "") in ("", *one.topics)
        and told.get("language", "").strip('"') in ("", one.language)
        and _stars_fit(one.stars, told.get("stars", ""))
        and one.pushed_at[:10] >= told.get("pushed", ">=").removeprefix(">=")
        and (since or "0") <= one.created_at[:10] <= (until or "9")
        and not (told.get("archived") == "false" and one.archived)
    )


def qualifiers(query: str) -> dict[str, str]:
    """`topic:x stars:>1` as a dictionary."""
    return dict(re.findall(r'(\w+):("[^"]*"|\S+)', query))


def _stars_fit(stars: int, told: str) -> bool:
    if ".." in told:
        least, most = told.split("..")
        return int(least) <= stars <= int(most)
    return stars > int(told.removeprefix(">") or -1)


def tree(one: Repository, url: str) -> dict[str, Any]:
    """A recursive tree; a truncated one shows only its first entry."""
    entries = [entry(path, "blob", "100644", blob_sha(data)) | {"size": len(data)} for path, data in one.files.items()]
    entries += [entry(path, "blob", "120000", blob_sha(path.encode())) for path in one.symlinks]
    entries += [entry(path, "commit", "160000", "0" * 40) for path in one.submodules]
    entries.sort(key=lambda told: str(told["path"]))
    return {
        "sha": one.commit,
        "url": f"{url}/repos/{one.full_name}/git/trees/{one.commit}",
        "tree": entries[:1] if one.truncated else entries,
        "truncated": one.truncated,
    }


def entry(path: str, kind: str, mode: str, sha: str) -> dict[str, Any]:
    """One line of a tree."""
    return {"path": path, "type": kind, "mode": mode, "sha": sha}


def blob_sha(data: bytes) -> str:
    """The hash git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


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
        for path in one.symlinks:
            member = tarfile.TarInfo(f"{top}/{path}")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
        for member in one.extra:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return gzip.compress(sink.getvalue(), 1)
