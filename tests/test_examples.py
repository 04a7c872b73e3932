"""Examples of an evaluation: held-out prompts, answered before and after, shown to people and to nobody else."""

import json
from pathlib import Path

import pytest
from small_models import CONTEXT, code, small_base, small_context, small_dataset, small_run, small_settings, tuned

from soldiom_ray.artifacts import Context
from soldiom_ray.cli.summary import print_examples
from soldiom_ray.domains.schema import Evaluate, Gate, hash_input
from soldiom_ray.evaluate import evaluate
from soldiom_ray.evaluate.ask import answer_tokens, choose_questions
from soldiom_ray.examples import Example, examples_markdown, read_examples, shorten
from soldiom_ray.models.generate import Generator
from soldiom_ray.models.load import load_model, load_tokenizer
from soldiom_ray.records import Manifest, Sample


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    base = small_base(root / "base")
    return {"base": base, "tuned": tuned(base, root / "tuned")}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return small_context(small_settings(tmp_path / "home"))


def pairs_dataset(context: Context, groups: dict[str, int], question: str = "read {}") -> Manifest:
    """A dataset of conversations in the test split: {group: conversations}."""
    numbers = [(group, number) for group, count in groups.items() for number in range(count)]
    rows = []
    for group, number in numbers:
        asked, answered = question.format(number), f"Secret {group} {number}."
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        common = dict.fromkeys(("url", "commit", "sha256", "license", "version", "language"), "")
        rows.append(
            common
            | {"id": f"{group}-{number}", "text": f"{asked}\n{answered}", "split": "test", "source": "local"}
            | {"path": f"{group}/{number}", "group": group, "kind": "other", "framework": "none"}
            | {"messages": json.dumps(messages)}
        )
    draft = context.artifacts.draft("dataset", {"groups": groups, "question": question})
    draft.write_rows("test/00000.parquet", rows, Sample)
    return draft.commit(counts={"test": len(rows)})


def test_conversations_are_asked_of_both_models_as_the_model_was_trained(
    context: Context, folders: dict[str, Path]
) -> None:
    dataset = pairs_dataset(context, {"alpha": 4, "beta": 4})
    run = small_run(context, dataset, folders["tuned"], folders["base"], prompt_format="chat")
    scores = evaluate(context, run, dataset, Evaluate(max_tokens=200))
    examples = read_examples(context.artifacts, scores.id)
    assert [example.group for example in examples[:2]] in (["alpha", "beta"], ["beta", "alpha"])
    assert len(examples) == 3 and "examples" not in scores.details
    for which in ("base", "tuned"):
        generator = Generator(*load_model(folders[which]))
        for example in examples:
            prompt = generator.chat([{"role": "user", "content": example.prompt}])
            (alone,) = generator.generate([prompt], max_new_tokens=answer_tokens(CONTEXT))
            assert getattr(example, which) == alone.text
            assert example.reference == f"Secret {example.document.replace('-', ' ')}."
    report = context.artifacts.read(scores, "report.md").decode()
    assert "Before:" in report and "After:" in report and examples[0].reference in report


def test_texts_are_continued_from_their_beginning(context: Context, folders: dict[str, Path]) -> None:
    dataset = small_dataset(context, {"test": {"gamma": 4}})
    rows = [row | {"text": code(number)} for number, row in enumerate(context.artifacts.rows(dataset, "test/"))]
    questions, _ = choose_questions(rows, load_tokenizer(folders["base"]), count=2, context=CONTEXT, seed=1)
    texts = {row["id"]: row["text"] for row in rows}
    assert len(questions) == 2
    for question in questions:
        assert question.text == question.prompt and len(question.prompt) > 20
        assert texts[question.document].startswith((question.prompt + question.reference)[:60])


def test_a_prompt_that_leaves_no_room_for_an_answer_is_not_asked(context: Context, folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(folders["base"])
    for question, expected in (("read {}", (3, 0)), ("read {} " + "rows of many words " * 30, (0, 5))):
        dataset = pairs_dataset(context, {"alpha": 5}, question)
        rows = list(context.artifacts.rows(dataset, "test/"))
        questions, too_long = choose_questions(rows, tokenizer, count=3, context=CONTEXT, seed=1)
        assert (len(questions), too_long) == expected


def test_a_gate_says_why_there_are_no_answers(context: Context, folders: dict[str, Path]) -> None:
    dataset = pairs_dataset(context, {"alpha": 5}, "read {} " + "rows of many words " * 30)
    run = small_run(context, dataset, folders["tuned"], folders["base"], prompt_format="chat")
    declared = Evaluate(max_tokens=200, answers=3, gate=Gate(metric="rouge_l", beat="base"))
    scores = evaluate(context, run, dataset, declared)
    reason = (
        f"5 of 5 leave no room for an answer of {answer_tokens(CONTEXT)} tokens in the model's context of {CONTEXT}"
    )
    assert scores.details["missing"]["questions"].startswith(reason)
    assert f"rouge_l: {reason}" in scores.details["gate"]["verdict"]
    assert reason in context.artifacts.read(scores, "report.md").decode()


def test_without_examples_none_are_asked_and_the_default_keeps_the_ids_of_earlier_scores(
    context: Context, folders: dict[str, Path]
) -> None:
    assert "examples" not in hash_input("evaluate", Evaluate())
    assert hash_input("evaluate", Evaluate(examples=0))["examples"] == 0
    dataset = pairs_dataset(context, {"alpha": 6})
    run = small_run(context, dataset, folders["tuned"], folders["base"], prompt_format="chat")
    reports: list[tuple[float, str]] = []
    scores = evaluate(small_context(context.settings, reports), run, dataset, Evaluate(max_tokens=100, examples=0))
    assert read_examples(context.artifacts, scores.id) == []
    assert not any("asking" in message for _, message in reports)
    assert "Answers" not in context.artifacts.read(scores, "report.md").decode()


def test_scores_written_before_examples_had_references_are_read(context: Context) -> None:
    draft = context.artifacts.draft("scores", {"old": True})
    old = {"group": "g", "prompt": "def", "base": " x", "tuned": " y"}
    draft.write("scores.json", json.dumps({"completions": [old]}).encode())
    assert read_examples(context.artifacts, draft.commit().id) == [Example(**old)]
    assert read_examples(context.artifacts, None) == []


def test_examples_are_sealed_with_the_scores(tmp_path: Path, folders: dict[str, Path]) -> None:
    settings = small_settings(tmp_path / "home", SOLDIOM_ENCRYPTION_KEY="cd" * 32)
    reports: list[tuple[float, str]] = []
    context = small_context(settings, reports)
    dataset = pairs_dataset(context, {"alpha": 6})
    run = small_run(context, dataset, folders["tuned"], folders["base"], prompt_format="chat")
    scores = evaluate(context, run, dataset, Evaluate(max_tokens=100))
    assert read_examples(context.artifacts, scores.id)[0].reference.startswith("Secret alpha")
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and "scores" in path.parts]
    assert files and not any(b"Secret" in path.read_bytes() for path in files)
    assert "Secret" not in json.dumps([reports, scores.model_dump(mode="json")], default=str)


def test_long_texts_are_shown_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    long = "\n".join(f"line {number}" for number in range(100))
    print_examples([Example(group="peft", prompt=long, reference="Return it.", base=None, tuned="Returns it.")])
    output = capsys.readouterr().out
    assert "line 1\n" in output and "line 99" not in output and "…" in output
    assert "before" not in output.replace("before and after", "") and "Returns it." in output
    assert shorten("a b") == "a b" and shorten("word " * 500).endswith(" …")


def test_a_fence_in_a_text_does_not_end_the_block_it_is_shown_in() -> None:
    page = examples_markdown([Example(group="", prompt="~~~~\n# no heading\n~~~~", base="b", tuned="t")])
    assert "~~~~~\n~~~~\n# no heading" in page
