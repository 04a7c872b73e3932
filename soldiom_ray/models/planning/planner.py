"""Choosing how a training runs before anything is loaded: its strategy and memory, and settings that would fit."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soldiom_ray.domains.schema import Train
from soldiom_ray.domains.training_size import batch_tokens, tokens_to_read
from soldiom_ray.errors import InputError
from soldiom_ray.models.load import has_bfloat16
from soldiom_ray.models.planning.cache import PlanCache, entry_key
from soldiom_ray.models.planning.machine import GIB, Cluster, Node, hypothetical_cluster
from soldiom_ray.models.planning.memory import SHARDED, STRATEGIES, Footprint, footprint
from soldiom_ray.models.planning.shape import Shape, Sizes, shape_of, with_declared

if TYPE_CHECKING:
    from soldiom_ray.models.planning.trace import Peak

MAX_POSITIONS_AT_ONCE = {"cpu": 2048, "cuda": 8192}
"""Positions in one forward pass; more are accumulated. On a CPU a longer pass takes more memory and more time:
LoRA on SmolLM2 took 53, 59 and 71 CPU seconds and 2.9, 5.0 and 8.6 GiB with 2,048, 4,096 and 8,192 of them."""
MARGIN = 0.9
"""The share of free memory that a training may count on: what is predicted is within 15 % of what was measured."""
MIN_LENGTH = 64


@dataclass(frozen=True)
class TrainingSetup:
    """How a training runs, and the memory of one worker. A unit is a sample at full length; `units` of them are in one
    forward pass, `unit_positions` long each, a tuned prompt included."""

    strategy: str
    activation_checkpointing: bool
    offload: bool
    units: int
    unit_positions: int
    footprint: Footprint
    fits: bool

    @property
    def positions(self) -> int:
        """Positions in one forward pass."""
        return self.units * self.unit_positions


@dataclass
class Planner:
    """Chooses how one training runs on one cluster. `stored_bytes`: of the weights' files; 0 for random weights."""

    shape: Shape
    cluster: Cluster
    stored_bytes: float = 0.0
    cache: PlanCache = field(default_factory=PlanCache)
    epoch_tokens: float | None = None
    """Of one pass over the data, where that is known: a short training takes smaller steps."""
    _sizes: Sizes | None = None

    @property
    def declared(self) -> Train:
        """The training as its recipe declares it."""
        return self.shape.declared

    @property
    def sizes(self) -> Sizes:
        """Numbers of parameters, counted once."""
        if self._sizes is None:
            key = entry_key(self.shape, "sizes")
            if key not in self.cache.entries:
                self.cache.put(key, asdict(self.shape.sizes()))
            self._sizes = Sizes(**self.cache.entries[key])
        return self._sizes

    @property
    def device(self) -> str:
        """Where the workers compute, "cuda" or "cpu"."""
        return self.cluster.device(self.declared.workers)

    @property
    def batch_tokens(self) -> int:
        """Tokens of a step; the most there may be where that depends on the data."""
        return batch_tokens(self.declared, tokens_to_read(self.declared, self.epoch_tokens))

    @property
    def max_units(self) -> int:
        """Units that a worker would take at once if memory did not matter."""
        tokens = min(MAX_POSITIONS_AT_ONCE[self.device], self.batch_tokens // self.declared.workers)
        return max(1, tokens // self.shape.unit)

    def setup(self, strategy: str, *, activation_checkpointing: bool, offload: bool) -> TrainingSetup:
        """This way to train, with as many units at once as fit (one where not even one does)."""
        units = self.max_units
        needed = self._footprint(units, strategy, activation_checkpointing, offload)
        if not self._fits(needed) and units > 1:
            single = self._footprint(1, strategy, activation_checkpointing, offload)
            # The peak is convex in the units, so this line overestimates what lies between.
            per_unit = (needed.total - single.total) / (units - 1)
            free = self.cluster.share(self.declared.workers)[0] * MARGIN - single.total
            units = max(1, min(units - 1, 1 + int(free // max(per_unit, 1.0))))
            needed = single if units == 1 else self._footprint(units, strategy, activation_checkpointing, offload)
        return TrainingSetup(
            strategy,
            activation_checkpointing,
            offload,
            units,
            self.shape.unit + self.shape.virtual_positions,
            needed,
            self._fits(needed),
        )

    def choose(self) -> TrainingSetup:
        """The first setup that fits of those that the recipe leaves open; the one with the least memory where none
        does."""
        setup = None
        for strategy, activation_checkpointing, offload in self._candidates():
            setup = self.setup(strategy, activation_checkpointing=activation_checkpointing, offload=offload)
            if setup.fits:
                return setup
        if setup is None:
            raise ValueError("no way to train")
        return setup

    def all_setups(self) -> Iterator[TrainingSetup]:
        """Every strategy with and without activation checkpointing and, on GPUs, offload."""
        for strategy in STRATEGIES:
            if (strategy == "single") != (self.declared.workers == 1) and strategy in ("single", "ddp"):
                continue
            for activation_checkpointing in (False, True):
                for offload in (False, True) if strategy in SHARDED and self.device == "cuda" else (False,):
                    yield self.setup(strategy, activation_checkpointing=activation_checkpointing, offload=offload)

    def _candidates(self) -> Iterator[tuple[str, bool, bool]]:
        """(strategy, activation checkpointing, offload) that the recipe leaves open, the fastest first."""
        declared = self.declared
        strategies: tuple[str, ...] = (declared.strategy,)
        if declared.strategy == "auto":
            strategies = ("single",) if declared.workers == 1 else ("ddp", "fsdp")
            if declared.offload:
                strategies = ("fsdp",)
            elif declared.min_workers is not None and declared.workers > 1:
                strategies = ("ddp",)
        for strategy in strategies:
            for activation_checkpointing in (
                (False, True) if declared.activation_checkpointing is None else (declared.activation_checkpointing,)
            ):
                yield strategy, activation_checkpointing, declared.offload
        if declared.strategy == "auto" and "fsdp" in strategies and self.device == "cuda" and not declared.offload:
            yield "fsdp", declared.activation_checkpointing is not False, True

    def _footprint(self, units: int, strategy: str, activation_checkpointing: bool, offload: bool) -> Footprint:
        return footprint(
            self._peak(units, activation_checkpointing),
            self.sizes,
            strategy=strategy,
            workers=self.declared.workers,
            offload=offload,
            quantized=self.declared.quantization != "none",
            bfloat16=self.shape.bfloat16,
            device=self.device,
            stored_bytes=self.stored_bytes,
        )

    def _peak(self, units: int, activation_checkpointing: bool) -> "Peak":
        from soldiom_ray.models.planning.trace import Peak

        accumulates = self.batch_tokens // self.declared.workers >= 2 * units * self.shape.unit
        key = entry_key(self.shape, "peak", units, activation_checkpointing, accumulates)
        if key not in self.cache.entries:
            peak = self.shape.peak(units, activation_checkpointing=activation_checkpointing, accumulates=accumulates)
            self.cache.put(key, asdict(peak))
        return Peak(**self.cache.entries[key])

    def _fits(self, needed: Footprint) -> bool:
        device, host = self.cluster.share(self.declared.workers)
        return needed.total <= device * MARGIN and needed.host <= host * MARGIN


def planner_for(
    folder: Path | None, declared: Train, cluster: Cluster, *, processor: Any = None, home: Path | None = None
) -> Planner:
    """The planner of a folder's model (of the declared `architecture` when `folder` is None) on a cluster. What it
    finds out about the model is kept in `home`."""
    device = cluster.device(declared.workers)
    shape = shape_of(folder, declared, processor=processor, bfloat16=wants_bfloat16(declared, device), device=device)
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder else 0
    return Planner(shape, cluster, float(stored), PlanCache(home))


def wants_bfloat16(declared: Train, device: str) -> bool:
    """Whether matrix products will be in bfloat16; of GPUs that this machine does not have it is assumed."""
    import torch

    if declared.precision != "auto":
        return declared.precision == "bfloat16"
    return (device == "cuda" and not torch.cuda.is_available()) or has_bfloat16(device)


def reduce_to_memory(setup: TrainingSetup, free: float, planner: Planner) -> TrainingSetup:
    """The setup for a worker that has `free` bytes: fewer units at once where all of them do not fit. `planner` sees
    the training as the worker does. InputError when not even one sequence fits."""
    if setup.footprint.total <= free * MARGIN:
        return setup
    node = Node(1, float(free))
    if planner.device == "cuda":
        node = Node(1, setup.footprint.host / MARGIN + 1, 1, float(free))
    own = replace(planner, cluster=Cluster((node,) * planner.declared.workers, "this worker"))
    fewer = own.setup(setup.strategy, activation_checkpointing=setup.activation_checkpointing, offload=setup.offload)
    if not fewer.fits:
        raise refusal(planner.declared, fewer.footprint.total, free, list(alternatives(own)))
    return fewer


def require_setup(planner: Planner) -> TrainingSetup:
    """The setup that the planner chooses; InputError with settings that would fit when it does not fit."""
    setup = planner.choose()
    if not setup.fits:
        free = planner.cluster.share(planner.declared.workers)[0]
        raise refusal(planner.declared, setup.footprint.total, free, list(alternatives(planner)))
    return setup


def alternatives(planner: Planner) -> Iterator[str]:
    """The nearest settings and machines that fit, in words, each checked by the same arithmetic."""
    declared, shape = planner.declared, planner.shape
    for changes, words in _smaller_settings(planner):
        try:
            changed = Train.model_validate(declared.model_dump() | changes)
        except ValueError:
            continue
        other = with_declared(shape, **{name: getattr(changed, name) for name in changes})
        if replace(planner, shape=other, _sizes=None).choose().fits:
            yield words
    for machines in (_more_memory(planner), _with_gpus(planner)):
        words = next((words for larger, words in machines if larger.choose().fits), "")
        if words:
            yield words


def _smaller_settings(planner: Planner) -> Iterator[tuple[dict[str, Any], str]]:
    """(changes of the recipe's training, the same in words) that need less memory."""
    declared, length = planner.declared, planner.shape.length
    if declared.activation_checkpointing is False:
        yield {"activation_checkpointing": None}, "activation_checkpointing: true"
    if declared.strategy not in ("auto", "fsdp", "zero3") and declared.workers > 1:
        yield {"strategy": "fsdp"}, "strategy: fsdp"
    if declared.task != "image_classification":
        for shorter in (length // 2, length // 4, length // 8):
            if shorter >= MIN_LENGTH:
                yield {"sequence_length": shorter}, f"sequence_length: {shorter}"
    if declared.method == "full" and declared.architecture is None:
        yield {"method": "lora"}, "method: lora"
        shorter = max(8, length // 4)
        yield {"method": "lora", "sequence_length": shorter}, f"method: lora with sequence_length: {shorter}"
    if planner.device == "cuda" and declared.quantization == "none" and declared.architecture is None:
        yield {"method": "lora", "quantization": "nf4"}, "method: lora with quantization: nf4"
    for workers in (2, 4, 8):
        if workers > declared.workers and planner.cluster.gpus >= workers:
            yield {"workers": workers, "strategy": "auto"}, f"workers: {workers}"


def _more_memory(planner: Planner) -> Iterator[tuple[Planner, str]]:
    """The same on machines with more memory, the smallest first; nothing where there are GPUs."""
    if planner.device == "cuda":
        return
    for memory in (8, 16, 32, 64, 128, 256, 512, 1024):
        if memory * GIB > planner.cluster.share(planner.declared.workers)[0]:
            node = Node(planner.cluster.nodes[0].cpus, float(memory * GIB))
            larger = Cluster((node,) * planner.declared.workers, "as asked")
            yield replace(planner, cluster=larger), f"{memory} GiB of memory for each worker"


def _with_gpus(planner: Planner) -> Iterator[tuple[Planner, str]]:
    """The same on GPUs that are larger than what is there, one for each worker; then on several with 80 GiB."""
    declared, free = planner.declared, planner.cluster.share(planner.declared.workers)[0]
    for workers, memories in ((declared.workers, (16, 24, 40, 80, 141)), (2, (80,)), (4, (80,)), (8, (80,))):
        if workers < declared.workers or (workers > declared.workers and declared.strategy not in ("auto", "fsdp")):
            continue
        for memory in memories:
            if memory * GIB <= free and workers == declared.workers:
                continue
            cluster = hypothetical_cluster(planner.cluster, gpus=workers, gpu_memory=memory, nodes=1, memory=2048)
            shape = with_declared(planner.shape, workers=workers)
            words = f"a GPU with {memory} GiB for each worker" if workers == declared.workers else ""
            yield (
                Planner(shape, cluster, planner.stored_bytes, planner.cache),
                words or f"workers: {workers} on GPUs of {memory} GiB",
            )


def refusal(declared: Train, needed: float, free: float, fitting: list[str]) -> InputError:
    """The error that a training needs more bytes per worker than are free, with the settings and machines that fit."""
    return InputError(
        f"Training {declared.base_model or 'from random weights'!r} with method {declared.method} and sequences of"
        f" {declared.sequence_length} needs {_gib(needed)} per worker; {_gib(free)} are free, {1 - MARGIN:.0%} of which"
        " are kept in reserve.",
        remedy=f"use {', or '.join([*fitting, f'a machine with {_gib(needed / MARGIN)} free for each worker'])}",
    )


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"
