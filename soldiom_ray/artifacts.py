"""Outputs of stages, named by the hash of what made them.

An artifact is a folder `<kind>/<id>/` in storage. Its `manifest.json` is written last: without it the artifact does
not exist, so a partial result is never used and a second run reuses the first one's work.
"""

import base64
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soldiom_ray import __version__
from soldiom_ray.errors import DamagedError, NotFoundError
from soldiom_ray.records import FileEntry, Manifest, Record, keeper_of, now
from soldiom_ray.settings import HOME_TENANT, Settings
from soldiom_ray.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"

Report = Callable[[float, str], None]
"""Called with the share done (0 to 1) and a short message. It raises CancelledError when the job was asked to stop."""


@dataclass(frozen=True)
class Context:
    """What every stage needs besides its declaration and its input artifacts."""

    settings: Settings
    artifacts: "Artifacts"
    report: Report
    job_id: str = ""
    tenant: str = HOME_TENANT
    recipe: str = ""
    notify: Callable[[list[str]], None] = lambda notes: None
    """Tells people what to know of a stage while it still runs, in sentences."""
    folders: tuple[Path, ...] | None = None
    """Folders of the machine that sources may read; None: all of it (see `domains.access`)."""
    show: Callable[[dict[str, Any]], None] = lambda details: None
    """Replaces details of a stage's record while it still runs: the trials of a sweep."""
    owner: str = ""
    """Whose that is which the job makes (see `db.ownership`)."""

    @property
    def keeper(self) -> str:
        """Under whose name the recipe's secrets are kept."""
        return keeper_of(self.tenant, self.owner)


def artifact_id(kind: str, made_from: Mapping[str, Any]) -> str:
    """`<kind>-<16 hex digits>` from everything that decides the content (JSON-serialisable)."""
    canonical = json.dumps(made_from, sort_keys=True, separators=(",", ":"), default=str)
    return f"{kind}-{hashlib.sha256(canonical.encode()).hexdigest()[:16]}"


class Artifacts:
    """Artifacts in a storage: found, read, begun and deleted."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def find(self, artifact: str) -> Manifest | None:
        """The manifest of a finished artifact, or None."""
        key = f"{prefix_of(artifact)}/{MANIFEST}"
        if not self.storage.exists(key):
            return None
        return Manifest.model_validate_json(self.storage.read(key))

    def get(self, artifact: str) -> Manifest:
        """The manifest of a finished artifact; NotFoundError when there is none."""
        manifest = self.find(artifact)
        if manifest is None:
            raise NotFoundError(f"No finished artifact {artifact!r}.", remedy="list them with `soldiom dataset list`")
        return manifest

    def all_of(self, kind: str) -> Iterator[Manifest]:
        """The manifests of all finished artifacts of a kind, by their ids. What lies below an artifact may have
        manifests of its own, as checkpoints do."""
        for key in self.storage.keys(kind):
            if key.endswith(f"/{MANIFEST}") and key.count("/") == 2:
                yield Manifest.model_validate_json(self.storage.read(key))

    def draft(self, kind: str, made_from: Mapping[str, Any], parents: Sequence[str] = ()) -> "Draft":
        """Begin, or resume, the artifact that these inputs determine. Check `Draft.finished` before doing work."""
        made_from = dict(made_from) | {"parents": list(parents)}
        return Draft(self, kind, artifact_id(kind, made_from), made_from, tuple(parents))

    def read(self, manifest: Manifest, name: str) -> bytes:
        """The bytes of one file, checked against its hash."""
        entry = next((entry for entry in manifest.files if entry.name == name), None)
        data = self.storage.read((entry and entry.key) or f"{prefix_of(manifest.id)}/{name}")
        if entry is not None and hashlib.sha256(data).hexdigest() != entry.sha256:
            raise DamagedError(
                f"{name} of {manifest.id} is not what was written.",
                remedy="delete the artifact and run its stage again",
            )
        return data

    def replace_file(self, artifact: str, name: str, data: bytes) -> None:
        """Write one file of an artifact anew, and then its hash into the manifest, where there is one."""
        prefix = prefix_of(artifact)
        written = self.storage.write(f"{prefix}/{name}", data)
        if (manifest := self.find(artifact)) is not None:
            entry = FileEntry(name=name, size_bytes=written.size_bytes, sha256=written.sha256)
            others = [each for each in manifest.files if each.name != name]
            files = tuple(sorted([*others, entry], key=lambda each: each.name))
            text = manifest.model_copy(update={"files": files}).model_dump_json(indent=2)
            self.storage.write(f"{prefix}/{MANIFEST}", text.encode())

    def tables(
        self, manifest: Manifest, folder: str = "", columns: Sequence[str] | None = None
    ) -> Iterator["pa.Table"]:
        """The Parquet shards of an artifact (those below `folder`), one Arrow table at a time, in name order; all
        columns, or those named."""
        import pyarrow.parquet as pq

        for entry in sorted(manifest.files, key=lambda entry: entry.name):
            if entry.name.endswith(".parquet") and entry.name.startswith(folder):
                yield pq.read_table(
                    io.BytesIO(self.read(manifest, entry.name)), columns=list(columns) if columns else None
                )

    def rows(
        self, manifest: Manifest, folder: str = "", columns: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The rows of the Parquet shards below `folder` as plain dictionaries."""
        for table in self.tables(manifest, folder, columns):
            yield from table.to_pylist()

    def preview(self, manifest: Manifest, folder: str, limit: int) -> list[dict[str, Any]]:
        """The first rows as JSON can hold them; a picture is a `data:` URL, which browsers show."""
        return [
            {name: _data_url(value) if isinstance(value, bytes) else value for name, value in row.items()}
            for row in islice(self.rows(manifest, folder), limit)
        ]

    def delete(self, artifact: str) -> None:
        """Remove an artifact, its manifest first, what is kept with it, and the shared files that no other artifact
        refers to."""
        prefix = prefix_of(artifact)
        manifest = self.find(artifact)
        self.storage.remove(f"{prefix}/{MANIFEST}")
        self.storage.remove(prefix)
        self.storage.remove(kept_prefix(artifact))
        shared = {entry.key for entry in manifest.files if entry.key} if manifest else set()
        if shared:
            others = self.all_of(kind_of(artifact))
            for key in shared - {entry.key for manifest in others for entry in manifest.files}:
                self.storage.remove(key)


def store_shared(storage: Storage, kind: str, name: str, data: bytes) -> FileEntry:
    """Store a file once for all artifacts of this kind that contain the same bytes; it becomes one of an artifact's
    with `Draft.add_written`."""
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"parts/{kind}/{sha256[:2]}/{sha256}"
    if not storage.exists(key):
        storage.write(key, data)
    return FileEntry(name=name, size_bytes=len(data), sha256=sha256, key=key)


@dataclass
class Draft:
    """An artifact that is being written. Files may come in any order; `commit` makes it exist."""

    artifacts: Artifacts
    kind: str
    id: str
    made_from: dict[str, Any]
    parents: tuple[str, ...]
    files: dict[str, FileEntry] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def prefix(self) -> str:
        """Storage prefix of the artifact, without a slash at its end."""
        return prefix_of(self.id)

    def finished(self) -> Manifest | None:
        """The manifest, if an earlier run has finished this artifact."""
        return self.artifacts.find(self.id)

    def write(self, name: str, data: bytes) -> FileEntry:
        """Add one file."""
        written = self.artifacts.storage.write(f"{self.prefix}/{name}", data)
        return self._add(name, written.size_bytes, written.sha256)

    def write_rows(self, name: str, rows: Sequence[Mapping[str, Any]], record: type[Record]) -> FileEntry:
        """Add one Parquet shard of rows of a record type."""
        return self.write(name, parquet_bytes(rows, record))

    def extended(self, **made_from: Any) -> "Draft":
        """The draft of another artifact with the same files, determined by further inputs that were not known before.
        All files must have been written with `write_shared`."""
        draft = self.artifacts.draft(self.kind, self.made_from | made_from, self.parents)
        return replace(draft, files=self.files, started=self.started)

    def write_shared(self, name: str, data: bytes) -> FileEntry:
        """Add one file, which is stored once for all artifacts of this kind that contain the same bytes."""
        self.files[name] = store_shared(self.artifacts.storage, self.kind, name, data)
        return self.files[name]

    def write_folder(self, folder: Path, under: str = "") -> None:
        """Add every file of a local folder, below `under`."""
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = f"{under}/{path.relative_to(folder).as_posix()}".lstrip("/")
            written = self.artifacts.storage.write_file(f"{self.prefix}/{name}", path)
            self._add(name, written.size_bytes, written.sha256)

    def add_written(self, entries: Iterable[FileEntry]) -> None:
        """Add files that are already stored, below `prefix` or by `store_shared`, by another process for example."""
        self.files |= {entry.name: entry for entry in entries}

    def commit(self, *, counts: Mapping[str, int] | None = None, details: Mapping[str, Any] | None = None) -> Manifest:
        """Write the manifest, with which the artifact begins to exist."""
        manifest = Manifest(
            kind=self.kind,
            id=self.id,
            made_from=self.made_from,
            parents=self.parents,
            counts=dict(counts or {}),
            details=dict(details or {}),
            files=tuple(sorted(self.files.values(), key=lambda entry: entry.name)),
            created_at=now(),
            seconds=round(time.monotonic() - self.started, 3),
            code_version=__version__,
        )
        self.artifacts.storage.write(f"{self.prefix}/{MANIFEST}", manifest.model_dump_json(indent=2).encode())
        return manifest

    def _add(self, name: str, size_bytes: int, sha256: str) -> FileEntry:
        self.files[name] = FileEntry(name=name, size_bytes=size_bytes, sha256=sha256)
        return self.files[name]


def kind_of(artifact: str) -> str:
    """The kind of an artifact by its id."""
    return artifact.rpartition("-")[0]


def prefix_of(artifact: str) -> str:
    """Storage prefix of an artifact id."""
    return f"{kind_of(artifact)}/{artifact}"


def kept_prefix(artifact: str) -> str:
    """Storage prefix of results that were computed from an artifact and can be computed again. They go when it goes,
    and when they are old."""
    return f"kept/of/{artifact}"


def parquet_bytes(rows: Sequence[Mapping[str, Any]], record: type[Record]) -> bytes:
    """Rows of a record type as one Parquet file (zstd). The columns and their types follow the record's fields;
    a column of optional bytes is left out when no row has any."""
    import pyarrow as pa

    types: dict[Any, Any] = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary()}
    types[bytes | None] = pa.binary()
    schema = pa.schema(
        [
            (
                name,
                pa.timestamp("us", tz="UTC")
                if "datetime" in str(info.annotation)
                else types.get(info.annotation, pa.string()),
            )
            for name, info in record.model_fields.items()
            if info.annotation != bytes | None or any(row.get(name) is not None for row in rows)
        ]
    )
    return table_bytes(pa.Table.from_pylist([dict(row) for row in rows], schema=schema))


def _data_url(picture: bytes) -> str:
    media = "image/jpeg" if picture.startswith(b"\xff\xd8") else "image/png"
    return f"data:{media};base64,{base64.b64encode(picture).decode()}"


def table_bytes(table: "pa.Table") -> bytes:
    """An Arrow table as one Parquet file (zstd)."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
