"""Near-duplicates: found among many, never dropped wrongly, within bounded memory."""

import random
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soldiom_ray.prepare.deduplication import minhash, words
from soldiom_ray.prepare.deduplication import near_copies as near_copies_module
from soldiom_ray.prepare.deduplication.lsh import shared_buckets
from soldiom_ray.prepare.deduplication.minhash import band_rows, jaccard, recall, signatures
from soldiom_ray.prepare.deduplication.near_copies import LoadShingles, near_copies
from soldiom_ray.prepare.deduplication.words import content_digest, hash_words, ngram_hashes, shingles, words_of

THRESHOLD = 0.8


def loader(sets: list[Any], asked: list[int] | None = None) -> LoadShingles:
    def load(positions: set[int]) -> dict[int, Any]:
        if asked is not None:
            asked.append(len(positions))
        return {position: sets[position] for position in positions}

    return load


def package_sets(most: int) -> list[Any]:
    """Shingles of real source files, each followed by a copy with a few words changed."""
    texts = [path.read_text("utf-8", "replace") for path in sorted(Path(np.__file__).parent.rglob("*.py"))[:most]]
    changed = [re.sub(r"\bself\b", "this", text, count=2) + "\n# changed\n" for text in texts]
    return [shingles(hash_words(words_of(text))) for pair in zip(texts, changed, strict=True) for text in pair]


def one_by_one(sets: list[Any], threshold: float) -> dict[int, tuple[int, float]]:
    """What `near_copies` would find without any index."""
    kept: list[int] = []
    copies: dict[int, tuple[int, float]] = {}
    for position, own in enumerate(sets):
        similarities = ((other, jaccard(own, sets[other])) for other in kept if len(own))
        first = next((pair for pair in similarities if pair[1] >= threshold), None)
        if first:
            copies[position] = first
        else:
            kept.append(position)
    return copies


def test_real_files_and_their_changed_copies_are_found_as_an_exhaustive_comparison_finds_them() -> None:
    sets = package_sets(120)
    assert near_copies(signatures(sets), THRESHOLD, loader(sets)) == one_by_one(sets, THRESHOLD)


@pytest.mark.parametrize("most", [1, 2, 7])
def test_small_pieces_give_what_one_piece_gives(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    sets = package_sets(40)
    base = [f"word{number}" for number in range(300)]
    sets += [shingles(hash_words(base[cut:] + [f"own{cut}"] * cut)) for cut in range(0, 120, 3)]
    expected = near_copies(signatures(sets), THRESHOLD, loader(sets))
    asked: list[int] = []
    monkeypatch.setattr(near_copies_module, "BATCH_DOCUMENTS", most)
    assert near_copies(signatures(sets), THRESHOLD, loader(sets, asked)) == expected
    assert max(asked) <= most


def test_pieces_are_bounded_by_the_characters_of_their_texts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = package_sets(30)
    sizes = [8 * len(some) for some in sets]
    expected = near_copies(signatures(sets), THRESHOLD, loader(sets))
    asked: list[int] = []
    monkeypatch.setattr(near_copies_module, "BATCH_CHARACTERS", 2 * max(sizes))
    assert near_copies(signatures(sets), THRESHOLD, loader(sets, asked), sizes) == expected
    assert len(asked) > 5


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.5, 0.8, 0.95]))
def test_no_document_is_dropped_whose_similarity_to_a_kept_one_is_below_the_threshold(
    seed: int, threshold: float
) -> None:
    random_ = random.Random(seed)
    texts = [[f"w{random_.randrange(40)}" for _ in range(random_.randrange(60))] for _ in range(6)]
    for _ in range(14):
        text = list(random_.choice(texts))
        for _ in range(random_.randrange(8)):
            text.insert(random_.randrange(len(text) + 1), f"w{random_.randrange(60)}")
        texts.append(text)
    sets = [shingles(hash_words(text)) for text in texts]
    copies = near_copies(signatures(sets), threshold, loader(sets))
    for position, (original, similarity) in copies.items():
        assert original < position
        assert original not in copies
        assert similarity == jaccard(sets[position], sets[original]) >= threshold


def test_the_chance_to_miss_a_pair_is_the_stated_one() -> None:
    """Pairs of similarity 0.6 at a threshold of 0.8: their share of common bands against the formula."""
    random_ = np.random.default_rng(7)
    pairs, common, own = 400, 600, 200
    sets = []
    for _ in range(pairs):
        members = random_.integers(0, 2**63, common + 2 * own, dtype=np.uint64)
        sets += [np.sort(members[: common + own]), np.sort(np.concatenate((members[:common], members[common + own :])))]
    shared = shared_buckets(signatures(sets), band_rows(THRESHOLD), minhash.PERMUTATIONS)
    expected = recall(common / (common + 2 * own), THRESHOLD)
    assert len(shared.documents) / 2 / pairs == pytest.approx(
        expected, abs=4 * (expected * (1 - expected) / pairs) ** 0.5
    )
    assert recall(THRESHOLD, THRESHOLD) >= minhash.RECALL


def test_a_crowd_that_shares_a_header_is_sifted_by_signatures_before_texts_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    header = [f"header{word}" for word in range(60)]
    sets = [shingles(hash_words(header + [f"file{number}word{word}" for word in range(40)])) for number in range(200)]
    compared = []

    def counted(left: Any, right: Any) -> float:
        compared.append(1)
        return jaccard(left, right)

    monkeypatch.setattr(near_copies_module, "jaccard", counted)
    assert near_copies(signatures(sets), THRESHOLD, loader(sets)) == {}
    assert len(compared) < 200 * 199 / 2 / 10


def test_bands_hold_arrays_and_no_more_than_twelve_bytes_for_each_membership() -> None:
    random_ = np.random.default_rng(1)
    rows = random_.integers(0, 2**32, (2000, 128), dtype=np.uint32).astype("<u4")
    shared = shared_buckets([row.tobytes() for row in np.concatenate((rows, rows))], 5, 128)
    assert len(shared.documents) == 4000
    assert shared.components.tolist() == [position for position in range(2000) for _ in range(2)]
    assert len(shared.buckets) == 4000 * 25
    assert (
        shared.documents.nbytes + shared.components.nbytes + shared.starts.nbytes + shared.buckets.nbytes < 12 * 100_000
    )


def test_long_chains_of_similar_documents_are_one_component() -> None:
    rows = np.random.default_rng(2).integers(0, 2**32, (5000, 128), dtype=np.uint32).astype("<u4")
    for position in range(1, 5000):
        band = slice(5 * (position % 2), 5 * (position % 2) + 5)
        rows[position, band] = rows[position - 1, band]
    shared = shared_buckets([row.tobytes() for row in np.random.default_rng(3).permutation(rows)], 5, 128)
    assert len(shared.documents) == 5000
    assert set(shared.components.tolist()) == {0}


def test_nothing_and_documents_without_words_are_no_copies() -> None:
    assert near_copies([], THRESHOLD, loader([])) == {}
    empty = shingles(hash_words([]))
    assert near_copies(signatures([empty, empty]), THRESHOLD, loader([empty, empty])) == {}


ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=80)


@settings(max_examples=300, deadline=None)
@given(st.one_of(ANY_TEXT, st.text("aB_9é.\n\r\x1cΣσİK\ud800", max_size=60)))
def test_words_are_the_runs_of_word_characters_in_lower_case(text: str) -> None:
    assert words_of(text) == re.findall(r"\w+", text.lower())


@pytest.mark.parametrize(
    "text",
    ["x" * 10_000_000, "?!" * 2_000_000, "word " * 1_000_000, "\x00\ud800" * 100_000, "", "é" * 1_000_000],
    ids=["one word", "punctuation", "one word repeated", "NULs and surrogates", "empty", "one foreign word"],
)
def test_hostile_texts_get_signatures_and_leave_little_behind(text: str) -> None:
    own_words = words_of(text)
    content_digest(own_words)
    sets = [shingles(hash_words(own_words))] * 2
    copies = near_copies(signatures(sets), THRESHOLD, loader(sets))
    assert copies == ({1: (0, 1.0)} if own_words else {})
    assert max(map(len, words._word_hashes), default=0) <= words.LONGEST_CACHED_WORD


def test_shingles_are_a_sorted_set() -> None:
    hashes = hash_words(words_of("a b c d e " * 50))
    distinct = shingles(hashes)
    assert all(left < right for left, right in pairwise(distinct.tolist()))
    assert set(distinct.tolist()) == set(ngram_hashes(hashes, 5).tolist())
    assert len(shingles(hash_words(["one"]))) == 1
