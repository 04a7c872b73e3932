"""The inverted index of passages, and BM25 over it (Robertson, Zaragoza 2009, "The Probabilistic Relevance Framework:
BM25 and Beyond"), with what is known of every passage for filters.

It is part of the index artifact, in segments of bounded size as Lucene has them: `lexical/<number>/` holds arrays
(`terms`, 64-bit hashes ascending; `starts`, where a term's postings begin; `passages` and `counts`, the postings;
`lengths`, words per passage) and `about.parquet`. Plain arrays are mapped into memory, sealed ones are read.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts, Draft, prefix_of, table_bytes
from soldiom_ray.embed.words import telling_words, words_of
from soldiom_ray.errors import DamagedError
from soldiom_ray.records import Manifest

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

SEGMENT_POSTINGS = 1 << 20
"""Some 17,000 passages: 13 MiB of postings, all that writing holds of them at once."""

K1, B = 1.2, 0.75
"""How soon repetition stops to count, and how much length does: Lucene's defaults, in the ranges 1.2 to 2 and 0.5 to
0.8 that Robertson and Zaragoza (3.5.1) found good on many collections."""

ABOUT = (
    *("document", "source", "group", "path", "kind", "framework", "language", "license", "url", "version", "split"),
    "symbol",
)
"""What is known of a passage and can be filtered by; `path` by its beginning, the others by equality."""

ARRAYS = ("terms", "starts", "passages", "counts", "lengths")

Place = tuple[int, int]
"""A passage's part of the index, and its row there."""


@dataclass(frozen=True, slots=True)
class Postings:
    """Words of one part: `terms` ascending, for each the row it stands in and how often; words per row."""

    terms: "NDArray[np.uint64]"
    passages: "NDArray[np.uint32]"
    counts: "NDArray[np.uint8]"
    lengths: "NDArray[np.uint32]"


def postings_of(texts: Sequence[str]) -> Postings:
    """The words of texts, in their order."""
    import numpy as np

    lengths = np.zeros(len(texts), np.uint32)
    terms: list[int] = []
    passages: list[int] = []
    counts: list[int] = []
    for row, text in enumerate(texts):
        counted = Counter(words_of(text))
        lengths[row] = counted.total()
        terms += map(term_of, counted)
        passages += [row] * len(counted)
        counts += (min(255, count) for count in counted.values())
    found = np.array(terms, np.uint64)
    order = np.argsort(found, kind="stable")
    return Postings(found[order], np.array(passages, np.uint32)[order], np.array(counts, np.uint8)[order], lengths)


@lru_cache(1 << 16)
def term_of(word: str) -> int:
    """The number that stands for a word. That two of a million words share one has a chance of 3e-8."""
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little")


class SegmentWriter:
    """Gathers parts in their order and writes a segment whenever enough has come together."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self._number = 0
        self._postings: list[Postings] = []
        self._about: list[pa.Table] = []

    def add(self, part: int, postings: Postings, about: "pa.Table") -> None:
        """The words of part number `part`, and a table of ABOUT with as many rows."""
        import numpy as np
        import pyarrow as pa

        rows = len(about)
        about = about.append_column("part", pa.array(np.full(rows, part, np.int32)))
        self._postings.append(postings)
        self._about.append(about.append_column("row", pa.array(np.arange(rows, dtype=np.int32))))
        if sum(len(one.terms) for one in self._postings) >= SEGMENT_POSTINGS:
            self.close()

    def close(self) -> None:
        """Write what is left."""
        import numpy as np
        import pyarrow as pa

        if not self._postings:
            return
        starts = np.cumsum([0, *(len(one.lengths) for one in self._postings)])
        terms = np.concatenate([one.terms for one in self._postings])
        order = np.argsort(terms, kind="stable")  # of one term the passages stay in order
        distinct, firsts = np.unique(terms[order], return_index=True)
        passages = [one.passages + np.uint32(start) for one, start in zip(self._postings, starts, strict=False)]
        arrays = {
            "terms": distinct,
            "starts": np.append(firsts, len(terms)).astype(np.int64),
            "passages": np.concatenate(passages)[order],
            "counts": np.concatenate([one.counts for one in self._postings])[order],
            "lengths": np.concatenate([one.lengths for one in self._postings]),
        }
        folder = f"lexical/{self._number:05d}"
        for name in ARRAYS:
            self.draft.write(f"{folder}/{name}.npy", array_bytes(arrays[name]))
        self.draft.write(f"{folder}/about.parquet", table_bytes(pa.concat_tables(self._about)))
        self._number, self._postings, self._about = self._number + 1, [], []


def array_bytes(array: "NDArray[Any]") -> bytes:
    """An array as a .npy file."""
    import numpy as np

    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=False)
    return sink.getvalue()


class LexicalIndex:
    """The segments of an index artifact, opened with the first question."""

    def __init__(self, artifacts: Artifacts, index: Manifest) -> None:
        self.artifacts = artifacts
        self.index = index

    @cached_property
    def segments(self) -> list["Segment"]:
        """All of them, in the order of their passages."""
        folders = {name.name.rpartition("/")[0] for name in self.index.files if name.name.startswith("lexical/")}
        return [Segment(self.artifacts, self.index, folder) for folder in sorted(folders)]

    @cached_property
    def _mean_length(self) -> float:
        words = sum(int(one.arrays["lengths"].sum()) for one in self.segments)
        return max(1.0, words / max(1, self._passages))

    @cached_property
    def _passages(self) -> int:
        return sum(len(one) for one in self.segments)

    def search(self, query: str, most: int, filters: Mapping[str, str] | None = None) -> list[tuple[Place, float]]:
        """The passages that score highest, best first, at most `most`; none that holds no word of the question."""
        import numpy as np

        asked = [(np.uint64(term_of(word)), times) for word, times in Counter(telling_words(query)).items()]
        held = [sum(segment.held(term) for segment in self.segments) for term, _ in asked]
        weights = [
            (term, times * float(np.log1p((self._passages - count + 0.5) / (count + 0.5))))
            for (term, times), count in zip(asked, held, strict=True)
            if count
        ]
        found = [
            hit for segment in self.segments for hit in segment.best(weights, self._mean_length, most, filters or {})
        ]
        return sorted(found, key=lambda hit: (-hit[1], hit[0]))[:most]

    def places(self, filters: Mapping[str, str]) -> list[Place]:
        """Every passage that the filters let through."""
        return [place for segment in self.segments for place in segment.places(filters)]


class Segment:
    """One segment, its arrays checked against the manifest when it is opened. DamagedError when they differ."""

    def __init__(self, artifacts: Artifacts, index: Manifest, folder: str) -> None:
        import pyarrow.parquet as pq

        self.arrays = dict(_arrays(artifacts, index, folder))
        data = artifacts.read(index, f"{folder}/about.parquet")
        self.about: pa.Table = pq.read_table(io.BytesIO(data), read_dictionary=list(ABOUT)).combine_chunks()

    def __len__(self) -> int:
        return len(self.arrays["lengths"])

    def held(self, term: "np.uint64") -> int:
        """In how many passages a term stands."""
        return len(range(*self._range(term)))

    def best(
        self, weights: Sequence[tuple["np.uint64", float]], mean_length: float, most: int, filters: Mapping[str, str]
    ) -> Iterator[tuple[Place, float]]:
        """The passages that score highest here, in no order."""
        import numpy as np

        scores = np.zeros(len(self), np.float32)
        for term, weight in weights:
            some = slice(*self._range(term))
            rows, counts = self.arrays["passages"][some], self.arrays["counts"][some].astype(np.float32)
            saturation = K1 * (1 - B + B / mean_length * self.arrays["lengths"][rows].astype(np.float32))
            scores[rows] += weight * counts / (counts + saturation)
        if filters:
            scores[~self._allowed(filters)] = 0
        best = np.argpartition(-scores, most)[:most] if most < len(scores) else np.arange(len(scores))
        if most < len(scores):  # of equal scores the first passages, whatever argpartition chose
            worst = scores[best].min()
            best = np.concatenate([np.flatnonzero(scores > worst), np.flatnonzero(scores == worst)])[:most]
        best = best[scores[best] > 0]
        yield from zip(self._places(best), scores[best].tolist(), strict=True)

    def places(self, filters: Mapping[str, str]) -> list[Place]:
        """Passages that the filters let through, in order."""
        import numpy as np

        return self._places(np.flatnonzero(self._allowed(filters)))

    def _range(self, term: "np.uint64") -> tuple[int, int]:
        terms, starts = self.arrays["terms"], self.arrays["starts"]
        at = int(terms.searchsorted(term))
        return (int(starts[at]), int(starts[at + 1])) if at < len(terms) and terms[at] == term else (0, 0)

    def _places(self, rows: "NDArray[Any]") -> list[Place]:
        columns = (self.about.column(name).take(rows).to_pylist() for name in ("part", "row"))
        return list(zip(*columns, strict=True))

    def _allowed(self, filters: Mapping[str, str]) -> "NDArray[np.bool_]":
        import numpy as np

        allowed = np.ones(len(self), np.bool_)
        for name, value in filters.items():
            column = self.about.column(name).chunk(0)
            known = column.dictionary.to_pylist()
            fits = [one.startswith(value) if name == "path" else one == value for one in known]
            allowed &= np.array([*fits, False])[column.indices.to_numpy(zero_copy_only=False)]
        return allowed


def _arrays(artifacts: Artifacts, index: Manifest, folder: str) -> Iterator[tuple[str, "NDArray[Any]"]]:
    import numpy as np

    names = {name: f"{folder}/{name}.npy" for name in ARRAYS}
    if artifacts.storage.encryption_key is not None:
        for name, file in names.items():
            yield name, np.load(io.BytesIO(artifacts.read(index, file)), allow_pickle=False)
        return
    hashes = {entry.name: entry.sha256 for entry in index.files}
    # A copy of what lies elsewhere is gone when the block ends; what is mapped of it stays.
    with artifacts.storage.local_folder(f"{prefix_of(index.id)}/{folder}") as place:
        for name, file in names.items():
            with (place / f"{name}.npy").open("rb") as opened:
                if hashlib.file_digest(opened, "sha256").hexdigest() != hashes[file]:
                    raise DamagedError(
                        f"{file} of {index.id} is not what was written.",
                        remedy="delete the artifact and run its stage again",
                    )
            yield name, np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False)
