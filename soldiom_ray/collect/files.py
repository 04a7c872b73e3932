"""Source `files`: files and folders by path, and inputs that users uploaded before (rows of `user_inputs`).

One word for each side: a recipe, the CLI and this module say `files`; the documents have `source="user"`, because they
are a user's own data and not public sources, as do the rows of the sources `database` and `url`.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from soldiom_ray import licenses
from soldiom_ray.artifacts import Context
from soldiom_ray.collect.about_data import ABOUT_THE_DATA, WHY, about_data
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.documents.pictures import metadata_from_path
from soldiom_ray.collect.documents.sandbox import Sandbox
from soldiom_ray.collect.documents.speech import NO_TRANSCRIPT, speech_model_problem
from soldiom_ray.collect.label import LANGUAGES, label
from soldiom_ray.collect.picture_tables import read_tables
from soldiom_ray.collect.raw import store_raw
from soldiom_ray.collect.source_files import is_included
from soldiom_ray.collect.tasks import COLLECTED, Task, TaskList, TaskResult, document_id
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.access import Folders, is_within, read_within
from soldiom_ray.domains.file_types import FAMILY_OF_ENDING, SUPPORTED
from soldiom_ray.domains.sources import FilesSource
from soldiom_ray.errors import InputError, NotFoundError, Problem
from soldiom_ray.records import Document
from soldiom_ray.sealing import unseal_text
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, open_storage

FILES_PER_TASK = 64
BYTES_PER_TASK = 64 << 20
PARSERS_VERSION = 20
"""Increase it when the same bytes would give other texts than before."""

COUNTED_FACTS = (
    *("ragged_rows", "blank_rows", "unclosed_quotes", "nul_bytes", "bad_lines", "blank_records", "bad_tables"),
    *("repaired_json",),
    *("bad_messages", "bad_chapters", "cut_off", "lone_surrogates", "bad_pages", "ocr_pages", "ocr_skipped_pages"),
)
"""Metadata entries that are added up over all files: numbers, or lists by their length."""

_HARMLESS_GROUP = re.compile(r"(?=.*[A-Za-z])[\w][\w .,:/+-]{0,79}")
_PERSONAL_GROUP = re.compile(r"\d{5}|^(?:[A-Z][a-z]+,? ){1,2}[A-Z][a-z]+$|^[A-Z][a-z]+,? [A-Z]\. ?[A-Z]")
"""Long numbers, and what may be first and last names."""
_PERSONAL_COLUMN = re.compile(
    r"user|customer|client|patient|person|name|author|account|owner|member|employee|student|mail|phone|conversation"
    r"|thread|session|chat"
)

NOT_CACHED = ("timeout", "too_complex", "crashed")
STRUCTURED = ("table", "json", "parquet", "sqlite", "sql", "workbook")


@dataclass(frozen=True, slots=True)
class UserFile:
    """One file to parse. Its bytes are at a local `path`, under a `key` in storage, or in `content`."""

    name: str
    url: str
    group: str
    path: Path | None = None
    key: str = ""
    content: str | None = None
    metadata: str = "{}"
    license: str = ""
    size_bytes: int = 0
    folders: Folders = None


@dataclass(frozen=True)
class ParseFiles:
    """A task: parse these files in a sandbox. The texts of a file are cached under the hash of its bytes, so that
    neither a resumed collection nor a later one parses it again."""

    files: tuple[UserFile, ...]
    settings: Settings
    options: ParseOptions
    max_bytes: int
    collected_at: datetime
    local_only: bool

    def run(self) -> TaskResult:
        """The documents of all files; files that gave none are skipped with their reason."""
        result, storage = TaskResult(), open_storage(self.settings)
        with Sandbox() as sandbox:
            for file in self.files:
                try:
                    data = self._bytes(file, storage)
                    texts = parse_once(file.name, data, self.options, sandbox, storage)
                except SkippedError as skipped:
                    result.skip("user", file.group, file.name, skipped.reason, skipped.detail)
                    continue
                sha256 = store_raw(storage, data)
                result.outcomes[COLLECTED] += 1
                result.documents.extend(_document(file, sha256, parsed, self.collected_at) for parsed in texts)
                _note_facts(result, file, texts)
        return result

    def _bytes(self, file: UserFile, storage: Storage) -> bytes:
        if file.content is not None:
            data = file.content.encode()
        elif file.path is not None:
            try:
                if file.path.stat().st_size > self.max_bytes:
                    raise SkippedError("too_large", f"more than {self.max_bytes} bytes")
                data = read_within(file.path, file.folders)
            except OSError as error:
                raise SkippedError("unreadable", type(error).__name__) from error
        else:
            try:
                data = storage.read(file.key)
            except NotFoundError as error:
                raise SkippedError("unreadable", "its content is not in storage") from error
        if len(data) > self.max_bytes:
            raise SkippedError("too_large", f"more than {self.max_bytes} bytes")
        return data


def parse_once(name: str, data: bytes, options: ParseOptions, sandbox: Sandbox, storage: Storage) -> list[ParsedText]:
    """The texts of a file, cached or parsed now. Attachments are stored under their hash and listed in the text's
    metadata. Raises SkippedError as the sandbox does."""
    ending = PurePosixPath(name.lower()).suffix
    inputs = [PARSERS_VERSION, hashlib.sha256(data).hexdigest(), ending, asdict(options)]
    key = f"kept/parsed/{hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()}.json"
    if storage.exists(key):
        cached = json.loads(storage.read(key))
        if "outcome" in cached:
            raise SkippedError(cached["outcome"], cached["why"])
        return [ParsedText(text, part, metadata) for text, part, metadata in cached["texts"]]
    try:
        texts = [_store_attachments(parsed, storage) for parsed in sandbox.parse(name, data, options)]
    except SkippedError as skipped:
        if skipped.reason not in NOT_CACHED:
            storage.write(key, json.dumps({"outcome": skipped.reason, "why": skipped.detail}).encode())
        raise
    if not any(parsed.image for parsed in texts):  # decoding pictures again is faster than caching them
        rows = [(parsed.text, parsed.part, parsed.metadata) for parsed in texts]
        storage.write(key, json.dumps({"texts": rows}).encode())
    return texts


def _store_attachments(parsed: ParsedText, storage: Storage) -> ParsedText:
    if not parsed.attachments:
        return parsed
    stored = [
        {"sha256": store_raw(storage, attachment.data), **attachment.metadata} for attachment in parsed.attachments
    ]
    return replace(parsed, metadata=parsed.metadata | {"attachments": stored}, attachments=())


@dataclass
class FilesPlan:
    """The listed files of a source. `fingerprint` covers size and time of every file, and the hash of every input."""

    files: Sequence[UserFile]
    fingerprint: Mapping[str, Any]
    declared: FilesSource
    settings: Settings
    collected_at: datetime
    result: TaskResult

    def list_tasks(self, report: Callable[[float, str], None]) -> TaskList:
        """Tasks over the files, in their order."""
        declared = self.declared
        options = ParseOptions(declared.columns, declared.ocr, declared.speech_model, declared.pictures)
        files = _with_table_metadata(self.files, declared, self.result) if declared.pictures else self.files
        local_only = any(file.path is not None for file in files)
        tasks: list[Task] = [
            ParseFiles(group, self.settings, options, declared.max_bytes, self.collected_at, local_only)
            for group in _task_groups(files)
        ]
        return TaskList(tasks, self.result)


def _task_groups(files: Sequence[UserFile]) -> Iterator[tuple[UserFile, ...]]:
    """Groups of at most FILES_PER_TASK files and, except for single larger files, BYTES_PER_TASK: the texts of a group
    are in memory at once."""
    group: list[UserFile] = []
    for file in files:
        size = sum(member.size_bytes for member in group) + file.size_bytes
        if group and (len(group) == FILES_PER_TASK or size > BYTES_PER_TASK):
            yield tuple(group)
            group = []
        group.append(file)
    if group:
        yield tuple(group)


def _with_table_metadata(files: Sequence[UserFile], declared: FilesSource, result: TaskResult) -> list[UserFile]:
    """The files without tables that describe pictures, whose rows become metadata of the pictures that they name."""
    names = {file.path: file.name for file in files if file.path is not None}
    metadata, tables = read_tables(
        names, declared.columns, declared.max_bytes, result, next(iter(files)).folders if files else None
    )
    others = [file for file in files if file.path not in tables]
    return [
        replace(file, metadata=json.dumps(metadata[file.path])) if file.path in metadata else file for file in others
    ]


def plan(declared: FilesSource, context: Context, collected_at: datetime) -> FilesPlan:
    """List all files and inputs; InputError names everything that is missing."""
    problems: list[Problem] = []
    if declared.speech_model and (problem := speech_model_problem(declared.speech_model)):
        problems.append(Problem("collect.speech_model", problem))
    license_ = _license(declared.license, problems)
    files: list[UserFile] = []
    result = TaskResult()
    stats: list[Any] = []
    for text in declared.paths:
        path = Path(text).expanduser().absolute()
        if not (path.is_file() or path.is_dir()):
            problems.append(Problem("collect.paths", f"{text!r} does not exist"))
            continue
        named = _named_files(path)
        wanted = {name: file for name, file in named if is_included(name, declared.include or ("*",), declared.exclude)}
        about = about_data(wanted if path.is_dir() else {}, context.folders, pictures=declared.pictures)
        for name, file in named:
            if not is_within(file, context.folders):
                result.skip("user", path.name, name, "leads_out", "a link out of the folder")
            elif name in about.files:
                result.skip("user", path.name, name, ABOUT_THE_DATA, WHY)
                stats.append((name, file.stat().st_size, file.stat().st_mtime_ns))
            elif name in wanted:
                stat = file.stat()
                files.append(
                    UserFile(
                        name,
                        file.as_uri(),
                        name,
                        file,
                        license=license_ or about.license_of(name),
                        size_bytes=stat.st_size,
                        folders=context.folders,
                    )
                )
                stats.append((name, stat.st_size, stat.st_mtime_ns))
            else:
                result.outcomes["not_included"] += 1
    inputs, hashes = _inputs(declared.inputs, license_, context, problems)
    if problems:
        raise InputError(
            "The files cannot be collected as declared.", remedy="correct what is named", problems=problems
        )
    digest = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    fingerprint = {"files": digest, "inputs": hashes, "parsers": PARSERS_VERSION}
    if own := {file.url: file.license for file in inputs if file.license}:
        fingerprint["input licenses"] = own
    return FilesPlan(files + inputs, fingerprint, declared, context.settings, collected_at, result)


def _license(declared: str, problems: list[Problem]) -> str:
    license_ = licenses.from_name(declared) if declared else ""
    if declared and not license_:
        problems.append(Problem("collect.license", f"{declared!r} is no licence that is known; write it as SPDX does"))
    return license_


def _inputs(
    ids: Sequence[str], license_: str, context: Context, problems: list[Problem]
) -> tuple[list[UserFile], dict[str, str]]:
    """(files, hash of each by id) of what users uploaded, under the license that its metadata names or the source
    declares; ids that do not exist are added to `problems`."""
    if not ids:
        return [], {}
    from soldiom_ray.db import inputs
    from soldiom_ray.db.engine import open_session

    files, hashes = [], {}
    with open_session(context.settings) as session:
        for input_id in dict.fromkeys(ids):
            try:
                row = inputs.get(session, input_id, context.tenant)
            except NotFoundError:
                problems.append(Problem("collect.inputs", f"no user input {input_id!r}"))
                continue
            is_file = row.input_type == "file"
            content = None
            if not is_file:
                content = unseal_text(row.content, f"user_inputs/{input_id}", context.settings.encryption_keys)
            files.append(
                UserFile(
                    _input_name(input_id, row.input_type, row.metadata_ or {}),
                    f"input:{input_id}",
                    f"input/{input_id}",
                    key=row.content if is_file else "",
                    content=content,
                    metadata=json.dumps({"user_input": input_id, "user_id": row.user_id}),
                    license=licenses.from_name(str((row.metadata_ or {}).get("license") or "")) or license_,
                )
            )
            hashes[input_id] = row.sha256
    return files, hashes


def _input_name(input_id: str, input_type: str, metadata: Mapping[str, Any]) -> str:
    """The name of an input's file. An ending that no parser knows is completed by the media type of the upload."""
    ending = ".json" if input_type == "structured" else ".txt"
    name = str(metadata.get("filename") or metadata.get("file_name") or f"{input_id}{ending}")
    if input_type == "file" and Path(name).suffix.lower() not in SUPPORTED:
        media_type = str(metadata.get("content_type") or "").partition(";")[0]
        name += next((suffix for suffix, media_type_ in SUPPORTED.items() if media_type_ == media_type), "")
    return name


def _document(file: UserFile, file_sha256: str, parsed: ParsedText, collected_at: datetime) -> Document:
    content = parsed.image or parsed.text.encode(errors="surrogatepass")
    digest = hashlib.sha256(content).hexdigest() if parsed.part else file_sha256
    url = f"{file.url}#{parsed.part.replace(' ', '-')}" if parsed.part else file.url
    labels = label(file.name, parsed.text)
    suffix = Path(file.name).suffix.lower()
    if suffix in LANGUAGES and suffix not in SUPPORTED:
        kind = labels.kind
    else:
        kind = "documentation" if data_type(file.name) == "text" else "other"
    metadata = json.loads(file.metadata) | parsed.metadata | ({"file_sha256": file_sha256} if parsed.part else {})
    if parsed.image:
        metadata = metadata_from_path(parsed.part or file.name.partition("/")[2]) | metadata
    return Document(
        id=document_id("user", url, digest),
        text=metadata.pop("caption", "") if parsed.image else parsed.text,
        source="user",
        url=url,
        path=file.name,
        group=_group(file, parsed, metadata),
        sha256=digest,
        license=licenses.from_name(str(metadata.get("license") or "")) or file.license,
        kind=kind,
        framework=labels.framework,
        language="" if suffix in SUPPORTED and suffix != ".ipynb" else labels.language or "text",
        rule="files",
        collected_at=collected_at,
        metadata=json.dumps(metadata),
        image=parsed.image,
    )


def _group(file: UserFile, parsed: ParsedText, metadata: Mapping[str, Any]) -> str:
    """The group of a text: its file, except that records and pictures are groups of their own, or belong to the group
    that their column names (see `shown_group`)."""
    if group_name := metadata.get("group"):
        parent = file.group.partition("/")[0] if parsed.image else file.group
        return f"{parent}#{shown_group(str(group_name), (metadata.get('columns') or {}).get('group', ''))}"
    stands_alone = parsed.part.startswith(("row ", "record ")) or (parsed.image and parsed.part)
    return f"{file.group}#{parsed.part}" if stands_alone else file.group


def shown_group(name: str, column: str) -> str:
    """The name of a group as everybody sees it, since names of groups are not redacted: as it stands where it may be a
    package, a chapter or a title, hashed where it may be a person's or was given by one (a conversation)."""
    is_harmless = _HARMLESS_GROUP.fullmatch(name) and not _PERSONAL_GROUP.search(name)
    if is_harmless and not _PERSONAL_COLUMN.search(column.lower()):
        return name
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:12]


def data_type(name: str) -> str:
    """The data type of a file: text, structured, image, audio or video."""
    family = FAMILY_OF_ENDING.get(PurePosixPath(name.lower()).suffix, "text")
    if family in ("image", "audio", "video"):
        return family
    if family == "arrays":
        return "image"
    return "structured" if family in STRUCTURED else "text"


def _note_facts(result: TaskResult, file: UserFile, texts: Sequence[ParsedText]) -> None:
    """Record facts about a file: counts, columns by role, skipped members of archives."""
    result.facts[f"{data_type(file.name)}_files"] += 1
    first = texts[0].metadata
    for fact in COUNTED_FACTS:
        value = first.get(fact, 0)
        result.facts[fact] += len(value) if isinstance(value, list) else int(value)
    result.facts["encoding_guessed"] += "encoding" in first
    if str(first.get("transcript") or "").startswith(NO_TRANSCRIPT):
        result.facts[first["transcript"]] += 1
    for column in first.get("unrecognized_columns") or ():
        result.facts[f"unrecognized {file.name}={column}"] += 1
    # The rows of a table all carry what their file left out; other texts (messages of a mailbox) each their own.
    for parsed in texts[:1] if data_type(file.name) == "structured" else texts:
        for reason, count in (parsed.metadata.get("skipped") or {}).items():
            result.facts[f"skipped {reason}"] += count
    for metadata in (parsed.metadata for parsed in texts):
        _note_reading(result, file, metadata.get("reading") or {})
        for outcome, count in (metadata.get("left_out_counts") or {}).items():
            result.outcomes[f"member_{outcome}"] += count
        for member in metadata.get("left_out") or ():
            path = f"{file.name}!{member['name']}"
            result.record_drop("user", file.group, path, f"member_{member['outcome']}", member["why"])
        for role, column in sorted((metadata.get("columns") or {}).items()):
            result.facts[f"column {role}={column}"] += 1
    result.facts += Counter()


def _note_reading(result: TaskResult, file: UserFile, reading: Mapping[str, Any]) -> None:
    """Record how conversations were read: names that speakers had, what was left out, records that were refused."""
    for fact in ("speakers", "notes", "forms"):
        for name, count in (reading.get(fact) or {}).items():
            result.facts[f"{fact} {name}"] += count
    for reason, count in (reading.get("refused_counts") or {}).items():
        result.outcomes[f"record_{reason}"] += count
    for part, reason, why in reading.get("refused") or ():
        result.record_drop("user", file.group, f"{file.name}#{part}", f"record_{reason}", why)


def _named_files(path: Path) -> list[tuple[str, Path]]:
    """(name, file) of a file, or of the files below a folder without links and hidden ones; sorted."""
    if path.is_file():
        return [(path.name, path)]
    files = [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    return [
        (f"{path.name}/{file.relative_to(path).as_posix()}", file)
        for file in sorted(files)
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
