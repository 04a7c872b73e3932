"""The report on an evaluation: what it shows, that it loads nothing, and runs side by side from their stored scores."""

import json
import re
from pathlib import Path

import pytest
from small_models import small_base, small_context, small_run, small_settings, tuned
from test_examples import pairs_dataset
from test_metrics import labelled, measured

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Evaluate, Gate
from soldiom_ray.errors import InputError
from soldiom_ray.evaluate import evaluate
from soldiom_ray.evaluate.gates import apply_gate
from soldiom_ray.evaluate.page import write_page
from soldiom_ray.evaluate.pictures import draw_pictures
from soldiom_ray.evaluate.scores import as_json, as_summary
from soldiom_ray.metrics.compare import compare
from soldiom_ray.metrics.side_by_side import compare_runs
from soldiom_ray.records import Manifest

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, Manifest]:
    """Scores of conversations: a small base, tuned for a few steps, with a training split to look answers up in."""
    root = tmp_path_factory.mktemp("report")
    context = small_context(small_settings(root / "home"))
    base = small_base(root / "base")
    dataset = pairs_dataset(context, {"<b>alpha</b>": 6, "beta": 6})
    run = small_run(context, dataset, tuned(base, root / "tuned", 20), base, prompt_format="chat")
    return context, evaluate(context, run, dataset, Evaluate(max_tokens=400, answers=8, resamples=200))


def test_generated_answers_are_judged_by_metrics_and_against_trivial_ones(scored: tuple[Context, Manifest]) -> None:
    context, scores = scored
    details, content = scores.details, json.loads(context.artifacts.read(scores, "scores.json"))
    assert {"rouge_l", "chrf", "bleu", "token_f1", "exact_match", "general_loss", "loss"} <= details["tuned"].keys()
    assert details["answers"]["count"] == 8 and "copy of the prompt" in details["systems"]
    judged = content["answers"]
    assert judged["better"] + judged["worse"] + judged["same"] == 8 == len(judged["answers"])
    assert all(set(each["scores"]) == {"base", "tuned"} for each in judged["answers"])
    assert len(content["examples"]) == 3, "what is shown, though more are judged"
    for number in details["intervals"]["rouge_l"].values():
        assert 0 <= number <= 1
    assert "Secret" not in json.dumps(details), "no text of a sample leaves the artifact"


def test_the_version_before_is_measured_beside_or_said_not_to_load(
    scored: tuple[Context, Manifest], tmp_path: Path
) -> None:
    context, scores = scored
    run, dataset = (context.artifacts.get(str(scores.details[name])) for name in ("run", "dataset"))
    declared = Evaluate(max_tokens=200, answers=2, resamples=200, gate=Gate(metric="loss", beat="previous"))
    before = small_run(context, dataset, Path(run.details["base_model"]), Path(run.details["base_model"]))
    beside = evaluate(context, run, dataset, declared, before)
    assert beside.details["comparisons"]["previous"]["loss"]["mean"] == beside.details["difference"]["loss"]["mean"]
    assert beside.details["gate"]["beat"] == "previous" and beside.details["previous"] == before.id
    context.artifacts.storage.remove(f"run/{before.id}/weights")
    other = declared.model_copy(update={"seed": 18})
    gone = evaluate(context, run, dataset, other, before).details
    assert "cannot be loaded" in gone["missing"]["previous"] and "previous" not in gone["comparisons"]


def test_the_report_is_one_page_that_loads_nothing(scored: tuple[Context, Manifest]) -> None:
    context, scores = scored
    page = context.artifacts.read(scores, "report.html").decode()
    markdown = context.artifacts.read(scores, "report.md").decode()
    for heading in ("Metrics", "Answers", "What tuning forgot", "Groups", "Tuned against each other system"):
        assert f"## {heading}" in markdown and f">{heading}</h2>" in page, heading
    assert scores.details["gate"]["verdict"].split(":")[0] in page
    assert "<b>alpha" not in page and "<script" not in page
    assert not re.findall(r"(?:src|href)=.(?!data:)", page)
    names = {entry.name for entry in scores.files}
    assert "pictures/systems.png" in names and "pictures/answers.png" in names
    assert context.artifacts.read(scores, "pictures/systems.png").startswith(PNG)
    best = max(values["rouge_l"] for values in scores.details["systems"].values())
    assert ("No better than a trivial baseline" in page) == (best >= scores.details["tuned"]["rouge_l"])
    assert page.count("data:image/png;base64") == sum(name.startswith("pictures/") for name in names)


def test_a_page_shows_what_a_model_wrote_as_text() -> None:
    text = "~~~~\n<img src=x onerror=alert(1)>\n~~~~\n\n![x](http://elsewhere/y.png)\n\n<script>1</script>"
    page = write_page("<t>", text, {}, passed=False)
    assert "&lt;img src=x" in page and "elsewhere" not in page and "<script" not in page and "<title>&lt;t&gt;" in page


def test_labels_have_pictures_of_their_confusion_and_calibration() -> None:
    content = stored_labels(seed=1)
    assert content["labels"]["confusion"][0][0] > 0
    pictures = draw_pictures(content)
    assert {"systems.png", "confusion.png", "calibration.png"} <= pictures.keys()
    assert all(data.startswith(PNG) for data in pictures.values())


def stored_labels(seed: int, skill: float = 1.0) -> dict[str, object]:
    """The content of the scores of a classifier."""
    outcome, _ = labelled(120, 3, seed=4, skill=skill)
    other, _ = labelled(120, 3, seed=4, skill=0.0)
    measurement = measured("labels", {"tuned": outcome, "base": other})
    comparison = compare(measurement, resamples=200, confidence=0.95, seed=seed)
    summary = as_summary(measurement, comparison, apply_gate(comparison, measurement, Gate()), None)
    return json.loads(json.dumps(as_json(measurement, comparison, summary, Evaluate())))  # type: ignore[no-any-return]


def test_runs_are_compared_on_the_samples_they_share() -> None:
    poor, good = stored_labels(1, skill=0.5), stored_labels(1, skill=3.0)
    good["documents"] = good["documents"][:90]  # type: ignore[index]
    result = compare_runs({"run-a": poor, "run-b": good})
    assert result["samples"] == {"labels": 90} and result["runs"] == ["run-a", "run-b"]
    difference = result["differences"]["run-b"]["accuracy"]
    assert difference["low"] > 0 and difference["low"] <= difference["mean"] <= difference["high"]
    values = result["metrics"]["accuracy"]
    assert values["run-b"]["mean"] - values["run-a"]["mean"] == pytest.approx(difference["mean"])
    assert "macro_f1" in result["metrics"]
    with pytest.raises(InputError, match="no sample in common"):
        compare_runs({"run-a": poor, "run-c": {"documents": []}})


def test_conversations_are_compared_by_tokens_and_answers(scored: tuple[Context, Manifest], tmp_path: Path) -> None:
    context, scores = scored
    content = json.loads(context.artifacts.read(scores, "scores.json"))
    result = compare_runs({"run-a": content, "run-b": content})
    assert {"loss", "rouge_l"} <= result["metrics"].keys()
    assert result["differences"]["run-b"]["loss"]["mean"] == 0 and result["samples"]["answers"] == 8
