"""Comparing indexes that different processes made."""

import io

import numpy as np

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.records import Manifest


def assert_same_index(first: tuple[Artifacts, Manifest], second: tuple[Artifacts, Manifest]) -> None:
    """The same passages in the same files, byte for byte; vectors to the last bits of bfloat16, since a processor may
    round a product otherwise in another process."""
    (_, one), (_, other) = first, second
    assert (one.id, one.counts, [entry.name for entry in one.files]) == (
        other.id, other.counts, [entry.name for entry in other.files],
    )  # fmt: skip
    differing = {a.name for a, b in zip(one.files, other.files, strict=True) if a != b}
    assert {name for name in differing if not name.startswith("vectors/")} == set()
    for name in differing:
        assert_same_vectors(*(np.load(io.BytesIO(artifacts.read(index, name))) for artifacts, index in (first, second)))


def assert_same_vectors(one: np.ndarray, other: np.ndarray) -> None:
    """Vectors of length one, [n, dimension], that point the same way."""
    assert one.shape == other.shape and (one * other).sum(axis=-1).min() > 0.9995
