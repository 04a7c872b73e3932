"""What each side of a split holds, and warnings where a side is no basis for training or for scores."""

from collections.abc import Mapping, Sequence
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


def check_sides(sides: Mapping[str, Mapping[str, int]], labels: LabelCounts, rule: SplitRule) -> list[str]:
    """Warnings, each a sentence that says what is wrong and what to set."""
    if sum(side["documents"] for side in sides.values()) == 1:
        warnings = [SINGLE_DOCUMENT]
    else:
        warnings = [_of_size(split, sides[split], rule) for split in SPLITS]
    train, test = sides["train"], sides["test"]
    larger = next((unit for unit in ("samples", "characters") if test[unit] > train[unit] > 0), None)
    if larger:
        remedy = (
            "name fewer groups in prepare.split.test_groups"
            if rule.test_groups
            else f"lower prepare.split.test, or set prepare.split.by to {_other_unit(rule)}"
        )
        warnings.append(
            f"The test side is larger than the training side ({test[larger]:,} {larger} against {train[larger]:,}):"
            f" {remedy}."
        )
    return [warning for warning in warnings if warning] + _of_labels(sides, labels, rule)


def _of_size(split: Split, side: Mapping[str, int], rule: SplitRule) -> str:
    if side["samples"] and side["documents"] > 1:
        return ""
    if split == "train":
        return f"The training side is a single document: collect more documents, or {_hold_out_less(rule)}."
    own_choice = not getattr(rule, split) and not (split == "test" and rule.test_groups)
    settings = f"set prepare.split.{split} above 0" if own_choice else f"raise prepare.split.{split}"
    if split == "test":
        settings += ", name groups in prepare.split.test_groups"
    settings += f", set prepare.split.by to {_other_unit(rule)}, or collect more documents"
    if side["samples"]:
        return f"The {split} side is a single document, which stands for no other: {settings}."
    cause = f" (prepare.split.{split} is 0)" if own_choice else ""
    return f"The {split} side is empty{cause}, so {CONSEQUENCES[split]}: {settings}."


def _of_labels(sides: Mapping[str, Mapping[str, int]], labels: LabelCounts, rule: SplitRule) -> list[str]:
    """A warning for each side that has samples but not every label."""
    warnings = []
    for split in SPLITS:
        missing = [label for label in sorted(labels) if split not in labels[label]]
        if not missing or not sides[split]["samples"]:
            continue
        if split == "train":
            warnings.append(
                f"{_name(missing)} in no sample of the training side, so the model cannot learn"
                f" {'it' if len(missing) == 1 else 'them'}: set prepare.split.by to {_other_unit(rule)},"
                f" {_hold_out_less(rule)}, or collect more samples of {'it' if len(missing) == 1 else 'them'}."
            )
        else:
            what = "measured" if split == "test" else "validated"
            warnings.append(
                f"{_name(missing)} in no sample of the {split} side, so nothing is {what} of"
                f" {'it' if len(missing) == 1 else 'them'}: raise prepare.split.{split}, set prepare.split.by to"
                f" {_other_unit(rule)}, or choose another prepare.split.seed."
            )
    return warnings


def _name(labels: Sequence[str]) -> str:
    """The subject of a sentence, with its verb."""
    shown = ", ".join(map(repr, labels[:MAX_NAMED_LABELS]))
    if len(labels) == 1:
        return f"The label {shown} is"
    more = f" and {len(labels) - MAX_NAMED_LABELS} more" if len(labels) > MAX_NAMED_LABELS else ""
    return f"{len(labels)} labels ({shown}{more}) are"


def _other_unit(rule: SplitRule) -> str:
    return "group" if rule.by in ("document", "time") else "document"


def _hold_out_less(rule: SplitRule) -> str:
    return "name fewer prepare.split.test_groups" if rule.test_groups else "lower prepare.split.test"
