"""Source `files`: files and folders given by path, and inputs that users uploaded before."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from soldiom_ray.artifacts import Context
from soldiom_ray.collect.documents import SUPPORTED
from soldiom_ray.collect.documents.parsed import ParsedText
from soldiom_ray.collect.documents.sandbox import Sandbox
from soldiom_ray.collect.label import LANGUAGES, label
from soldiom_ray.collect.text import LeftOut
from soldiom_ray.collect.work import COLLECTED, Gathered, Task, Todo, document_id
from soldiom_ray.domains.schema import FilesSource
from soldiom_ray.errors import InputError, NotFoundError, Problem
from soldiom_ray.records import Document
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage

FILES_PER_TASK = 64


@dataclass(frozen=True, slots=True)
class Given:
    """One file to parse: where its bytes are (a path here, a key in storage, or `content` itself)."""

    name: str
    url: str
    group: str
    place: Path | None = None
    key: str = ""
    content: str | None = None
    metadata: str = "{}"


@dataclass(frozen=True)
class ParseFiles:
    """A task: parse these files in a sandbox."""

    files: tuple[Given, ...]
    settings: Settings
    max_bytes: int
    collected_at: datetime
    here: bool = True

    def run(self) -> Gathered:
        gathered = Gathered()
        with Sandbox() as sandbox:
            for given in self.files:
                try:
                    data = self._bytes(given)
                    texts = sandbox.parse(given.name, data)
                except LeftOut as left:
                    gathered.leave_out("user", given.group, given.name, left.outcome, left.why)
                    continue
                gathered.outcomes[COLLECTED] += 1
                gathered.documents.extend(_document(given, data, parsed, self.collected_at) for parsed in texts)
                _note_facts(gathered, texts)
        return gathered

    def _bytes(self, given: Given) -> bytes:
        if given.content is not None:
            data = given.content.encode()
        elif given.place is not None:
            try:
                if given.place.stat().st_size > self.max_bytes:
                    raise LeftOut("too_large", f"more than {self.max_bytes} bytes")
                data = given.place.read_bytes()
            except OSError as error:
                raise LeftOut("unreadable", type(error).__name__) from error
        else:
            try:
                data = open_storage(self.settings).read(given.key)
            except NotFoundError as error:
                raise LeftOut("unreadable", "its content is not in storage") from error
        if len(data) > self.max_bytes:
            raise LeftOut("too_large", f"more than {self.max_bytes} bytes")
        return data


@dataclass
class FilesPlan:
    """The files of a source. `fingerprint` holds size and time of every path, and the hash of every input."""

    files: Sequence[Given]
    fingerprint: Mapping[str, Any]
    declared: FilesSource
    settings: Settings
    collected_at: datetime

    def todo(self, report: Callable[[float, str], None]) -> Todo:
        starts = range(0, len(self.files), FILES_PER_TASK)
        groups = [tuple(self.files[s : s + FILES_PER_TASK]) for s in starts]
        tasks: list[Task] = [
            ParseFiles(group, self.settings, self.declared.max_bytes, self.collected_at) for group in groups
        ]
        return Todo(tasks)


def plan(declared: FilesSource, context: Context, collected_at: datetime) -> FilesPlan:
    """Find all files and inputs; InputError names everything that is missing."""
    problems: list[Problem] = []
    files: list[Given] = []
    prints: list[Any] = []
    for text in declared.paths:
        path = Path(text).expanduser().absolute()
        if path.is_file():
            found = [(path.name, path)]
        elif path.is_dir():
            found = [(f"{path.name}/{file.relative_to(path).as_posix()}", file) for file in sorted(_files_below(path))]
        else:
            problems.append(Problem("collect.paths", f"{text!r} does not exist"))
            continue
        files.extend(Given(name, file.as_uri(), name, file) for name, file in found)
        prints.extend((name, file.stat().st_size, file.stat().st_mtime_ns) for name, file in found)
    given, hashes = _inputs(declared.inputs, context, problems)
    if problems:
        raise InputError(
            "Some of the files to collect are missing.", remedy="correct the paths and ids", problems=problems
        )
    fingerprint = {"files": hashlib.sha256(json.dumps(prints).encode()).hexdigest(), "inputs": hashes}
    return FilesPlan(files + given, fingerprint, declared, context.settings, collected_at)


def _inputs(ids: Sequence[str], context: Context, problems: list[Problem]) -> tuple[list[Given], dict[str, str]]:
    if not ids:
        return [], {}
    from soldiom_ray.db import inputs
    from soldiom_ray.db.engine import session

    files, hashes = [], {}
    with session(context.settings) as opened:
        for name in dict.fromkeys(ids):
            try:
                row = inputs.get(opened, name, context.tenant)
            except NotFoundError:
                problems.append(Problem("collect.inputs", f"no user input {name!r}"))
                continue
            told = dict(row.metadata_ or {})
            ending = ".json" if row.input_type == "structured" else ".txt"
            file_name = str(told.get("file_name") or f"{name}{ending}")
            if row.input_type == "file" and Path(file_name).suffix.lower() not in SUPPORTED:
                media = str(told.get("content_type") or "").partition(";")[0]
                file_name += next((suffix for suffix, known in SUPPORTED.items() if known == media), "")
            stored = row.input_type == "file"
            metadata = json.dumps({"user_input": name, "user_id": row.user_id})
            files.append(
                Given(
                    file_name,
                    f"input:{name}",
                    f"input/{name}",
                    None,
                    row.content if stored else "",
                    None if stored else row.content,
                    metadata,
                )
            )
            hashes[name] = row.sha256
    return files, hashes


def _document(given: Given, data: bytes, parsed: ParsedText, collected_at: datetime) -> Document:
    digest = hashlib.sha256(parsed.text.encode(errors="surrogatepass") if parsed.part else data).hexdigest()
    url = f"{given.url}#{parsed.part.replace(' ', '-')}" if parsed.part else given.url
    told = label(given.name, parsed.text)
    suffix = Path(given.name).suffix.lower()
    kind = (
        told.kind
        if suffix in LANGUAGES and suffix not in SUPPORTED
        else "documentation"
        if suffix not in (".csv", ".tsv", ".json", ".jsonl")
        else "other"
    )
    return Document(
        id=document_id("user", url, digest),
        text=parsed.text,
        source="user",
        url=url,
        path=given.name,
        group=f"{given.group}#{parsed.part}" if parsed.part.startswith(("row ", "record ")) else given.group,
        sha256=digest,
        license="",
        kind=kind,
        framework=told.framework,
        language=told.language or "text",
        rule="files",
        collected_at=collected_at,
        metadata=json.dumps(json.loads(given.metadata) | parsed.metadata),
    )


def _note_facts(gathered: Gathered, texts: Sequence[ParsedText]) -> None:
    metadata = texts[0].metadata
    for name in ("ragged_rows", "bad_lines", "bad_pages"):
        gathered.facts[name] += int(metadata.get(name, 0))
    gathered.facts["encoding_guessed"] += "encoding" in metadata
    gathered.facts += type(gathered.facts)()


def _files_below(folder: Path) -> list[Path]:
    found = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    return [p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
