"""The data files of a dataset repository become documents, one per row or record, as users' own files do."""

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from soldiom_ray.collect.documents.parsed import ParsedText
from soldiom_ray.collect.documents.sandbox import Sandbox
from soldiom_ray.collect.huggingface.api import file_path
from soldiom_ray.collect.huggingface.hub_files import HubFile, HubFolder
from soldiom_ray.collect.huggingface.metadata import ListedRepository
from soldiom_ray.collect.raw import raw_key
from soldiom_ray.collect.task_cache import read_cached, write_cached
from soldiom_ray.collect.tasks import COLLECTED, TaskResult, document_id
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.sources import HuggingfaceSource
from soldiom_ray.records import Document
from soldiom_ray.storage import Storage

CODE = 1
ENDINGS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
PACKED = (".gz", ".zst")
_DESCRIPTIONS = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "package.json"}
"""What the datasets library writes beside the data."""

_FACTS = ("ragged_rows", "bad_lines")


@dataclass(frozen=True)
class DataReader:
    """Reads one dataset's files into documents that carry its licence."""

    folder: HubFolder
    listed: ListedRepository
    declared: HuggingfaceSource
    rule: str
    collected_at: datetime

    def read(self, result: TaskResult) -> None:
        """Every data file within the limits, in the order of names; each is counted under one outcome."""
        try:
            files = [file for file in self.folder.listing() if is_data(file.path)]
        except SkippedError as skipped:
            self._skip(result, "data", skipped)
            return
        if not files:
            self._skip(result, "data", SkippedError("no_data", f"no file ends in {', '.join(ENDINGS)}"))
        total_bytes = 0
        with Sandbox() as sandbox:
            for file in files:
                try:
                    if file.size_bytes > self.declared.max_bytes:
                        raise SkippedError("too_large", f"{file.size_bytes} bytes, more than max_bytes")
                    if total_bytes + file.size_bytes > self.declared.max_repository_bytes:
                        raise SkippedError("over_limit", "the files before it reach max_repository_bytes")
                    total_bytes += file.size_bytes
                    _add(result, self._file(file, sandbox))
                except SkippedError as skipped:
                    self._skip(result, file.path, skipped)

    def _file(self, file: HubFile, sandbox: Sandbox) -> TaskResult:
        """The result of one file, cached, so that a run that goes on does not parse it again."""
        sha256 = self.folder.store(file)
        storage = self.folder.record.storage
        cached = read_cached(storage, self._key(file))
        if cached is not None:
            return cached
        result = TaskResult()
        name = file.path.removesuffix(".gz").removesuffix(".zst")
        texts = sandbox.parse(name, self._bytes(file.path, storage, sha256))
        result.outcomes[COLLECTED] += 1
        result.documents.extend(self._document(file.path, sha256, text) for text in texts)
        for fact in _FACTS:
            result.facts[fact] += int(texts[0].metadata.get(fact, 0))
        result.facts["data_bytes"] += file.size_bytes
        result.facts += type(result.facts)()
        write_cached(storage, self._key(file), result)
        return result

    def _bytes(self, path: str, storage: Storage, sha256: str) -> bytes:
        stream = storage.read_stream(raw_key(sha256))
        ending = PurePosixPath(path.lower()).suffix
        pieces = _gunzipped(stream) if ending == ".gz" else _unzstd(b"".join(stream)) if ending == ".zst" else stream
        data = bytearray()
        for piece in pieces:
            data += piece
            if len(data) > self.declared.max_bytes:
                raise SkippedError("too_large", "unpacks to more than max_bytes")
        return bytes(data)

    def _document(self, path: str, sha256: str, parsed: ParsedText) -> Document:
        path_at_commit = file_path("datasets", self.listed.id, self.listed.sha, path)
        fragment = f"#{parsed.part.replace(' ', '-')}" if parsed.part else ""
        url = f"{self.folder.api.endpoint}{path_at_commit}{fragment}"
        text_sha256 = hashlib.sha256(parsed.text.encode(errors="surrogatepass")).hexdigest() if parsed.part else sha256
        metadata = {"repository": self.listed.id, "file_sha256": sha256, "part": parsed.part} | parsed.metadata
        return Document(
            id=document_id("huggingface", url, text_sha256),
            text=parsed.text,
            source="huggingface",
            url=url,
            path=path,
            group=f"datasets/{self.listed.id}",
            commit=self.listed.sha,
            sha256=text_sha256,
            license=self.listed.license,
            kind="other",
            language="text",
            rule=self.rule,
            collected_at=self.collected_at,
            metadata=json.dumps(metadata, default=str),
        )

    def _key(self, file: HubFile) -> str:
        made_from = [CODE, self.rule, self.listed.license, file.path, self.declared.max_bytes]
        digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
        return f"raw/huggingface/datasets/{self.listed.id}/{self.listed.sha}/{digest}"

    def _skip(self, result: TaskResult, path: str, skipped: SkippedError) -> None:
        result.skip("huggingface", f"datasets/{self.listed.id}", path, skipped.reason, skipped.detail)


def is_data(path: str) -> bool:
    """Whether a repository's file holds data: a known ending, packed or not, and not a description of the data."""
    name = PurePosixPath(path.lower()).name
    hidden = any(part.startswith(".") for part in PurePosixPath(path).parts)
    for ending in PACKED:
        name = name.removesuffix(ending)
    return name.endswith(ENDINGS) and name not in _DESCRIPTIONS and not hidden


def _add(result: TaskResult, more: TaskResult) -> None:
    result.documents.extend(more.documents)
    result.outcomes.update(more.outcomes)
    result.facts.update(more.facts)
    result.drops.extend(more.drops)


def _gunzipped(stream: Iterator[bytes]) -> Iterator[bytes]:
    """In pieces of at most 1 MiB, so that a bomb is seen before it is unpacked. Several members are one file."""
    unpacker, complete = zlib.decompressobj(wbits=31), False
    try:
        for chunk in stream:
            while chunk:
                complete = False
                yield unpacker.decompress(chunk, 1 << 20)
                chunk = unpacker.unconsumed_tail
                if unpacker.eof:
                    chunk = unpacker.unused_data.lstrip(b"\0")
                    unpacker, complete = zlib.decompressobj(wbits=31), True
    except zlib.error as error:
        raise SkippedError("damaged", "not a gzip file") from error
    if not complete:
        raise SkippedError("damaged", "a gzip file that was cut short")


def _unzstd(data: bytes) -> Iterator[bytes]:
    import pyarrow

    try:
        with pyarrow.input_stream(pyarrow.BufferReader(data), compression="zstd") as stream:
            while piece := stream.read(1 << 20):
                yield piece
    except (OSError, pyarrow.ArrowException) as error:
        raise SkippedError("damaged", "not a zstd file") from error
