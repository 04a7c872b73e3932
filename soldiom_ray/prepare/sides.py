"""What each side of a split holds, and warnings where a side is no basis for training or for scores."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from soldiom_ray.domains.schema import SplitRule
from soldiom_ray.prepare.document_table import SPLITS, DocumentTable
from soldiom_ray.records import Split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_NAMED_LABELS = 5

CONSEQUENCES = {"validation": "no best checkpoint can be chosen", "test": "scores and the gate will be 'not measured'"}
"""Of a side that holds nothing."""

SINGLE_DOCUMENT = (
    f"All samples are of a single document, which is not divided, so {CONSEQUENCES['validation']}, and"
    f" {CONSEQUENCES['test']}: collect more documents."
)

_TEST_SHARE = " (--test-share)"

DRAW_SIDES = "leave out the column that divides the set (`--column split=…`), so that its sides are drawn"
"""What to do about sides that the set itself names."""

LabelCounts = Mapping[str, Mapping[str, int]]
"""Label -> split -> samples."""


def describe_sides(
    document_table: DocumentTable, members: "Mapping[Split, NDArray[np.int64]]", labels: LabelCounts
) -> dict[str, dict[str, int]]:
    """Samples, documents, groups and characters of each side; where samples have labels, how many different ones."""
    sides: dict[str, dict[str, int]] = {}
    for split, positions in members.items():
        sides[split] = {
            "samples": len(positions),
            "documents": len(set(document_table.documents(positions))),
            "groups": len(set(document_table.column("group", positions))),
            "characters": int(document_table.characters[positions].sum()),
            **({"labels": sum(split in counts for counts in labels.values())} if labels else {}),
        }
    return sides


def check_sides(
    sides: Mapping[str, Mapping[str, int]], labels: LabelCounts, rule: SplitRule, own: Collection[str] = ()
) -> list[str]:
    """Warnings, each a sentence that says what is wrong and what to set. `own` are the sides that the set itself
    names."""
    if sum(side["documents"] for side in sides.values()) == 1:
        warnings = [SINGLE_DOCUMENT]
    else:
        warnings = [_of_size(split, sides[split], rule, split in own) for split in SPLITS]
    train, test = sides["train"], sides["test"]
    larger = next((unit for unit in ("samples", "characters") if test[unit] > train[unit] > 0), None)
    if larger:
        remedy = f"{_hold_out_less(rule)}, or {_set_unit(rule)}"
        if "test" in own or rule.test_groups:
            remedy = DRAW_SIDES if "test" in own else "name fewer groups in prepare.split.test_groups"
        warnings.append(
            f"The test side is larger than the training side ({test[larger]:,} {larger} against {train[larger]:,}):"
            f" {remedy}."
        )
    return [warning for warning in warnings if warning] + _of_labels(sides, labels, rule, own)


def _of_size(split: Split, side: Mapping[str, int], rule: SplitRule, is_own: bool) -> str:
    if side["samples"] and side["documents"] > 1:
        return ""
    if split == "train":
        return f"The training side is a single document: collect more documents, or {_hold_out_less(rule)}."
    own_choice = not getattr(rule, split) and not (split == "test" and rule.test_groups)
    option = _TEST_SHARE if split == "test" else ""
    if own_choice:
        settings = f"set prepare.split.{split}{option} above 0"
        settings += ", or name groups in prepare.split.test_groups" if split == "test" else ""
    else:
        groups = ", name groups in prepare.split.test_groups" if split == "test" else ""
        settings = f"raise prepare.split.{split}{option}{groups}, {_set_unit(rule)}, or collect more documents"
    if is_own:
        settings = f"{DRAW_SIDES}, or collect more documents"
    if side["samples"]:
        return f"The {split} side is a single document, which stands for no other: {settings}."
    cause = f" (prepare.split.{split} is 0)" if own_choice else ""
    return f"The {split} side is empty{cause}, so {CONSEQUENCES[split]}: {settings}."


def _of_labels(
    sides: Mapping[str, Mapping[str, int]], labels: LabelCounts, rule: SplitRule, own: Collection[str]
) -> list[str]:
    """A warning for each side that has samples but not every label, and for a set that has only one."""
    warnings = [f"Every label is {next(iter(labels))!r}: a classifier needs two."] if len(labels) == 1 else []
    for split in SPLITS:
        missing = [label for label in sorted(labels) if split not in labels[label]]
        if not missing or not sides[split]["samples"]:
            continue
        them = "it" if len(missing) == 1 else "them"
        if split == "train":
            settings = f"{_set_unit(rule)}, {_hold_out_less(rule)}"
            consequence = f"the model cannot learn {them}"
        else:
            settings = f"raise prepare.split.{split}{_TEST_SHARE if split == 'test' else ''}, {_set_unit(rule)}"
            consequence = f"nothing is {'measured' if split == 'test' else 'validated'} of {them}"
        remedy = DRAW_SIDES if own else settings
        last = "choose another prepare.split.seed" if split not in own and split != "train" else ""
        last = last or f"collect more samples of {them}"
        warnings.append(
            f"{_name(missing)} in no sample of the {'training' if split == 'train' else split} side, so {consequence}:"
            f" {remedy}, or {last}."
        )
    return warnings


def _name(labels: Sequence[str]) -> str:
    """The subject of a sentence, with its verb."""
    shown = ", ".join(map(repr, labels[:MAX_NAMED_LABELS]))
    if len(labels) == 1:
        return f"The label {shown} is"
    more = f" and {len(labels) - MAX_NAMED_LABELS} more" if len(labels) > MAX_NAMED_LABELS else ""
    return f"{len(labels)} labels ({shown}{more}) are"


def _set_unit(rule: SplitRule) -> str:
    return f"set prepare.split.by (--split-by) to {'group' if rule.by in ('document', 'time') else 'document'}"


def _hold_out_less(rule: SplitRule) -> str:
    return "name fewer prepare.split.test_groups" if rule.test_groups else f"lower prepare.split.test{_TEST_SHARE}"
