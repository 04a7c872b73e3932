"""Classifiers: trained, asked through the API and the command line, and deployed on a real Ray Serve."""

import asyncio
import base64
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from api_server import answered_by, problem
from test_tasks import dataset_of, declared, encoder, sentences, viewer
from training import context_in

from soldiom_ray.artifacts import Context
from soldiom_ray.cli.chat import chat
from soldiom_ray.cli.output import output_text
from soldiom_ray.db import models
from soldiom_ray.db.engine import open_session
from soldiom_ray.deploy.classifiers import ClassifierEndpoint
from soldiom_ray.domains.schema import Evaluate, Recipe, Train, hash_input
from soldiom_ray.errors import BusyError, DamagedError, InputError
from soldiom_ray.evaluate import evaluate
from soldiom_ray.metrics.calibration import abstention_threshold, fit_temperature
from soldiom_ray.metrics.measurement import UNCALIBRATED
from soldiom_ray.models.batching import Batches
from soldiom_ray.models.classifier import Calibration, Classifier, decision, log_odds, probabilities
from soldiom_ray.models.load import load_run
from soldiom_ray.records import Manifest, new_id
from soldiom_ray.settings import Settings
from soldiom_ray.train.driver import run_locally

__all__ = ["encoder", "viewer"]
MODEL = new_id()
TEXTS = [text for text, _ in sentences(60, seed=9)]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return context_in(tmp_path_factory.mktemp("classifiers"))


@pytest.fixture(scope="module")
def run(context: Context, encoder: Path) -> Manifest:
    """A small BERT that knows two labels."""
    rows = [
        {"text": text, "metadata": json.dumps({"label": "animal" if "animal" in has else "none"})}
        for text, has in sentences(200)
    ]
    train = declared(encoder, task="text_classification", method="full", epochs=8)
    return run_locally(context, dataset_of(context.artifacts, rows), train)


@pytest.fixture(scope="module")
def endpoint(context: Context, run: Manifest) -> Iterator[ClassifierEndpoint]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOLDIOM_HOME", str(context.settings.home))
        made = ClassifierEndpoint(MODEL, run.id, None, 2, "1")
    yield made
    made.batches.close()


@pytest.fixture(scope="module")
def model(api_settings: Settings) -> str:
    with open_session(api_settings) as session:
        lineage = {"task": "text_classification"}
        return models.create(session, id=MODEL, family="fine-tuned", name="animals", deployed=True, lineage=lineage).id


@pytest.fixture
def in_process(endpoint: ClassifierEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API's calls to Ray Serve end at an endpoint in this process."""
    answered_by(endpoint, monkeypatch)


def answers_of(endpoint: ClassifierEndpoint, *texts: str) -> list[dict[str, Any]]:
    outputs: list[dict[str, Any]] = asyncio.run(endpoint.generate({"inputs": texts}))["outputs"]
    return outputs


def test_answers_are_those_of_transformers_alone_and_in_a_crowd(
    context: Context, run: Manifest, endpoint: ClassifierEndpoint
) -> None:
    import torch

    with load_run(context.artifacts, context.settings, run) as (model, tokenizer):
        for text, answer in zip(TEXTS, answers_of(endpoint, *TEXTS), strict=True):
            with torch.no_grad():
                expected = model(**tokenizer([text], return_tensors="pt")).logits.float().softmax(-1)[0]
            scores = answer["output"]["scores"]
            assert answer["output"]["label"] == next(iter(scores)) and sum(scores.values()) == pytest.approx(1)
            for number, name in model.config.id2label.items():
                assert scores[name] == pytest.approx(float(expected[number]), abs=1e-4)
            assert answers_of(endpoint, text)[0]["output"]["scores"] == pytest.approx(scores, abs=1e-4)
            assert answer["output"]["abstained"] is False and answer["prompt_tokens"] == len(tokenizer(text).input_ids)


def test_callers_share_batches_of_about_one_length(endpoint: ClassifierEndpoint) -> None:
    endpoint.batches.sizes.clear()

    async def ask() -> list[Any]:
        return await asyncio.gather(*(endpoint.generate({"inputs": [text]}) for text in TEXTS))

    together = asyncio.run(ask())
    assert max(endpoint.batches.sizes) > 1 and sum(endpoint.batches.sizes.values()) < len(TEXTS)
    alone = [answers_of(endpoint, text)[0] for text in TEXTS]
    for one, answer in zip(alone, together, strict=True):
        assert one["output"]["scores"] == pytest.approx(answer["outputs"][0]["output"]["scores"], abs=1e-4)


def test_a_very_long_text_is_read_as_in_training(context: Context, run: Manifest) -> None:
    rng = random.Random(4)
    with load_run(context.artifacts, context.settings, run) as (model, tokenizer):
        classifier = Classifier(model, tokenizer, 16)
        for text in (
            " ".join(rng.choices(["cat", "saw", "the", "zzz"], k=20_000)),
            "x" * 50_000 + " cat saw",
            "cat" + " " * 90_000 + "dog",
            "the " * 20,
        ):
            whole = tokenizer(text).input_ids
            (reading,) = classifier.read([text])
            expected = whole if len(whole) <= 16 else [*whole[:15], whole[-1]]
            assert reading.values.tolist() == expected and reading.truncated == (len(whole) > 16)


def test_the_api_answers_a_text_several_and_a_batch(api: httpx.Client, model: str, in_process: None) -> None:
    whole = api.post(f"/api/inference/{model}", json={"input": "the old horse sleeps"}).json()
    assert set(whole) == {"id", "output", "usage", "model", "watermark"} and whole["model"] == model
    assert whole["output"]["label"] == "animal" and whole["output"]["scores"]["animal"] > 0.5
    assert whole["usage"]["prompt_tokens"] == whole["usage"]["total_tokens"] == 6
    inputs = ["the old horse sleeps", " ", "the big saw falls " * 40]
    for path, body in (("", {"input": inputs}), ("/batch", {"inputs": inputs})):
        answer = api.post(f"/api/inference/{model}{path}", json=body).json()
        first, empty, long = answer["outputs"]
        assert first["output"]["scores"] == pytest.approx(whole["output"]["scores"], abs=1e-4)
        assert empty["error"]["status"] == 422 and "empty" in empty["error"]["detail"]
        assert long["output"]["label"] == "none" and long["truncated"] and "truncated" not in first
        assert answer["usage"]["prompt_tokens"] == 6 + 32
    problem(api.post(f"/api/inference/{model}", json={"input": " "}), 422)
    problem(api.post(f"/api/inference/{model}", json={"input": ["x"] * 65}), 413)
    problem(api.post(f"/api/inference/{model}", json={"input": []}), 422)


def test_what_does_not_apply_to_a_classifier_is_named_with_its_remedy(
    api: httpx.Client, model: str, in_process: None
) -> None:
    body = {
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
        "parameters": {"max_tokens": 5, "stop": "."},
    }
    refused = problem(api.post(f"/api/inference/{model}", json=body), 422)
    assert {each["loc"] for each in refused["errors"]} == {
        "messages", "stream", "parameters.max_tokens", "parameters.stop"
    }  # fmt: skip
    assert f"/api/inference/{model}" in refused["remedy"] and "text classifier" in refused["detail"]
    problem(api.post(f"/api/inference/{model}/batch", json={"inputs": ["x", "y"], "raw": True}), 422)
    for path, body in (
        ("chat/completions", {"model": model, "messages": [{"role": "user", "content": "x"}], "stream": True}),
        ("completions", {"model": model, "prompt": "x"}),
    ):
        assert "generates no text" in problem(api.post(f"/v1/{path}", json=body), 422)["detail"]


def test_people_read_the_label_and_the_likeliest_scores() -> None:
    shares = {f"label {n}": (7 - n) / 28 for n in range(7)}
    assert output_text("a text") == "a text"
    text = output_text({"label": "label 0", "scores": shares, "abstained": False})
    assert text.splitlines() == ["label 0", "  label 0  0.250", "  label 1  0.214", "  label 2  0.179",
                                 "  label 3  0.143", "  label 4  0.107", "  and 2 more"]  # fmt: skip
    assert output_text({"label": None, "labels": [], "scores": shares, "abstained": False}).startswith("(no label)")
    assert "not sure" in output_text({"label": "label 0", "scores": shares, "abstained": True})


def test_a_conversation_with_a_classifier_says_what_to_do(
    api_settings: Settings, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soldiom_ray.cli.models.load_settings", lambda: api_settings)
    with pytest.raises(InputError, match="text_classification") as refused:
        chat(model)
    assert refused.value.remedy == f"ask it with `soldiom infer {model} TEXT`"


def test_calibration_and_abstention_are_fitted_on_the_validation_side_and_served(
    context: Context, run: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = context.artifacts.get(run.parents[0])
    scores = evaluate(context, run, dataset, Evaluate(max_error=0.02))
    content = json.loads(context.artifacts.read(scores, "scores.json"))
    fitted = content["calibration"]
    assert scores.details["calibration"] == fitted and fitted["validation"]["samples"] == 40
    assert 0.05 < fitted["temperature"] < 20 and 0 <= fitted["threshold"] <= 1
    assert fitted["validation"]["coverage"] == 0 or fitted["validation"]["answered_error"] <= 0.02
    before, after = (content["system_intervals"]["calibration_error"][name] for name in (UNCALIBRATED, "tuned"))
    assert before["low"] <= before["mean"] <= before["high"] and after["low"] <= after["mean"] <= after["high"]
    assert content["systems"][UNCALIBRATED].keys() == {"loss", "calibration_error"}
    assert content["intervals"]["coverage"]["mean"] == fitted["validation"]["coverage"]  # the test side is the same
    report = context.artifacts.read(scores, "report.md").decode()
    assert "Probabilities are calibrated" in report and "It abstains where" in report
    monkeypatch.setenv("SOLDIOM_HOME", str(context.settings.home))
    endpoint = ClassifierEndpoint(MODEL, run.id, fitted | {"threshold": 0.9}, 1, "1")
    outputs = [answer["output"] for answer in answers_of(endpoint, *TEXTS[:30])]
    endpoint.batches.close()
    with load_run(context.artifacts, context.settings, run) as (classifier, tokenizer):
        (reading,) = Classifier(classifier, tokenizer, 32).read(TEXTS[:1])
        logits = Classifier(classifier, tokenizer, 32).logits([reading])
    shares = probabilities(logits, multi_label=False, temperature=fitted["temperature"])[0]
    assert outputs[0]["scores"] == pytest.approx(dict(zip(["animal", "none"], shares, strict=True)), abs=1e-4)
    assert {output["abstained"] for output in outputs} <= {True, False}
    assert all(output["abstained"] == (max(output["scores"].values()) <= 0.9) for output in outputs)
    unset = evaluate(context, run, dataset, Evaluate())
    assert unset.details["calibration"]["threshold"] == 0 and "coverage" not in unset.details["tuned"]


def test_a_label_that_training_never_saw_is_named_and_counts_as_wrong(context: Context, run: Manifest) -> None:
    rows = [
        {"text": text, "metadata": json.dumps({"label": "plant" if number < 4 else "none"})}
        for number, (text, _) in enumerate(sentences(30))
    ]
    dataset = dataset_of(context.artifacts, rows)
    scores = evaluate(context, run, dataset, Evaluate(resamples=200))
    reason = scores.details["missing"]["labels that training never saw"]
    held_out = list(context.artifacts.rows(dataset, "test/"))
    never_seen = sum('"plant"' in row["metadata"] for row in held_out)
    assert never_seen and reason.startswith(f"'plant' ({never_seen}): {never_seen} of {len(held_out)} samples count")
    assert "labels that training never saw: 'plant'" in context.artifacts.read(scores, "report.md").decode()
    assert scores.details["tuned"]["accuracy"] <= 1 - never_seen / len(held_out)


def test_a_linear_head_is_fitted_saved_and_asked(encoder: Path, tmp_path: Path) -> None:
    """Rare labels that a word names are told apart at once."""
    context, draw = context_in(tmp_path), random.Random(3)
    words, rows = ["cat", "dog", "red", "blue", "tree", "river"], []
    for _ in range(240):
        word = words[min(int(draw.expovariate(0.7)), 5)]
        text = " ".join([*draw.choices(["the", "of", "file", "was", "seen"], k=5), word])
        rows.append({"text": text, "metadata": json.dumps({"label": word})})
    train = Train(base_model=str(encoder), task="text_classification", sequence_length=32)
    run = run_locally(context, dataset_of(context.artifacts, rows), train)
    assert (train.head, train.method) == ("linear", "full") and run.details["best_validation"][
        "validation_accuracy"
    ] > 0.9
    with load_run(context.artifacts, context.settings, run) as (model, tokenizer):
        classifier = Classifier.taking_over(model, tokenizer, 32)
        logits = classifier.logits(classifier.read(["the file was river", "cat of seen", "?"]))
    assert [classifier.names[place] for place in logits[:2].argmax(1)] == ["river", "cat"] and np.isfinite(logits).all()
    with pytest.raises(InputError, match="train on its base"):
        run_locally(context, context.artifacts.get(run.parents[0]), train.model_copy(update={"base_model": run.id}))
    stored = context.settings.home / "storage" / "run" / run.id / "weights" / "linear_head.safetensors"
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    with pytest.raises(DamagedError, match=r"linear_head\.safetensors changed"):  # noqa: SIM117
        with load_run(context.artifacts, context.settings, run):
            pass
    for wrong in ({"method": "lora"}, {"workers": 2}, {"task": "causal_lm"}, {"offload": True}):
        with pytest.raises(ValueError, match="head: linear"):
            Train.model_validate({"task": "text_classification", "head": "linear", **wrong})


def test_a_linear_head_names_several_labels_of_a_text(encoder: Path, tmp_path: Path) -> None:
    context, draw, rows = context_in(tmp_path), random.Random(5), []
    for _ in range(240):
        labels = [word for word in ("cat", "dog", "red") if draw.random() < 0.3]
        text = " ".join([*draw.choices(["the", "of", "file", "was"], k=4), *labels])
        rows.append({"text": text, "metadata": json.dumps({"label": [*labels, "text"]})})
    train = Train(base_model=str(encoder), task="text_classification", multi_label=True, sequence_length=32)
    run = run_locally(context, dataset_of(context.artifacts, rows), train)
    assert train.head == "linear" and run.details["best_validation"]["validation_exact_match"] > 0.9
    with load_run(context.artifacts, context.settings, run) as (model, tokenizer):
        classifier = Classifier.taking_over(model, tokenizer, 32)
        logits = classifier.logits(classifier.read(["the red file was of cat", "was the file"]))
    answers = [classifier.decide(each, Calibration())[0]["labels"] for each in logits]
    assert [set(labels) for labels in answers] == [{"red", "cat", "text"}, {"text"}]


def test_the_head_follows_from_what_is_named() -> None:
    """What asks for steps is trained by steps, as before there was a choice, and its run has the id that it had."""
    classes = {"task": "text_classification"}
    open_ones: tuple[dict[str, Any], ...] = ({}, {"workers": 1}, {"head": "auto"}, {"learning_rate": None})
    for named in open_ones:
        chosen = Train.model_validate(classes | named)
        assert (chosen.head, chosen.method) == ("linear", "full"), named
        assert Train.model_validate(chosen.model_dump(mode="json")) == chosen
    for named in ({"method": "full"}, {"epochs": 1}, {"workers": 2}, {"max_tokens": 9}, {"head": "network"}):
        chosen = Train.model_validate(classes | named)
        assert chosen.head == "network" and "head" not in hash_input("train", chosen), named
    assert Train().head == "network" and hash_input("train", Train.model_validate(classes))["head"] == "linear"
    recipe: dict[str, Any] = {"name": "x", "dataset": "d", "train": classes}
    for more, head in (({}, "linear"), ({"sweep": {"space": {"rank": [4, 8]}}}, "network")):
        train = Recipe.model_validate(recipe | more).train
        assert train and train.head == head


@pytest.mark.parametrize("multi_label", [False, True])
def test_log_odds_are_those_of_the_probabilities_and_finite_where_these_are_1(multi_label: bool) -> None:
    logits = np.array([[0.3, -1.0, 2.0], [0.0, 0.0, 0.0], [-900.0, 5.0, 900.0]])
    for place in range(3):
        chances = probabilities(logits[:2], multi_label=multi_label, temperature=2.0)[:, place]
        odds = log_odds(logits, place, multi_label=multi_label, temperature=2.0)
        assert np.isfinite(odds).all() and odds[:2] == pytest.approx(np.log(chances / (1 - chances)))


def test_pictures_are_classified_through_the_api(
    api: httpx.Client,
    api_settings: Settings,
    viewer: tuple[Context, Manifest, Manifest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context, dataset, run = viewer
    monkeypatch.setenv("SOLDIOM_HOME", str(context.settings.home))
    with open_session(api_settings) as session:
        lineage = {"task": "image_classification"}
        model = models.create(session, family="specialized", name="halves", deployed=True, lineage=lineage).id
    endpoint = ClassifierEndpoint(model, run.id, None, 1, "1")
    answered_by(endpoint, monkeypatch)
    path, right = f"/api/inference/{model}", 0
    rows = list(context.artifacts.rows(dataset, "test/"))[:12]
    for row in rows:
        data = base64.b64encode(row["image"]).decode()
        output = api.post(path, json={"image": data}).json()["output"]
        assert api.post(path, json={"image": f"data:image/png;base64,{data}"}).json()["output"] == output
        assert api.post(path, files={"image": ("a.png", row["image"])}).json()["output"] == output
        right += output["label"] == json.loads(row["metadata"])["label"]
    assert right > 8 and sum(output["scores"].values()) == pytest.approx(1)
    for body, words in (
        ({"image": "?"}, "is not base64"),
        ({"image": base64.b64encode(b"GIF89a").decode()}, "cannot be decoded"),
        ({"input": "a text"}, "reads a picture"),
        ({"input": "a text", "image": data}, "give either"),
    ):
        assert words in json.dumps(problem(api.post(path, json=body), 422))
    where: dict[str, list[float]] = {"left": [], "right": []}
    for row in context.artifacts.rows(dataset, "train/"):
        request = {"images": [row["image"]], "heat_map": True}
        output = asyncio.run(endpoint.generate(request))["outputs"][0]["output"]
        heat = np.array(output["heat_map"])
        assert heat.shape == (7, 7)
        where[output["label"]].append(float(heat[:, :3].mean() - heat[:, 4:].mean()))
    # The brighter half is what decides, of pictures that it has learnt.
    assert np.mean(where["left"]) > 0 > np.mean(where["right"])
    sure = endpoint.classifier.heat_map(*endpoint.classifier.read([rows[0]["image"]]), 0, temperature=1e-3)
    assert np.isfinite(sure).all() and np.ptp(sure) > 0, "of a picture that the model is sure of it is not flat"
    for files, fields, words in (
        ({"file": b"x"}, {}, "one file, `image`"),
        ({"image": rows[0]["image"]}, {"raw": "true"}, "one file, `image`"),
        ({"image": b"GIF89a"}, {}, "cannot be decoded"),
        ({"image": b""}, {}, "body.image"),
    ):
        assert words in json.dumps(problem(api.post(path, files=files, data=fields), 422))
    assert asyncio.run(endpoint.probe())["text"] in endpoint.classifier.names
    endpoint.batches.close()


def test_a_temperature_undoes_overconfidence_and_is_finite_where_all_is_right() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(4000, 3))
    shares = probabilities(logits, multi_label=False)
    targets = np.eye(3, dtype=bool)[[rng.choice(3, p=share) for share in shares]]
    for factor in (0.3, 1.0, 4.0):
        assert fit_temperature(logits * factor, targets, multi_label=False) == pytest.approx(factor, rel=0.1)
    chances = probabilities(logits, multi_label=True)
    several = rng.random(chances.shape) < chances
    assert fit_temperature(logits * 2, several, multi_label=True) == pytest.approx(2, rel=0.1)
    right = np.eye(2, dtype=bool)[[0, 1] * 15]
    sure = probabilities(np.where(right, 3.0, -3.0), multi_label=False,
                         temperature=fit_temperature(np.where(right, 3.0, -3.0), right, multi_label=False))  # fmt: skip
    assert 0.9 < sure.max() < 0.99


def test_the_threshold_is_the_least_that_keeps_the_error() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.7, 0.6, 0.5])
    right = np.array([True, True, True, False, True, False])
    assert abstention_threshold(confidence, right, 0.01) == 0.7  # of two that are equally sure one is wrong
    assert abstention_threshold(confidence, right, 0.2) == 0.5
    assert abstention_threshold(confidence, right, 0.4) == 0.0
    assert abstention_threshold(confidence, ~right, 0.1) == 1.0


def test_a_sample_of_several_labels_names_those_that_are_likely() -> None:
    names = ["animal", "tool", "other"]
    chances = probabilities(np.array([[2.0, 1.0, -3.0], [-1.0, -2.0, -3.0]]), multi_label=True)
    both = decision(names, chances[0], multi_label=True)
    assert both["label"] == "animal" and both["labels"] == ["animal", "tool"] and list(both["scores"]) == names
    assert decision(names, chances[1], multi_label=True)["label"] is None
    assert sum(decision(names, [0.2, 0.5, 0.3], multi_label=False)["scores"].values()) == pytest.approx(1)


def test_an_item_that_fails_fails_alone_and_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def double(items: Sequence[int]) -> list[int]:
        time.sleep(0.01)
        if 3 in items:
            raise InputError("three")
        return [2 * item for item in items]

    batches = Batches(double, 2)

    async def ask() -> None:
        results = await asyncio.gather(*(batches.run([(1, n)]) for n in range(8)), return_exceptions=True)
        assert [each for each in results if not isinstance(each, Exception)] == [[2 * n] for n in range(8) if n != 3]
        assert isinstance(results[3], InputError)
        monkeypatch.setattr("soldiom_ray.models.batching.QUEUED_POSITIONS", 10)
        first = asyncio.create_task(batches.run([(8, 1)]))
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="takes 10"):
            await batches.run([(8, 2)])
        assert await first == [2] and await batches.run([(99, 2)]) == [4]

    asyncio.run(ask())
    batches.check()
    batches.close()


def test_batches_that_are_closed_compute_what_waits() -> None:
    batches = Batches(lambda items: time.sleep(0.05) or items, 1)  # type: ignore[func-returns-value]

    async def ask() -> list[list[int]]:
        first = asyncio.create_task(batches.run([(4000, 1)]))
        second = asyncio.create_task(batches.run([(4000, 2)]))
        await asyncio.sleep(0.01)
        batches.close()
        return await asyncio.wait_for(asyncio.gather(first, second), 10)

    assert asyncio.run(ask()) == [[1], [2]]


def test_a_long_batch_hears_who_has_gone_and_is_alive_while_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soldiom_ray.models.batching.WEDGED_SECONDS", 0.3)
    heard: set[int] = set()

    def long(items: Sequence[str]) -> Sequence[str]:
        until = time.monotonic() + 1
        while items != ["first"] and time.monotonic() < until:
            heard.update(batches.given_up())
            time.sleep(0.01)
        return items

    batches = Batches(long, 1)

    async def ask() -> None:
        await batches.run([(1, "first")])
        stays = asyncio.create_task(batches.run([(1, "stays")]))
        await asyncio.sleep(0.6)
        batches.check()
        goes = [asyncio.create_task(batches.run([(1, name)])) for name in ("goes", "stays")]
        assert await stays == ["stays"] and not heard
        await asyncio.sleep(0.1)
        goes[0].cancel()
        assert await goes[1] == ["stays"] and len(heard) == 1

    asyncio.run(ask())
    batches.close()
