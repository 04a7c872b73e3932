"""Source `files`: files and folders given by path, and inputs that users uploaded before."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from soldiom_ray import licenses
from soldiom_ray.artifacts import Context
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.documents.pictures import metadata_from_path
from soldiom_ray.collect.documents.sandbox import Sandbox
from soldiom_ray.collect.documents.speech import speech_model_problem
from soldiom_ray.collect.label import LANGUAGES, label
from soldiom_ray.collect.picture_tables import read_tables
from soldiom_ray.collect.raw import store_raw
from soldiom_ray.collect.source_files import is_included
from soldiom_ray.collect.tasks import COLLECTED, Task, TaskList, TaskResult, document_id
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.file_types import FAMILY_OF_ENDING, SUPPORTED
from soldiom_ray.domains.schema import FilesSource
from soldiom_ray.errors import InputError, NotFoundError, Problem
from soldiom_ray.records import Document
from soldiom_ray.sealing import unseal_text
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, open_storage

FILES_PER_TASK = 64
BYTES_PER_TASK = 64 << 20
PARSERS = 6
"""Raise it when the same bytes would now give other texts."""

COUNTED_FACTS = (
    *("ragged_rows", "blank_rows", "unclosed_quotes", "nul_bytes", "bad_lines", "blank_records", "bad_tables"),
    *("bad_messages", "bad_chapters", "cut_off", "lone_surrogates", "bad_pages", "ocr_pages", "ocr_skipped_pages"),
)
"""Metadata of a file that is counted over all files: numbers, or lists whose length counts."""

MAY_BE_BETTER_NEXT_TIME = ("timeout", "too_complex", "crashed")
STRUCTURED = ("table", "json", "parquet", "sqlite", "sql", "workbook")


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
    license: str = ""
    size_bytes: int = 0


@dataclass(frozen=True)
class ParseFiles:
    """A task: parse these files in a sandbox. What a file gave is kept under the hash of its bytes, so that neither a
    collection that was killed nor a later one parses it again."""

    files: tuple[Given, ...]
    settings: Settings
    options: ParseOptions
    max_bytes: int
    collected_at: datetime
    local_only: bool

    def run(self) -> TaskResult:
        result, storage = TaskResult(), open_storage(self.settings)
        with Sandbox() as sandbox:
            for given in self.files:
                try:
                    data = self._bytes(given, storage)
                    texts = parse_once(given.name, data, self.options, sandbox, storage)
                except SkippedError as skipped:
                    result.skip("user", given.group, given.name, skipped.reason, skipped.detail)
                    continue
                sha256 = store_raw(storage, data)
                result.outcomes[COLLECTED] += 1
                result.documents.extend(_document(given, sha256, parsed, self.collected_at) for parsed in texts)
                _note_facts(result, given, texts)
        return result

    def _bytes(self, given: Given, storage: Storage) -> bytes:
        if given.content is not None:
            data = given.content.encode()
        elif given.place is not None:
            try:
                if given.place.stat().st_size > self.max_bytes:
                    raise SkippedError("too_large", f"more than {self.max_bytes} bytes")
                data = given.place.read_bytes()
            except OSError as error:
                raise SkippedError("unreadable", type(error).__name__) from error
        else:
            try:
                data = storage.read(given.key)
            except NotFoundError as error:
                raise SkippedError("unreadable", "its content is not in storage") from error
        if len(data) > self.max_bytes:
            raise SkippedError("too_large", f"more than {self.max_bytes} bytes")
        return data


def parse_once(name: str, data: bytes, options: ParseOptions, sandbox: Sandbox, storage: Storage) -> list[ParsedText]:
    """The texts of a file: those kept from an earlier time, or parsed now and kept. Attachments are kept by their hash
    and told in the first text's metadata. Raises SkippedError as the sandbox does."""
    ending = PurePosixPath(name.lower()).suffix
    decides = [PARSERS, hashlib.sha256(data).hexdigest(), ending, asdict(options)]
    key = f"kept/parsed/{hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()}.json"
    if storage.exists(key):
        told = json.loads(storage.read(key))
        if "outcome" in told:
            raise SkippedError(told["outcome"], told["why"])
        return [ParsedText(text, part, metadata) for text, part, metadata in told["texts"]]
    try:
        texts = [_attachments_kept(parsed, storage) for parsed in sandbox.parse(name, data, options)]
    except SkippedError as skipped:
        if skipped.reason not in MAY_BE_BETTER_NEXT_TIME:
            storage.write(key, json.dumps({"outcome": skipped.reason, "why": skipped.detail}).encode())
        raise
    if not any(parsed.image for parsed in texts):  # those are decoded sooner than they were written and read
        rows = [(parsed.text, parsed.part, parsed.metadata) for parsed in texts]
        storage.write(key, json.dumps({"texts": rows}).encode())
    return texts


def _attachments_kept(parsed: ParsedText, storage: Storage) -> ParsedText:
    if not parsed.attachments:
        return parsed
    told = [{"sha256": store_raw(storage, one.data), **one.metadata} for one in parsed.attachments]
    return replace(parsed, metadata=parsed.metadata | {"attachments": told}, attachments=())


@dataclass
class FilesPlan:
    """The files of a source. `fingerprint` holds size and time of every path, and the hash of every input."""

    files: Sequence[Given]
    fingerprint: Mapping[str, Any]
    declared: FilesSource
    settings: Settings
    collected_at: datetime
    result: TaskResult

    def list_tasks(self, report: Callable[[float, str], None]) -> TaskList:
        declared = self.declared
        options = ParseOptions(declared.columns, declared.ocr, declared.speech_model, declared.pictures)
        files = _with_tables(self.files, declared, self.result) if declared.pictures else self.files
        local_only = any(given.place is not None for given in files)
        tasks: list[Task] = [
            ParseFiles(group, self.settings, options, declared.max_bytes, self.collected_at, local_only)
            for group in _groups_of_files(files)
        ]
        return TaskList(tasks, self.result)


def _groups_of_files(files: Sequence[Given]) -> Iterator[tuple[Given, ...]]:
    """At most FILES_PER_TASK and, but for a larger file, BYTES_PER_TASK: what they give is in memory at once."""
    group: list[Given] = []
    for given in files:
        size = sum(one.size_bytes for one in group) + given.size_bytes
        if group and (len(group) == FILES_PER_TASK or size > BYTES_PER_TASK):
            yield tuple(group)
            group = []
        group.append(given)
    if group:
        yield tuple(group)


def _with_tables(files: Sequence[Given], declared: FilesSource, result: TaskResult) -> list[Given]:
    """The files but for tables of pictures, whose rows become metadata of the pictures that they name."""
    places = {given.place: given.name for given in files if given.place is not None}
    told, tables = read_tables(places, declared.columns, declared.max_bytes, result)
    rest = [given for given in files if given.place not in tables]
    return [replace(given, metadata=json.dumps(told[given.place])) if given.place in told else given for given in rest]


def plan(declared: FilesSource, context: Context, collected_at: datetime) -> FilesPlan:
    """Find all files and inputs; InputError names everything that is missing."""
    problems: list[Problem] = []
    if declared.speech_model and (why := speech_model_problem(declared.speech_model)):
        problems.append(Problem("collect.speech_model", why))
    license_ = _license(declared.license, problems)
    files: list[Given] = []
    result = TaskResult()
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
        chosen = [
            (name, file) for name, file in found if is_included(name, declared.include or ("*",), declared.exclude)
        ]
        result.outcomes["not_included"] += len(found) - len(chosen)
        found = chosen
        for name, file in found:
            size = file.stat().st_size
            files.append(Given(name, file.as_uri(), name, file, license=license_, size_bytes=size))
            prints.append((name, size, file.stat().st_mtime_ns))
    given, hashes = _inputs(declared.inputs, context, problems)
    if problems:
        raise InputError(
            "The files cannot be collected as declared.", remedy="correct what is named", problems=problems
        )
    digest = hashlib.sha256(json.dumps(prints).encode()).hexdigest()
    fingerprint = {"files": digest, "inputs": hashes, "parsers": PARSERS}
    result.outcomes += Counter()
    return FilesPlan(files + given, fingerprint, declared, context.settings, collected_at, result)


def _license(declared: str, problems: list[Problem]) -> str:
    found = licenses.from_name(declared) if declared else ""
    if declared and not found:
        problems.append(Problem("collect.license", f"{declared!r} is no licence that is known; write it as SPDX does"))
    return found


def _inputs(ids: Sequence[str], context: Context, problems: list[Problem]) -> tuple[list[Given], dict[str, str]]:
    if not ids:
        return [], {}
    from soldiom_ray.db import inputs
    from soldiom_ray.db.engine import open_session

    files, hashes = [], {}
    with open_session(context.settings) as session:
        for name in dict.fromkeys(ids):
            try:
                row = inputs.get(session, name, context.tenant)
            except NotFoundError:
                problems.append(Problem("collect.inputs", f"no user input {name!r}"))
                continue
            told = dict(row.metadata_ or {})
            ending = ".json" if row.input_type == "structured" else ".txt"
            file_name = str(told.get("filename") or told.get("file_name") or f"{name}{ending}")
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
                    None
                    if stored
                    else unseal_text(row.content, f"user_inputs/{name}", context.settings.encryption_key),
                    metadata,
                )
            )
            hashes[name] = row.sha256
    return files, hashes


def _document(given: Given, file_sha256: str, parsed: ParsedText, collected_at: datetime) -> Document:
    content = parsed.image or parsed.text.encode(errors="surrogatepass")
    digest = hashlib.sha256(content).hexdigest() if parsed.part else file_sha256
    url = f"{given.url}#{parsed.part.replace(' ', '-')}" if parsed.part else given.url
    told = label(given.name, parsed.text)
    suffix = Path(given.name).suffix.lower()
    if suffix in LANGUAGES and suffix not in SUPPORTED:
        kind = told.kind
    else:
        kind = "documentation" if data_type(given.name) == "text" else "other"
    metadata = json.loads(given.metadata) | parsed.metadata | ({"file_sha256": file_sha256} if parsed.part else {})
    if parsed.image:
        metadata = metadata_from_path(parsed.part or given.name.partition("/")[2]) | metadata
    return Document(
        id=document_id("user", url, digest),
        text=metadata.pop("caption", "") if parsed.image else parsed.text,
        source="user",
        url=url,
        path=given.name,
        group=_group(given, parsed, metadata),
        sha256=digest,
        license=licenses.from_name(str(metadata.get("license") or "")) or given.license,
        kind=kind,
        framework=told.framework,
        language="" if suffix in SUPPORTED and suffix != ".ipynb" else told.language or "text",
        rule="files",
        collected_at=collected_at,
        metadata=json.dumps(metadata),
        image=parsed.image,
    )


def _group(given: Given, parsed: ParsedText, metadata: Mapping[str, Any]) -> str:
    """A record and a picture stand for themselves, or for what their own column says that they belong to (hashed: names
    of groups are not redacted)."""
    if named := metadata.get("group"):
        holder = given.group.partition("/")[0] if parsed.image else given.group
        return f"{holder}#{hashlib.sha256(str(named).encode(errors='surrogatepass')).hexdigest()[:12]}"
    stands_alone = parsed.part.startswith(("row ", "record ")) or (parsed.image and parsed.part)
    return f"{given.group}#{parsed.part}" if stands_alone else given.group


def data_type(name: str) -> str:
    """Which of a dataset's data types a file is: text, structured, image, audio or video."""
    family = FAMILY_OF_ENDING.get(PurePosixPath(name.lower()).suffix, "text")
    if family in ("image", "audio", "video"):
        return family
    if family == "arrays":
        return "image"
    return "structured" if family in STRUCTURED else "text"


def _note_facts(result: TaskResult, given: Given, texts: Sequence[ParsedText]) -> None:
    """What is told of a file beside its texts: counts, guessed columns, members of an archive that were left out."""
    result.facts[f"{data_type(given.name)}_files"] += 1
    first = texts[0].metadata
    for fact in COUNTED_FACTS:
        value = first.get(fact, 0)
        result.facts[fact] += len(value) if isinstance(value, list) else int(value)
    result.facts["encoding_guessed"] += "encoding" in first
    for metadata in (parsed.metadata for parsed in texts):
        for outcome, count in (metadata.get("left_out_counts") or {}).items():
            result.outcomes[f"member_{outcome}"] += count
        for member in metadata.get("left_out") or ():
            path = f"{given.name}!{member['name']}"
            result.record_drop("user", given.group, path, f"member_{member['outcome']}", member["why"])
        for role, column in sorted((metadata.get("columns") or {}).items()):
            result.facts[f"column {role}={column}"] += 1
    result.facts += Counter()


def _files_below(folder: Path) -> list[Path]:
    found = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    return [p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
