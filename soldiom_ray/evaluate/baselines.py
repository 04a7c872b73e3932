"""Trivial baselines: what needs no neural network at all. A tuned model that does not beat them has learnt nothing
that a lookup could not do."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.metrics.statistics import NotMeasurableError
from soldiom_ray.models.labels import labels_of
from soldiom_ray.models.sequence_pairs import source_and_target
from soldiom_ray.records import Manifest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COPY, NEAREST, MOST_FREQUENT = "copy of the prompt", "nearest neighbour", "most frequent answer"
LINEAR = "TF-IDF + logistic regression"

MAX_TRAINED_ON = 20_000
"""Samples of the training split that a baseline sees at most: seconds, not minutes."""
MAX_SAMPLE_LABELS = 400_000
"""Samples times labels of the logistic regression at most: about 20 s of a core."""
SEEN_CHARACTERS = 2_000
WORDS = r"(?u)[\u3040-\u30ff\u3400-\u9fff]|\w+"
"""Words, and single characters of scripts without spaces."""


def answer_baselines(artifacts: Artifacts, dataset: Manifest, prompts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Answers to the prompts: the prompt itself, the most frequent answer of the training split, and the answer to
    the most similar question there (by TF-IDF of words). The last two are missing where the training split has no
    conversations."""
    answers = {COPY: tuple(prompts)}
    rows = artifacts.rows(dataset, "train/", ["messages"])
    pairs = (source_and_target(json.loads(row["messages"] or "[]")) for row in rows)
    trained_on = list(islice((pair for pair in pairs if pair), MAX_TRAINED_ON))
    if not trained_on:
        return answers
    likeliest = Counter(target for _, target in trained_on).most_common(1)[0][0]
    answers[MOST_FREQUENT] = (likeliest,) * len(prompts)
    with suppress(ValueError):  # scikit-learn's, where no text holds a word
        answers[NEAREST] = tuple(trained_on[place][1] for place in _nearest([q for q, _ in trained_on], prompts))
    return answers


def _nearest(questions: Sequence[str], prompts: Sequence[str]) -> list[int]:
    """The place of the question that is most similar to each prompt."""
    import numpy as np

    vectorizer = _vectorizer()
    known = vectorizer.fit_transform(_cut(questions))
    similar = vectorizer.transform(_cut(prompts)) @ known.T
    places: list[int] = np.asarray(similar.argmax(axis=1)).ravel().tolist()
    return places


def linear_baseline(
    artifacts: Artifacts, dataset: Manifest, texts: Sequence[str], names: Sequence[str], *, multi_label: bool
) -> "NDArray[np.float64]":
    """Probabilities [texts, names] of logistic regression on TF-IDF of words, from the training split.
    NotMeasurableError where that has fewer than two labels or no words."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    most = min(MAX_TRAINED_ON, MAX_SAMPLE_LABELS // max(1, len(names)))
    rows = artifacts.rows(dataset, "train/", ["text", "metadata"])
    labelled = ((row["text"], labels_of(row["metadata"])) for row in rows)
    trained_on = list(islice(((text, labels) for text, labels in labelled if labels or multi_label), most))
    places = {name: place for place, name in enumerate(names)}
    targets = np.zeros((len(trained_on), len(names)), dtype=np.int64)
    for row, (_, labels) in zip(targets, trained_on, strict=True):
        row[[places[label] for label in (labels if multi_label else labels[:1]) if label in places]] = 1
    if not multi_label and len(np.unique(targets.argmax(1))) < 2:
        raise NotMeasurableError("the training split has fewer than two labels")
    vectorizer, model = _vectorizer(), LogisticRegression(max_iter=300)
    try:
        features = vectorizer.fit_transform(_cut([text for text, _ in trained_on]))
    except ValueError as error:
        raise NotMeasurableError("the texts hold no words") from error
    asked = vectorizer.transform(_cut(texts))
    if multi_label:
        used = [place for place in range(len(names)) if 0 < targets[:, place].mean() < 1]
        chances = np.tile(targets.mean(0), (len(texts), 1))
        if used:
            chances[:, used] = OneVsRestClassifier(model).fit(features, targets[:, used]).predict_proba(asked)
        return chances
    fitted = model.fit(features, targets.argmax(1))
    chances = np.zeros((len(texts), len(names)))
    chances[:, fitted.classes_] = fitted.predict_proba(asked)
    return chances


def _vectorizer() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(token_pattern=WORDS, sublinear_tf=True, max_features=50_000)


def _cut(texts: Sequence[str]) -> list[str]:
    return [text[:SEEN_CHARACTERS] for text in texts]
