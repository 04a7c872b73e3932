"""What the workers of a training are to do: prepared once by the driver, then sent to every worker."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soldiom_ray import tracing
from soldiom_ray.artifacts import Artifacts, Context, Draft, Report, prefix_of
from soldiom_ray.domains.schema import Train, hash_input
from soldiom_ray.models.base_check import check_base
from soldiom_ray.models.load import load_processor, model_folder
from soldiom_ray.models.planning.machine import current_cluster
from soldiom_ray.models.planning.planner import TrainingSetup, planner_for, require_setup
from soldiom_ray.models.tokens import train_tokenizer
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings
from soldiom_ray.train.checkpoints import Checkpoints
from soldiom_ray.train.data import folder_hash, tokenizer_hash
from soldiom_ray.train.data_check import DataCheck, check_data
from soldiom_ray.train.laps import Laps
from soldiom_ray.train.splits import TRAIN
from soldiom_ray.train.strategies import check_strategy
from soldiom_ray.train.tasks import task_of

log = logging.getLogger(__name__)
STAGE_VERSION = 1
PROMPT_VERSION = 2
"""Of runs with method prompt: what their prompts begin as, which samples they stand before."""
TOKENIZER_TEXT_BYTES = 20_000_000
"""A vocabulary of a few thousand pieces does not change with more text than this."""
TOKENISING_SHARE = 0.05
"""Of a training's progress: the rest are its steps."""


@dataclass(frozen=True)
class Work:
    """All that a worker needs to train. It is pickled and sent to other machines."""

    settings: Settings
    declared: Train
    run: str
    tokens: str
    tokenizer: str | None
    """The artifact of a tokenizer made for a model from scratch."""
    setup: TrainingSetup
    """The planner's: strategy, batch, memory."""
    seconds: Mapping[str, float]
    """How long it took to prepare this, by part."""
    began: float
    """When that began, by the driver's monotonic clock."""
    checked: DataCheck
    """What was said of the dataset before anything was tokenised."""
    parent: str | None = None
    """The driver's span that those of the workers belong to, as a `traceparent`."""

    def checkpoints(self, artifacts: Artifacts) -> Checkpoints:
        """Where this run's checkpoints lie until it is finished."""
        return Checkpoints(artifacts.storage, f"{prefix_of(self.run)}/checkpoints")


def prepare_work(
    context: Context, dataset: Manifest, declared: Train, before_tokenising: Callable[[], None] = lambda: None
) -> tuple[Draft, Work | None]:
    """The run's draft, and the work that is left: None when an earlier run has done it all.

    Tokenises the dataset. When there is work left, `before_tokenising` is called first: workers can start meanwhile."""
    check_strategy(declared.strategy, workers=declared.workers, quantization=declared.quantization)
    artifacts, tokenizer_id, laps, began = context.artifacts, None, Laps(), time.monotonic()
    notes: list[str] = []
    with ExitStack() as stack:
        if declared.architecture is None:
            folder = stack.enter_context(model_folder(context.settings, artifacts, declared.base_model))
            notes = check_base(folder, declared)
            weights = sorted(path.name for path in folder.glob("*.safetensors"))
            fingerprint = folder_hash(folder, ("config.json", *weights))
            tokens_by = tokenizer_hash(folder)
        else:
            tokenizer_id = _own_tokenizer(context, dataset, declared)
            folder = stack.enter_context(artifacts.storage.local_folder(prefix_of(tokenizer_id)))
            fingerprint = tokens_by = tokenizer_id
        made_from = {
            "code": PROMPT_VERSION if declared.method == "prompt" else STAGE_VERSION,
            "declared": hash_input("train", declared),
            "dataset": dataset.id,
            "base": fingerprint,
        }
        draft = artifacts.draft("run", made_from, parents=[dataset.id])
        if draft.finished():
            return draft, None
        cluster = current_cluster()  # as it is before workers take memory
        checked = check_data(artifacts, dataset, declared, folder)
        checked = replace(checked, notes=notes + checked.notes)
        for note in checked.notes:
            log.warning(note)
        context.notify(checked.notes)
        before_tokenising()
        processor = load_processor(folder)
        model = None if declared.architecture else folder
        planner = planner_for(model, declared, cluster, processor=processor, home=context.settings.home)
        setup, task = require_setup(planner), task_of(declared.task)
        report = part_of(context.report, 0.0, TOKENISING_SHARE)
        laps.end("plan")
        tokens = task.tokenize(artifacts, dataset, processor, tokens_by, declared, report)
        if declared.batch_tokens is None and (epoch_tokens := tokens.counts.get(TRAIN)):
            setup = replace(planner, epoch_tokens=epoch_tokens).choose()  # steps are as large as they will be
        cuts = task.cuts(artifacts, tokens, planner.shape.length)
        if cuts["cut_samples"]:
            log.warning("samples are longer than sequence_length", extra={"data": cuts})
        laps.end("tokenise")
    made = (draft.id, tokens.id, tokenizer_id, setup, laps.seconds, began, checked)
    return draft, Work(context.settings, declared, *made, tracing.traceparent())


@contextmanager
def open_base(work: Work, artifacts: Artifacts) -> Iterator[tuple[Path | None, Any]]:
    """(folder of the base model, what reads its input); the folder is None for a model from scratch."""
    if work.tokenizer is None:
        with model_folder(work.settings, artifacts, work.declared.base_model) as folder:
            yield folder, load_processor(folder)
    else:
        with artifacts.storage.local_folder(prefix_of(work.tokenizer)) as folder:
            yield None, load_processor(folder)


def part_of(report: Report, low: float, high: float) -> Report:
    """A report whose 0 to 1 is `low` to `high` of another."""
    return lambda fraction, message: report(low + (high - low) * fraction, message)


def _own_tokenizer(context: Context, dataset: Manifest, declared: Train) -> str:
    """The id of the tokenizer trained on a dataset (made once)."""
    made_from = {
        "code": STAGE_VERSION,
        "dataset": dataset.id,
        "pieces": declared.vocabulary_size,
        "context": declared.sequence_length,
    }
    processor = task_of(declared.task).new_processor(declared)
    if processor is not None:
        made_from = {"code": STAGE_VERSION, "processor": processor.to_json_string()}
    draft = context.artifacts.draft("tokenizer", made_from, parents=[dataset.id])
    if draft.finished() is None:
        context.report(0.0, "training the tokenizer")
        tokenizer = processor or train_tokenizer(
            _sampled_texts(context.artifacts, dataset), declared.vocabulary_size, declared.sequence_length
        )
        with tempfile.TemporaryDirectory(prefix="soldiom-") as folder:
            tokenizer.save_pretrained(folder)
            draft.write_folder(Path(folder))
        draft.commit()
    return draft.id


def _sampled_texts(artifacts: Artifacts, dataset: Manifest) -> Iterator[str]:
    """Texts of the train split spread over it, about TOKENIZER_TEXT_BYTES together."""
    total = sum(len(row["text"]) for row in artifacts.rows(dataset, "train/"))
    share, debt = min(1.0, TOKENIZER_TEXT_BYTES / max(1, total)), 0.0
    for row in artifacts.rows(dataset, "train/"):
        debt += share * len(row["text"])
        if debt >= len(row["text"]) / 2:
            debt -= len(row["text"])
            yield row["text"]
