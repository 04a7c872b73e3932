"""What near_duplicates.py is judged by: the Jaccard similarity of word 5-grams of every pair of files."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from soldiom_ray.prepare.deduplication.words import words_of


def exact_pairs(texts: Sequence[str], threshold: float) -> Any:
    """All pairs at the threshold, one row each: word 5-grams are numbered, not hashed, and every pair is counted."""
    from scipy import sparse

    numbers: dict[str, int] = {}
    documents, grams = [], []
    for position, text in enumerate(texts):
        words = np.array([numbers.setdefault(word, len(numbers)) for word in words_of(text)], np.int64)
        grams.append(np.lib.stride_tricks.sliding_window_view(words, 5) if len(words) >= 5 else np.empty((0, 5), int))
        documents.append(np.full(len(grams[-1]), position))
    all_grams = np.concatenate(grams)
    known = all_grams[:, 0]
    for column in range(1, 5):
        known = np.unique(known << 32 | all_grams[:, column], return_inverse=True)[1].astype(np.int64)
    shape = (len(texts), int(known.max()) + 1)
    matrix = sparse.csr_matrix((np.ones(len(known), np.int32), (np.concatenate(documents), known)), shape)
    matrix.data[:] = 1
    shared = (matrix @ matrix.T).tocoo()
    size = np.asarray(matrix.sum(axis=1)).ravel()
    similarity = shared.data / (size[shared.row] + size[shared.col] - shared.data)
    good = (similarity >= threshold) & (shared.row < shared.col)
    return np.stack((shared.row[good], shared.col[good]), axis=1)


def judged(pairs: Any, kept: set[int], count: int) -> tuple[float, float, int]:
    """Precision: of the dropped files those that have a partner at the threshold. Recall: of the pairs at the threshold
    those of which one was dropped. Wrong drops: files without such a partner among the kept."""
    partners: dict[int, set[int]] = {}
    for first, second in pairs.tolist():
        partners.setdefault(first, set()).add(second)
        partners.setdefault(second, set()).add(first)
    dropped = [position for position in range(count) if position not in kept]
    right = sum(position in partners for position in dropped)
    wrong = sum(not partners.get(position, set()) & kept for position in dropped)
    recalled = sum(first not in kept or second not in kept for first, second in pairs.tolist())
    return right / max(1, len(dropped)), recalled / max(1, len(pairs)), wrong
