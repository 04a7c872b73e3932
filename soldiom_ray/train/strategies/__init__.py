"""How the workers of a training share the model: each a whole copy, or each a part of it."""

from typing import TYPE_CHECKING

from soldiom_ray.errors import InputError
from soldiom_ray.train.strategies.strategy import Optimization, Strategy

if TYPE_CHECKING:
    from soldiom_ray.models.loss import Objective

__all__ = ["SHARDED", "Optimization", "Strategy", "open_strategy"]

SHARDED = ("fsdp", "zero2", "zero3")
"""They take the model on the CPU and put its parts where they belong; the model itself is not whole afterwards."""


def open_strategy(name: str, objective: "Objective", optimization: Optimization) -> Strategy:
    """The strategy by its name in a recipe: single, ddp, fsdp, zero2, zero3 ("auto" is decided by the planner before).

    With more than one process torch's process group must stand. InputError for what does not go together."""
    if name in SHARDED and _is_quantized(objective):
        raise InputError(
            f"train.strategy {name} cannot divide weights in 4 bits (train.quantization nf4).",
            remedy="use strategy: ddp, or leave `quantization` out",
        )
    if name in ("single", "ddp"):
        from soldiom_ray.train.strategies.replicas import Replicas

        strategy = Replicas(objective, optimization)
        if name == "single" and strategy.world > 1:
            raise InputError(
                f"train.strategy is single, and there are {strategy.world} workers.",
                remedy="use strategy: ddp, or workers: 1",
            )
        return strategy
    if name == "fsdp":
        from soldiom_ray.train.strategies.fsdp import Fsdp

        return Fsdp(objective, optimization)
    if name in ("zero2", "zero3"):
        from soldiom_ray.train.strategies.zero import Zero

        return Zero(objective, optimization, int(name.removeprefix("zero")))
    raise ValueError(f"unknown strategy {name!r}")


def _is_quantized(objective: "Objective") -> bool:
    return any(not parameter.is_floating_point() for parameter in objective.parameters())
