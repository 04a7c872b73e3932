"""How large the sides of a split are, what each holds, and warnings where a side is no basis for training or scores."""

from collections import Counter
from pathlib import Path
from typing import Literal

import pytest
from preparing import context_in, document, documents_of

from soldiom_ray.cli.summary import print_sides
from soldiom_ray.domains.schema import Prepare, SplitRule
from soldiom_ray.prepare import prepare
from soldiom_ray.prepare.sides import LabelCounts, check_sides
from soldiom_ray.prepare.split import Member, assign_splits


def side(samples: int, documents: int | None = None, characters: int | None = None) -> dict[str, int]:
    return {
        "samples": samples,
        "documents": samples if documents is None else documents,
        "characters": 100 * samples if characters is None else characters,
        "groups": min(samples, 2),
    }


def warnings_of(*sizes: dict[str, int], labels: LabelCounts | None = None, rule: SplitRule | None = None) -> str:
    """Warnings about a training, a validation and a test side."""
    sides = dict(zip(("train", "validation", "test"), sizes, strict=True))
    return "\n".join(check_sides(sides, labels or {}, rule or SplitRule()))


def test_good_sides_raise_no_warning() -> None:
    labels = {"yes": {"train": 40, "validation": 2, "test": 5}, "no": {"train": 45, "validation": 3, "test": 5}}
    assert not warnings_of(side(85), side(5), side(10), labels=labels)


@pytest.mark.parametrize(
    ("sizes", "rule", "texts"),
    [
        ((1, 5, 5), {}, ["training side is a single document", "lower prepare.split.test"]),
        ((1, 5, 5), {"test_groups": ["a"]}, ["name fewer prepare.split.test_groups"]),
        (
            (90, 0, 10),
            {},
            ["validation side is empty", "raise prepare.split.validation", "prepare.split.by (--split-by) to document"],
        ),
        ((90, 0, 10), {"validation": 0}, ["prepare.split.validation is 0", "above 0"]),
        (
            (90, 5, 0),
            {"by": "document"},
            ["test side is empty", "not measured", "split.by (--split-by) to group"],
        ),
        (
            (90, 5, 0),
            {"test": 0},
            [
                "prepare.split.test is 0",
                "split.test (--test-share) above 0, or name groups in prepare.split.test_groups.",
            ],
        ),
        ((90, 5, 1), {}, ["test side is a single document", "raise prepare.split.test"]),
        ((8, 5, 20), {}, ["test side is larger", "20 samples against 8", "lower prepare.split.test"]),
        ((8, 5, 20), {"test_groups": ["a"]}, ["test side is larger", "name fewer groups in prepare.split.test_groups"]),
    ],
)
def test_a_side_that_is_none_is_named_with_what_to_set(
    sizes: tuple[int, int, int], rule: dict[str, object], texts: list[str]
) -> None:
    text = warnings_of(*map(side, sizes), rule=SplitRule.model_validate(rule))
    assert all(part in text for part in texts), text


def test_functions_of_one_document_are_a_single_document() -> None:
    assert "training side is a single document" in warnings_of(side(30, documents=1), side(5), side(10))


def test_samples_of_one_document_alone_cannot_be_divided_whatever_the_settings() -> None:
    text = warnings_of(side(30, documents=1), side(0, documents=0), side(0, documents=0))
    assert "not divided" in text and "collect more documents" in text and "prepare.split" not in text


def test_a_test_side_with_more_text_than_the_training_side_is_named() -> None:
    text = warnings_of(side(40, characters=100), side(5), side(10, characters=900))
    assert "900 characters against 100" in text


def test_labels_that_a_side_lacks_are_named() -> None:
    labels = {
        "yes": {"train": 40, "validation": 2, "test": 10},
        "no": {"train": 45, "validation": 3},
        "rare": {"test": 3},
    }
    text = warnings_of(side(85), side(5), side(10), labels=labels)
    assert "label 'rare' is in no sample of the training side" in text
    assert "label 'rare' is in no sample of the validation side" in text
    assert "label 'no' is in no sample of the test side" in text and "prepare.split.seed" in text
    many = {f"label {number}": {"train": 1} for number in range(8)}
    assert "'label 4' and 3 more) are in no sample of the test side" in warnings_of(
        side(8), side(2), side(2), labels=many
    )


def test_sides_that_the_set_itself_names_are_not_blamed_on_the_settings() -> None:
    sides = {"train": side(20), "validation": side(1), "test": side(60)}
    warnings = check_sides(sides, {"a": {"train": 1}, "b": {"test": 2}}, SplitRule(), {"train", "validation", "test"})
    assert len(warnings) == 5 and all("--column split" in warning for warning in warnings)
    assert not any("prepare.split" in warning for warning in warnings)


def test_a_single_label_is_named() -> None:
    text = warnings_of(side(8), side(2), side(2), labels={"spam": {"train": 8, "validation": 2, "test": 2}})
    assert text == "Every label is 'spam': a classifier needs two."


def test_card_manifest_and_output_show_each_side_and_its_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = context_in(tmp_path)
    rows = [
        document(f"Letter {n} tells of journey number {n} to town {n * 7}, by road {n * 13}.", f"writer{n}", f"{n}.txt",
                 metadata=f'{{"label": "{"far" if n == 3 else "near"}"}}')
        for n in range(6)
    ]  # fmt: skip
    rule = SplitRule(test=0, validation=0, test_groups=("writer3",))
    dataset = prepare(context, [documents_of(context, rows)], Prepare(filters=(), split=rule))
    train = dataset.details["sides"]["train"]
    assert (train["samples"], train["documents"], train["groups"], train["labels"]) == (5, 5, 5, 1)
    assert train["characters"] == dataset.details["characters"]["train"]
    warnings = dataset.details["warnings"]
    parts = ("validation side is empty", "test side is a single", "'far' is in no sample of the training side")
    assert all(any(part in warning for warning in warnings) for part in parts)
    card = context.artifacts.read(dataset, "card.md").decode()
    assert "| split | samples | characters | groups | labels |" in card
    assert all(f"- **Warning**: {warning}" in card for warning in warnings)
    print_sides(dataset.details)
    shown = capsys.readouterr().out
    assert "side" in shown and all(f"Warning: {warning}" in shown for warning in warnings)


def members_of(sizes: list[int], samples: list[int] | None = None) -> list[Member]:
    """Groups of these characters and samples, the first the newest."""
    counts = samples or [1] * len(sizes)
    return [
        Member(f"{n}:{k}", f"group{n}", size // count, f"2026-01-{31 - n:02}T00:00:00+00:00")
        for n, (size, count) in enumerate(zip(sizes, counts, strict=True))
        for k in range(count)
    ]


BOOK_AND_LETTERS = [*[300 + 20 * n for n in range(20)], 200_000]


@pytest.mark.parametrize("by", ["group", "document", "time"])
@pytest.mark.parametrize("seed", range(8))
def test_a_book_and_twenty_letters_leave_most_letters_and_the_book_to_train(
    by: Literal["group", "document", "time"], seed: int
) -> None:
    members = members_of(BOOK_AND_LETTERS)
    splits, _ = assign_splits(members, SplitRule(by=by, seed=seed))
    counts = Counter(splits)
    assert 2 <= counts["test"] <= 3 and 1 <= counts["validation"] <= 2
    assert splits[-1] == "train"
    backwards, _ = assign_splits(members[::-1], SplitRule(by=by, seed=seed))
    assert backwards[::-1] == splits


@pytest.mark.parametrize("seed", range(8))
def test_a_group_of_many_short_samples_is_not_held_out_for_a_small_share_of_the_text(seed: int) -> None:
    sizes, samples = [*[10_000] * 10, 9_000], [*[4] * 10, 300]
    members = members_of(sizes, samples)
    splits, _ = assign_splits(members, SplitRule(seed=seed))
    assert splits[-1] == "train"
    assert splits.count("test") / len(splits) < 0.15


def test_groups_that_are_named_are_held_out_whatever_their_share() -> None:
    members = members_of(BOOK_AND_LETTERS)
    rule = SplitRule(test=0, validation=0, test_groups=("group20",))
    splits, _ = assign_splits(members, rule)
    assert splits.count("test") == 1 and splits[-1] == "test"
