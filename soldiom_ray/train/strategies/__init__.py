"""How the ranks of a training hold the model: each a whole copy, or each a shard of it."""

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from soldiom_ray.errors import InputError
from soldiom_ray.models.planning.memory import SHARDED
from soldiom_ray.train.strategies.strategy import Optimization, Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from soldiom_ray.models.loss import Objective

DEEPSPEED = ("zero2", "zero3")
__all__ = ["Optimization", "Strategy", "check_strategy", "min_over_ranks", "open_strategy", "with_weights"]


def check_strategy(name: str, *, workers: int, quantization: str) -> None:
    """InputError where workers or quantization do not go with the strategy, or its package is not installed."""
    if name == "single" and workers > 1:
        raise InputError(
            f"train.strategy is single, and train.workers is {workers}.", remedy="use strategy: ddp, or workers: 1"
        )
    if name in SHARDED and quantization != "none":
        raise InputError(
            f"train.strategy {name} cannot divide weights in 4 bits (train.quantization is {quantization}).",
            remedy="use strategy: ddp, or leave `quantization` out",
        )
    _require_package(name)


def _require_package(name: str) -> None:
    if name in DEEPSPEED and importlib.util.find_spec("deepspeed") is None:
        raise InputError(
            "train.strategy zero2 and zero3 need the package deepspeed, which is not installed.",
            remedy="pip install deepspeed on every node; or strategy: fsdp, which needs nothing more",
        )


def min_over_ranks(positions: int) -> int:
    """The smallest number of all ranks, on every rank. Ranks that made different numbers of passes would wait for one
    another for ever where weights are exchanged in each pass."""
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        return positions
    number = torch.tensor(positions, device="cuda" if torch.cuda.is_available() else "cpu")
    distributed.all_reduce(number, distributed.ReduceOp.MIN)
    return int(number)


def open_strategy(name: str, objective: "Objective", optimization: Optimization) -> Strategy:
    """The strategy by its name in a recipe: single, ddp, fsdp, zero2, zero3 ("auto" is decided by the planner before).

    With several ranks torch's process group must be initialised. InputError where a package is missing."""
    if name in ("single", "ddp"):
        from soldiom_ray.train.strategies.replicas import Replicas

        return Replicas(objective, optimization)
    if name == "fsdp":
        from soldiom_ray.train.strategies.fsdp import Fsdp

        return Fsdp(objective, optimization)
    _require_package(name)
    if name in DEEPSPEED:
        from soldiom_ray.train.strategies.zero import Zero

        return Zero(objective, optimization, int(name.removeprefix("zero")))
    raise ValueError(f"unknown strategy {name!r}")


def with_weights(model: Any, weights: "Mapping[str, Tensor]") -> Any:
    """A whole model with the trained parameters that `Strategy.weights` returned: how a sharded one is saved."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name])
    return model
