"""Copies: exact by a digest of the words, near by the Jaccard similarity of word 5-grams.

Near copies are found with MinHash (`minhash`) in locality-sensitive buckets (`lsh`), and every candidate is checked
against its true similarity (`near_copies`). So the buckets decide speed and recall, and no document is ever dropped
whose similarity to a kept one is below the threshold: the false-drop rate is 0 but for a collision of 64-bit hashes.
The probability that a pair of similarity s is compared is `minhash.recall(s, threshold)`.
"""
