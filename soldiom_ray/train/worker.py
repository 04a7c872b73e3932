"""What every worker of a training does, from the prepared work to weights in storage."""

import json
import math
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from soldiom_ray import tracing
from soldiom_ray.artifacts import Artifacts, Draft, Report
from soldiom_ray.domains.schema import Train
from soldiom_ray.domains.training_size import batch_tokens, tokens_to_read, validations
from soldiom_ray.models.linear_head import LinearHead
from soldiom_ray.models.load import context_length, has_bfloat16
from soldiom_ray.models.planning.machine import current_cluster, free_bytes
from soldiom_ray.models.planning.memory import SHARDED
from soldiom_ray.models.planning.planner import TrainingSetup, planner_for, reduce_to_memory
from soldiom_ray.models.planning.shape import enable_activation_checkpointing
from soldiom_ray.models.pooling import read_pooling
from soldiom_ray.models.signing import SIGNATURE, sign_weights
from soldiom_ray.records import FileEntry
from soldiom_ray.settings import Settings
from soldiom_ray.train import methods
from soldiom_ray.train.blocks import Source
from soldiom_ray.train.laps import Laps
from soldiom_ray.train.loop import Loop, Outcome, Schedule
from soldiom_ray.train.state import Metrics
from soldiom_ray.train.strategies import Optimization, min_over_ranks, open_strategy, with_weights
from soldiom_ray.train.tasks import task_of
from soldiom_ray.train.usage import cpu_seconds
from soldiom_ray.train.work import TOKENISING_SHARE, Work, open_base, part_of


def run_worker(
    work: Work,
    artifacts: Artifacts,
    report: Report,
    observe: Callable[[Metrics], None],
    is_preempted: Callable[[], bool] = lambda: False,
    cpu_before: float = 0.0,
) -> None:
    """Train as one rank of torch's process group, or alone where none stands.

    Rank 0 leaves the weights and `result.json` in storage. `report`, `observe` and `is_preempted`: see `Loop`;
    `cpu_before` are CPU seconds of this process that are not this training's."""
    tracing.start_tracing(work.settings, "worker")
    try:
        with tracing.span("train worker", work.parent, run=work.run) as mark:
            _run_worker(work, artifacts, report, observe, is_preempted, cpu_before, mark)
    finally:
        tracing.flush()


def _run_worker(
    work: Work,
    artifacts: Artifacts,
    report: Report,
    observe: Callable[[Metrics], None],
    is_preempted: Callable[[], bool],
    cpu_before: float,
    mark: tracing.Mark,
) -> None:
    import torch

    declared, task, laps = work.declared, task_of(work.declared.task), Laps()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bfloat16 = declared.precision == "bfloat16" or (declared.precision == "auto" and has_bfloat16(device))
    checkpoints = work.checkpoints(artifacts)
    tokens = artifacts.get(work.tokens)
    configuration = task.configure(tokens)
    with ExitStack() as stack:
        folder, processor = stack.enter_context(open_base(work, artifacts))
        planner = planner_for(folder, declared, current_cluster(), processor=processor)
        setup = reduce_to_memory(work.setup, free_bytes(device), planner)
        sharded = setup.strategy in SHARDED
        words: list[int] = []
        if declared.method == "prompt":
            special = getattr(processor, "all_special_ids", ())
            words = task.typical_words(artifacts, tokens, declared.virtual_tokens, special)
        build = partial(methods.build, task, folder, processor, declared, configuration, bfloat16=bfloat16, words=words)
        model = build(device="cpu" if sharded else device)
        if setup.activation_checkpointing:
            enable_activation_checkpointing(model)
        length = min(declared.sequence_length, context_length(model))
        if not sharded:  # the fast layers hold on to weights that sharding takes away and brings back
            stack.enter_context(task.reading(model))
        train, validation = stack.enter_context(task.open(artifacts, tokens, length, processor))
        train, validation = (task.measure(model, units) for units in (task.varied(train, declared), validation))
        schedule = schedule_of(declared, train, min_over_ranks(setup.positions), planner.shape.virtual_positions)
        optimization = Optimization(
            schedule.learning_rate, declared.weight_decay, declared.gradient_clip, bfloat16, declared.offload
        )
        sizes = model_sizes(model)  # before a strategy shards it
        head: LinearHead | None = None
        world, weights = 1, dict[str, Any]()
        steps_report = part_of(report, TOKENISING_SHARE, 1.0)
        if declared.head == "linear":
            laps.end("load")
            head, outcome = _fit_head(
                model, train, validation, folder, declared, setup.positions, steps_report, observe
            )
            sizes["trainable_parameters"] = head.size
        else:
            strategy = open_strategy(setup.strategy, task.objective(model, tokens, declared), optimization)
            stack.callback(strategy.close)
            train, validation = (
                task.with_reference_logprobs(strategy, units, schedule.positions_at_once)
                for units in (train, validation)
            )
            loop = Loop(strategy, train, validation, schedule, checkpoints, steps_report, observe, is_preempted)
            laps.end("load")
            mark.set(rank=loop.rank)
            with tracing.span("train steps"):
                outcome = loop.run()
            weights, world = strategy.weights() if sharded else {}, strategy.world
            if loop.rank:
                return
        details = {
            "auto_class": task.auto_class,
            "configuration": configuration,
            "prompt_format": task.prompt_format(tokens),
            "sequence_length": length,
            "cuts": task.cuts(artifacts, tokens, length),
            "precision": "bfloat16" if bfloat16 else "float32",
            "workers": world,
            "software": software_versions(),
        }
        details |= _run_details(declared, setup, schedule, outcome) | _process_usage(cpu_before) | sizes
        if sharded:
            model = with_weights(build(device="cpu"), weights)
        saving = Laps()
        with tracing.span("save weights"):
            stored = store_weights(work.settings, artifacts, work.run, declared, model, processor, bfloat16, head)
            entries = [entry.model_dump() for entry in stored]
        saving.end("save")
        details["seconds_by_part"] = {**work.seconds, **laps.seconds, **outcome.seconds_by_part, **saving.seconds}
        checkpoints.put_result({"details": details, "curves": outcome.curves, "files": entries})


def schedule_of(declared: Train, train: Source, positions: int, virtual_positions: int) -> Schedule:
    """The declaration in steps over these units; `positions` is how many fit one forward pass, `virtual_positions`
    those that each unit has besides its own."""
    import numpy as np

    epoch = int(train.positions(np.arange(len(train), dtype=np.int64)).sum())
    wanted = tokens_to_read(declared, epoch) or epoch
    mean = epoch / len(train)
    batch = batch_tokens(declared, wanted)
    per_step = max(1, min(int(batch / mean), len(train)))
    per_step = max(1, per_step // declared.workers) * declared.workers
    steps = max(1, math.ceil(wanted / (per_step * mean)))
    times, validation_tokens = validations(declared, wanted)
    return Schedule(
        steps=steps,
        units_per_step=per_step,
        positions_at_once=positions,
        learning_rate=methods.learning_rate(declared, batch),
        warmup_steps=max(1, round(declared.warmup_ratio * steps)),
        validate_every=math.ceil(steps / times),
        validation_tokens=validation_tokens,
        patience=declared.patience,
        seed=declared.seed,
        checkpoint_seconds=declared.checkpoint_seconds,
        virtual_positions=virtual_positions,
    )


def _fit_head(
    model: Any,
    train: Source,
    validation: Source,
    folder: Path | None,
    declared: Train,
    positions: int,
    report: Report,
    observe: Callable[[Metrics], None],
) -> tuple[LinearHead, Outcome]:
    """`train.head: linear`."""
    from soldiom_ray.train.linear import fit_linear_head
    from soldiom_ray.train.tasks.classification import Texts

    if not isinstance(train, Texts) or not isinstance(validation, Texts):
        raise TypeError(f"a linear head reads Texts, not {type(train).__name__}")
    pooling = read_pooling(folder, declared.base_model).mode if folder else "mean"
    return fit_linear_head(model, train, validation, pooling, declared.seed, positions, report, observe)


def _run_details(declared: Train, setup: TrainingSetup, schedule: Schedule, outcome: Outcome) -> dict[str, Any]:
    """The part of the run's details that says what was declared, how it was trained and what came of it."""
    return {
        "task": declared.task,
        "method": declared.method,
        "head": declared.head,
        "base_model": None if declared.architecture else declared.base_model,
        "strategy": setup.strategy,
        "recompute": setup.activation_checkpointing,
        "predicted_mib": round(setup.footprint.total / 2**20),
        "batch_tokens": round(outcome.tokens / max(1, outcome.steps)),
        "learning_rate": schedule.learning_rate,
        "validation_tokens": schedule.validation_tokens,
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "best_step": outcome.best_step,
        "best_validation_loss": outcome.best_loss if math.isfinite(outcome.best_loss) else None,
        "best_validation": _best_validation(outcome),
        "seconds": round(outcome.seconds, 2),
        "tokens_per_second": round(outcome.tokens_per_second, 1),
        "stopped_early": outcome.stopped_early,
    }


def model_sizes(model: Any) -> dict[str, int]:
    """How many parameters it has, and how many of them are trained."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _best_validation(outcome: Outcome) -> Metrics:
    """The metrics of the best validation."""
    points = [point for point in outcome.curves if point["step"] == outcome.best_step]
    return {key: value for point in points for key, value in point.items() if key.startswith("validation_")}


def software_versions() -> dict[str, str]:
    """Versions of the installed libraries that had a part in the weights."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("accelerate", "numpy", "peft", "ray", "safetensors", "soldiom", "tokenizers", "torch", "transformers"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _process_usage(cpu_before: float) -> dict[str, float]:
    """CPU seconds of this process beyond `cpu_before`, and its peak memory."""
    import resource

    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"cpu_seconds": round(cpu_seconds() - cpu_before, 1), "max_resident_mib": round(peak_kib / 1024, 1)}


def store_weights(
    settings: Settings,
    artifacts: Artifacts,
    run: str,
    declared: Train,
    model: Any,
    processor: Any,
    bfloat16: bool,
    head: LinearHead | None = None,
) -> tuple[FileEntry, ...]:
    """Store a run's weights, what reads its input and their signature; the files, for the run's draft."""
    draft = Draft(artifacts, "run", run, {}, ())
    with tempfile.TemporaryDirectory(prefix="soldiom-") as name:
        folder = Path(name)
        methods.save(model, processor, folder, method=declared.method, bfloat16=bfloat16)
        if declared.method != "full":
            _name_base_as_declared(folder, declared.base_model)
        if head is not None:
            head.save(folder)
        draft.write_folder(folder, "weights")
        if (signature := sign_weights(settings, artifacts, run, folder)) is not None:
            draft.write(SIGNATURE, signature)
    return tuple(draft.files.values())


def _name_base_as_declared(folder: Path, base_model: str) -> None:
    """Otherwise an adapter names a path of the machine that trained it."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": base_model}
    path.write_text(json.dumps(config, indent=2))
