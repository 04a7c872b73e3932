"""The report of a planned training that `soldiom plan` shows: parameters, memory, strategy and time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soldiom_ray.domains.schema import Train
from soldiom_ray.domains.training_size import batch_tokens, tokens_to_read
from soldiom_ray.models.linear_head import CHOICES
from soldiom_ray.models.planning.cache import PlanCache
from soldiom_ray.models.planning.machine import Cluster, Node
from soldiom_ray.models.planning.memory import FITTED, Footprint
from soldiom_ray.models.planning.planner import Planner, TrainingSetup, alternatives, refusal
from soldiom_ray.models.planning.shape import shape_of

SMALL_MODEL = 1_000_000_000
"""Models below this many parameters are at home on one machine without a GPU."""
EFFICIENCY = {"cpu": 0.2, "cuda": 0.35}
"""The share of the rate of large matrix products that a training reaches: on a CPU about what a 40-line loop with
packing and bfloat16 reached (0.22 of the bfloat16 rate, 32 M parameters); on GPUs what is published for well-tuned
trainings of language models. Neither is a promise."""
READING_SPEED = 2.0
"""A base that is only read takes one pass where an adapter takes two."""


def plan_report(
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
    all_strategies: bool = False,
    home: Path | None = None,
) -> dict[str, Any]:
    """What `soldiom plan` shows, as JSON. `resources` is a cluster, or the bytes free on this machine; `all_strategies`
    adds every strategy's memory. `stored` is what the headers of the weights' files say (see `headers`), `matrix_rate`
    the device's floating-point operations per second; what is found out about the model is kept in `home`."""
    cluster = resources if isinstance(resources, Cluster) else Cluster((Node(1, float(resources)),), "as asked")
    shape = shape_of(folder, declared, processor=processor, bfloat16=bfloat16, device=cluster.device(declared.workers))
    planner = Planner(shape, cluster, float((stored or {}).get("bytes", 0)), PlanCache(home), train_tokens)
    chosen = planner.choose()
    device, host = cluster.share(declared.workers)
    fitting = [] if chosen.fits else list(alternatives(planner))
    error = None if chosen.fits else refusal(declared, chosen.footprint.total, device, fitting)
    speed, speed_source = tokens_per_second, "given"
    if speed is None and matrix_rate:
        speed = expected_speed(planner, matrix_rate, chosen.activation_checkpointing)
        speed *= READING_SPEED if declared.head == "linear" else 1
        speed_source = f"an estimate: {matrix_rate / 1e9:,.0f} GFLOP/s x {EFFICIENCY[planner.device]}"
    return {
        "base_model": declared.base_model,
        "task": declared.task,
        "method": declared.method,
        "head": declared.head,
        "parameters": planner.sizes.parameters,
        "trainable_parameters": 0 if declared.head == "linear" else planner.sizes.trainable,
        "stored": dict(stored or {}),
        "cluster": _cluster_json(cluster),
        "device": planner.device,
        "workers": declared.workers,
        "strategy": chosen.strategy,
        "recompute": chosen.activation_checkpointing,
        "offload": chosen.offload,
        "precision": "bfloat16" if bfloat16 else "float32",
        "sequence_length": shape.length,
        "positions_at_once": chosen.positions if chosen.fits else 0,
        **_steps(declared, chosen.units * shape.unit, train_tokens),
        "bytes": _footprint_json(chosen.footprint) | {"available": round(device), "host_available": round(host)},
        "fits": chosen.fits,
        "refusal": f"{error.what} Remedy: {error.remedy}" if error else "",
        "alternatives": fitting,
        "advice": _advice(planner),
        "fitted": FITTED[planner.device],
        **_duration(tokens_to_read(declared, train_tokens), speed, speed_source),
        "strategies": [_setup_json(setup) for setup in planner.all_setups()] if all_strategies else [],
    }


def _steps(declared: Train, pass_tokens: int, train_tokens: int | None) -> dict[str, int | None]:
    """The tokens of a step, how many passes of `pass_tokens` on each worker they take, and how many steps there are,
    where that is known."""
    run_tokens = tokens_to_read(declared, train_tokens)
    if declared.head == "linear":  # each choice of a penalty is a step, and sees all
        tokens = None if run_tokens is None else int(run_tokens)
        return {"batch_tokens": tokens, "accumulation": 1, "steps": len(CHOICES)}
    step_tokens = batch_tokens(declared, run_tokens)
    return {
        "batch_tokens": step_tokens,
        "accumulation": max(1, round(step_tokens / (max(1, pass_tokens) * declared.workers))),
        "steps": None if run_tokens is None else max(1, round(run_tokens / step_tokens)),
    }


def _duration(tokens: float | None, speed: float | None, speed_source: str) -> dict[str, Any]:
    """How long a training of so many tokens takes at so many tokens per second, as far as both are known."""
    return {
        "tokens": None if tokens is None else int(tokens),
        "tokens_per_second": round(speed, 1) if speed else None,
        "speed_from": speed_source if speed else "",
        "seconds": round(tokens / speed, 1) if tokens and speed else None,
    }


def expected_speed(planner: Planner, rate: float, activation_checkpointing: bool) -> float:
    """Tokens per second of all workers: the operations of a token's three passes (four with activation checkpointing)
    against `rate`, the device's operations per second. Frozen weights need no gradients of their own: two passes of
    three."""
    sizes, shape = planner.sizes, planner.shape
    frozen = sizes.parameters - sizes.trainable
    operations = 6.0 * sizes.trainable + 4.0 * frozen + 6.0 * sizes.attention_width * shape.length
    if activation_checkpointing:
        operations *= 4 / 3
    workers = planner.declared.workers if planner.device == "cuda" else len(planner.cluster.nodes)
    return rate * EFFICIENCY[planner.device] * workers / operations


def _advice(planner: Planner) -> str:
    billions = planner.sizes.parameters / 1e9
    if planner.device == "cuda":
        return ""
    if planner.sizes.parameters < SMALL_MODEL:
        return "small enough for this machine: no GPU is needed"
    return f"{billions:.1f} B parameters take a CPU too long: plan with --gpus, or with the nodes of a cloud"


def _setup_json(setup: TrainingSetup) -> dict[str, Any]:
    return {
        "strategy": setup.strategy,
        "recompute": setup.activation_checkpointing,
        "offload": setup.offload,
        "positions_at_once": setup.positions,
        "fits": setup.fits,
        "bytes": _footprint_json(setup.footprint),
    }


def _footprint_json(needed: Footprint) -> dict[str, int]:
    parts = {name: round(value) for name, value in needed.parts.items()}
    return parts | {"loading": round(needed.loading), "total": round(needed.total), "host": round(needed.host)}


def _cluster_json(cluster: Cluster) -> dict[str, Any]:
    return {"source": cluster.source, "nodes": [vars(node) for node in cluster.nodes]}
