"""Which documents share a band of their MinHash signatures, in arrays instead of dictionaries: at most 12 bytes for
each band of each document that shares one, so a million documents fit in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Indices = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SharedBands:
    """Documents that share a band, ordered by component, then position. Only members of one component can be copies.

    `components[i]` is the first position of the component of `documents[i]`, and `shelves[starts[i]:starts[i + 1]]`
    are the numbers of the band values that it shares with others."""

    documents: "Indices"
    components: "Indices"
    starts: "Indices"
    shelves: "Indices"

    def windows(
        self, most_documents: int, most_characters: int, characters: Sequence[int] | None = None
    ) -> Iterator[tuple[list[tuple[int, list[int]]], bool]]:
        """Pieces of (position, shelves) within both limits, each with whether it goes on with the component in which
        the piece before ended. A component is cut only when it is larger than a piece."""
        for begin, end in self._pieces(most_documents, most_characters, characters):
            window = [
                (int(self.documents[at]), self.shelves[self.starts[at] : self.starts[at + 1]].tolist())
                for at in range(begin, end)
            ]
            yield sorted(window), begin > 0 and bool(self.components[begin] == self.components[begin - 1])

    def _pieces(
        self, most_documents: int, most_characters: int, characters: Sequence[int] | None
    ) -> Iterator[tuple[int, int]]:
        begin = boundary = size = size_since_boundary = 0
        for at, document in enumerate(self.documents.tolist()):
            cost = characters[document] if characters is not None else 0
            if at and self.components[at] != self.components[at - 1]:
                boundary, size_since_boundary = at, 0
            while at > begin and (at - begin >= most_documents or size + cost > most_characters):
                cut = boundary if boundary > begin else at
                yield begin, cut
                size = size_since_boundary if cut == boundary else 0
                begin = cut
            size += cost
            size_since_boundary += cost
        if begin < len(self.documents):
            yield begin, len(self.documents)


def shared_bands(signatures: Sequence[bytes], rows: int, permutations: int) -> SharedBands:
    """Sort each band's values, one band at a time: equal neighbours share a shelf. Empty signatures share none."""
    import numpy as np

    filled = np.array([at for at, signature in enumerate(signatures) if signature], np.int32)
    members: list[Any] = [np.empty(0, np.int32)]
    shelves: list[Any] = [np.empty(0, np.int32)]
    firsts: list[Any] = [np.empty(0, np.int32)]
    known = 0
    for band in range(permutations // rows if len(filled) else 0):
        start, stop = 4 * rows * band, 4 * rows * (band + 1)
        values = np.frombuffer(b"".join([one[start:stop] for one in signatures if one]), "<u4")
        key = _combined(values.reshape(len(filled), rows))
        order = np.argsort(key, kind="stable")
        as_before = np.concatenate(([False], key[order[1:]] == key[order[:-1]]))
        shared = np.flatnonzero(as_before | np.append(as_before[1:], False))
        begins = ~as_before[shared]
        number = np.cumsum(begins, dtype=np.int32) - 1
        items = filled[order[shared]]
        members.append(items)
        shelves.append(number + np.int32(known))
        firsts.append(items[begins][number])
        known += int(begins.sum())
    return _by_document(len(signatures), *map(np.concatenate, (members, shelves, firsts)))


def _combined(values: "NDArray[np.uint32]") -> "NDArray[np.uint64]":
    """One 64-bit value per row (multiply and shift, as in FNV and murmur3's finish)."""
    import numpy as np

    key = np.zeros(len(values), np.uint64)
    with np.errstate(over="ignore"):
        for column in range(values.shape[1]):
            key = (key ^ values[:, column]) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(32)
    return key


def _by_document(count: int, members: "Indices", shelves: "Indices", firsts: "Indices") -> SharedBands:
    import numpy as np

    component = _components(count, members, firsts)
    order = np.lexsort((members, component[members]))
    members, shelves = members[order], shelves[order]
    begins = np.flatnonzero(np.concatenate(([True], members[1:] != members[:-1]))[: len(members)])
    documents = members[begins]
    return SharedBands(documents, component[documents], np.append(begins, len(members)).astype(np.int32), shelves)


def _components(count: int, left: "Indices", right: "Indices") -> "Indices":
    """For every position the smallest that edges lead to (hooking and pointer jumping, Shiloach and Vishkin 1982)."""
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
