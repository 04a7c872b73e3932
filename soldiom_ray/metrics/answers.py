"""Metrics of generated answers against what their authors wrote. Words and punctuation are Unicode's, so that Arabic or
Chinese count as English does."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from soldiom_ray.metrics.measurement import AnswerOutcome
from soldiom_ray.metrics.statistics import NotApplicableError, Statistics, divided, mean_of, ratio

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

ARTICLES = frozenset({"a", "an", "the"})
VOWEL_MARKS = re.compile("[\u0640\u064b-\u0652\u0670]")
"""Arabic tatweel and short vowels, which writers set or leave out."""

UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
"""Scripts that put no spaces between words: each character counts as a word."""

JSON_SHARE = 0.5
"""Where at least this share of the references is JSON, answers are expected to be JSON."""
CITING_SHARE = 0.5
"""The same of references that cite numbered passages."""
CITATION = re.compile(r"\[(\d{1,4}(?:\s{0,2}[,;]\s{0,2}\d{1,4}){0,20})\]")


def normalized_words(text: str) -> list[str]:
    """Words as SQuAD compares them (Rajpurkar et al. 2016), of any script: in one Unicode form, without case,
    punctuation, English articles and Arabic vowel marks."""
    text = VOWEL_MARKS.sub("", unicodedata.normalize("NFKC", text).casefold())
    text = "".join(" " if unicodedata.category(c)[0] in "PZC" else c for c in UNSPACED.sub(r" \1 ", text))
    return [word for word in text.split() if word not in ARTICLES]


def exact_match(outcome: AnswerOutcome) -> Statistics:
    """The share of answers whose normalised words are the author's."""
    return mean_of([normalized_words(a) == normalized_words(b) for a, b in _pairs(outcome)])


def token_f1(outcome: AnswerOutcome) -> Statistics:
    """F1 of the words that answer and author share, the mean over answers."""
    return mean_of([_shared_f1(normalized_words(a), normalized_words(b)) for a, b in _pairs(outcome)])


def _shared_f1(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return float(answer == reference)
    shared = sum((Counter(answer) & Counter(reference)).values())
    return 2 * shared / (len(answer) + len(reference))


LONGEST_SEQUENCE = 300
"""Words of a text that ROUGE-L reads: the package compares every word with every other in Python, 20 ms for 300."""


class _Words:
    """The tokenizer of ROUGE. The package's own keeps nothing but a-z and 0-9."""

    def tokenize(self, text: str) -> list[str]:
        return normalized_words(text)[:LONGEST_SEQUENCE]


def rouge_l(outcome: AnswerOutcome) -> Statistics:
    """F1 of the longest common subsequence of the first words (Lin 2004), the mean over answers."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return mean_of([scorer.score(reference, answer)["rougeL"].fmeasure for answer, reference in _pairs(outcome)])


def chrf(outcome: AnswerOutcome) -> Statistics:
    """chrF of the corpus (Popovic 2015) as sacrebleu defines it, from its counts of character sequences per answer."""
    import numpy as np
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    rows = np.array(_counts(metric, outcome), dtype=np.float64)

    def value(sums: "Numbers") -> "Numbers":
        written, expected, shared = (sums[..., place::3] for place in range(3))
        used = (written > 0) & (expected > 0)
        orders = np.maximum(used.sum(-1), 1)
        precision = np.where(used, shared / np.maximum(written, 1), 0).sum(-1) / orders
        recall = np.where(used, shared / np.maximum(expected, 1), 0).sum(-1) / orders
        factor = metric.beta**2
        score: Numbers = 100 * (1 + factor) * precision * recall / np.maximum(factor * precision + recall, 1e-12)
        return score

    return Statistics(rows, value)


def bleu(outcome: AnswerOutcome) -> Statistics:
    """BLEU of the corpus (Papineni et al. 2002) as sacrebleu defines it, exponentially smoothed; words are its
    `13a`, or characters where most answers are in scripts without spaces."""
    import numpy as np
    from sacrebleu.metrics.bleu import BLEU

    letters = "".join(outcome.references)
    unspaced = len(UNSPACED.findall(letters)) > len(letters) / 3
    metric = BLEU(tokenize="char" if unspaced else "13a")
    rows = np.array(_counts(metric, outcome), dtype=np.float64)
    order = metric.max_ngram_order

    def value(sums: "Numbers") -> "Numbers":
        written, expected = sums[..., 0], sums[..., 1]
        shared, total = sums[..., 2 : 2 + order], sums[..., 2 + order :]
        zeros = ((shared == 0) & (total > 0)).cumsum(-1)
        precision = np.where(shared > 0, shared, 0.5**zeros) / np.maximum(total, 1)
        scored = (total > 0).all(-1) & (shared > 0).any(-1)
        brevity = np.exp(np.minimum(0, 1 - divided(expected, written)))
        return np.where(scored, 100 * brevity * np.exp(np.log(precision).mean(-1)), 0.0)

    return Statistics(rows, value)


def json_validity(outcome: AnswerOutcome) -> Statistics:
    """The share of answers that are JSON and obey the schema, where one is declared."""
    from jsonschema.validators import validator_for
    from referencing import Registry

    if outcome.schema is None and sum(map(_is_json, outcome.references)) < JSON_SHARE * len(outcome.references):
        raise NotApplicableError("no `answer_schema` is declared, and the authors' answers are no JSON")
    schema = outcome.schema or {}
    validator = validator_for(schema)(schema, registry=Registry())  # the default one fetches what `$ref` names
    return mean_of([_is_json(text) and validator.is_valid(json.loads(text)) for text in outcome.texts])


def citation_precision(outcome: AnswerOutcome) -> Statistics:
    """Of the passages that answers cite as [n] the share that the author cites for the same question. An answer without
    a citation, where the author has one, counts as one wrong citation: silence earns nothing."""
    import numpy as np

    pairs = [(_cited(answer), _cited(reference)) for answer, reference in _pairs(outcome)]
    if sum(bool(author) for _, author in pairs) < max(1, CITING_SHARE * len(pairs)):
        raise NotApplicableError("the authors' answers cite no passages as [n]")
    right = [len(cited & author) for cited, author in pairs]
    counted = [max(len(cited), bool(author)) for cited, author in pairs]
    return Statistics(np.array([right, counted], dtype=np.float64).T, ratio)


def _cited(text: str) -> set[int]:
    return {int(number) for group in CITATION.findall(text) for number in re.findall(r"\d+", group)}


def pass_at_1(outcome: AnswerOutcome) -> Statistics:
    """The share of programs that pass their task's checks (pass@1 of Chen et al. 2021, with one greedy answer)."""
    return _share_passed(outcome.passed, "no sample came with checks that its author's program passes")


def pass_at_k(outcome: AnswerOutcome) -> Statistics:
    """The share of tasks that one of k drawn programs passes (pass@k of Chen et al. 2021, with as many tries as k)."""
    return _share_passed(outcome.solved, "only one answer was asked for; set `tries`")


def _share_passed(passed: Sequence[bool | None], reason: str) -> Statistics:
    import numpy as np

    checked = np.array([each is not None for each in passed], dtype=np.float64)
    if not checked.any():
        raise NotApplicableError(reason)
    return Statistics(np.stack([np.array([bool(each) for each in passed], dtype=np.float64), checked], axis=1), ratio)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _pairs(outcome: AnswerOutcome) -> list[tuple[str, str]]:
    return list(zip(outcome.texts, outcome.references, strict=True))


def _counts(metric: Any, outcome: AnswerOutcome) -> list[list[int]]:
    """sacrebleu's sufficient statistics of every answer, from which its own bootstrap is made."""
    counts: list[list[int]] = metric._extract_corpus_statistics(list(outcome.texts), [list(outcome.references)])
    return counts
