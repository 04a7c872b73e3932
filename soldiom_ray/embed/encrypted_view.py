"""What Chroma, which knows no encryption, is shown of an index: the place of each passage, its vector, and what filters
need; never a text, a path or a symbol.

With an encryption key the values to filter by are keyed hashes (blind indexes), and the vectors are turned by a secret
rotation. Distances stay as they are, so search does; but a program that reads texts out of a known model's vectors
(Morris et al. 2023, "Text Embeddings Reveal (Almost) As Much As Text") does not know these. What stays visible is which
passages are near each other and which share a value.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from soldiom_ray.embed.lexical import Place

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHOWN = ("license", "source", "group", "kind", "framework", "language", "split")
"""Of what is known of a passage, the values that Chroma filters by itself."""


@dataclass(frozen=True, slots=True)
class View:
    """One index as Chroma sees it; `key` is None where nothing is encrypted."""

    index: str
    key: bytes | None

    @property
    def collection(self) -> str:
        """The name of its collection: another key has another one."""
        return self.index if self.key is None else f"{self.index}-{_derived(self.key, 'name', self.index)[:4].hex()}"

    def values(self, about: Mapping[str, str]) -> dict[str, str]:
        """Names of SHOWN with what stands for their values."""
        return {name: self._value(name, about[name]) for name in SHOWN if name in about}

    def vectors(self, vectors: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """Vectors [n, dimension] of passages or questions."""
        if self.key is None:
            return vectors
        turned: NDArray[np.float32] = vectors @ rotation(_derived(self.key, "rotation", self.index), vectors.shape[1])
        return turned

    def _value(self, name: str, value: str) -> str:
        if self.key is None:
            return value
        return hmac.digest(_derived(self.key, "values", self.index), f"{name}\0{value}".encode(), "sha256")[:16].hex()


def row_ids(places: Sequence[Place]) -> list[str]:
    """The ids of passages in Chroma: where they lie, which says nothing of them."""
    return [f"{part:06d}-{row:05d}" for part, row in places]


def place_of(row_id: str) -> Place:
    """What `row_ids` was given."""
    part, _, row = row_id.partition("-")
    return int(part), int(row)


@lru_cache(8)
def rotation(secret: bytes, dimension: int) -> "NDArray[np.float32]":
    """A random rotation (or reflection) [dimension, dimension], evenly distributed (Mezzadri 2007, "How to generate
    random matrices from the classical compact groups"): the same for the same secret on every machine, to float32."""
    import numpy as np

    stream = hashlib.shake_256(secret).digest(16 * dimension * dimension)
    first, second = (np.frombuffer(stream, "<u8").reshape(2, dimension, dimension) >> np.uint64(11)) / 2.0**53
    normal = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)
    orthogonal, triangular = np.linalg.qr(normal)
    turned: Any = orthogonal * np.sign(np.diag(triangular))
    return np.ascontiguousarray(turned, np.float32)


def _derived(key: bytes, purpose: str, index: str) -> bytes:
    return hmac.digest(key, f"soldiom search {purpose} {index}".encode(), "sha256")
