"""Whether a dataset can be learnt from as a training declares it, and what of it cannot: told in a plan and at the
beginning of a training, before anything is tokenised."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.messages import ASSISTANT, is_taught
from soldiom_ray.domains.schema import Train
from soldiom_ray.domains.tasks import CHAT_TASKS
from soldiom_ray.errors import InputError
from soldiom_ray.models.infill import knows_infill
from soldiom_ray.models.labels import labels_of
from soldiom_ray.models.template_check import TemplateReport, check_conversations
from soldiom_ray.records import Manifest
from soldiom_ray.train.data import nothing_to_learn
from soldiom_ray.train.labels import label_names
from soldiom_ray.train.splits import TRAIN, VALIDATION

NEEDS = {
    "causal_lm": ("answer that is taught", "have no answer that is taught, so nothing is learnt of them"),
    "preference": ("pair of a chosen and a rejected answer", "have no rejected answer and are left out"),
    "seq2seq_lm": ("pair of a source and a target", "do not end with an answer and are left out"),
    "text_classification": ("text with a label", "have no label and are left out"),
    "image_classification": ("picture with a label", "have no label and are left out"),
}
"""Task -> what its samples have to be, and what happens to others."""


@dataclass(frozen=True)
class DataCheck:
    """`notes` are sentences for people; `template` counts what the chat template cannot express of the conversations,
    empty where it can express them all."""

    notes: list[str] = field(default_factory=list)
    template: dict[str, Any] = field(default_factory=dict)


def check_data(artifacts: Artifacts, dataset: Manifest, declared: Train, folder: Path) -> DataCheck:
    """The warnings of the dataset's sides, and how its samples fit the task and the chat template in `folder`.
    InputError when nothing could be learnt, or the template refuses conversations that are to be folded."""
    notes = [str(warning) for warning in dataset.details.get("warnings") or ()]
    if declared.task.endswith("_classification"):
        _check_labels(artifacts, dataset, declared)
    usable, samples = _count_usable(artifacts, dataset, declared)
    needed, lacking = NEEDS[declared.task]
    if not samples:
        raise nothing_to_learn(dataset, "text")
    if not usable:
        raise nothing_to_learn(dataset, needed)
    if usable < samples:
        notes.append(f"{samples - usable:,} of {samples:,} samples of the training side {lacking}.")
    if declared.task == "causal_lm" and (note := _infill_note(artifacts, dataset, declared, folder)):
        notes.append(note)
    if declared.task not in CHAT_TASKS:
        return DataCheck(notes)
    reports = [
        check_conversations(folder, declared.base_model, _conversations(artifacts, dataset, split, declared))
        for split in (TRAIN, VALIDATION)
    ]
    template_notes, counts = _check_template(reports, usable, dataset, declared)
    return DataCheck(notes + template_notes, counts)


def _infill_note(artifacts: Artifacts, dataset: Manifest, declared: Train, folder: Path) -> str:
    """What to say where samples are to be filled in and the base has no tokens for it."""
    rows = artifacts.rows(dataset, f"{TRAIN}/", ("metadata",))
    count = sum('"infill"' in (row["metadata"] or "") for row in rows)
    if not count or knows_infill(folder):
        return ""
    whose = f"the tokenizer of {declared.base_model}" if declared.base_model else "the new model's tokenizer"
    return (
        f"{count:,} samples have a middle that is to be filled in, for which {whose} has no tokens: each is learnt as"
        " one text. A base whose tokenizer has some learns to fill in: StarCoder, Qwen 2.5 Coder, CodeLlama."
    )


def _check_labels(artifacts: Artifacts, dataset: Manifest, declared: Train) -> None:
    """InputError when the training side holds fewer than two labels, whatever the validation side holds."""
    label_names(artifacts, dataset, several=declared.multi_label)
    names = {name for row in artifacts.rows(dataset, f"{TRAIN}/", ("metadata",)) for name in labels_of(row["metadata"])}
    if len(names) < 2:
        held = f"only the label {min(names)!r}" if names else "no label"
        raise InputError(
            f"The training side of dataset {dataset.id} holds {held}; a classification needs two.",
            remedy="set `prepare.split.by: document`, lower `prepare.split.test`, or collect samples of other labels",
        )


def _count_usable(artifacts: Artifacts, dataset: Manifest, declared: Train) -> tuple[int, int]:
    """(samples of the training side that something can be learnt of, all of them)."""
    usable = samples = 0
    for row in artifacts.rows(dataset, f"{TRAIN}/", ("messages", "metadata")):
        samples += 1
        usable += _is_usable(row, declared)
    return usable, samples


def _is_usable(row: dict[str, Any], declared: Train) -> bool:
    if declared.task.endswith("_classification"):
        return declared.multi_label or bool(labels_of(row["metadata"]))
    messages = json.loads(row["messages"]) if row["messages"] else []
    if declared.task == "causal_lm":
        return not messages or any(map(is_taught, messages))
    ends_with_answer = len(messages) > 1 and messages[-1]["role"] == ASSISTANT
    return ends_with_answer and (declared.task != "preference" or bool(json.loads(row["metadata"]).get("rejected")))


def _conversations(
    artifacts: Artifacts, dataset: Manifest, split: str, declared: Train
) -> Iterator[list[dict[str, Any]]]:
    """The messages of each conversation that is trained on."""
    for row in artifacts.rows(dataset, f"{split}/", ("messages", "metadata")):
        if row["messages"] and _is_usable(row, declared):
            yield json.loads(row["messages"])


def _check_template(
    reports: list[TemplateReport], usable: int, dataset: Manifest, declared: Train
) -> tuple[list[str], dict[str, Any]]:
    """What to say of the gaps of the base's chat template, and their counts on both sides together."""
    whole = TemplateReport.sum(reports)
    counts = {"choice": declared.template_gaps} | whole.as_dict() if whole.inexpressible else {}
    if not counts:
        return [], {}
    whose = f"The chat template of {declared.base_model}" if declared.base_model else "The new model's chat template"
    conversations = f"{whole.inexpressible:,} of {whole.conversations:,} conversations"
    kinds = whole.gaps + Counter({"turns that it refuses": whole.refused})
    what = ", ".join(f"{name} ({count:,})" for name, count in kinds.most_common())
    if declared.template_gaps == "leave_out":
        if reports[0].inexpressible == usable:
            raise InputError(
                f"{whose} can express no conversation of dataset {dataset.id} as it is: {what}.",
                remedy="fold them into the turns that it knows (`train.template_gaps: fold`), or choose another base",
            )
        return [
            f"{whose} cannot express {conversations}, which are left out: {what}. `train.template_gaps: fold` folds"
            " them into the turns that it knows."
        ], counts
    if whole.refusal is not None:
        raise InputError(
            f"{whole.refusal.what} So it is with {whole.refused:,} of {whole.conversations:,} conversations.",
            remedy=f"{whole.refusal.remedy}; or leave such conversations out: `train.template_gaps: leave_out`"
            " (--template-gaps leave_out)",
        )
    return [
        f"{whose} cannot express {conversations} as they are: {what}. They are folded into the turns that it knows, and"
        " the model is asked so; `train.template_gaps: leave_out` (--template-gaps leave_out) leaves them out instead."
    ], counts
