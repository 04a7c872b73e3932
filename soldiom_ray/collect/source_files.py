"""From a file's bytes to a document, for the sources `local` and `github`: source code and its documentation, licensed
and labelled. (`files.py` is the source `files`: documents that users give, which the parsers read.)"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from soldiom_ray.collect.label import label
from soldiom_ray.collect.raw import store_raw
from soldiom_ray.collect.tasks import COLLECTED, TaskResult, document_id
from soldiom_ray.collect.text import SkippedError, decode, read_notebook
from soldiom_ray.domains.access import Folders, read_within
from soldiom_ray.records import Document, SourceName
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, open_storage

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class Origin:
    """Provenance that all files of a package, repository or folder share. "{}" in `url` stands for a file's path."""

    source: SourceName
    group: str
    url: str
    version: str = ""
    commit: str = ""
    license: str = ""
    rule: str = ""
    metadata: str = "{}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file to read: its path within the origin (with `/`), the local file, its size in bytes."""

    path: str
    file: Path
    size_bytes: int


@dataclass(frozen=True)
class ReadFiles:
    """A task: read these files of one origin."""

    origin: Origin
    entries: tuple[Entry, ...]
    settings: Settings
    collected_at: datetime
    local_only: bool = True
    folders: Folders = None

    def run(self) -> TaskResult:
        """A document, or the reason why there is none, for each file."""
        result, storage = TaskResult(), open_storage(self.settings)
        for entry in self.entries:
            try:
                data = read_within(entry.file, self.folders)
            except OSError as error:
                result.skip(self.origin.source, self.origin.group, entry.path, "unreadable", type(error).__name__)
                continue
            add_file(result, self.origin, entry.path, data, self.collected_at, storage=storage)
        return result


def add_file(
    result: TaskResult,
    origin: Origin,
    path: str,
    data: bytes,
    collected_at: datetime,
    kinds: Iterable[str] | None = None,
    storage: Storage | None = None,
) -> None:
    """Add one file's document to `result`, or the reason why there is none. With `kinds`, files of other kinds are
    skipped; with `storage`, the bytes of a file that became a document are stored."""
    try:
        text = file_text(path, data)
    except SkippedError as skipped:
        result.skip(origin.source, origin.group, path, skipped.reason, skipped.detail)
        return
    labels = label(path, text)
    if kinds is not None and labels.kind not in kinds:
        result.skip(origin.source, origin.group, path, "other_kind", labels.kind)
        return
    sha256 = store_raw(storage, data) if storage else hashlib.sha256(data).hexdigest()
    url = origin.url.replace("{}", path)
    result.outcomes[COLLECTED] += 1
    result.documents.append(
        Document(
            id=document_id(origin.source, f"{origin.group}\0{url}", sha256),
            text=text,
            source=origin.source,
            url=url,
            path=path,
            group=origin.group,
            version=origin.version,
            commit=origin.commit,
            sha256=sha256,
            license=origin.license,
            kind=labels.kind,
            framework=labels.framework,
            language=labels.language,
            rule=origin.rule,
            collected_at=collected_at,
            metadata=origin.metadata,
        )
    )


def file_text(path: str, data: bytes) -> str:
    """The text of a file: notebooks as code, a package's METADATA as its long description. Raises SkippedError: empty,
    lfs_pointer, and as `decode` does."""
    name = PurePosixPath(path).name
    if not data:
        raise SkippedError("empty")
    if name.endswith(".ipynb"):
        return read_notebook(data)[0]
    if data.startswith(LFS_POINTER):
        raise SkippedError("lfs_pointer", "the file itself lies in Git LFS")
    text = decode(data)
    if name == "METADATA":
        text = text.replace("\r\n", "\n").partition("\n\n")[2]
        if not text.strip():
            raise SkippedError("empty", "no long description")
    return text


def is_included(path: str, include: Iterable[str], exclude: Iterable[str]) -> bool:
    """Whether a path passes the patterns; each is matched against the whole path and against the file's name."""
    name = PurePosixPath(path).name
    return any(fnmatch(name, p) or fnmatch(path, p) for p in include) and not any(
        fnmatch(name, p) or fnmatch(path, p) for p in exclude
    )
