"""Base models among which a training is chosen: what each would cost, and how their losses compare."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.domains.builtin_models import MINILM, SMOLLM2
from soldiom_ray.domains.messages import is_taught, spoken
from soldiom_ray.domains.schema import DEFAULT_BASES, Train
from soldiom_ray.domains.search import Auto
from soldiom_ray.errors import InputError
from soldiom_ray.models.base_check import check_base
from soldiom_ray.models.load import load_processor, model_folder
from soldiom_ray.models.planning.machine import current_cluster
from soldiom_ray.models.planning.planner import planner_for, require_setup
from soldiom_ray.models.planning.report import expected_speed
from soldiom_ray.records import Manifest
from soldiom_ray.train.blocks import Blocks
from soldiom_ray.train.data import samples, tokenizer_hash
from soldiom_ray.train.data_check import check_data
from soldiom_ray.train.splits import VALIDATION
from soldiom_ray.train.tasks import task_of

BUILTIN_BASES: Mapping[str, tuple[str, ...]] = {"text_classification": (f"builtin/{MINILM}", f"builtin/{SMOLLM2}")}
"""Task -> the bases that come with Soldiom and can learn it, where there are several."""
COMPARABLE_TASKS = ("causal_lm", "text_classification", "image_classification")
"""What two bases reach at these compares: a loss per sample, or one per token that can be taken per byte. A loss of
`preference` is relative to its own base."""


@dataclass(frozen=True)
class Base:
    """A base model that can be trained here."""

    name: str
    parameters: int
    pass_operations: float
    """What one pass over the data computes."""
    bits_per_loss: float | None
    """Bits per byte of the validation side's targets for each nat of loss per token; None for other tasks than
    causal_lm."""


def base_names(declared: Train, auto: Auto) -> tuple[str, ...]:
    """The bases that come into question, the declared one first: those that `auto` names, or where nothing is named the
    built-in ones of the task."""
    comparable = declared.task in COMPARABLE_TASKS and declared.template_gaps == "fold"  # else of the same samples
    if declared.architecture is not None or not comparable:
        return (declared.base_model,)
    names = auto.bases
    if not names and declared.base_model == DEFAULT_BASES.get(declared.task):
        names = BUILTIN_BASES.get(declared.task, ())
    return tuple(dict.fromkeys((declared.base_model, *names)))


def look_at(context: Context, dataset: Manifest, declared: Train) -> Base:
    """The declared base as it would be trained; the dataset is tokenised for it. What a training would raise: for a
    base that is not here, cannot be trained or does not fit the memory."""
    import numpy as np

    task, artifacts = task_of(declared.task), context.artifacts
    with model_folder(context.settings, artifacts, declared.base_model) as folder:
        check_base(folder, declared)
        check_data(artifacts, dataset, declared, folder)
        processor = load_processor(folder)
        planner = planner_for(folder, declared, current_cluster(), processor=processor, home=context.settings.home)
        setup = require_setup(planner)
        tokens = task.tokenize(artifacts, dataset, processor, tokenizer_hash(folder), declared, context.report)
        with task.open(artifacts, tokens, planner.shape.length, processor) as (train, validation):
            positions = int(train.positions(np.arange(len(train), dtype=np.int64)).sum())
            bits = _bits_per_loss(artifacts, dataset, validation) if isinstance(validation, Blocks) else None
    operations = positions / expected_speed(planner, 1.0, setup.activation_checkpointing)
    return Base(declared.base_model, planner.sizes.parameters, operations, bits)


def bits_per_loss(context: Context, dataset: Manifest, declared: Train) -> float:
    """See `Base`; InputError for a task whose loss is not one per token of a text."""
    bits = look_at(context, dataset, declared).bits_per_loss
    if bits is None:
        raise InputError(
            f"sweep.metric is bits_per_byte, which task {declared.task} does not have.", remedy="use metric: loss"
        )
    return bits


def _bits_per_loss(artifacts: Artifacts, dataset: Manifest, validation: Blocks) -> float:
    """The tokens of the targets by this tokenizer against their bytes, which are the same by every tokenizer. Of the
    whole side, whatever part of it is validated on."""
    tokens = len(validation.stream) if validation.loss_mask is None else int(validation.loss_mask.sum())
    size = 0
    for text, messages in samples(artifacts, dataset, VALIDATION):
        taught = [spoken(message) for message in messages if is_taught(message)] if messages else [text]
        size += sum(len(each.encode()) for each in taught)
    return tokens / max(1, size) / math.log(2)
