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
from soldiom_ray.domains.access import Folders, is_within
from soldiom_ray.domains.sources import LocalSource
from soldiom_ray.errors import DeniedError, InputError, Problem
from soldiom_ray.settings import Settings

FILES_PER_TASK = 400
STDLIB = "stdlib"
_STDLIB_EXCLUDED = {
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
class FileGroup:
    """The files of one package, checkout or folder that passed the patterns; `result` counts the others."""

    origin: Origin
    entries: list[Entry]
    result: TaskResult


@dataclass
class LocalPlan:
    """A local source, listed. `fingerprint` changes when a package's version or a file in the folder does."""

    declared: LocalSource
    settings: Settings
    collected_at: datetime
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    file_groups: Sequence[FileGroup] = ()
    folders: Folders = None

    def list_tasks(self, report: Callable[[float, str], None]) -> TaskList:
        """Tasks over the files, in the order group, path. `max_documents` is divided over the groups as evenly as
        possible."""
        file_groups = self.file_groups or [
            list_package(name, self.declared) for name in sorted(set(self.declared.packages))
        ]
        result = TaskResult()
        shares = even_shares([len(file_group.entries) for file_group in file_groups], self.declared.max_documents)
        tasks: list[Task] = []
        for file_group, share in sorted(zip(file_groups, shares, strict=True), key=lambda pair: pair[0].origin.group):
            result.outcomes.update(file_group.result.outcomes)
            result.drops.extend(file_group.result.drops)
            chosen = sample_entries(file_group.entries, share)
            result.outcomes["over_limit"] += len(file_group.entries) - len(chosen)
            for start in range(0, len(chosen), FILES_PER_TASK):
                files = tuple(chosen[start : start + FILES_PER_TASK])
                tasks.append(
                    ReadFiles(file_group.origin, files, self.settings, self.collected_at, folders=self.folders)
                )
        result.outcomes += type(result.outcomes)()
        return TaskList(tasks, result)


def plan(declared: LocalSource, context: Context, collected_at: datetime) -> LocalPlan:
    """List the source; InputError names every package or folder that is missing."""
    if declared.path is not None:
        root = Path(declared.path).expanduser()
        file_groups, fingerprint = list_folder(root, declared, context.folders)
        return LocalPlan(declared, context.settings, collected_at, fingerprint, file_groups, context.folders)
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
    if closed := [name for name, source in editable.items() if not is_within(source, context.folders)]:
        raise DeniedError(
            f"{closed[0]!r} is installed from a folder of the server, which only whoever runs it collects.",
            remedy="take it out of `packages`",
        )
    fingerprints: dict[str, Any] = {name: list_folder(folder, declared)[1] for name, folder in editable.items()}
    return LocalPlan(
        declared,
        context.settings,
        collected_at,
        {"packages": versions} | ({"editable": fingerprints} if fingerprints else {}),
    )


def list_package(name: str, declared: LocalSource) -> FileGroup:
    """The files of an installed distribution (or of the standard library) that pass the patterns."""
    if name == STDLIB:
        return _list_stdlib(declared)
    distribution = importlib.metadata.distribution(name)
    metadata: Any = distribution.metadata
    version, project = distribution.version, str(metadata["Name"] or name)
    texts, files = [], []
    for file in distribution.files or ():
        path = file.as_posix()
        if ".dist-info/" in path and is_license_name(file.name):
            texts.append(_read_text(Path(str(file.locate()))))
        if (
            not path.startswith("..")
            and "__pycache__" not in file.parts
            and (".dist-info/" not in path or file.name == "METADATA")
        ):
            files.append((path, Path(str(file.locate()))))
    folder = _editable_folder(name)
    if folder:
        files = [(path, folder / path) for path in _walk(folder)]
    origin = Origin(
        source="local",
        group=project,
        url=f"{_home_page(metadata) or f'pkg:pypi/{project.lower()}@{version}'}#{{}}",
        version=version,
        license=licenses.from_metadata(metadata, texts),
        rule=f"local package {project}=={version} {_patterns(declared)}",
        metadata=json.dumps({"package": project, "summary": str(metadata["Summary"] or "")}),
    )
    return _filter_files(origin, files, declared, metadata_is_readme=True)


def list_folder(folder: Path, declared: LocalSource, within: Folders = None) -> tuple[list[FileGroup], dict[str, Any]]:
    """(file groups, fingerprint) of a folder. Files outside `within` are dropped. A git checkout is one group (a
    repository); in any other folder each subfolder and each direct file is a group of its own, so that a split can
    separate them."""
    if not folder.is_dir():
        problem = "is a file" if folder.is_file() else "does not exist"
        raise InputError(
            f"The folder to collect from, {str(folder)!r}, {problem}.",
            remedy="give `path` a folder, or use source `files` for single files",
        )
    folder = folder.resolve()
    commit = git_commit(folder) if is_within(folder / ".git" / "HEAD", within) else None
    paths = (_git_files(folder) if commit is not None else None) or _walk(folder)
    files = [(path, folder / path) for path in sorted(paths)]
    license_texts = [
        _read_text(p)
        for p in sorted(folder.iterdir())
        if p.is_file() and is_license_name(p.name) and is_within(p, within)
    ]
    license_ = next((spdx for text in license_texts if (spdx := licenses.from_text(text))), "") or (
        _declared_license(folder) if is_within(folder / "pyproject.toml", within) else ""
    )
    files_by_group: dict[str, list[tuple[str, Path]]] = {}
    for path, file in files:
        first = path.partition("/")[0]
        files_by_group.setdefault(folder.name if commit is not None else f"{folder.name}/{first}", []).append(
            (path, file)
        )
    rule = f"local {'checkout' if commit is not None else 'folder'} {folder.name} {_patterns(declared)}"
    file_groups = [
        _filter_files(
            Origin("local", group, f"{folder.as_uri()}/{{}}", commit=commit or "", license=license_, rule=rule),
            group_files,
            declared,
            within=within,
        )
        for group, group_files in sorted(files_by_group.items())
    ]
    stats = [(path, *_size_and_time(file)) for path, file in files]
    digest = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    return file_groups, {"folder": str(folder), "files": len(files), "sha256": digest, "commit": commit or ""}


def sample_entries(entries: Sequence[Entry], share: int) -> list[Entry]:
    """`share` of the entries, deterministic, from all over the tree, in path order."""
    chosen = sorted(entries, key=lambda entry: hashlib.sha256(entry.path.encode()).digest())[:share]
    return sorted(chosen, key=lambda entry: entry.path)


def even_shares(sizes: Sequence[int], limit: int | None) -> list[int]:
    """How many of its files each group contributes: an equal share, or all it has where that is fewer."""
    if limit is None or sum(sizes) <= limit:
        return list(sizes)
    shares = [0] * len(sizes)
    remaining = limit
    for finished, index in enumerate(sorted(range(len(sizes)), key=lambda i: (sizes[i], i))):
        shares[index] = min(sizes[index], remaining // (len(sizes) - finished))
        remaining -= shares[index]
    return shares


def git_commit(folder: Path) -> str | None:
    """The commit of a checkout ("" when it has none yet), read from `.git`; None when it is no checkout."""
    git = folder / ".git"
    try:
        if git.is_file():
            git = (folder / git.read_text().partition("gitdir:")[2].strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head if re.fullmatch(r"[0-9a-f]{40,64}", head) else ""
        name = head.partition(" ")[2].strip()
        common = git / "commondir"
        root = (git / common.read_text().strip()).resolve() if common.is_file() else git
        if (root / name).is_file():
            text = (root / name).read_text().strip()
            return text if re.fullmatch(r"[0-9a-f]{40,64}", text) else ""
        packed = root / "packed-refs"
        lines = packed.read_text().splitlines() if packed.is_file() else []
        return next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")
    except OSError:
        return None


def is_license_name(name: str) -> bool:
    """Whether a file of this name holds the licence of its folder."""
    return bool(_LICENSE_NAME.match(name))


def _list_stdlib(declared: LocalSource) -> FileGroup:
    root = Path(sysconfig.get_paths()["stdlib"])
    version = platform.python_version()
    files = [
        (path, root / path)
        for path in _walk(root)
        if not _STDLIB_EXCLUDED & set(PurePosixPath(path).parts[:-1]) and not path.startswith("config-")
    ]
    origin = Origin(
        source="local",
        group=STDLIB,
        url=f"https://github.com/python/cpython/blob/v{version}/Lib/{{}}",
        version=version,
        license="PSF-2.0",
        rule=f"local package {STDLIB}=={version} {_patterns(declared)}",
    )
    return _filter_files(origin, files, declared)


def _filter_files(
    origin: Origin,
    files: Iterable[tuple[str, Path]],
    declared: LocalSource,
    metadata_is_readme: bool = False,
    within: Folders = None,
) -> FileGroup:
    group = FileGroup(origin, [], TaskResult())
    for path, file in sorted(files):
        readme = metadata_is_readme and path.endswith(".dist-info/METADATA")
        if not is_included("README.md" if readme else path, declared.include, declared.exclude):
            group.result.outcomes["not_included"] += 1
            continue
        if not is_within(file, within):
            group.result.skip(origin.source, origin.group, path, "leads_out", "a link out of the folder")
            continue
        try:
            size = file.stat().st_size
        except OSError as error:
            group.result.skip(origin.source, origin.group, path, "unreadable", type(error).__name__)
            continue
        if not size:
            group.result.skip(origin.source, origin.group, path, "empty")
        elif size > declared.max_bytes:
            group.result.skip(origin.source, origin.group, path, "too_large", str(size))
        else:
            group.entries.append(Entry(path, file, size))
    return group


def _walk(folder: Path) -> Iterator[str]:
    """Relative paths of the plain files below a folder, without hidden folders, virtual environments and caches."""
    for parent, folders, names in os.walk(folder, onerror=None, followlinks=False):
        directory = Path(parent)
        folders[:] = sorted(
            f
            for f in folders
            if not f.startswith(".") and f not in _SKIPPED_FOLDERS and not (directory / f / "pyvenv.cfg").exists()
        )
        for name in sorted(names):
            if not name.startswith("."):
                yield (directory / name).relative_to(folder).as_posix()


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
    """The source folder of a package installed with `pip install -e`; None for other packages."""
    content = importlib.metadata.distribution(name).read_text("direct_url.json")
    if not content:
        return None
    direct_url = json.loads(content)
    if not direct_url.get("dir_info", {}).get("editable"):
        return None
    folder = Path(unquote(urlsplit(str(direct_url.get("url", ""))).path))
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
        declared = tomllib.loads(_read_text(path)).get("project", {}).get("license", "")
    except tomllib.TOMLDecodeError:
        return ""
    return licenses.from_name(str(declared.get("text", "") if isinstance(declared, dict) else declared))


def _patterns(declared: LocalSource) -> str:
    patterns = f"include {' '.join(declared.include)}"
    return f"{patterns} exclude {' '.join(declared.exclude)}" if declared.exclude else patterns


def _read_text(path: Path) -> str:
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
