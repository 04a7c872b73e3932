"""Near copies among many documents: candidates share an LSH bucket, and each is checked against its true similarity."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from soldiom_ray.prepare.deduplication.lsh import shared_buckets
from soldiom_ray.prepare.deduplication.minhash import PERMUTATIONS, band_rows, jaccard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]

BATCH_DOCUMENTS = 16_384
BATCH_CHARACTERS = 8 << 20
"""Documents, and characters of their texts, whose shingles are in memory at a time while candidates are checked."""

MANY_CANDIDATES = 16
ESTIMATE_MARGIN = 0.2
"""Five standard deviations of a similarity of 0.8 that 128 permutations estimate (Broder 1997: binomial)."""

LoadShingles = Callable[[set[int]], Mapping[int, Any]]
"""Positions -> the shingles (ascending uint64 [shingles]) of the documents there."""


def near_copies(
    signatures: Sequence[bytes],
    threshold: float,
    load_shingles: LoadShingles,
    characters: Sequence[int] | None = None,
) -> dict[int, tuple[int, float]]:
    """For each position that is a near copy of an earlier kept document: the position of that document and their
    similarity.

    Of two copies the earlier one is kept, and only kept documents are compared with, so a chain of small changes is not
    collapsed into its first member. `characters` (of each text) bounds how many shingles are loaded at a time; without
    it only the number of documents is bounded.
    """
    buckets = shared_buckets(signatures, band_rows(threshold), PERMUTATIONS)
    check = _CandidateCheck(signatures, threshold, load_shingles)
    for batch, continues_component in buckets.batches(BATCH_DOCUMENTS, BATCH_CHARACTERS, characters):
        if not continues_component:
            check.kept.clear()
        check.decide(batch)
    return check.copies


@dataclass
class _CandidateCheck:
    """Compares candidates by their true similarity, batch after batch."""

    signatures: Sequence[bytes]
    threshold: float
    load_shingles: LoadShingles
    copies: dict[int, tuple[int, float]] = field(default_factory=dict)
    kept: dict[int, list[int]] = field(default_factory=dict)
    """LSH bucket -> positions of the kept documents in it."""

    def decide(self, batch: Sequence[tuple[int, list[int]]]) -> None:
        """Decide on the documents of a batch, (position, buckets) in order; those of earlier batches are decided."""
        batch_sets = self.load_shingles({position for position, _ in batch})
        earlier = sorted({position for _, buckets in batch for position in self._candidates(buckets)})
        for start in range(0, len(earlier), BATCH_DOCUMENTS):
            some = earlier[start : start + BATCH_DOCUMENTS]
            earlier_sets = self.load_shingles(set(some))
            for position, buckets in batch:
                if position not in self.copies:
                    candidates = [other for other in self._candidates(buckets) if some[0] <= other <= some[-1]]
                    self._compare(position, candidates, batch_sets[position], earlier_sets)
        for position, buckets in batch:
            if position not in self.copies:
                candidates = [other for other in self._candidates(buckets) if other in batch_sets]
                self._compare(position, candidates, batch_sets[position], batch_sets)
            if position not in self.copies:
                for bucket in buckets:
                    self.kept.setdefault(bucket, []).append(position)

    def _candidates(self, buckets: Iterable[int]) -> list[int]:
        return sorted({position for bucket in buckets for position in self.kept.get(bucket, ())})

    def _compare(
        self, position: int, candidates: Sequence[int], shingles: "Hashes", candidate_sets: Mapping[int, Any]
    ) -> None:
        for candidate in self._likely(position, candidates):
            other = candidate_sets[candidate]
            if min(len(shingles), len(other)) < self.threshold * max(len(shingles), len(other)):
                continue
            similarity = jaccard(shingles, other)
            if similarity >= self.threshold:
                self.copies[position] = (candidate, similarity)
                return

    def _likely(self, position: int, candidates: Sequence[int]) -> Sequence[int]:
        """Of many candidates those whose signatures do not rule a copy out: files that share no more than a license
        header would each be compared with all others."""
        import numpy as np

        if len(candidates) <= MANY_CANDIDATES:
            return candidates
        others = np.frombuffer(b"".join([self.signatures[other] for other in candidates]), "<u4")
        equal = others.reshape(len(candidates), -1) == np.frombuffer(self.signatures[position], "<u4")
        likely = np.flatnonzero(equal.mean(axis=1) >= self.threshold - ESTIMATE_MARGIN)
        return [candidates[index] for index in likely.tolist()]
