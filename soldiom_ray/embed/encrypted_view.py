"""What Chroma, which cannot encrypt, stores of an index: the location of each passage, its vector, and the metadata
that filters need; never a text, a path or a symbol.

With an encryption key the metadata are keyed hashes (blind indexes), and the vectors are rotated by a secret matrix.
Distances stay the same, so search works as before, but a program that recovers texts from the vectors of a known model
(Morris et al. 2023, "Text Embeddings Reveal (Almost) As Much As Text") cannot read them. What stays visible is which
passages are near each other and which share a value.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from soldiom_ray.embed.lexical import PassageLocation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHROMA_COLUMNS = ("license", "source", "group", "kind", "framework", "language", "split")
"""The metadata of a passage that Chroma stores and filters by."""


@dataclass(frozen=True, slots=True)
class EncryptedView:
    """An index as Chroma sees it; `key` is None where nothing is encrypted."""

    index: str
    key: bytes | None

    @property
    def collection(self) -> str:
        """The name of its collection, which depends on the key."""
        return self.index if self.key is None else f"{self.index}-{_derived(self.key, 'name', self.index)[:4].hex()}"

    def metadata(self, plain: Mapping[str, str]) -> dict[str, str]:
        """Those of CHROMA_COLUMNS that `plain` has, their values hashed where there is a key."""
        return {name: self._value(name, plain[name]) for name in CHROMA_COLUMNS if name in plain}

    def vectors(self, vectors: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """Vectors of passages or queries, float32 [n, dimension], rotated where there is a key."""
        if self.key is None:
            return vectors
        rotated: NDArray[np.float32] = vectors @ rotation(_derived(self.key, "rotation", self.index), vectors.shape[1])
        return rotated

    def _value(self, name: str, value: str) -> str:
        if self.key is None:
            return value
        return hmac.digest(_derived(self.key, "values", self.index), f"{name}\0{value}".encode(), "sha256")[:16].hex()


def views_of(index: str, encryption_keys: Sequence[bytes]) -> list[EncryptedView]:
    """An index as Chroma may see it, first as it is written: with the newest key, or with none where there is none."""
    return [EncryptedView(index, key) for key in encryption_keys] or [EncryptedView(index, None)]


def row_ids(locations: Sequence[PassageLocation]) -> list[str]:
    """The ids of passages in Chroma: their locations, which reveal nothing of their content."""
    return [f"{part:06d}-{row:05d}" for part, row in locations]


def location_of(row_id: str) -> PassageLocation:
    """The location from which `row_ids` made this id."""
    part, _, row = row_id.partition("-")
    return int(part), int(row)


@lru_cache(8)
def rotation(secret: bytes, dimension: int) -> "NDArray[np.float32]":
    """A random rotation (or reflection), float32 [dimension, dimension], uniformly distributed (Mezzadri 2007, "How to
    generate random matrices from the classical compact groups"): the same for a secret on every machine, to float32."""
    import numpy as np

    stream = hashlib.shake_256(secret).digest(16 * dimension * dimension)
    first, second = (np.frombuffer(stream, "<u8").reshape(2, dimension, dimension) >> np.uint64(11)) / 2.0**53
    normal = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)
    orthogonal, triangular = np.linalg.qr(normal)
    matrix: Any = orthogonal * np.sign(np.diag(triangular))
    return np.ascontiguousarray(matrix, np.float32)


def _derived(key: bytes, purpose: str, index: str) -> bytes:
    return hmac.digest(key, f"soldiom search {purpose} {index}".encode(), "sha256")
