"""Locality-sensitive hashing: which documents share a bucket, that is a band of their MinHash signatures. In arrays
instead of dictionaries: at most 12 bytes per document and shared bucket, so a million documents fit in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Indices = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SharedBuckets:
    """Documents that share a bucket with another, ordered by connected component, then position: only members of one
    component can be copies of each other.

    `documents`, int32 [documents], are positions; `components[i]` is the first position of the component of
    `documents[i]`; `buckets[starts[i]:starts[i + 1]]` are the numbers of the buckets that `documents[i]` shares.
    `starts` is int32 [documents + 1], `buckets` int32 [memberships]."""

    documents: "Indices"
    components: "Indices"
    starts: "Indices"
    buckets: "Indices"

    def batches(
        self, max_documents: int, max_characters: int, characters: Sequence[int] | None = None
    ) -> Iterator[tuple[list[tuple[int, list[int]]], bool]]:
        """Batches of (position, buckets) within both limits, each with whether it continues the component in which the
        batch before ended. Only a component that is larger than a batch is cut."""
        for begin, end in self._batch_ranges(max_documents, max_characters, characters):
            batch = [
                (int(self.documents[index]), self.buckets[self.starts[index] : self.starts[index + 1]].tolist())
                for index in range(begin, end)
            ]
            yield sorted(batch), begin > 0 and bool(self.components[begin] == self.components[begin - 1])

    def _batch_ranges(
        self, max_documents: int, max_characters: int, characters: Sequence[int] | None
    ) -> Iterator[tuple[int, int]]:
        begin = boundary = size = size_since_boundary = 0
        for index, document in enumerate(self.documents.tolist()):
            own_size = characters[document] if characters is not None else 0
            if index and self.components[index] != self.components[index - 1]:
                boundary, size_since_boundary = index, 0
            while index > begin and (index - begin >= max_documents or size + own_size > max_characters):
                cut = boundary if boundary > begin else index
                yield begin, cut
                size = size_since_boundary if cut == boundary else 0
                begin = cut
            size += own_size
            size_since_boundary += own_size
        if begin < len(self.documents):
            yield begin, len(self.documents)


def shared_buckets(signatures: Sequence[bytes], rows: int, permutations: int) -> SharedBuckets:
    """Sort the values of each band, a band at a time: equal neighbors are in one bucket. A signature is `permutations`
    values of 32 bits, little-endian, of which a band has `rows`; empty signatures are in no bucket."""
    import numpy as np

    filled = np.array([position for position, signature in enumerate(signatures) if signature], np.int32)
    members: list[Any] = [np.empty(0, np.int32)]
    buckets: list[Any] = [np.empty(0, np.int32)]
    firsts: list[Any] = [np.empty(0, np.int32)]
    bucket_count = 0
    for band in range(permutations // rows if len(filled) else 0):
        start, stop = 4 * rows * band, 4 * rows * (band + 1)
        values = np.frombuffer(b"".join([signature[start:stop] for signature in signatures if signature]), "<u4")
        keys = _combined(values.reshape(len(filled), rows))
        order = np.argsort(keys, kind="stable")
        equals_previous = np.concatenate(([False], keys[order[1:]] == keys[order[:-1]]))
        shared = np.flatnonzero(equals_previous | np.append(equals_previous[1:], False))
        begins = ~equals_previous[shared]
        numbers = np.cumsum(begins, dtype=np.int32) - 1
        positions = filled[order[shared]]
        members.append(positions)
        buckets.append(numbers + np.int32(bucket_count))
        firsts.append(positions[begins][numbers])
        bucket_count += int(begins.sum())
    return _by_document(len(signatures), *map(np.concatenate, (members, buckets, firsts)))


def _combined(values: "NDArray[np.uint32]") -> "NDArray[np.uint64]":
    """One value per row (multiply and shift, as in FNV and murmur3's finish): uint32 [documents, rows] -> uint64
    [documents]."""
    import numpy as np

    keys = np.zeros(len(values), np.uint64)
    with np.errstate(over="ignore"):
        for column in range(values.shape[1]):
            keys = (keys ^ values[:, column]) * np.uint64(0x9E3779B97F4A7C15)
            keys ^= keys >> np.uint64(32)
    return keys


def _by_document(count: int, members: "Indices", buckets: "Indices", firsts: "Indices") -> SharedBuckets:
    """Memberships ordered by component and document. All three arrays are int32 [memberships]: a document, its bucket,
    and the first document of that bucket."""
    import numpy as np

    component = _components(count, members, firsts)
    order = np.lexsort((members, component[members]))
    members, buckets = members[order], buckets[order]
    begins = np.flatnonzero(np.concatenate(([True], members[1:] != members[:-1]))[: len(members)])
    documents = members[begins]
    return SharedBuckets(documents, component[documents], np.append(begins, len(members)).astype(np.int32), buckets)


def _components(count: int, left: "Indices", right: "Indices") -> "Indices":
    """For every position, int32 [count], the smallest that edges (left[i], right[i]) lead to (hooking and pointer
    jumping, Shiloach and Vishkin 1982)."""
    import numpy as np

    smallest = np.arange(count, dtype=np.int32)
    while True:
        before = smallest.copy()
        least = np.minimum(smallest[left], smallest[right])
        for roots in (smallest[left], smallest[right], left, right):
            np.minimum.at(smallest, roots, least)
        smallest = smallest[smallest]
        if np.array_equal(before, smallest):
            return smallest
