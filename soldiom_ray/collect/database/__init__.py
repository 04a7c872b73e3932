"""Source `database`: rows of a live database become documents.

The rows are read while the plan is made: only their content says whether an earlier collection is still good, since a
row count or the newest key would miss changed rows. So every run reads the whole selection once, in one snapshot;
what did not change is neither stored nor prepared a second time. A read that was interrupted starts again.
"""

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from soldiom_ray.artifacts import Context
from soldiom_ray.collect.database.reader import Reader, Selection, checked_query, open_reader
from soldiom_ray.collect.documents.columns import Columns, choose_columns, fields_text
from soldiom_ray.collect.documents.packs import CHARACTERS_PER_TEXT, ROWS_PER_TEXT
from soldiom_ray.collect.documents.records import read_record
from soldiom_ray.collect.task_cache import read_cached, write_cached
from soldiom_ray.collect.tasks import COLLECTED, Task, TaskList, TaskResult, document_id
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.connections import read_database_url
from soldiom_ray.domains.secrets import password_of
from soldiom_ray.domains.sources import DatabaseSource
from soldiom_ray.errors import InputError
from soldiom_ray.records import Document
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, open_storage

CHUNK_DOCUMENTS = 500
CHUNK_BYTES = 8 << 20
"""Rows of a table without a text column that make one document, as in files."""
EXAMPLE_ROWS, EXAMPLE_BYTES = 200, 4 << 20
Row = tuple[Sequence[str], Sequence[Any]]

UNDATED = datetime.fromtimestamp(0, UTC)
"""On stored documents, so that the same rows are the same bytes; a collection puts its own time there."""


@dataclass(frozen=True)
class ReadChunk:
    """A task: the documents of one stored chunk of rows."""

    key: str
    settings: Settings
    collected_at: datetime
    local_only: bool = False

    def run(self) -> TaskResult:
        """The documents with this collection's time. Raises InputError when they are gone from storage."""
        result = read_cached(open_storage(self.settings), self.key)
        if result is None:
            raise InputError("Rows that were read are gone from storage.", remedy="run the collection again")
        del result.facts["reused"]
        documents = [document.model_copy(update={"collected_at": self.collected_at}) for document in result.documents]
        return TaskResult(documents, result.outcomes, result.facts, result.drops)


@dataclass
class DatabasePlan:
    """The rows as they were read. `fingerprint` is the hash of all of them, in their order."""

    keys: Sequence[str]
    settings: Settings
    collected_at: datetime

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """The hash of all rows."""
        return {"rows": hashlib.sha256("\n".join(self.keys).encode()).hexdigest()}

    def list_tasks(self, report: Callable[[float, str], None]) -> TaskList:
        """One task per stored chunk."""
        tasks: list[Task] = [ReadChunk(key, self.settings, self.collected_at) for key in self.keys]
        return TaskList(tasks)


def plan(declared: DatabaseSource, context: Context, collected_at: datetime) -> DatabasePlan:
    """Read everything that is declared. Raises InputError or UnavailableError, without the password."""
    address, password = read_database_url(declared.url)
    password = password or password_of(context.settings, context.keeper, address)
    query = checked_query(declared.query, address.backend) if declared.query else ""
    settings = context.settings
    with open_reader(
        address,
        password,
        allowed=settings.private_hosts,
        private=declared.private,
        timeout_seconds=declared.timeout_seconds,
    ) as reader:
        if query:
            name = hashlib.sha256(query.encode()).hexdigest()[:12]
            selections = [Selection(f"query-{name}", query)]
        else:
            selections = reader.tables(declared.tables, declared.max_rows, declared.group_by)
        chunks = Chunks(open_storage(settings))
        refused: list[SkippedError] = []
        for selection in selections:
            refused += _read(reader, selection, declared, chunks, context.report)
    if refused and len(refused) == len(selections):
        raise InputError(f"{address.public_url}: {refused[0].detail}.", remedy="correct `columns` or `group_by`")
    return DatabasePlan(chunks.keys, settings, collected_at)


@dataclass
class Chunks:
    """Stores documents, a bounded number at a time, under the hash of their content."""

    storage: Storage
    keys: list[str] = field(default_factory=list)
    pending: TaskResult = field(default_factory=TaskResult)
    size_bytes: int = 0

    def add(self, document: Document) -> None:
        """Take a document; a full chunk is stored."""
        self.pending.documents.append(document)
        self.pending.outcomes[COLLECTED] += 1
        self.size_bytes += len(document.text)
        if len(self.pending.documents) >= CHUNK_DOCUMENTS or self.size_bytes >= CHUNK_BYTES:
            self.close()

    def close(self) -> None:
        """Store what is pending."""
        result = self.pending
        self.pending, self.size_bytes = TaskResult(), 0
        if not (result.documents or result.outcomes or result.facts):
            return
        digest = hashlib.sha256()
        for document in result.documents:
            digest.update(document.model_dump_json().encode(errors="surrogatepass"))
        summary = [result.outcomes, result.facts, [drop.model_dump() for drop in result.drops]]
        digest.update(json.dumps(summary, sort_keys=True).encode())
        key = f"kept/database/{digest.hexdigest()}"
        if not self.storage.exists(f"{key}.json"):
            write_cached(self.storage, key, result)
        self.keys.append(key)


def _read(
    reader: Reader,
    selection: Selection,
    declared: DatabaseSource,
    chunks: Chunks,
    report: Callable[[float, str], None],
) -> list[SkippedError]:
    """Read all rows of one selection. The errors returned say why the declared columns do not fit it; it is then read
    without them."""
    refused: list[SkippedError] = []
    writer: RowWriter | None = None
    count, location = 0, reader.address.public_url
    rows = reader.rows(selection)
    try:
        first = _first_rows(rows)
        for names, values in itertools.chain(first, rows):
            if declared.max_rows is not None and count >= declared.max_rows:
                chunks.pending.facts["more_rows"] += 1
                break
            if writer is None:
                columns, refused = _columns(names, declared, first)
                group_by = declared.group_by if declared.group_by in names else ""
                writer = RowWriter(location, selection, columns, group_by, declared.max_bytes, chunks)
            writer.add(names, values)
            count += 1
            if count % 1000 == 0:
                report(0.0, f"database: {count} rows of {selection.name}")
    finally:
        rows.close()
    if writer is None:
        chunks.pending.skip("user", location, selection.name, "empty", "no rows")
    else:
        writer.close()
        chunks.pending.facts["structured_files"] += 1
    chunks.close()
    return refused


def _first_rows(rows: Iterator[Row]) -> list[Row]:
    """The first rows, not too many: what their values are tells how columns are read (the scale of ratings)."""
    first: list[Row] = []
    size = 0
    for names, values in rows:
        first.append((names, values))
        size += sum(len(value) for value in values if isinstance(value, (str, bytes)))
        if len(first) >= EXAMPLE_ROWS or size > EXAMPLE_BYTES:
            break
    return first


def _columns(
    names: Sequence[str], declared: DatabaseSource, first: Sequence[Row]
) -> tuple[Columns, list[SkippedError]]:
    refused: list[SkippedError] = []
    if declared.group_by and declared.group_by not in names:
        known = ", ".join(repr(name[:60]) for name in names[:40])
        refused = [SkippedError("wrong_columns", f"no column {declared.group_by[:60]!r} to group by; known: {known}")]
    uncounted: dict[str, int] = defaultdict(int)
    examples = [{name: _plain(value, uncounted) for name, value in zip(*row, strict=True)} for row in first]
    try:
        return choose_columns(names, declared.columns, examples), refused
    except SkippedError as skipped:
        return choose_columns(names, {}, examples), [skipped]


@dataclass
class RowWriter:
    """Rows of one selection become documents: one each where columns hold their text, else many to a document."""

    location: str
    selection: Selection
    columns: Columns
    group_by: str
    max_bytes: int
    chunks: Chunks
    number: int = 0
    pooled: list[str] = field(default_factory=list)
    pooled_bytes: int = 0
    pooled_group: str = ""

    def add(self, names: Sequence[str], values: Sequence[Any]) -> None:
        """One row. Rows without a text, and those that are too large, are counted."""
        self.number += 1
        facts = self.chunks.pending.facts
        record = {name: _plain(value, facts) for name, value in zip(names, values, strict=True)}
        size = sum(len(value) if isinstance(value, str) else 8 for value in record.values())
        if size > self.max_bytes:
            self._skip("too_large", f"more than {self.max_bytes} bytes")
            return
        facts["rows"] += 1
        key = self._key(record)
        if not self.columns.by_role:
            self._pool(record)
            return
        try:
            record_read = read_record(record, self.columns)
        except SkippedError as skipped:
            self._skip(skipped.reason, skipped.detail)
            return
        if record_read is None:
            self._skip("empty", "no text in its columns")
            return
        for role, column in self.columns.by_role.items():
            facts[f"column {role}={column}"] += 1
        metadata = {"columns": self.columns.by_role, **record_read.metadata}
        self._document(record_read.text, key, f"{self.selection.name}#{self._group(record) or key}", metadata)

    def close(self) -> None:
        """Write the pooled rows."""
        if self.pooled:
            first = self.number - len(self.pooled) + 1
            metadata = {"rows": len(self.pooled)}
            part = f"rows-from-{first}" if not self.pooled_group else f"{self.pooled_group}-{first}"
            group = f"{self.selection.name}#{self.pooled_group}" if self.pooled_group else self.selection.name
            self._document("\n\n".join(self.pooled), part, group, metadata)
        self.pooled, self.pooled_bytes = [], 0

    def _pool(self, record: Mapping[str, Any]) -> None:
        text, group = fields_text(record), self._group(record)
        full = len(self.pooled) >= ROWS_PER_TEXT or self.pooled_bytes + len(text) > CHARACTERS_PER_TEXT
        if self.pooled and (full or group != self.pooled_group):
            self.number -= 1
            self.close()
            self.number += 1
        self.pooled.append(text)
        self.pooled_bytes += len(text)
        self.pooled_group = group

    def _document(self, text: str, part: str, group: str, metadata: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
        name = self.selection.name
        url = f"{self.location}#{name}/{part}"
        # Rows of a query have no name of their own: the text itself distinguishes them.
        self.chunks.add(
            Document(
                id=document_id("user", url if self.selection.key else f"{self.location}#{name}", digest),
                text=text,
                source="user",
                url=url,
                path=f"{name}/{part}",
                group=f"{self.location}#{group}",
                sha256=digest,
                kind="other",
                language="text",
                rule=f"database:{name}",
                collected_at=UNDATED,
                metadata=json.dumps(metadata),
            )
        )

    def _key(self, record: Mapping[str, Any]) -> str:
        """A row's name in addresses: its primary key where that is a number, else a hash of it, since a key
        may be someone's name; the number of the row where there is no key."""
        values = [record[column] for column in self.selection.key if column in record]
        if not values:
            return f"row-{self.number}"
        if all(isinstance(value, int) for value in values):
            return "-".join(map(str, values))
        return _short_hash(values)

    def _group(self, record: Mapping[str, Any]) -> str:
        """A hash, since groups are shown and never redacted; "" without `group_by`."""
        return _short_hash(record[self.group_by]) if self.group_by else ""

    def _skip(self, reason: str, detail: str) -> None:
        self.chunks.pending.skip("user", self.location, f"{self.selection.name}/row-{self.number}", reason, detail)


def _short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]


def _plain(value: Any, facts: dict[str, int]) -> Any:
    """A value as JSON holds it. Types that no one knows are written as the driver writes them; bytes that are not text
    are dropped and counted."""
    if value is None or isinstance(value, bool | int | str):
        return _conversation(value)
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return _bytes_text(bytes(value), facts)
    if isinstance(value, dict):
        return {str(name): _plain(inner, facts) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, facts) for inner in value]
    if isinstance(value, set | frozenset):
        return sorted(str(inner) for inner in value)
    return str(value)


def _conversation(value: Any) -> Any:
    """A text that is a JSON list of objects, as databases without a JSON type keep conversations, as that list."""
    if isinstance(value, str) and value.startswith("[{") and value.endswith("}]"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _bytes_text(data: bytes, facts: dict[str, int]) -> str | None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if any(not character.isprintable() and character not in "\t\r\n" for character in text):
        facts["binary_values"] += 1
        return None
    return text
