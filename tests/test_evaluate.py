"""evaluate: the scores are right, and the interval means what it says."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from cpu_time import cpu_seconds
from small_models import CONTEXT, small_base, small_context, small_dataset, small_run, small_settings, tuned

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Evaluate, Gate
from soldiom_ray.errors import CancelledError, InputError
from soldiom_ray.evaluate import evaluate
from soldiom_ray.evaluate.blocks import choose_blocks, held_out_rows
from soldiom_ray.evaluate.gates import apply_gate
from soldiom_ray.examples import read_examples
from soldiom_ray.metrics.compare import Comparison, compare
from soldiom_ray.metrics.measurement import HeldOutSample, Measurement, PartOutcome, TokenOutcome
from soldiom_ray.metrics.resampling import interval_of, resample
from soldiom_ray.metrics.statistics import Statistics, ratio
from soldiom_ray.models.load import load_model, load_tokenizer

GROUPS = {"train": {"alpha": 6}, "validation": {"beta": 2}, "test": {"gamma": 6, "delta": 3}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base model, a better one and a worse one."""
    root = tmp_path_factory.mktemp("models")
    base = small_base(root / "base")
    return {"base": base, "better": tuned(base, root / "better"), "worse": tuned(base, root / "worse", 8, -1e-3)}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return small_context(small_settings(tmp_path / "home"))


def measured(loss_base: Iterable[float], loss_tuned: Iterable[float], tokens: int = 100) -> Measurement:
    """Documents of one group, each of as many tokens, of which the base predicts 10 and the tuned model 20."""
    losses = {"base": (np.array(list(loss_base)), 10.0), "tuned": (np.array(list(loss_tuned)), 20.0)}
    ones = np.ones(len(losses["base"][0]))
    outcomes = {
        name: TokenOutcome(tokens * ones, tokens * values, correct * ones) for name, (values, correct) in losses.items()
    }
    samples = tuple(HeldOutSample(str(number), "g") for number in range(len(ones)))
    return Measurement((PartOutcome("tokens", samples, outcomes),), [], "base", int(tokens * len(ones)), len(ones), 64)


def compared(measurement: Measurement, resamples: int = 500) -> Comparison:
    return compare(measurement, resamples=resamples, confidence=0.95, seed=1)


def test_a_tuned_model_is_scored_against_its_base_and_passes(context: Context, folders: dict[str, Path]) -> None:
    dataset = small_dataset(context, GROUPS)
    run = small_run(context, dataset, folders["better"], folders["base"])
    scores = evaluate(context, run, dataset, Evaluate(max_tokens=1500))
    details = scores.details
    assert details["tuned"]["loss"] < details["base"]["loss"]
    assert details["base"]["perplexity"] == pytest.approx(math.exp(details["base"]["loss"]))
    assert 0 <= details["base"]["token_accuracy"] < details["tuned"]["token_accuracy"] <= 1
    interval = details["difference"]["loss"]
    assert interval["low"] <= interval["mean"] <= interval["high"] < 0
    assert details["gate"]["passed"] and details["gate"]["verdict"].startswith("Passed:")
    assert details["groups"] == 2 and details["documents"] == 9
    assert 0 < details["tokens"] <= 1500
    content = json.loads(context.artifacts.read(scores, "scores.json"))
    assert sum(document["tokens"] for document in content["documents"]) == details["tokens"]
    assert {group["group"] for group in content["groups"]} == {"gamma", "delta"}
    report = context.artifacts.read(scores, "report.md").decode()
    assert "only 2 groups" in report and "## Answers before and after" in report and "| gamma |" in report
    assert evaluate(context, run, dataset, Evaluate(max_tokens=1500)).created_at == scores.created_at


def test_the_loss_is_the_models_own_cross_entropy_on_the_same_blocks(
    context: Context, folders: dict[str, Path]
) -> None:
    import torch

    dataset = small_dataset(context, GROUPS)
    run = small_run(context, dataset, folders["better"], folders["base"])
    scores = evaluate(context, run, dataset, Evaluate(max_tokens=600))
    for which, folder in (("base", folders["base"]), ("tuned", folders["better"])):
        model, tokenizer = load_model(folder, dtype="float32")
        rows = held_out_rows(context.artifacts, dataset)
        total = hits = count = 0.0
        for block in choose_blocks(rows, tokenizer, block_tokens=CONTEXT, max_tokens=600, seed=Evaluate().seed):
            ids = torch.tensor(block.ids.astype("int64"))[None]
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, :-1].double()
            total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            hits += (logits.argmax(-1) == ids[0, 1:]).sum().item()
            count += len(block.ids) - 1
        assert count == scores.details["tokens"]
        assert scores.details[which]["loss"] == pytest.approx(total / count, abs=2e-3)
        assert scores.details[which]["token_accuracy"] == pytest.approx(hits / count, abs=5e-3)


def test_a_worse_model_does_not_pass(context: Context, folders: dict[str, Path]) -> None:
    dataset = small_dataset(context, GROUPS)
    run = small_run(context, dataset, folders["worse"], folders["base"])
    gate = evaluate(context, run, dataset, Evaluate(max_tokens=1500)).details["gate"]
    assert not gate["passed"] and gate["verdict"].startswith("Not passed: the tuned model is worse")


def test_a_model_that_is_its_base_does_not_pass(context: Context, folders: dict[str, Path]) -> None:
    dataset = small_dataset(context, GROUPS)
    run = small_run(context, dataset, folders["base"], folders["base"])
    details = evaluate(context, run, dataset, Evaluate(max_tokens=500)).details
    assert details["difference"]["loss"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert not details["gate"]["passed"]


@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_adapters_are_scored_on_their_base(
    context: Context, folders: dict[str, Path], tmp_path: Path, method: str
) -> None:
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    model, _ = load_model(folders["base"], dtype="float32")
    kinds = {
        "lora": LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
        "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    }
    get_peft_model(model, kinds[method]).save_pretrained(tmp_path / "adapter")
    dataset = small_dataset(context, GROUPS)
    run = small_run(context, dataset, tmp_path / "adapter", folders["base"], method=method)
    scores = evaluate(context, run, dataset, Evaluate(max_tokens=500))
    assert scores.details["tokens"] == 500 and scores.details["difference"]["loss"]["mean"] != 0
    length = CONTEXT if method == "lora" else CONTEXT - 4
    whole = small_run(context, dataset, folders["better"], folders["base"], sequence_length=length)
    apart = evaluate(context, whole, dataset, Evaluate(max_tokens=500))
    assert scores.details["base"] == pytest.approx(apart.details["base"]), "as a base that is loaded by itself"
    assert json.loads(context.artifacts.read(scores, "scores.json"))["method"]["block_tokens"] == (
        CONTEXT if method == "lora" else CONTEXT - 4
    )


def test_a_model_from_random_weights_is_compared_with_a_uniform_guess(
    context: Context, folders: dict[str, Path]
) -> None:
    dataset = small_dataset(context, GROUPS)
    run = small_run(context, dataset, folders["better"], None)
    details = evaluate(context, run, dataset, Evaluate(max_tokens=500)).details
    vocabulary = len(load_tokenizer(folders["better"]))
    assert details["base"]["loss"] == pytest.approx(math.log(vocabulary), rel=1e-3)
    assert details["base_model"] == "uniform" and details["gate"]["passed"]


def test_on_a_dataset_without_test_samples_nothing_is_measured(context: Context, folders: dict[str, Path]) -> None:
    dataset = small_dataset(context, {"train": {"alpha": 2}})
    run = small_run(context, dataset, folders["better"], folders["base"])
    scores = evaluate(context, run, dataset, Evaluate())
    gate = scores.details["gate"]
    assert not gate["passed"] and gate["measured"] is False
    assert gate["verdict"].startswith("Not measured") and "prepare.split.test" in gate["verdict"]
    assert scores.details["difference"] == {} and scores.counts["tokens"] == 0
    assert "Not measured" in context.artifacts.read(scores, "report.md").decode()
    assert read_examples(context.artifacts, scores.id) == []


def test_a_model_that_gives_no_numbers_is_not_measured_and_says_so(
    context: Context, folders: dict[str, Path], tmp_path: Path
) -> None:
    import torch

    model, tokenizer = load_model(folders["base"], dtype="float32")
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    dataset = small_dataset(context, GROUPS)
    run = small_run(context, dataset, tmp_path / "broken", folders["base"])
    scores = evaluate(context, run, dataset, Evaluate(max_tokens=300, examples=0, answers=0))
    gate = scores.details["gate"]
    assert gate["measured"] is False and not gate["passed"]
    assert "the tuned model gives no number on 6 of 6 samples" in gate["verdict"]
    assert "gives no number" in context.artifacts.read(scores, "report.md").decode()


def test_another_tokenizer_is_refused(context: Context, folders: dict[str, Path], tmp_path: Path) -> None:
    other = small_base(tmp_path / "other", vocabulary=301)
    dataset = small_dataset(context, GROUPS)
    run = small_run(context, dataset, folders["better"], other)
    with pytest.raises(InputError, match="do not share a tokenizer"):
        evaluate(context, run, dataset, Evaluate(max_tokens=200))


def test_a_cancelled_job_stops_and_leaves_no_scores(tmp_path: Path, folders: dict[str, Path]) -> None:
    context = small_context(small_settings(tmp_path / "home"))
    dataset = small_dataset(context, GROUPS)
    run = small_run(context, dataset, folders["better"], folders["base"])

    def stop(fraction: float, message: str) -> None:
        if "scoring" in message:
            raise CancelledError("Job j was cancelled.")

    cancelled = small_context(context.settings)
    object.__setattr__(cancelled, "report", stop)
    with pytest.raises(CancelledError):
        evaluate(cancelled, run, dataset, Evaluate(max_tokens=300))
    assert not [key for key in context.artifacts.storage.keys("scores") if key.endswith("manifest.json")]


def test_tokens_are_spread_over_groups_and_documents_the_same_way_each_time(
    context: Context, folders: dict[str, Path]
) -> None:
    dataset = small_dataset(context, {"test": {"large": 30, "medium": 5, "small": 1}})
    tokenizer = load_tokenizer(folders["base"])
    rows = held_out_rows(context.artifacts, dataset)
    blocks = choose_blocks(rows, tokenizer, block_tokens=32, max_tokens=600, seed=1)
    tokens: dict[str, int] = {}
    for block in blocks:
        tokens[block.group] = tokens.get(block.group, 0) + len(block.ids) - 1
    assert sum(tokens.values()) == 600
    assert max(tokens.values()) - min(tokens.values()) <= 32
    large = [block.document for block in blocks if block.group == "large"]
    assert len(set(large)) == len(large), "each document gives one block before any gives a second"
    again = choose_blocks(list(reversed(rows)), tokenizer, block_tokens=32, max_tokens=600, seed=1)
    assert [(b.document, b.ids.tolist()) for b in again] == [(b.document, b.ids.tolist()) for b in blocks]


def test_a_group_that_runs_out_leaves_its_tokens_to_the_others(context: Context, folders: dict[str, Path]) -> None:
    dataset = small_dataset(context, {"test": {"large": 20, "small": 1}})
    tokenizer = load_tokenizer(folders["base"])
    blocks = choose_blocks(
        held_out_rows(context.artifacts, dataset), tokenizer, block_tokens=32, max_tokens=2500, seed=1
    )
    assert sum(len(block.ids) - 1 for block in blocks) == 2500


def test_the_bootstrap_gives_the_known_answer_of_a_constant_difference() -> None:
    random = np.random.default_rng(0)
    base = random.normal(3.0, 1.0, 50)
    differences = compared(measured(base, base - 0.25)).differences("base")
    interval = differences["loss"].interval
    assert (interval.low, interval.mean, interval.high) == pytest.approx((-0.25, -0.25, -0.25))
    assert differences["token_accuracy"].interval.mean == pytest.approx(0.1)


def test_the_bootstrap_agrees_with_the_textbook_interval_of_a_mean() -> None:
    random = np.random.default_rng(2)
    difference = random.normal(-0.1, 0.5, 400)
    result = compared(measured(np.full(400, 3.0), 3.0 + difference), resamples=4000)
    error = 1.96 * difference.std(ddof=1) / math.sqrt(400)
    interval = result.differences("base")["loss"].interval
    assert interval.mean == pytest.approx(difference.mean())
    assert interval.low == pytest.approx(difference.mean() - error, abs=0.006)
    assert interval.high == pytest.approx(difference.mean() + error, abs=0.006)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    covered = 0
    for trial in range(300):
        tokens = random.integers(50, 200, 60)
        differences = Statistics(np.stack([tokens * random.normal(-0.05, 0.3, 60), tokens], axis=1), ratio)
        ((mean, drawn),) = resample([differences], np.arange(60), resamples=300, seed=trial)
        interval = interval_of(mean, drawn, units=60, confidence=0.9)
        covered += interval.low <= -0.05 <= interval.high
    assert 0.84 <= covered / 300 <= 0.95


def test_too_few_documents_never_pass_the_gate() -> None:
    measurement = measured([3.0], [2.0])
    gate = apply_gate(compared(measurement), measurement, Gate())
    assert not gate["passed"] and "only 1 held-out document" in gate["verdict"]


def test_a_difference_that_may_be_chance_does_not_pass() -> None:
    random = np.random.default_rng(3)
    base = random.normal(3.0, 0.1, 30)
    measurement = measured(base, base + random.normal(-0.02, 0.2, 30))
    gate = apply_gate(compared(measurement), measurement, Gate())
    assert not gate["passed"] and "includes zero" in gate["verdict"]
    assert "more held-out documents" in gate["verdict"] and gate["needed"] > 30


def test_many_documents_and_resamples_stay_within_memory_and_time() -> None:
    results = []
    measurement = measured(np.full(10_000, 3.0), np.full(10_000, 3.0))
    seconds = cpu_seconds(lambda: results.append(compared(measurement, resamples=2000)))
    assert results[0].differences("base")["loss"].interval.high == 0
    assert seconds < 4, "0.6 s of CPU on a quiet machine"


def test_unknown_metrics_are_refused_by_the_schema() -> None:
    with pytest.raises(ValueError, match="meteor"):
        Evaluate.model_validate({"metrics": ["meteor"]})
    assert Evaluate.model_validate({"metrics": ["loss", "perplexity", "token_accuracy"]}).metrics[1] == "perplexity"


def test_ray_scores_as_this_process_does(
    context: Context, folders: dict[str, Path], ray_cluster: object, tmp_path: Path
) -> None:
    dataset = small_dataset(context, GROUPS)
    run = small_run(context, dataset, folders["better"], folders["base"])
    reports: list[tuple[float, str]] = []
    watched = small_context(context.settings, reports)
    on_ray = evaluate(watched, run, dataset, Evaluate(max_tokens=400))
    assert any("scoring the base model" in message for _, message in reports)
    assert on_ray.details["gate"]["passed"]
    other = small_run(context, dataset, folders["better"], small_base(tmp_path / "other", vocabulary=301))
    with pytest.raises(InputError, match="do not share a tokenizer"):
        evaluate(watched, other, dataset, Evaluate(max_tokens=400))
