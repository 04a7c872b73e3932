"""Our engine under lm-evaluation-harness, on tasks with local data; skipped where the extra `harness` is missing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_models import CONTEXT, code, small_base, tuned

from soldiom_ray.models.load import load_model

pytest.importorskip("lm_eval", reason="the extra `harness` is not installed")

CHOICES = """
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    return tuned(small_base(root / "base"), root / "tuned", 40)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Any]:
    from soldiom_ray.evaluate.harness import EngineModel

    @contextmanager
    def load() -> Iterator[tuple[Any, Any]]:
        yield load_model(folder, dtype="float32")

    model = EngineModel(load)
    yield model
    model.close()


def asked(*arguments: Any) -> SimpleNamespace:
    return SimpleNamespace(args=arguments)


def test_likelihoods_are_the_models_own(engine: Any, folder: Path) -> None:
    import torch

    model, tokenizer = load_model(folder, dtype="float32")
    ids = tokenizer(code(1))["input_ids"][:40]
    ((value, greedy),) = engine._loglikelihood_tokens([(("", ""), ids[:30], ids[30:])])
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    assert value == pytest.approx(sum(scores[at - 1, ids[at]].item() for at in range(30, 40)), abs=1e-3)
    assert greedy == all(scores[at - 1].argmax().item() == ids[at] for at in range(30, 40))
    (text,) = engine.loglikelihood_rolling([asked(code(2))])
    assert text < 0, "a text longer than the context, in windows"


def test_answers_are_the_generators_and_end_at_the_tasks_stop_texts(engine: Any, folder: Path) -> None:
    from soldiom_ray.models.generate import Generator

    (whole,) = Generator(*load_model(folder, dtype="float32")).generate(["def read_rows(rows):"], max_new_tokens=12)
    options = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    long_prompt = code(3) * 3
    answers = engine.generate_until([asked("def read_rows(rows):", options), asked(long_prompt, options)])
    assert answers[0] == whole.text.partition("\n")[0] and "\n" not in answers[1]
    assert len(engine.tok_encode(long_prompt)) > CONTEXT


def test_a_task_with_local_data_is_scored(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    question, choices = "def read_rows(rows):\n", ["    for item in rows:", "zz qq @@ ~~ zz"]
    rows = [{"question": question, "choices": choices, "answer": 0}] * 3
    rows += [{"question": question, "choices": choices[::-1], "answer": 0}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "local_choice.yaml").write_text(CHOICES.format(data=tmp_path / "data.jsonl"))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    results = simple_evaluate(model=engine, tasks=["local_choice"], task_manager=manager, bootstrap_iters=0)
    assert results["results"]["local_choice"]["acc,none"] == 0.75
