"""The inverted index of passages, and BM25 over it (Robertson, Zaragoza 2009, "The Probabilistic Relevance Framework:
BM25 and Beyond"), with the metadata of every passage for filters.

It is part of the index artifact, in segments of bounded size as Lucene has them. `lexical/<number>/` holds arrays and
`about.parquet`, the metadata: `terms` (uint64 [terms], hashes, ascending), `starts` (int64 [terms + 1], where a term's
postings begin), `passages` and `counts` (uint32 and uint8 [postings]: row in the segment, occurrences) and `lengths`
(uint32 [passages], terms per passage). Plain arrays are mapped into memory, encrypted ones are read.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts, Draft, prefix_of, table_bytes
from soldiom_ray.embed.terms import query_terms, terms_of
from soldiom_ray.errors import DamagedError
from soldiom_ray.records import Manifest

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

SEGMENT_POSTINGS = 1 << 20
"""Some 17,000 passages: 13 MiB of postings, which writing holds in memory at once."""

K1, B = 1.2, 0.75
"""Saturation by repetition and normalization by length: Lucene's defaults, within the ranges 1.2 to 2 and 0.5 to 0.8
that Robertson and Zaragoza (3.5.1) recommend."""

METADATA_COLUMNS = (
    *("document", "source", "group", "path", "kind", "framework", "language", "license", "url", "version", "split"),
    "symbol",
)
"""The metadata of a passage, by which searches can be filtered: `path` by prefix, the others by equality."""

ARRAYS = ("terms", "starts", "passages", "counts", "lengths")

PassageLocation = tuple[int, int]
"""The part of the index that holds a passage, and the passage's row in it."""


@dataclass(frozen=True, slots=True)
class Postings:
    """Postings of one part: for each (term, passage) the term's hash, ascending, the passage's row, and how often it
    occurs there (at most 255), all [postings]; `lengths` are terms per passage, [passages]."""

    terms: "NDArray[np.uint64]"
    passages: "NDArray[np.uint32]"
    counts: "NDArray[np.uint8]"
    lengths: "NDArray[np.uint32]"


def postings_of(texts: Sequence[str]) -> Postings:
    """The postings of a part whose passages are these texts."""
    import numpy as np

    lengths = np.zeros(len(texts), np.uint32)
    terms: list[int] = []
    passages: list[int] = []
    counts: list[int] = []
    for row, text in enumerate(texts):
        frequencies = Counter(terms_of(text))
        lengths[row] = frequencies.total()
        terms += map(term_hash, frequencies)
        passages += [row] * len(frequencies)
        counts += (min(255, count) for count in frequencies.values())
    hashes = np.array(terms, np.uint64)
    order = np.argsort(hashes, kind="stable")
    return Postings(hashes[order], np.array(passages, np.uint32)[order], np.array(counts, np.uint8)[order], lengths)


@lru_cache(1 << 16)
def term_hash(term: str) -> int:
    """64 bits of BLAKE2b. The probability that any two of a million terms collide is 3e-8."""
    return int.from_bytes(hashlib.blake2b(term.encode("utf-8", "replace"), digest_size=8).digest(), "little")


class SegmentWriter:
    """Collects parts in their order and writes a segment whenever SEGMENT_POSTINGS are reached."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self._number = 0
        self._postings: list[Postings] = []
        self._metadata: list[pa.Table] = []

    def add(self, part: int, postings: Postings, metadata: "pa.Table") -> None:
        """Add part number `part`: its postings, and a table of METADATA_COLUMNS with a row per passage."""
        import numpy as np
        import pyarrow as pa

        rows = len(metadata)
        metadata = metadata.append_column("part", pa.array(np.full(rows, part, np.int32)))
        self._postings.append(postings)
        self._metadata.append(metadata.append_column("row", pa.array(np.arange(rows, dtype=np.int32))))
        if sum(len(some.terms) for some in self._postings) >= SEGMENT_POSTINGS:
            self.close()

    def close(self) -> None:
        """Write the parts added since the last segment as one."""
        import numpy as np
        import pyarrow as pa

        if not self._postings:
            return
        starts = np.cumsum([0, *(len(some.lengths) for some in self._postings)])
        terms = np.concatenate([some.terms for some in self._postings])
        order = np.argsort(terms, kind="stable")  # the passages of a term stay in order
        distinct, firsts = np.unique(terms[order], return_index=True)
        passages = [some.passages + np.uint32(start) for some, start in zip(self._postings, starts, strict=False)]
        arrays = {
            "terms": distinct,
            "starts": np.append(firsts, len(terms)).astype(np.int64),
            "passages": np.concatenate(passages)[order],
            "counts": np.concatenate([some.counts for some in self._postings])[order],
            "lengths": np.concatenate([some.lengths for some in self._postings]),
        }
        folder = f"lexical/{self._number:05d}"
        for name in ARRAYS:
            self.draft.write(f"{folder}/{name}.npy", array_bytes(arrays[name]))
        self.draft.write(f"{folder}/about.parquet", table_bytes(pa.concat_tables(self._metadata)))
        self._number, self._postings, self._metadata = self._number + 1, [], []


def array_bytes(array: "NDArray[Any]") -> bytes:
    """An array as a .npy file."""
    import numpy as np

    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=False)
    return sink.getvalue()


class LexicalIndex:
    """The segments of an index artifact, opened for the first query."""

    def __init__(self, artifacts: Artifacts, index: Manifest) -> None:
        self.artifacts = artifacts
        self.index = index

    @cached_property
    def segments(self) -> list["Segment"]:
        """All segments, in the order of their passages."""
        folders = {entry.name.rpartition("/")[0] for entry in self.index.files if entry.name.startswith("lexical/")}
        return [Segment(self.artifacts, self.index, folder) for folder in sorted(folders)]

    @cached_property
    def _mean_length(self) -> float:
        terms = sum(int(segment.arrays["lengths"].sum()) for segment in self.segments)
        return max(1.0, terms / max(1, self._passage_count))

    @cached_property
    def _passage_count(self) -> int:
        return sum(len(segment) for segment in self.segments)

    def search(
        self, query: str, limit: int, filters: Mapping[str, str] | None = None
    ) -> list[tuple[PassageLocation, float]]:
        """Up to `limit` passages with the highest scores, best first. Passages without any term of the query are left
        out."""
        import numpy as np

        terms = [(np.uint64(term_hash(term)), count) for term, count in Counter(query_terms(query)).items()]
        frequencies = [sum(segment.document_frequency(term) for segment in self.segments) for term, _ in terms]
        weights = [
            (term, count * float(np.log1p((self._passage_count - frequency + 0.5) / (frequency + 0.5))))
            for (term, count), frequency in zip(terms, frequencies, strict=True)
            if frequency
        ]
        hits = [
            hit for segment in self.segments for hit in segment.best(weights, self._mean_length, limit, filters or {})
        ]
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:limit]

    def locations(self, filters: Mapping[str, str]) -> list[PassageLocation]:
        """Every passage that matches the filters."""
        return [location for segment in self.segments for location in segment.locations(filters)]


class Segment:
    """One segment. Its arrays are checked against the manifest when it is opened: DamagedError when they differ."""

    def __init__(self, artifacts: Artifacts, index: Manifest, folder: str) -> None:
        import pyarrow.parquet as pq

        self.arrays = dict(_arrays(artifacts, index, folder))
        data = artifacts.read(index, f"{folder}/about.parquet")
        table = pq.read_table(io.BytesIO(data), read_dictionary=list(METADATA_COLUMNS))
        self.metadata: pa.Table = table.combine_chunks()

    def __len__(self) -> int:
        return len(self.arrays["lengths"])

    def document_frequency(self, term: "np.uint64") -> int:
        """How many passages contain a term."""
        return len(range(*self._range(term)))

    def best(
        self, weights: Sequence[tuple["np.uint64", float]], mean_length: float, limit: int, filters: Mapping[str, str]
    ) -> Iterator[tuple[PassageLocation, float]]:
        """Up to `limit` passages of this segment with the highest scores, in no order."""
        import numpy as np

        scores = np.zeros(len(self), np.float32)
        for term, weight in weights:
            postings = slice(*self._range(term))
            rows, counts = self.arrays["passages"][postings], self.arrays["counts"][postings].astype(np.float32)
            saturation = K1 * (1 - B + B / mean_length * self.arrays["lengths"][rows].astype(np.float32))
            scores[rows] += weight * counts / (counts + saturation)
        if filters:
            scores[~self._matches(filters)] = 0
        best = np.argpartition(-scores, limit)[:limit] if limit < len(scores) else np.arange(len(scores))
        if limit < len(scores):  # of equal scores the first passages, whatever argpartition chose
            worst = scores[best].min()
            best = np.concatenate([np.flatnonzero(scores > worst), np.flatnonzero(scores == worst)])[:limit]
        best = best[scores[best] > 0]
        yield from zip(self._locations(best), scores[best].tolist(), strict=True)

    def locations(self, filters: Mapping[str, str]) -> list[PassageLocation]:
        """Passages that match the filters, in order."""
        import numpy as np

        return self._locations(np.flatnonzero(self._matches(filters)))

    def _range(self, term: "np.uint64") -> tuple[int, int]:
        """Where the postings of a term begin and end."""
        terms, starts = self.arrays["terms"], self.arrays["starts"]
        index = int(terms.searchsorted(term))
        return (int(starts[index]), int(starts[index + 1])) if index < len(terms) and terms[index] == term else (0, 0)

    def _locations(self, rows: "NDArray[Any]") -> list[PassageLocation]:
        columns = (self.metadata.column(name).take(rows).to_pylist() for name in ("part", "row"))
        return list(zip(*columns, strict=True))

    def _matches(self, filters: Mapping[str, str]) -> "NDArray[np.bool_]":
        """Which passages match the filters: bool [passages]."""
        import numpy as np

        matches = np.ones(len(self), np.bool_)
        for name, required in filters.items():
            column = self.metadata.column(name).chunk(0)
            values = column.dictionary.to_pylist()
            matching = [value.startswith(required) if name == "path" else value == required for value in values]
            matches &= np.array([*matching, False])[column.indices.to_numpy(zero_copy_only=False)]
        return matches


def _arrays(artifacts: Artifacts, index: Manifest, folder: str) -> Iterator[tuple[str, "NDArray[Any]"]]:
    import numpy as np

    names = {name: f"{folder}/{name}.npy" for name in ARRAYS}
    if artifacts.storage.encryption_keys:
        for name, file in names.items():
            yield name, np.load(io.BytesIO(artifacts.read(index, file)), allow_pickle=False)
        return
    hashes = {entry.name: entry.sha256 for entry in index.files}
    # A local copy of remote storage is deleted when the block ends; what is mapped of it stays readable.
    with artifacts.storage.local_folder(f"{prefix_of(index.id)}/{folder}") as local:
        for name, file in names.items():
            with (local / f"{name}.npy").open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != hashes[file]:
                    raise DamagedError(
                        f"{file} of {index.id} is not what was written.",
                        remedy="delete the artifact and run its stage again",
                    )
            yield name, np.load(local / f"{name}.npy", mmap_mode="r", allow_pickle=False)
