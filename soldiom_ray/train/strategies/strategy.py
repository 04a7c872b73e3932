"""What the training loop asks of a strategy, however weights, gradients and optimizer state are divided among ranks.

A *whole* tensor has the parameter's own shape, whoever holds it between steps. Trained parameters and AdamW's state are
float32 under every strategy; the passes compute in bfloat16 where `Optimization.bfloat16` says so."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soldiom_ray.models.weight_cache import autocast

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from soldiom_ray.models.loss import Objective

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, each of its shape, besides the number of steps."""
BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Optimization:
    """AdamW's hyperparameters, and the precision of the passes."""

    learning_rate: float
    weight_decay: float
    gradient_clip: float
    bfloat16: bool
    offload: bool = False
    """Weights and optimizer state lie in the memory of the host between steps (GPUs under fsdp, zero2, zero3)."""


class Strategy:
    """One rank's side of a training. All ranks call every method, in the same order: most of them communicate.

    `parameters` are the trainable ones by name, as this rank holds them: whole (single, ddp, zero2), or its shard.
    `optimizer` is torch's AdamW over them, except where a strategy leaves that to another library. `device` is where
    batches belong."""

    optimizer: "torch.optim.Optimizer"

    def __init__(self, objective: "Objective", optimization: Optimization) -> None:
        from torch import distributed

        together = distributed.is_available() and distributed.is_initialized()
        self.rank, self.world = (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
        self.objective, self.optimization = objective, optimization
        self.parameters: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in objective.model.named_parameters() if parameter.requires_grad
        }
        self.device: torch.device = next(iter(self.parameters.values())).device

    def backward(self, batch: "tuple[Tensor, ...]", scale: float, *, last: bool) -> "Tensor":
        """One forward and backward pass over this rank's batch (the tensors of `Source.batch`, on `device`).

        Gradients are those of the loss times `scale`, summed over ranks; with `last`, the last pass of a step, they are
        complete. Returns this rank's summed loss without `scale`: float32, shape [], detached."""
        raise NotImplementedError

    def step(self, learning_rate: float) -> None:
        """Clip the gradients by their norm over all ranks and parameters, update the weights, clear the gradients."""
        import torch

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.optimization.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def evaluate(self, batch: "tuple[Tensor, ...]") -> "tuple[Tensor, Tensor]":
        """(summed loss [], counts [metrics]) of this rank's batch; the counts are those of `Objective.metrics`. Without
        gradients; the caller sets evaluation mode."""
        result: tuple[Tensor, Tensor] = self.call("evaluate", batch)
        return result

    def call(self, method: str, batch: "tuple[Tensor, ...]") -> Any:
        """Call a method of the objective by name on this rank's batch, without gradients, at the passes' precision."""
        import torch

        with torch.no_grad(), self.precision():
            return getattr(self.objective, method)(*batch)

    def weights(self) -> "dict[str, Tensor]":
        """The trainable parameters by name: whole, float32, on the CPU, contiguous. Only rank 0's result is valid."""
        raise NotImplementedError

    def optimizer_state(self) -> "dict[str, Tensor]":
        """AdamW's state, whole, float32, on the CPU: `exp_avg/NAME` and `exp_avg_sq/NAME` of each parameter's shape,
        and `step` []. Before the first step there is `step` 0 alone. Every strategy has the same names and shapes. Only
        rank 0's result is valid."""
        raise NotImplementedError

    def load_state(
        self, weights: "Mapping[str, Tensor]", optimizer_state: "Mapping[str, Tensor] | None" = None
    ) -> None:
        """Load weights and, if given, optimizer state: what `weights` and `optimizer_state` returned, under whichever
        strategy and number of ranks. Every rank passes the whole tensors and keeps its part."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what the training needed besides the weights. The strategy cannot be used afterwards."""

    def sum(self, value: "Tensor") -> "Tensor":
        """The sum over ranks of a tensor of any shape, on every rank. The argument itself is overwritten."""
        if self.world > 1:
            from torch import distributed

            distributed.all_reduce(value)
        return value

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """Autocast to bfloat16 where `Optimization.bfloat16` says so."""
        with autocast(self.device.type, enabled=self.optimization.bfloat16):
            yield

    def check_names(self, weights: "Mapping[str, Any]") -> None:
        """ValueError when the names are not those of this model's trainable parameters."""
        if missing := self.parameters.keys() ^ weights.keys():
            raise ValueError(f"the checkpoint's weights are not those of this model: {sorted(missing)[:3]}")

    def groups(self) -> list[dict[str, Any]]:
        """AdamW's parameter groups: weight decay for matrices only."""
        decayed = [p for p in self.parameters.values() if p.dim() > 1]
        flat = [p for p in self.parameters.values() if p.dim() <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.optimization.weight_decay},
            {"params": flat, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]
