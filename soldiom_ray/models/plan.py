"""What a training will need, before anything is loaded: parameters, memory, strategy, time; and what would fit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import InputError
from soldiom_ray.models.load import has_bfloat16
from soldiom_ray.models.planning.machine import GIB, Cluster, Node, given
from soldiom_ray.models.planning.memory import SHARDED, STRATEGIES, Footprint, footprint
from soldiom_ray.models.planning.shape import Shape, Sizes, shape_of, with_declared

MOST_POSITIONS_AT_ONCE = 8192
"""Positions in one forward pass; more are accumulated. Longer passes were no faster (measured at 4096 to 16384)."""
MARGIN = 0.9
"""The share of free memory that a training may count on: what is predicted is within 15 % of what was measured."""
SMALL_MODEL = 1_000_000_000
"""Models below this many parameters are at home on one machine without a GPU."""
EFFICIENCY = {"cpu": 0.2, "cuda": 0.35}
"""The share of the rate of large matrix products that a training reaches: on a CPU about what a 40-line loop with
packing and bfloat16 reached (0.22 of the bfloat16 rate, 32 M parameters); on GPUs what is published for well-tuned
trainings of language models. Neither is a promise."""
LEAST_LENGTH = 64


@dataclass(frozen=True)
class Choice:
    """How a training runs, and what a worker needs for it."""

    strategy: str
    recompute: bool
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
    """One training on one cluster. `stored_bytes`: of the weights' files; 0 where the weights are new."""

    shape: Shape
    cluster: Cluster
    stored_bytes: float = 0.0
    _peaks: dict[tuple[int, bool], Any] = field(default_factory=dict)
    _sizes: Sizes | None = None

    @property
    def declared(self) -> Train:
        """What is asked for."""
        return self.shape.declared

    @property
    def sizes(self) -> Sizes:
        """Numbers of parameters."""
        if self._sizes is None:
            self._sizes = self.shape.sizes()
        return self._sizes

    @property
    def device(self) -> str:
        """cuda or cpu."""
        return self.cluster.device(self.declared.workers)

    @property
    def most_units(self) -> int:
        """Units that a worker would take at once if memory did not matter."""
        wanted = min(MOST_POSITIONS_AT_ONCE, self.declared.batch_tokens // self.declared.workers)
        return max(1, wanted // self.shape.unit)

    def option(self, strategy: str, *, recompute: bool, offload: bool) -> Choice:
        """This way to train, with as many units at once as fit (one where none does)."""
        units = self.most_units
        taken = self._footprint(units, strategy, recompute, offload)
        if not self._fits(taken) and units > 1:
            one = self._footprint(1, strategy, recompute, offload)
            each = (taken.total - one.total) / (units - 1)  # the peak is convex in the units: what lies between is less
            room = self.cluster.share(self.declared.workers)[0] * MARGIN - one.total
            units = max(1, min(units - 1, 1 + int(room // max(each, 1.0))))
            taken = one if units == 1 else self._footprint(units, strategy, recompute, offload)
        return Choice(strategy, recompute, offload, units, self.shape.unit, taken, self._fits(taken))

    def choose(self) -> Choice:
        """The first of the ways that the recipe leaves open which fits; the most sparing where none does."""
        option = None
        for strategy, recompute, offload in self._ways():
            option = self.option(strategy, recompute=recompute, offload=offload)
            if option.fits:
                return option
        if option is None:
            raise ValueError("no way to train")
        return option

    def every(self) -> Iterator[Choice]:
        """Every strategy with and without recomputation and, on GPUs, offload."""
        for strategy in STRATEGIES:
            if (strategy == "single") != (self.declared.workers == 1) and strategy in ("single", "ddp"):
                continue
            for recompute in (False, True):
                for offload in (False, True) if strategy in SHARDED and self.device == "cuda" else (False,):
                    yield self.option(strategy, recompute=recompute, offload=offload)

    def _ways(self) -> Iterator[tuple[str, bool, bool]]:
        declared = self.declared
        strategies: tuple[str, ...] = (declared.strategy,)
        if declared.strategy == "auto":
            strategies = ("single",) if declared.workers == 1 else ("ddp", "fsdp")
            if declared.offload:
                strategies = ("fsdp",)
            elif declared.min_workers is not None and declared.workers > 1:
                strategies = ("ddp",)
        for strategy in strategies:
            for recompute in (
                (False, True) if declared.activation_checkpointing is None else (declared.activation_checkpointing,)
            ):
                yield strategy, recompute, declared.offload
        if declared.strategy == "auto" and "fsdp" in strategies and self.device == "cuda" and not declared.offload:
            yield "fsdp", declared.activation_checkpointing is not False, True

    def _footprint(self, units: int, strategy: str, recompute: bool, offload: bool) -> Footprint:
        if (units, recompute) not in self._peaks:
            accumulates = self.declared.batch_tokens // self.declared.workers >= 2 * units * self.shape.unit
            self._peaks[units, recompute] = self.shape.peak(units, recompute=recompute, accumulates=accumulates)
        return footprint(
            self._peaks[units, recompute],
            self.sizes,
            strategy=strategy,
            workers=self.declared.workers,
            offload=offload,
            quantized=self.declared.quantization != "none",
            bfloat16=self.shape.bfloat16,
            device=self.device,
            stored_bytes=self.stored_bytes,
        )

    def _fits(self, taken: Footprint) -> bool:
        device, host = self.cluster.share(self.declared.workers)
        return taken.total <= device * MARGIN and taken.host <= host * MARGIN


def planner_for(folder: Path | None, declared: Train, cluster: Cluster, *, processor: Any = None) -> Planner:
    """The planner of a folder's model (of the declared `architecture` when `folder` is None) on a cluster."""
    device = cluster.device(declared.workers)
    shape = shape_of(folder, declared, processor=processor, bfloat16=wants_bfloat16(declared, device), device=device)
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder else 0
    return Planner(shape, cluster, float(stored))


def wants_bfloat16(declared: Train, device: str) -> bool:
    """Whether products will be in bfloat16; of GPUs that are not here it is taken for granted."""
    import torch

    if declared.precision != "auto":
        return declared.precision == "bfloat16"
    return (device == "cuda" and not torch.cuda.is_available()) or has_bfloat16(device)


def settled(choice: Choice, free: float, planner: Planner) -> Choice:
    """The choice where a worker has `free` bytes: fewer units at once where the whole does not fit. `planner` is of the
    worker's own view. InputError when not even one sequence fits."""
    if choice.footprint.total <= free * MARGIN:
        return choice
    node = Node(1, float(free))
    if planner.device == "cuda":
        node = Node(1, choice.footprint.host / MARGIN + 1, 1, float(free))
    own = replace(planner, cluster=Cluster((node,) * planner.declared.workers, "this worker"))
    fewer = own.option(choice.strategy, recompute=choice.recompute, offload=choice.offload)
    if not fewer.fits:
        raise _refusal(planner.declared, fewer.footprint.total, free, list(alternatives(own)))
    return fewer


def check(planner: Planner) -> Choice:
    """The choice; InputError with what would fit when nothing does."""
    choice = planner.choose()
    if not choice.fits:
        free = planner.cluster.share(planner.declared.workers)[0]
        raise _refusal(planner.declared, choice.footprint.total, free, list(alternatives(planner)))
    return choice


def alternatives(planner: Planner) -> Iterator[str]:
    """Nearest settings that fit, each checked by the same arithmetic."""
    declared, shape = planner.declared, planner.shape
    for changes, words in _nearby(planner):
        try:
            changed = Train.model_validate(declared.model_dump() | changes)
        except ValueError:
            continue
        other = with_declared(shape, **{name: getattr(changed, name) for name in changes})
        if Planner(other, planner.cluster, planner.stored_bytes).choose().fits:
            yield words
    for machines in (_more_memory(planner), _with_gpus(planner)):
        words = next((words for larger, words in machines if larger.choose().fits), "")
        if words:
            yield words


def _nearby(planner: Planner) -> Iterator[tuple[dict[str, Any], str]]:
    declared, length = planner.declared, planner.shape.length
    if declared.activation_checkpointing is False:
        yield {"activation_checkpointing": None}, "activation_checkpointing: true"
    if declared.strategy not in ("auto", "fsdp", "zero3") and declared.workers > 1:
        yield {"strategy": "fsdp"}, "strategy: fsdp"
    if declared.task != "image_classification":
        for shorter in (length // 2, length // 4, length // 8):
            if shorter >= LEAST_LENGTH:
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
            crowd = Cluster((node,) * planner.declared.workers, "as asked")
            yield replace(planner, cluster=crowd), f"{memory} GiB of memory for each worker"


def _with_gpus(planner: Planner) -> Iterator[tuple[Planner, str]]:
    """The same on GPUs that are larger than what is there, one for each worker; then on several with 80 GiB."""
    declared, free = planner.declared, planner.cluster.share(planner.declared.workers)[0]
    for workers, memories in ((declared.workers, (16, 24, 40, 80, 141)), (2, (80,)), (4, (80,)), (8, (80,))):
        if workers < declared.workers or (workers > declared.workers and declared.strategy not in ("auto", "fsdp")):
            continue
        peaks: dict[tuple[int, bool], Any] = {}
        for memory in memories:
            if memory * GIB <= free and workers == declared.workers:
                continue
            cluster = given(planner.cluster, gpus=workers, gpu_memory=memory, nodes=1, memory=2048)
            shape = with_declared(planner.shape, workers=workers)
            words = f"a GPU with {memory} GiB for each worker" if workers == declared.workers else ""
            yield (
                Planner(shape, cluster, planner.stored_bytes, peaks),
                words or f"workers: {workers} on GPUs of {memory} GiB",
            )


def _refusal(declared: Train, needed: float, free: float, fitting: list[str]) -> InputError:
    return InputError(
        f"Training {declared.base_model!r} with method {declared.method} and sequences of {declared.sequence_length}"
        f" needs {_gib(needed)} per worker; {_gib(free)} are free.",
        remedy=f"use {', or '.join([*fitting, f'a machine with {_gib(needed / MARGIN)} free for each worker'])}",
    )


def plan(
    folder: Path | None,
    declared: Train,
    resources: Cluster | float,
    *,
    processor: Any = None,
    train_tokens: int | None = None,
    tokens_per_second: float | None = None,
    bfloat16: bool = True,
    stored: Mapping[str, Any] | None = None,
    matrix_rate: float | None = None,
    everything: bool = False,
) -> dict[str, Any]:
    """What `soldiom plan` shows. `resources` is a cluster, or the bytes free on this machine; `everything` adds every
    strategy. `stored` is what the weights' files say of themselves (see `headers`)."""
    cluster = resources if isinstance(resources, Cluster) else Cluster((Node(1, float(resources)),), "as asked")
    shape = shape_of(folder, declared, processor=processor, bfloat16=bfloat16, device=cluster.device(declared.workers))
    planner = Planner(shape, cluster, float((stored or {}).get("bytes", 0)))
    chosen = planner.choose()
    device, host = cluster.share(declared.workers)
    refusal = ""
    fitting: list[str] = []
    if not chosen.fits:
        fitting = list(alternatives(planner))
        error = _refusal(declared, chosen.footprint.total, device, fitting)
        refusal = f"{error.what} Remedy: {error.remedy}"
    tokens = _tokens(declared, train_tokens)
    speed, basis = tokens_per_second, "given"
    if speed is None and matrix_rate:
        speed = expected_speed(planner, matrix_rate, chosen.recompute)
        basis = f"an estimate: {matrix_rate / 1e9:,.0f} GFLOP/s x {EFFICIENCY[planner.device]}"
    return {
        "base_model": declared.base_model,
        "task": declared.task,
        "method": declared.method,
        "parameters": planner.sizes.parameters,
        "trainable_parameters": planner.sizes.trainable,
        "stored": dict(stored or {}),
        "cluster": _shown(cluster),
        "device": planner.device,
        "workers": declared.workers,
        "strategy": chosen.strategy,
        "recompute": chosen.recompute,
        "offload": chosen.offload,
        "precision": "bfloat16" if bfloat16 else "float32",
        "sequence_length": shape.length,
        "positions_at_once": chosen.positions if chosen.fits else 0,
        "accumulation": max(1, round(declared.batch_tokens / (max(1, chosen.positions) * declared.workers))),
        "bytes": _rounded(chosen.footprint) | {"available": round(device), "host_available": round(host)},
        "fits": chosen.fits,
        "refusal": refusal,
        "alternatives": fitting,
        "advice": _advice(planner),
        "tokens": tokens,
        "tokens_per_second": round(speed, 1) if speed else None,
        "speed_from": basis if speed else "",
        "seconds": round(tokens / speed, 1) if tokens and speed else None,
        "strategies": [_option(option) for option in planner.every()] if everything else [],
    }


def expected_speed(planner: Planner, rate: float, recompute: bool) -> float:
    """Tokens per second of all workers: operations of a token's three (recomputed: four) passes against the device's
    rate. Frozen weights need no gradients of their own: two passes of three."""
    sizes, shape = planner.sizes, planner.shape
    frozen = sizes.parameters - sizes.trainable
    operations = 6.0 * sizes.trainable + 4.0 * frozen + 6.0 * sizes.attention_width * shape.length
    if recompute:
        operations *= 4 / 3
    workers = planner.declared.workers if planner.device == "cuda" else len(planner.cluster.nodes)
    return rate * EFFICIENCY[planner.device] * workers / operations


def _tokens(declared: Train, train_tokens: int | None) -> int | None:
    if train_tokens is None:
        return declared.max_tokens
    return int(min(declared.epochs * train_tokens, declared.max_tokens or declared.epochs * train_tokens))


def _advice(planner: Planner) -> str:
    billions = planner.sizes.parameters / 1e9
    if planner.device == "cuda":
        return ""
    if planner.sizes.parameters < SMALL_MODEL:
        return "small enough for this machine: no GPU is needed"
    return f"{billions:.1f} B parameters take a CPU too long: plan with --gpus, or with the nodes of a cloud"


def _option(option: Choice) -> dict[str, Any]:
    return {
        "strategy": option.strategy,
        "recompute": option.recompute,
        "offload": option.offload,
        "positions_at_once": option.positions,
        "fits": option.fits,
        "bytes": _rounded(option.footprint),
    }


def _rounded(taken: Footprint) -> dict[str, int]:
    parts = {name: round(value) for name, value in taken.parts.items()}
    return parts | {"loading": round(taken.loading), "total": round(taken.total), "host": round(taken.host)}


def _shown(cluster: Cluster) -> dict[str, Any]:
    return {"source": cluster.source, "nodes": [vars(node) for node in cluster.nodes]}


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"
