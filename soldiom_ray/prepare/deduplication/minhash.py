"""MinHash signatures (Broder 1997, by rensa), the Jaccard similarity that they estimate, and how many rows a band of
them has."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]

PERMUTATIONS = 128
SIGNATURE_SEED = 42
RECALL = 0.999


def signatures(shingle_sets: Sequence["Hashes"]) -> list[bytes]:
    """A MinHash signature per set (uint64 [shingles]): 128 values of 32 bits, little-endian. The signature of an empty
    set is empty."""
    import numpy as np
    from rensa import RMinHash

    filled = [shingles for shingles in shingle_sets if len(shingles)]
    if not filled:
        return [b""] * len(shingle_sets)
    offsets = [0, *np.cumsum([len(shingles) for shingles in filled]).tolist()]
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(filled), offsets, PERMUTATIONS, SIGNATURE_SEED
    )
    rows = iter(np.array(matrix.to_rows(), dtype="<u4"))
    return [next(rows).tobytes() if len(shingles) else b"" for shingles in shingle_sets]


def jaccard(left: "Hashes", right: "Hashes") -> float:
    """Size of the intersection over the size of the union. Both are sets as ascending uint64 [members]."""
    import numpy as np

    both = np.concatenate((left, right))
    both.sort()
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / max(1, len(left) + len(right) - shared)


def band_rows(threshold: float) -> int:
    """The most rows per band with which a pair at the threshold is still compared with probability RECALL."""
    fitting = [r for r in range(1, PERMUTATIONS + 1) if 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= RECALL]
    return max(fitting, default=1)


def recall(similarity: float, threshold: float) -> float:
    """The probability that a pair is compared: 1 - (1 - s^r)^b for b bands of r rows (Leskovec et al., section 3.4)."""
    rows = band_rows(threshold)
    return float(1 - (1 - similarity**rows) ** (PERMUTATIONS // rows))
