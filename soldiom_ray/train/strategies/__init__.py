"""How the workers of a training share the model: each a whole copy, or each a part of it."""

from typing import TYPE_CHECKING

from soldiom_ray.train.strategies.strategy import Optimization, Strategy

if TYPE_CHECKING:
    from soldiom_ray.models.loss import Objective

__all__ = ["Optimization", "Strategy", "open_strategy"]


def open_strategy(name: str, objective: "Objective", optimization: Optimization) -> Strategy:
    """The strategy by its name in a recipe: single, ddp, fsdp, zero2, zero3 ("auto" is decided by the planner before).

    With more than one process torch's process group must stand."""
    if name in ("single", "ddp"):
        from soldiom_ray.train.strategies.replicas import Replicas

        return Replicas(objective, optimization)
    raise ValueError(f"unknown strategy {name!r}")
