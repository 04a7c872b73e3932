"""A dataset and a base model become a run: in this process (`run_locally`) or on Ray's workers (see `distributed`)."""

import json
import logging
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from soldiom_ray.artifacts import Artifacts, Context, Draft, Report, prefix_of
from soldiom_ray.domains.schema import Train, hash_input
from soldiom_ray.models.load import context_length, has_bfloat16, load_processor, model_folder
from soldiom_ray.models.plan import Choice, check, planner_for, settled
from soldiom_ray.models.planning.machine import connected, free_bytes
from soldiom_ray.models.planning.memory import SHARDED
from soldiom_ray.models.planning.shape import recompute_activations
from soldiom_ray.models.tokens import train_tokenizer
from soldiom_ray.records import FileEntry, Manifest
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage
from soldiom_ray.train import methods
from soldiom_ray.train.blocks import Source
from soldiom_ray.train.checkpoints import Checkpoints
from soldiom_ray.train.data import folder_hash, tokenizer_hash
from soldiom_ray.train.loop import Loop, Outcome, Record, Schedule
from soldiom_ray.train.pictures import draw
from soldiom_ray.train.strategies import Optimization, agreed, check_strategy, open_strategy, with_weights
from soldiom_ray.train.tasks import task_of

log = logging.getLogger(__name__)
CODE = 1
CURVES_PICTURE = "curves.png"
TOKENIZER_TEXT_BYTES = 20_000_000
"""A vocabulary of a few thousand pieces does not change with more text than this."""


@dataclass(frozen=True)
class Work:
    """All that a worker needs to train; it travels to other machines."""

    settings: Settings
    declared: Train
    run: str
    tokens: str
    tokenizer: str | None
    """The artifact of a tokenizer made for a model from scratch."""
    choice: Choice
    """What the planner found."""

    @property
    def checkpoints_prefix(self) -> str:
        """Where this run's checkpoints lie until it is finished."""
        return f"{prefix_of(self.run)}/checkpoints"


def run_locally(
    context: Context, dataset: Manifest, declared: Train, observe: Callable[[Record], None] = lambda record: None
) -> Manifest:
    """Train in this process, without Ray."""
    draft, work = ready(context, dataset, declared)
    if work is None:
        return context.artifacts.get(draft.id)
    worker(work, context.artifacts, context.report, observe)
    return finish(context, draft, work)


def read_libraries() -> None:
    """Import what a training needs, seconds that can pass while something else is waited for."""
    import peft
    import transformers

    _ = (transformers.AutoModelForCausalLM, peft.LoraConfig)  # its modules are read when they are first named


def ready(
    context: Context, dataset: Manifest, declared: Train, begin: Callable[[], None] = lambda: None
) -> tuple[Draft, Work | None]:
    """The run's draft, and the work that is left (None: an earlier run did it). Tokenises the dataset; calls `begin`
    before that when there is something left to do."""
    check_strategy(declared.strategy, workers=declared.workers, quantization=declared.quantization)
    artifacts, tokenizer_id = context.artifacts, None
    with ExitStack() as stack:
        if declared.architecture is None:
            folder = stack.enter_context(model_folder(context.settings, artifacts, declared.base_model))
            fingerprint = folder_hash(
                folder, ("config.json", *sorted(path.name for path in folder.glob("*.safetensors")))
            )
            tokens_by = tokenizer_hash(folder)
        else:
            tokenizer_id = _own_tokenizer(context, dataset, declared)
            folder = stack.enter_context(artifacts.storage.local_folder(prefix_of(tokenizer_id)))
            fingerprint = tokens_by = tokenizer_id
        made_from = {
            "code": CODE,
            "declared": hash_input("train", declared),
            "dataset": dataset.id,
            "base": fingerprint,
        }
        draft = artifacts.draft("run", made_from, parents=[dataset.id])
        if draft.finished():
            return draft, None
        cluster = connected()  # as it is before workers take memory
        begin()
        processor = load_processor(folder)
        planner = planner_for(None if declared.architecture else folder, declared, cluster, processor=processor)
        choice, task = check(planner), task_of(declared.task)
        tokens = task.tokenize(artifacts, dataset, processor, tokens_by, declared, _part(context.report, 0.0, 0.05))
        cuts = task.cuts(artifacts, tokens, planner.shape.length)
        if cuts["cut_samples"]:
            log.warning("samples are longer than sequence_length", extra={"data": cuts})
    return draft, Work(context.settings, declared, draft.id, tokens.id, tokenizer_id, choice)


def worker(
    work: Work,
    artifacts: Artifacts,
    report: Report,
    observe: Callable[[Record], None],
    leaving: Callable[[], bool] = lambda: False,
) -> None:
    """What every worker does; rank 0 leaves the weights and `result.json` in storage. For `leaving` see `Loop`."""
    import torch

    declared, task = work.declared, task_of(work.declared.task)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bfloat16 = declared.precision == "bfloat16" or (declared.precision == "auto" and has_bfloat16(device))
    checkpoints = Checkpoints(artifacts.storage, work.checkpoints_prefix)
    tokens = artifacts.get(work.tokens)
    configuration = task.configure(tokens)
    with ExitStack() as stack:
        folder, processor = stack.enter_context(_base(work, artifacts))
        planner = planner_for(folder, declared, connected(), processor=processor)
        choice = settled(work.choice, free_bytes(device), planner)
        divided = choice.strategy in SHARDED
        build = partial(methods.build, task, folder, processor, declared, configuration, bfloat16=bfloat16)
        model = build(device="cpu" if divided else device)
        if choice.recompute:
            recompute_activations(model)
        length = min(declared.sequence_length, context_length(model))
        if not divided:  # the fast layers hold on to weights that a divided model takes away and brings back
            stack.enter_context(task.reading(model, length))
        train, held_out = stack.enter_context(task.open(artifacts, tokens, length, processor))
        train, held_out = (task.measure(model, units) for units in (train, held_out))
        planned = schedule(declared, train, agreed(choice.positions))
        optimization = Optimization(
            planned.learning_rate, declared.weight_decay, declared.gradient_clip, bfloat16, declared.offload
        )
        sizes = _sizes(model)
        strategy = open_strategy(choice.strategy, task.objective(model, tokens, declared), optimization)
        stack.callback(strategy.close)
        train, held_out = (task.refer(strategy, units, planned.positions_at_once) for units in (train, held_out))
        loop = Loop(strategy, train, held_out, planned, checkpoints, _part(report, 0.05, 1.0), observe, leaving)
        outcome = loop.run()
        weights = strategy.weights() if divided else {}
        if loop.rank == 0:
            details = {
                "auto_class": task.auto_class,
                "configuration": configuration,
                "sequence_length": length,
                "cuts": task.cuts(artifacts, tokens, length),
                "precision": "bfloat16" if bfloat16 else "float32",
                "workers": strategy.world,
                **_told(declared, choice, outcome),
                **_used(),
                **sizes,
            }
            if divided:
                model = with_weights(build(device="cpu"), weights)
            entries = _store_weights(artifacts, work, model, processor, bfloat16)
            checkpoints.put_result(
                {"details": details, "curves": outcome.curves, "files": [entry.model_dump() for entry in entries]}
            )


def schedule(declared: Train, train: Source, positions: int) -> Schedule:
    """The declaration in steps of this dataset."""
    import numpy as np

    whole = int(train.positions(np.arange(len(train), dtype=np.int64)).sum())
    wanted = min(declared.epochs * whole, declared.max_tokens or math.inf)
    mean = whole / len(train)
    per_step = max(1, min(int(declared.batch_tokens / mean), len(train)))
    per_step = max(1, per_step // declared.workers) * declared.workers
    steps = max(1, math.ceil(wanted / (per_step * mean)))
    return Schedule(
        steps=steps,
        units_per_step=per_step,
        positions_at_once=positions,
        learning_rate=methods.learning_rate(declared),
        warmup_steps=max(1, round(declared.warmup_ratio * steps)),
        validate_every=math.ceil(steps / declared.validations),
        validation_tokens=declared.validation_tokens,
        patience=declared.patience,
        seed=declared.seed,
        checkpoint_seconds=declared.checkpoint_seconds,
    )


def _told(declared: Train, choice: Choice, outcome: Outcome) -> dict[str, Any]:
    """What was asked for, how it was done and what came of it, for the run's details."""
    return {
        "task": declared.task,
        "method": declared.method,
        "base_model": None if declared.architecture else declared.base_model,
        "strategy": choice.strategy,
        "recompute": choice.recompute,
        "predicted_mib": round(choice.footprint.total / 2**20),
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "best_step": outcome.best_step,
        "best_validation_loss": _finite(outcome.best_loss),
        "best_validation": _best(outcome),
        "seconds": round(outcome.seconds, 2),
        "tokens_per_second": round(outcome.tokens_per_second, 1),
        "stopped_early": outcome.stopped_early,
    }


def _sizes(model: Any) -> dict[str, int]:
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _best(outcome: Outcome) -> Record:
    """The metrics of the best validation."""
    points = [point for point in outcome.curves if point["step"] == outcome.best_step]
    return {key: value for point in points for key, value in point.items() if key.startswith("validation_")}


def finish(context: Context, draft: Draft, work: Work, more: dict[str, Any] | None = None) -> Manifest:
    """Make the run exist from what rank 0 left, then remove the checkpoints."""
    checkpoints = Checkpoints(context.artifacts.storage, work.checkpoints_prefix)
    result = checkpoints.result()
    draft.add(FileEntry.model_validate(entry) for entry in result["files"])
    draft.write("curves.json", json.dumps(result["curves"]).encode())
    draft.write(CURVES_PICTURE, draw(result["curves"], result["details"]["best_step"]))
    details = result["details"] | {"base_path_hash": draft.made_from["base"]} | (more or {})
    if work.declared.architecture:
        details["base_model"] = draft.id
    if details["sequence_length"] < work.declared.sequence_length:
        details["notice"] = (
            f"sequence_length {work.declared.sequence_length} was lowered to the model's {details['sequence_length']}"
        )
    manifest = draft.commit(counts={"steps": details["steps"], "tokens": details["tokens"]}, details=details)
    checkpoints.clear()
    return manifest


def _own_tokenizer(context: Context, dataset: Manifest, declared: Train) -> str:
    """The id of the tokenizer trained on a dataset (made once)."""
    made_from = {
        "code": CODE,
        "dataset": dataset.id,
        "pieces": declared.vocabulary_size,
        "context": declared.sequence_length,
    }
    own = task_of(declared.task).new_processor(declared)
    if own is not None:
        made_from = {"code": CODE, "processor": own.to_json_string()}
    draft = context.artifacts.draft("tokenizer", made_from, parents=[dataset.id])
    if draft.finished() is None:
        context.report(0.0, "training the tokenizer")
        tokenizer = own or train_tokenizer(
            _texts(context.artifacts, dataset), declared.vocabulary_size, declared.sequence_length
        )
        with tempfile.TemporaryDirectory(prefix="soldiom-") as folder:
            tokenizer.save_pretrained(folder)
            draft.write_folder(Path(folder))
        draft.commit()
    return draft.id


def _texts(artifacts: Artifacts, dataset: Manifest) -> Iterator[str]:
    """Texts of the train split spread over it, about TOKENIZER_TEXT_BYTES together."""
    whole = sum(len(row["text"]) for row in artifacts.rows(dataset, "train/"))
    share, debt = min(1.0, TOKENIZER_TEXT_BYTES / max(1, whole)), 0.0
    for row in artifacts.rows(dataset, "train/"):
        debt += share * len(row["text"])
        if debt >= len(row["text"]) / 2:
            debt -= len(row["text"])
            yield row["text"]


@contextmanager
def _base(work: Work, artifacts: Artifacts) -> Iterator[tuple[Path | None, Any]]:
    if work.tokenizer is None:
        with model_folder(work.settings, artifacts, work.declared.base_model) as folder:
            yield folder, load_processor(folder)
    else:
        with artifacts.storage.local_folder(prefix_of(work.tokenizer)) as folder:
            yield None, load_processor(folder)


def _store_weights(
    artifacts: Artifacts, work: Work, model: Any, tokenizer: Any, bfloat16: bool
) -> tuple[FileEntry, ...]:
    draft = Draft(artifacts, "run", work.run, {}, ())
    with tempfile.TemporaryDirectory(prefix="soldiom-") as name:
        folder = Path(name)
        methods.save(model, tokenizer, folder, method=work.declared.method, bfloat16=bfloat16)
        if work.declared.method != "full":
            _forget_path(folder, work.declared.base_model)
        draft.write_folder(folder, "weights")
    return tuple(draft.files.values())


def _forget_path(folder: Path, base_model: str) -> None:
    """An adapter names its base as it was declared, not by a path of the machine that trained it."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": base_model}
    path.write_text(json.dumps(config, indent=2))


def _used() -> dict[str, float]:
    """What this process took so far."""
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "max_resident_mib": round(usage.ru_maxrss / 1024, 1),
    }


def _part(report: Report, low: float, high: float) -> Report:
    return lambda fraction, message: report(low + (high - low) * fraction, message)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def open_artifacts(settings: Settings) -> Artifacts:
    """The artifacts of these settings, opened anew in a worker."""
    return Artifacts(open_storage(settings))
