"""evaluate in parts: what was scored is not scored again, whatever was killed, and the numbers stay the same."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from process_title import title_of
from small_models import small_base, small_context, small_dataset, small_run, small_settings, tuned

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Evaluate
from soldiom_ray.errors import CancelledError
from soldiom_ray.evaluate import evaluate, score
from soldiom_ray.evaluate.parts import Part
from soldiom_ray.records import Manifest, Sample

GROUPS = {"train": {"alpha": 3}, "validation": {"beta": 1}, "test": {"gamma": 6, "delta": 3}}
DECLARED = Evaluate(max_tokens=1200)
KILLED = """
import os, signal, sys
from pathlib import Path
from soldiom_ray.domains.schema import Evaluate
from soldiom_ray.evaluate import evaluate, score
sys.path.insert(0, sys.argv[1])
from small_models import small_context, small_settings
context = small_context(small_settings(Path(sys.argv[2])))
score.TOKENS_EACH = 300
def die(fraction, message):
    if "scoring the base model" in message:
        os.kill(os.getpid(), signal.SIGKILL)
object.__setattr__(context, "report", die)
run, dataset = map(context.artifacts.get, sys.argv[3:5])
evaluate(context, run, dataset, Evaluate(max_tokens=1200))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base model and two that were tuned from it."""
    root = tmp_path_factory.mktemp("models")
    base = small_base(root / "base")
    return {"base": base, "better": tuned(base, root / "better", 20), "worse": tuned(base, root / "worse", 4, -1e-3)}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "TOKENS_EACH", 300)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Part]:
    """The parts that are computed in this process."""
    parts: list[Part] = []
    compute = score.CausalPlan.compute

    def noting(self: score.CausalPlan, models: Any, part: Part) -> Any:
        parts.append(part)
        return compute(self, models, part)

    monkeypatch.setattr(score.CausalPlan, "compute", noting)
    return parts


def prepared(home: Path, folders: dict[str, Path], which: str = "better") -> tuple[Context, Manifest, Manifest]:
    context = small_context(small_settings(home))
    dataset = small_dataset(context, GROUPS)
    return context, small_run(context, dataset, folders[which], folders["base"]), dataset


def numbers(context: Context, scores: Manifest) -> dict[str, Any]:
    """All that was counted and drawn, without times."""
    content: dict[str, Any] = json.loads(context.artifacts.read(scores, "scores.json"))
    content.pop("seconds")
    return content


def test_an_evaluation_that_was_killed_goes_on_and_comes_to_the_same(
    tmp_path: Path, folders: dict[str, Path], computed: list[Part]
) -> None:
    whole, run, dataset = prepared(tmp_path / "whole", folders)
    expected = numbers(whole, evaluate(whole, run, dataset, DECLARED))
    count = len(computed)
    context, run, dataset = prepared(tmp_path / "killed", folders)
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path / "killed"), run.id, dataset.id]
    killed = subprocess.run(command, capture_output=True, timeout=300, env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert not list(context.artifacts.all_of("scores"))
    computed.clear()
    scores = evaluate(context, run, dataset, DECLARED)
    assert 0 < len(computed) < count, "the tuned model's parts were kept"
    assert not [part for part in computed if (part.system, part.work) == ("tuned", "scores")]
    assert numbers(context, scores) == expected
    assert scores.details["reused"]["scores"]["there"] > 0


def test_the_next_model_of_a_base_uses_what_the_base_answered(
    tmp_path: Path, folders: dict[str, Path], computed: list[Part]
) -> None:
    context, run, dataset = prepared(tmp_path / "home", folders)
    first = evaluate(context, run, dataset, DECLARED)
    assert {each["there"] for each in first.details["reused"].values()} == {0}
    reports: list[tuple[float, str]] = []
    watched = small_context(context.settings, reports)
    other = small_run(context, dataset, folders["worse"], folders["base"])
    computed.clear()
    second = evaluate(watched, other, dataset, DECLARED)
    assert {part.system for part in computed} == {"tuned"}
    reused = second.details["reused"]
    assert all(2 * each["there"] == each["of"] > 0 for each in reused.values())
    of = reused["answers"]["of"]
    assert any(f"{of // 2} of {of} answers" in message and "already there" in message for _, message in reports)
    alone, run_alone, dataset_alone = prepared(tmp_path / "alone", folders, "worse")
    assert numbers(context, second) == numbers(alone, evaluate(alone, run_alone, dataset_alone, DECLARED))


def test_a_damaged_part_is_scored_again_and_another_base_is_not_mistaken(
    tmp_path: Path, folders: dict[str, Path], computed: list[Part]
) -> None:
    context, run, dataset = prepared(tmp_path / "home", folders)
    expected = numbers(context, evaluate(context, run, dataset, DECLARED))
    parts = len(computed)
    context.artifacts.delete(next(iter(context.artifacts.all_of("scores"))).id)
    key = context.artifacts.storage.keys(f"kept/of/{dataset.id}")[0]
    context.artifacts.storage.write(key, b'{"values": [')
    computed.clear()
    assert numbers(context, evaluate(context, run, dataset, DECLARED)) == expected
    assert len(computed) == 1
    other = small_run(context, dataset, folders["better"], folders["worse"])
    computed.clear()
    evaluate(context, other, dataset, DECLARED)
    assert {part.system for part in computed} == {"base"} and len(computed) == parts // 2
    context.artifacts.delete(dataset.id)
    assert not context.artifacts.storage.keys(f"kept/of/{dataset.id}"), "answers go with the dataset"


def test_workers_do_not_change_the_name_of_the_scores(tmp_path: Path, folders: dict[str, Path]) -> None:
    context, run, dataset = prepared(tmp_path / "home", folders)
    once = evaluate(context, run, dataset, DECLARED)
    assert evaluate(context, run, dataset, DECLARED.model_copy(update={"workers": 4})).id == once.id


def test_a_worker_that_is_killed_is_replaced_and_the_numbers_are_those_of_one_process(
    tmp_path: Path, folders: dict[str, Path], ray_cluster: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, run, dataset = prepared(tmp_path / "here", folders)
    monkeypatch.setattr(score, "TOKENS_EACH", 8192)  # as in the workers, which are processes of their own
    with monkeypatch.context() as without_ray:
        without_ray.setattr("ray.is_initialized", lambda: False)
        expected = numbers(context, evaluate(context, run, dataset, DECLARED))
    killed: list[int] = []

    def kill(fraction: float, message: str) -> None:
        workers = _workers()
        if "the base model" in message and workers and not killed:
            killed.append(workers[0].pid)
            workers[0].kill()

    spread, run, dataset = prepared(tmp_path / "spread", folders)
    object.__setattr__(spread, "report", kill)
    scores = evaluate(spread, run, dataset, DECLARED.model_copy(update={"workers": 2}))
    assert killed, "a worker was killed while it scored"
    assert _close(numbers(spread, scores), expected)

    def stop(fraction: float, message: str) -> None:
        if "scoring" in message:
            raise CancelledError("Job j was cancelled.")

    other = small_run(spread, dataset, folders["worse"], folders["base"])
    object.__setattr__(spread, "report", stop)
    with pytest.raises(CancelledError):
        evaluate(spread, other, dataset, DECLARED)
    psutil.wait_procs(_workers(), timeout=20)
    assert not _workers()


def _workers() -> list[psutil.Process]:
    """Those of the Ray that this process started."""
    children = psutil.Process().children(recursive=True)
    return [each for each in children if title_of(each).startswith("ray::Worker")]


def _close(left: Any, right: Any) -> bool:
    """Equal but for the rounding of sums in another order: workers compute with other numbers of threads."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_close(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_close, left, right))
    if isinstance(left, float):
        return bool(left == pytest.approx(right, rel=1e-4, abs=1e-6))
    return bool(left == right) or isinstance(left, str)


def test_programs_are_tried_as_often_as_declared_and_never_twice(
    tmp_path: Path, folders: dict[str, Path], computed: list[Part]
) -> None:
    context = small_context(small_settings(tmp_path / "home"))
    draft = context.artifacts.draft("dataset", {"tasks": 3})
    rows = []
    for number in range(3):
        program = f"def f(x):\n    return x + {number}"
        messages = [
            {"role": "user", "content": f"Write f that adds {number}."},
            {"role": "assistant", "content": program},
        ]
        rows.append(
            dict.fromkeys(Sample.model_fields, "")
            | {"id": f"t{number}", "group": f"g{number}", "text": program, "messages": json.dumps(messages)}
            | {"split": "test", "metadata": json.dumps({"checks": f"assert f(1) == {1 + number}"})}
        )
    draft.write_rows("test/00000.parquet", rows, Sample)
    dataset = draft.commit(counts={"test": 3})
    run = small_run(context, dataset, folders["better"], folders["base"], prompt_format="chat")
    declared = Evaluate(max_tokens=300, answers=3, tries=2, resamples=200)
    scores = evaluate(context, run, dataset, declared)
    assert scores.details["tuned"]["pass_at_k"] == 0 == scores.details["base"]["pass_at_k"]
    tried = [part for part in computed if part.work == "tries"]
    assert len(tried) == 4 and len({part.name for part in tried}) == 4, "two of each model, each with a seed of its own"
    computed.clear()
    again = evaluate(context, run, dataset, declared.model_copy(update={"tries": 3}))
    assert [part.system for part in computed if part.work == "tries"] == ["tuned", "base"]
    assert again.details["reused"]["tries"] == {"there": 12, "of": 18}
