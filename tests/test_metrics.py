"""Metrics agree with the libraries that define them, in any script; intervals and gates keep what they promise."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from cpu_time import cpu_seconds

from soldiom_ray.domains.metrics import METRICS, MetricName
from soldiom_ray.domains.schema import Gate
from soldiom_ray.evaluate.gates import apply_gate
from soldiom_ray.metrics.answers import normalized_words
from soldiom_ray.metrics.compare import Comparison, compare
from soldiom_ray.metrics.computations import COMPUTATIONS, Computation
from soldiom_ray.metrics.labels import confusion_matrix
from soldiom_ray.metrics.measurement import (
    PRIOR,
    AnswerOutcome,
    HeldOutSample,
    LabelOutcome,
    Measurement,
    Outcome,
    PartOutcome,
    TokenOutcome,
)
from soldiom_ray.metrics.resampling import bootstrap_p, holm, interval_of, mcnemar_p, resample
from soldiom_ray.metrics.statistics import NotMeasurableError, Statistics, mean_of


def value(name: MetricName, outcome: Outcome) -> float:
    """A metric on all samples."""
    statistics = COMPUTATIONS[name].statistics(outcome)
    return float(statistics.value(np.asarray(statistics.rows.sum(axis=0)).reshape(1, -1))[0])


def labelled(samples: int, classes: int, seed: int = 0, skill: float = 1.0) -> tuple[LabelOutcome, np.ndarray]:
    """Labels, and the probabilities of a model that knows something of them."""
    random = np.random.default_rng(seed)
    actual = random.integers(0, classes, samples)
    logits = random.normal(size=(samples, classes))
    logits[np.arange(samples), actual] += skill
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    losses = -np.log(chances[np.arange(samples), actual])
    names = tuple(f"class {number}" for number in range(classes))
    return LabelOutcome(names, np.arange(classes)[None] == actual[:, None], chances, losses), actual


@pytest.mark.parametrize(("samples", "classes"), [(300, 2), (300, 4), (5000, 3)])
def test_metrics_of_labels_are_scikit_learns(samples: int, classes: int) -> None:
    from sklearn import metrics

    outcome, actual = labelled(samples, classes)
    chances, predicted = outcome.probabilities, outcome.probabilities.argmax(1)
    each = range(classes)
    expected = {
        "accuracy": metrics.accuracy_score(actual, predicted),
        "macro_f1": metrics.f1_score(actual, predicted, average="macro"),
        "auroc": np.mean([metrics.roc_auc_score(actual == label, chances[:, label]) for label in each]),
        "average_precision": np.mean(
            [metrics.average_precision_score(actual == label, chances[:, label]) for label in each]
        ),
        "loss": metrics.log_loss(actual, chances),
    }
    merged = samples > 1000  # probabilities are merged into levels
    for name, number in expected.items():
        assert value(name, outcome) == pytest.approx(number, abs=2e-3 if merged else 1e-9), name  # type: ignore[arg-type]
    assert (confusion_matrix(outcome) == metrics.confusion_matrix(actual, predicted)).all()


def test_the_calibration_error_is_the_gap_between_confidence_and_share_right() -> None:
    sure = np.tile([0.9, 0.1], (100, 1))
    targets = np.zeros((100, 2), bool)
    targets[:60, 0], targets[60:, 1] = True, True
    assert value("calibration_error", LabelOutcome(("a", "b"), targets, sure, np.ones(100))) == pytest.approx(0.3)


def test_samples_with_several_labels_have_micro_f1_and_count_as_right_only_as_a_whole() -> None:
    from sklearn import metrics

    random = np.random.default_rng(3)
    targets, chances = random.random((80, 3)) < 0.4, random.random((80, 3))
    outcome = LabelOutcome(("a", "b", "c"), targets, chances, np.ones(80), multi_label=True)
    assert value("micro_f1", outcome) == pytest.approx(metrics.f1_score(targets, chances > 0.5, average="micro"))
    assert value("accuracy", outcome) == pytest.approx(metrics.accuracy_score(targets, chances > 0.5))


ANSWERS = ["the cat sat on a mat", "hello there", "Read rows of the file.", "القطة على السجادة", ""]
AUTHORS = ["A cat sat on the mat today", "hello, there!", "reads the rows of a file", "القِطّة على السّجادة", "x"]


def test_metrics_of_answers_are_those_of_sacrebleu_and_rouge_score() -> None:
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    outcome = AnswerOutcome(tuple(ANSWERS), tuple(AUTHORS))
    assert value("chrf", outcome) == pytest.approx(sacrebleu.corpus_chrf(ANSWERS, [AUTHORS]).score)
    assert value("bleu", outcome) == pytest.approx(sacrebleu.corpus_bleu(ANSWERS, [AUTHORS]).score)
    english = AnswerOutcome(("one two three", "four five"), ("one three two", "five six"))
    plain = RougeScorer(["rougeL"])
    scores = [
        plain.score(author, answer)["rougeL"].fmeasure
        for answer, author in zip(english.texts, english.references, strict=True)
    ]
    assert value("rouge_l", english) == pytest.approx(np.mean(scores))


def test_words_of_every_script_count() -> None:
    assert normalized_words("The cat, it sat!") == ["cat", "it", "sat"]
    assert normalized_words("القِطّة") == normalized_words("القطة") == ["القطة"]
    assert normalized_words("你好。") == ["你", "好"]
    arabic = AnswerOutcome(("القطة على السجادة",), ("القِطّة على السّجادة",))
    assert value("exact_match", arabic) == value("token_f1", arabic) == value("rouge_l", arabic) == 1
    half = AnswerOutcome(("red blue",), ("red green",))
    assert value("token_f1", half) == pytest.approx(0.5)


def test_answers_in_json_are_held_to_their_schema() -> None:
    schema = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    texts = ('{"name": "x"}', '{"name": 3}', "no json", "{}")
    references = ('{"name": "y"}',) * 4
    assert value("json_validity", AnswerOutcome(texts, references, schema)) == 0.25
    assert value("json_validity", AnswerOutcome(texts, references)) == 0.75
    with pytest.raises(NotMeasurableError, match="no JSON"):
        value("json_validity", AnswerOutcome(texts, ("prose",) * 4))


def test_citations_are_right_where_the_author_cites_the_same_passage() -> None:
    authors = ("It may be ended [1, 3].", "Thirty days [2].", "Yes [1]. The fee is due [4].")
    answers = ("It may be ended [1][5].", "Thirty days.", "Yes [4], as [1] says [1].")
    outcome = AnswerOutcome(answers, authors)
    assert value("citation_precision", outcome) == pytest.approx(3 / 5), "1 of 2, silence as a wrong one, 2 of 2"
    assert value("citation_precision", AnswerOutcome(authors, authors)) == 1
    with pytest.raises(NotMeasurableError, match="cite no passages"):
        value("citation_precision", AnswerOutcome(authors, ("prose", "none either", "here [1]")))


def test_a_metric_that_fails_is_missing_with_its_error_and_the_others_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(outcome: object) -> Statistics:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setitem(COMPUTATIONS, "accuracy", Computation(fail))  # type: ignore[arg-type]
    outcome, _ = labelled(60, 2)
    measurement = measured("labels", {"tuned": outcome, "base": outcome})
    comparison = compared(measurement)
    assert "loss" in comparison.scores and "accuracy" not in comparison.scores
    gate = apply_gate(comparison, measurement, Gate(metric="accuracy"))
    assert gate["measured"] is False and not gate["passed"]
    assert "its computation failed with ZeroDivisionError: division by zero" in gate["verdict"]


def test_every_metric_is_declared_and_computed() -> None:
    from typing import get_args

    assert METRICS.keys() == COMPUTATIONS.keys() == set(get_args(MetricName))


def measured(part: str, outcomes: dict[str, Outcome], groups: int = 0, base: str = "base") -> Measurement:
    count = len(next(iter(outcomes.values())).losses)  # type: ignore[union-attr]
    samples = tuple(HeldOutSample(f"{i:05}", f"g{i % groups if groups else i}") for i in range(count))
    return Measurement((PartOutcome(part, samples, outcomes),), [], base, count, count, 64)  # type: ignore[arg-type]


def compared(measurement: Measurement, resamples: int = 400, seed: int = 1) -> Comparison:
    return compare(measurement, resamples=resamples, confidence=0.95, seed=seed)


def test_what_cannot_be_measured_says_why_and_the_gate_does_not_pass() -> None:
    one_class = LabelOutcome(("a", "b"), np.tile([True, False], (12, 1)), np.tile([0.7, 0.3], (12, 1)), np.ones(12))
    comparison = compared(measured("labels", {"tuned": one_class, "base": one_class}))
    assert "all of one class" in comparison.missing["auroc"] and "accuracy" in comparison.scores
    broken = TokenOutcome(np.full(9, 10.0), np.array([1.0] * 8 + [math.nan]), np.ones(9))
    whole = TokenOutcome(np.full(9, 10.0), np.ones(9), np.ones(9))
    measurement = measured("tokens", {"tuned": broken, "base": whole})
    gate = apply_gate(compared(measurement), measurement, Gate())
    assert not gate["passed"] and gate["measured"] is False and "no number on 1 of 9 samples" in gate["verdict"]
    gate = apply_gate(compared(measurement), measurement, Gate(metric="bleu"))
    assert gate["measured"] is False and not gate["passed"]


def test_a_metric_that_the_task_does_not_have_is_named_as_such() -> None:
    outcome, _ = labelled(40, 2)
    measurement = measured("labels", {"tuned": outcome, "base": outcome})
    comparison = compare(measurement, metrics=("accuracy", "perplexity"), resamples=200, confidence=0.95, seed=1)
    assert list(comparison.scores) == ["accuracy"] and "not on this task" in comparison.missing["perplexity"]


def test_p_values_agree_with_the_intervals_and_with_scipy() -> None:
    from scipy import stats

    random = np.random.default_rng(4)
    for size in (8, 40):
        differences = random.normal(0.3, 1, size)
        ((mean, drawn),) = resample([mean_of(differences)], np.arange(size), resamples=4000, seed=1)
        p = bootstrap_p(drawn, units=size)
        assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.06)
        interval = interval_of(mean, drawn, units=size, confidence=0.95)
        assert (interval.low > 0 or interval.high < 0) == (p < 0.05)
    hits, other = np.array([True] * 9 + [False] * 3), np.array([True] * 3 + [False] * 9)
    assert mcnemar_p(hits, other) == pytest.approx(stats.binomtest(6, 6).pvalue)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """A difference of means with a long tail, and a difference of shares, on few and on many documents."""
    random = np.random.default_rng(7)
    for size, draw, truth in (
        (12, lambda n: random.normal(-0.1, 0.3, n), -0.1),
        (60, lambda n: random.gamma(2.0, 0.5, n) - 0.9, 0.1),
        (100, lambda n: random.choice([1.0, 0.0, -1.0], n, p=[0.25, 0.6, 0.15]), 0.1),
    ):
        covered = 0
        for trial in range(400):
            ((mean, drawn),) = resample([mean_of(draw(size))], np.arange(size), resamples=400, seed=trial)
            interval = interval_of(mean, drawn, units=size, confidence=0.95)
            covered += interval.low <= truth <= interval.high
        assert 0.92 <= covered / 400 <= 0.98, size


def test_the_gate_promotes_a_model_that_is_no_better_no_more_often_than_it_says() -> None:
    """Two models of the same quality: a loss with a long tail, and labels of which each gets 70 % right."""
    random = np.random.default_rng(11)
    promoted = {"loss": 0, "accuracy": 0}
    for trial in range(300):
        tokens = random.integers(20, 80, 25).astype(float)
        two = [TokenOutcome(tokens, tokens * random.gamma(3, 1, 25), np.zeros(25)) for _ in range(2)]
        one = [labels_of_skill(random, 40, 0.7) for _ in range(2)]
        for metric, part, (tuned, base) in (("loss", "tokens", two), ("accuracy", "labels", one)):
            measurement = measured(part, {"tuned": tuned, "base": base})
            comparison = compare(measurement, metrics=(metric,), resamples=200, confidence=0.95, seed=trial)
            promoted[metric] += apply_gate(comparison, measurement, Gate(metric=metric))["passed"]  # type: ignore[arg-type]
    assert promoted["loss"] / 300 <= 0.05 and promoted["accuracy"] / 300 <= 0.05, promoted


def labels_of_skill(random: np.random.Generator, samples: int, share: float) -> LabelOutcome:
    right = random.random(samples) < share
    chances = np.where(right[:, None], [0.8, 0.2], [0.2, 0.8])
    return LabelOutcome(("a", "b"), np.tile([True, False], (samples, 1)), chances, np.ones(samples))


def better_and_baseline(tuned: float, majority: float = 0.5, before: float | None = None) -> Measurement:
    random = np.random.default_rng(2)
    systems = {"tuned": tuned, "base": 0.5, "majority": majority} | ({"previous": before} if before else {})
    return measured("labels", {name: labels_of_skill(random, 200, share) for name, share in systems.items()})


def test_conditions_are_combined_and_say_what_they_compared() -> None:
    good = better_and_baseline(0.8, majority=0.6)
    comparison = compared(good)

    def passed(**gate: object) -> bool:
        return bool(apply_gate(comparison, good, Gate.model_validate(gate))["passed"])

    assert passed(metric="accuracy") and passed(metric="accuracy", beat="baseline")
    assert passed(metric="accuracy", by=0.1) and not passed(metric="accuracy", by=0.4)
    assert passed(metric="accuracy", beat="value", value=0.7) and not passed(metric="accuracy", beat="value", value=0.8)
    assert passed(metric="accuracy", beat="previous"), "a first version has none to beat"
    high, low = {"metric": "accuracy", "beat": "value", "value": 0.95}, {"metric": "accuracy", "beat": "baseline"}
    assert passed(any=[high, low]) and not passed(all=[high, low])
    gate = apply_gate(comparison, good, Gate.model_validate({"all": [high, low]}))
    assert gate["combine"] == "all" and [each["passed"] for each in gate["conditions"]] == [False, True]
    assert "1 of 2 conditions hold" in gate["verdict"]
    worse = better_and_baseline(0.8, majority=0.9)
    gate = apply_gate(compared(worse), worse, Gate(metric="accuracy", beat="baseline"))
    assert not gate["passed"] and "best trivial baseline (majority)" in gate["verdict"]


def test_a_classifier_that_a_trivial_baseline_beats_does_not_pass_for_beating_label_frequencies() -> None:
    for majority, passes in ((0.95, False), (0.8, True), (0.6, True)):
        labels = replace(better_and_baseline(0.8, majority=majority), base=PRIOR)
        gate = apply_gate(compared(labels), labels, Gate())
        assert gate["passed"] == passes and ("a trivial baseline (majority) is better" in gate["verdict"]) != passes
    worse = replace(better_and_baseline(0.8, majority=0.95), base=PRIOR)
    for asked in ({"all": [{"metric": "accuracy"}]}, {"metric": "accuracy", "beat": "value", "value": 0.6}):
        assert apply_gate(compared(worse), worse, Gate.model_validate(asked))["passed"], "it says what it wants"
    of_a_model = better_and_baseline(0.8, majority=0.95)
    assert apply_gate(compared(of_a_model), of_a_model, Gate())["passed"]


def test_a_model_that_is_not_much_worse_than_the_version_before_may_pass() -> None:
    same = better_and_baseline(0.8, before=0.8)
    comparison = compared(same)
    strict = apply_gate(comparison, same, Gate(metric="accuracy", beat="previous"))
    lenient = apply_gate(comparison, same, Gate(metric="accuracy", beat="previous", by=-0.2))
    assert not strict["passed"] and lenient["passed"] and "not worse than the version before" in lenient["verdict"]


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ({"beat": "value"}, "go together"),
        ({"value": 1.0}, "go together"),
        ({"all": [{}], "any": [{}]}, "either"),
        ({"metric": "loss", "any": [{}]}, "inside it"),
        ({"metric": "f2"}, "macro_f1"),
    ],
)
def test_a_gate_that_contradicts_itself_is_refused(gate: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gate.model_validate(gate)


def test_ten_thousand_samples_are_resampled_two_thousand_times_quickly() -> None:
    outcome, _ = labelled(10_000, 2)
    statistics = [COMPUTATIONS[name].statistics(outcome) for name in ("accuracy", "macro_f1", "auroc", "loss")]
    results = []
    seconds = cpu_seconds(lambda: results.extend(resample(statistics, np.arange(10_000), resamples=2000, seed=1)))
    assert seconds < 3, "0.7 s of CPU on a quiet machine"
    assert all(len(drawn) == 2000 and drawn.std() > 0 for _, drawn in results)


def test_whole_groups_are_drawn_where_there_are_enough_of_them() -> None:
    outcome, _ = labelled(400, 2)
    few, many = (compared(measured("labels", {"tuned": outcome, "base": outcome}, groups=n)) for n in (5, 40))
    assert few.scores["accuracy"].unit == "document" and few.scores["accuracy"].over_groups is not None
    assert many.scores["accuracy"].unit == "group" and many.scores["accuracy"].units == 40
    assert list(itertools.islice(few.values("tuned"), 1)) == ["loss"]
