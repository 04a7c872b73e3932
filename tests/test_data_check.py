"""What a plan and a training say of a dataset before anything is tokenised."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training import context_in, two_layer_model

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Evaluate, Train, hash_input
from soldiom_ray.errors import InputError
from soldiom_ray.evaluate.blocks import expressible_rows
from soldiom_ray.models.load import load_tokenizer
from soldiom_ray.records import Manifest, Sample
from soldiom_ray.register.card import _template_gaps
from soldiom_ray.train.data_check import check_data
from soldiom_ray.train.driver import run_locally
from soldiom_ray.train.planning import plan_training

PLAIN = [{"role": "user", "content": "What is due?"}, {"role": "assistant", "content": "The rent, on the first."}]
WITH_SYSTEM = [{"role": "system", "content": "Be brief."}, *PLAIN]
REPEATED = [PLAIN[0], *PLAIN]
CALL = {"type": "function", "function": {"name": "clock", "arguments": {}}}
WITH_TOOLS: list[dict[str, Any]] = [
    PLAIN[0] | {"tools": [{"type": "function", "function": {"name": "clock"}}]},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "12:00"},
    PLAIN[1],
]
UNTAUGHT = [PLAIN[0], PLAIN[1] | {"weight": 0}]
STRICT = (
    "{% for m in messages %}{% if m.role == 'system' or (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('not in this order') }}{% endif %}<|{{ m.role }}|>\n{{ m.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = two_layer_model(tmp_path_factory.mktemp("base"))
    (folder / "chat_template.jinja").write_text(STRICT)
    return folder


def dataset_of(context: Context, rows: Sequence[Any], warnings: Sequence[str] = ()) -> Manifest:
    """A dataset whose training and validation sides hold these rows: messages, or fields of samples."""
    draft = context.artifacts.draft("dataset", {"rows": json.dumps(rows, default=str), "warnings": list(warnings)})
    empty = dict.fromkeys(Sample.model_fields, "") | {"source": "local", "kind": "other"}
    for split in ("train", "validation"):
        samples = [
            empty
            | {"id": f"{split}{number}", "split": split, "metadata": "{}"}
            | ({"messages": json.dumps(row), "text": "x"} if isinstance(row, list) else row)
            for number, row in enumerate(rows)
        ]
        draft.write_rows(f"{split}/00000.parquet", samples, Sample)
    return draft.commit(counts={"train": len(rows), "validation": len(rows)}, details={"warnings": list(warnings)})


def test_a_plan_tells_the_sides_warnings_and_what_the_template_cannot_express_with_the_number_of_samples(
    base: Path, tmp_path: Path
) -> None:
    context = context_in(tmp_path)
    warning = "The test side is empty (prepare.split.test is 0), so scores and the gate will be 'not measured'."
    rows = [*[PLAIN] * 5, WITH_SYSTEM, WITH_SYSTEM, REPEATED, WITH_TOOLS, UNTAUGHT]
    dataset = dataset_of(context, rows, [warning])
    declared = Train(base_model=str(base), sequence_length=32)
    plan = plan_training(context.settings, declared, dataset.id)
    first, second, third = plan["notes"][-3:]
    assert first == warning
    assert second.startswith("1 of 10 samples of the training side have no answer that is taught")
    assert "cannot express 8 of 18 conversations as they are: system turns (4)" in third
    assert "--template-gaps leave_out" in third and "repeated user turns (2)" in third and "tools (2)" in third
    assert plan["template_gaps"]["choice"] == "fold" and plan["template_gaps"]["inexpressible"] == 8


def test_a_training_tells_them_first_and_leaves_out_what_it_is_told_to(base: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    context = replace(context_in(tmp_path), notify=notes.extend)
    dataset = dataset_of(context, [*[PLAIN] * 6, WITH_SYSTEM, REPEATED, WITH_TOOLS])
    declared = Train(base_model=str(base), sequence_length=32, max_tokens=200, template_gaps="leave_out")
    run = run_locally(context, dataset, declared)
    assert "cannot express 6 of 18 conversations, which are left out" in notes[-1] and run.details["notes"] == notes
    counts = run.details["template_gaps"]
    assert counts["choice"] == "leave_out" and counts["inexpressible"] == 6 and counts["conversations"] == 18
    assert run.details["cuts"]["samples"] == 6
    assert "they were left out" in _template_gaps(counts)[0] and "tools (2)" in _template_gaps(counts)[0]
    tested = [{"messages": json.dumps(messages)} for messages in (PLAIN, WITH_TOOLS)] + [{"messages": ""}]
    assert expressible_rows(tested, load_tokenizer(base)) == [tested[0], tested[2]]


def test_what_is_folded_is_trained_on_and_told(base: Path, tmp_path: Path) -> None:
    context = context_in(tmp_path)
    dataset = dataset_of(context, [*[PLAIN] * 6, WITH_SYSTEM, REPEATED, WITH_TOOLS])
    run = run_locally(context, dataset, Train(base_model=str(base), sequence_length=64, max_tokens=200))
    assert run.details["cuts"]["samples"] == 9 and run.details["template_gaps"]["choice"] == "fold"


ENDS_IN_QUESTION = [*PLAIN, PLAIN[0]]
LABELLED = {"text": "a text", "metadata": json.dumps({"label": "late"})}


@pytest.mark.parametrize(
    ("task", "rows", "problem", "remedy"),
    [
        ("causal_lm", [UNTAUGHT] * 3, "no answer that is taught", "collect more"),
        (
            "causal_lm",
            [PLAIN, [PLAIN[1], *PLAIN]],
            r"refuses turn 1 \(assistant\).*2 of 4 conv",
            "_gaps: leave_out",
        ),
        ("preference", [PLAIN] * 3, "no pair of a chosen and a rejected answer", "collect more"),
        ("seq2seq_lm", [ENDS_IN_QUESTION] * 3, "no pair of a source and a target", "collect more"),
        ("text_classification", [PLAIN] * 3, "no sample with a label", "--column label="),
        ("text_classification", [LABELLED] * 3, "only the label 'late'", "--column label="),
    ],
)
def test_a_training_that_would_learn_nothing_is_refused(
    task: Any, rows: Sequence[Any], problem: str, remedy: str, base: Path, tmp_path: Path
) -> None:
    context = context_in(tmp_path)
    declared = Train(base_model=str(base), task=task)
    with pytest.raises(InputError, match=problem) as caught:
        check_data(context.artifacts, dataset_of(context, rows), declared, base)
    assert remedy in caught.value.remedy


def test_where_all_is_left_out_nothing_is_trained(base: Path, tmp_path: Path) -> None:
    context = context_in(tmp_path)
    declared = Train(base_model=str(base), template_gaps="leave_out")
    with pytest.raises(InputError, match=r"can express no conversation .*system turns \(4\)"):
        check_data(context.artifacts, dataset_of(context, [WITH_SYSTEM, WITH_SYSTEM]), declared, base)


def test_runs_made_before_the_choice_are_found_again() -> None:
    assert "template_gaps" not in hash_input("train", Train())
    assert hash_input("train", Train(template_gaps="leave_out"))["template_gaps"] == "leave_out"
    assert "examples" not in hash_input("evaluate", Evaluate())


def test_samples_to_fill_in_without_tokens_for_it_are_told(base: Path, tmp_path: Path) -> None:
    context = context_in(tmp_path)
    dataset = dataset_of(context, [{"text": "def f(): return 1", "metadata": json.dumps({"infill": [9, 16]})}] * 3)
    notes = check_data(context.artifacts, dataset, Train(base_model=str(base)), base).notes
    assert any(note.startswith("3 samples have a middle that is to be filled in") for note in notes)
