"""What a training resumes from: its position, and what a store of checkpoints offers the loop."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Metrics = dict[str, float | int]
"""Numbers by name: a point of the curves (with its `step`), or a sample of what a worker uses."""


@dataclass(frozen=True)
class Position:
    """Where a training stands, besides its tensors. It is stored with each checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_loss: float = math.inf
    bad_validations: int = 0
    validated_step: int = -1
    curves: tuple[Metrics, ...] = ()


class CheckpointStore(Protocol):
    """Where a training's states are kept: see `checkpoints`.

    `weights` and `optimizer_state` are whole tensors by name, as `Strategy.weights` and `Strategy.optimizer_state`
    return them. Only rank 0 writes; every rank may read."""

    def write(
        self, position: Position, weights: "Mapping[str, Tensor]", optimizer_state: "Mapping[str, Tensor] | None"
    ) -> None:
        """Store one state. Without the optimizer's, it holds the best weights and no training resumes from it."""
        ...

    def newest(self) -> "tuple[Position, dict[str, Tensor], dict[str, Tensor]] | None":
        """(position, weights, optimizer state) of the newest checkpoint that is whole; None where there is none."""
        ...

    def read(self, step: int) -> "tuple[Position, dict[str, Tensor], dict[str, Tensor]]":
        """(position, weights, optimizer state) of one checkpoint."""
        ...

    def best_weights(self, position: Position) -> "dict[str, Tensor] | None":
        """The weights of `position.best_step`; None when they can no longer be read."""
        ...
