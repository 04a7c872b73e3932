"""Source `local`: installed Python packages, the standard library, a folder, a git checkout."""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from soldiom_ray import licenses
from soldiom_ray.artifacts import Context
from soldiom_ray.collect.source_files import Entry, Origin, ReadFiles, is_included
from soldiom_ray.collect.tasks import Task, TaskList, TaskResult
from soldiom_ray.domains.schema import LocalSource
from soldiom_ray.errors import InputError, Problem
from soldiom_ray.settings import Settings

FILES_PER_TASK = 400
STDLIB = "stdlib"
_STDLIB_LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "turtledemo",
    "site-packages",
    "dist-packages",
    "lib-dynload",
    "_bundled",
    "lib2to3",
}
_SKIPPED_FOLDERS = {"node_modules", "venv", "env", "__pycache__", "site-packages", "__pypackages__"}
_LICENSE_NAME = re.compile(r"^(?:licen[cs]e|copying|unlicense)(?:[._-].*)?$", re.IGNORECASE)


@dataclass
class Place:
    """One package or folder that was looked at, and the files in it that passed the patterns."""

    origin: Origin
    entries: list[Entry]
    result: TaskResult


@dataclass
class LocalPlan:
    """A local source after a first look. `fingerprint` changes when a package's version or a folder's file does."""

    declared: LocalSource
    settings: Settings
    collected_at: datetime
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    places: Sequence[Place] = ()

    def list_tasks(self, report: Callable[[float, str], None]) -> TaskList:
        """Tasks over the files, in the order group, path. With max_documents each place gives as evenly as it can."""
        places = self.places or [look_at_package(name, self.declared) for name in sorted(set(self.declared.packages))]
        result = TaskResult()
        shares = even_shares([len(place.entries) for place in places], self.declared.max_documents)
        tasks: list[Task] = []
        for place, share in sorted(zip(places, shares, strict=True), key=lambda pair: pair[0].origin.group):
            result.outcomes.update(place.result.outcomes)
            result.drops.extend(place.result.drops)
            chosen = spread(place.entries, share)
            result.outcomes["over_limit"] += len(place.entries) - len(chosen)
            for start in range(0, len(chosen), FILES_PER_TASK):
                files = tuple(chosen[start : start + FILES_PER_TASK])
                tasks.append(ReadFiles(place.origin, files, self.settings, self.collected_at))
        result.outcomes += type(result.outcomes)()
        return TaskList(tasks, result)


def plan(declared: LocalSource, context: Context, collected_at: datetime) -> LocalPlan:
    """Look at the source; InputError names every package or folder that is missing."""
    if declared.path is not None:
        places, fingerprint = look_at_folder(Path(declared.path).expanduser(), declared)
        return LocalPlan(declared, context.settings, collected_at, fingerprint, places)
    versions: dict[str, str] = {}
    missing = []
    for name in declared.packages:
        try:
            versions[name] = platform.python_version() if name == STDLIB else importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        raise InputError(
            f"{len(missing)} of the packages to collect from are not installed here: {', '.join(missing)}.",
            remedy=f"install them with `pip install {' '.join(missing)}`, or take them out of `packages`",
            problems=[Problem("collect.packages", f"{name!r} is not an installed distribution") for name in missing],
        )
    editable = {name: folder for name in versions if name != STDLIB and (folder := _editable_folder(name))}
    prints: dict[str, Any] = {name: look_at_folder(folder, declared)[1] for name, folder in editable.items()}
    return LocalPlan(
        declared, context.settings, collected_at, {"packages": versions} | ({"editable": prints} if prints else {})
    )


def look_at_package(name: str, declared: LocalSource) -> Place:
    """The files of an installed distribution (or of the standard library) that pass the patterns."""
    if name == STDLIB:
        return _look_at_stdlib(declared)
    distribution = importlib.metadata.distribution(name)
    metadata: Any = distribution.metadata
    version, project = distribution.version, str(metadata["Name"] or name)
    texts, found = [], []
    for file in distribution.files or ():
        path = file.as_posix()
        if ".dist-info/" in path and is_license_name(file.name):
            texts.append(_text_of(Path(str(file.locate()))))
        if (
            not path.startswith("..")
            and "__pycache__" not in file.parts
            and (".dist-info/" not in path or file.name == "METADATA")
        ):
            found.append((path, Path(str(file.locate()))))
    folder = _editable_folder(name)
    if folder:
        found = [(path, folder / path) for path in _walk(folder)]
    origin = Origin(
        source="local",
        group=project,
        url=f"{_home_page(metadata) or f'pkg:pypi/{project.lower()}@{version}'}#{{}}",
        version=version,
        license=licenses.from_metadata(metadata, texts),
        rule=f"local package {project}=={version} {_patterns(declared)}",
        metadata=json.dumps({"package": project, "summary": str(metadata["Summary"] or "")}),
    )
    return _sift(origin, found, declared, metadata_as_readme=True)


def look_at_folder(folder: Path, declared: LocalSource) -> tuple[list[Place], dict[str, Any]]:
    """The places in a folder and its fingerprint. A git checkout is one place (a repository); of any other folder each
    subfolder and each file that lies directly in it is one, so that a split can keep them apart."""
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise InputError(
            f"The folder to collect from, {str(folder)!r}, {what}.",
            remedy="give `path` a folder, or use source `files` for single files",
        )
    folder = folder.resolve()
    commit = git_commit(folder)
    paths = (_git_files(folder) if commit is not None else None) or _walk(folder)
    found = [(path, folder / path) for path in sorted(paths)]
    license_texts = [_text_of(p) for p in sorted(folder.iterdir()) if p.is_file() and is_license_name(p.name)]
    license_found = next(
        (spdx for text in license_texts if (spdx := licenses.from_text(text))), ""
    ) or _declared_license(folder)
    groups: dict[str, list[tuple[str, Path]]] = {}
    for path, place in found:
        first = path.partition("/")[0]
        groups.setdefault(folder.name if commit is not None else f"{folder.name}/{first}", []).append((path, place))
    rule = f"local {'checkout' if commit is not None else 'folder'} {folder.name} {_patterns(declared)}"
    places = [
        _sift(
            Origin("local", group, f"{folder.as_uri()}/{{}}", commit=commit or "", license=license_found, rule=rule),
            files,
            declared,
        )
        for group, files in sorted(groups.items())
    ]
    stats = [(path, *_size_and_time(place)) for path, place in found]
    digest = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    return places, {"folder": str(folder), "files": len(found), "sha256": digest, "commit": commit or ""}


def spread(entries: Sequence[Entry], share: int) -> list[Entry]:
    """`share` of the entries, the same ones every time and from all over the tree, in path order."""
    chosen = sorted(entries, key=lambda entry: hashlib.sha256(entry.path.encode()).digest())[:share]
    return sorted(chosen, key=lambda entry: entry.path)


def even_shares(sizes: Sequence[int], limit: int | None) -> list[int]:
    """How many each place gives: the same number where it has so many, what it has where it has fewer."""
    if limit is None or sum(sizes) <= limit:
        return list(sizes)
    shares = [0] * len(sizes)
    left = limit
    for done, index in enumerate(sorted(range(len(sizes)), key=lambda i: (sizes[i], i))):
        shares[index] = min(sizes[index], left // (len(sizes) - done))
        left -= shares[index]
    return shares


def git_commit(folder: Path) -> str | None:
    """The commit a checkout stands on ("" when it has none yet), read from `.git`; None when it is no checkout."""
    git = folder / ".git"
    try:
        if git.is_file():
            git = (folder / git.read_text().partition("gitdir:")[2].strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head
        name = head.partition(" ")[2].strip()
        common = git / "commondir"
        root = (git / common.read_text().strip()).resolve() if common.is_file() else git
        if (root / name).is_file():
            return (root / name).read_text().strip()
        packed = root / "packed-refs"
        lines = packed.read_text().splitlines() if packed.is_file() else []
        return next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")
    except OSError:
        return None


def is_license_name(name: str) -> bool:
    """Whether a file of this name holds the licence of the folder it lies in."""
    return bool(_LICENSE_NAME.match(name))


def _look_at_stdlib(declared: LocalSource) -> Place:
    root = Path(sysconfig.get_paths()["stdlib"])
    version = platform.python_version()
    found = [
        (path, root / path)
        for path in _walk(root)
        if not _STDLIB_LEFT_OUT & set(PurePosixPath(path).parts[:-1]) and not path.startswith("config-")
    ]
    origin = Origin(
        source="local",
        group=STDLIB,
        url=f"https://github.com/python/cpython/blob/v{version}/Lib/{{}}",
        version=version,
        license="PSF-2.0",
        rule=f"local package {STDLIB}=={version} {_patterns(declared)}",
    )
    return _sift(origin, found, declared)


def _sift(
    origin: Origin, found: Iterable[tuple[str, Path]], declared: LocalSource, metadata_as_readme: bool = False
) -> Place:
    place = Place(origin, [], TaskResult())
    for path, file in sorted(found):
        readme = metadata_as_readme and path.endswith(".dist-info/METADATA")
        if not is_included("README.md" if readme else path, declared.include, declared.exclude):
            place.result.outcomes["not_included"] += 1
            continue
        try:
            size = file.stat().st_size
        except OSError as error:
            place.result.skip(origin.source, origin.group, path, "unreadable", type(error).__name__)
            continue
        if not size:
            place.result.skip(origin.source, origin.group, path, "empty")
        elif size > declared.max_bytes:
            place.result.skip(origin.source, origin.group, path, "too_large", str(size))
        else:
            place.entries.append(Entry(path, file, size))
    return place


def _walk(folder: Path) -> Iterator[str]:
    """Relative paths of the plain files below a folder, without hidden folders, virtual environments and caches."""
    for parent, folders, names in os.walk(folder, onerror=None, followlinks=False):
        here = Path(parent)
        folders[:] = sorted(
            f
            for f in folders
            if not f.startswith(".") and f not in _SKIPPED_FOLDERS and not (here / f / "pyvenv.cfg").exists()
        )
        for name in sorted(names):
            if not name.startswith("."):
                yield (here / name).relative_to(folder).as_posix()


def _git_files(folder: Path) -> list[str] | None:
    """Tracked and new files that git does not ignore; None without git or when it refuses the checkout."""
    command = [
        "git",
        "-c",
        "core.fsmonitor=false",
        "-C",
        str(folder),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    try:
        listed = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    paths = {os.fsdecode(name) for name in listed.split(b"\0") if name}
    skipped = _SKIPPED_FOLDERS
    return sorted(
        p
        for p in paths
        if not any(part.startswith(".") or part in skipped for part in PurePosixPath(p).parts)
        and (folder / p).is_file()
    )


def _editable_folder(name: str) -> Path | None:
    """Where a package that was installed with `pip install -e` has its sources."""
    told = importlib.metadata.distribution(name).read_text("direct_url.json")
    if not told:
        return None
    direct = json.loads(told)
    if not direct.get("dir_info", {}).get("editable"):
        return None
    folder = Path(unquote(urlsplit(str(direct.get("url", ""))).path))
    return folder if folder.is_dir() else None


def _home_page(metadata: Any) -> str:
    urls = {}
    for line in metadata.get_all("Project-URL") or ():
        name, _, url = str(line).partition(",")
        urls[re.sub(r"[^a-z]", "", name.lower())] = url.strip()
    for name in ("source", "sourcecode", "repository", "code", "github", "homepage", "home"):
        if urls.get(name):
            return urls[name].rstrip("/")
    return str(metadata["Home-page"] or "").rstrip("/")


def _declared_license(folder: Path) -> str:
    path = folder / "pyproject.toml"
    if not path.is_file():
        return ""
    import tomllib

    try:
        declared = tomllib.loads(_text_of(path)).get("project", {}).get("license", "")
    except tomllib.TOMLDecodeError:
        return ""
    return licenses.from_name(str(declared.get("text", "") if isinstance(declared, dict) else declared))


def _patterns(declared: LocalSource) -> str:
    told = f"include {' '.join(declared.include)}"
    return f"{told} exclude {' '.join(declared.exclude)}" if declared.exclude else told


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (-1, 0)
    return (stat.st_size, stat.st_mtime_ns)
