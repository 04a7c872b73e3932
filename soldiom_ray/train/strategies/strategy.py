"""What the training loop asks of a strategy, whatever lies where."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from soldiom_ray.models.loss import Objective

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, besides the number of steps."""
BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Optimization:
    """AdamW's numbers, and how it computes."""

    learning_rate: float
    weight_decay: float
    gradient_clip: float
    bfloat16: bool
    offload: bool = False


class Strategy:
    """One rank's side of a training. Every method is called by all ranks alike.

    `parameters` are the trainable ones by name, as this rank holds them; `optimizer` is torch's AdamW over them, but
    where a strategy leaves that to another library."""

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
        """One forward and backward pass; `last`: of this step. The loss is multiplied by `scale` for the gradients,
        which are summed over ranks; returns this rank's summed loss as it was."""
        raise NotImplementedError

    def step(self, learning_rate: float) -> None:
        """Clip the gradients of all ranks together, update the weights, forget the gradients."""
        import torch

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.optimization.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def evaluate(self, batch: "tuple[Tensor, ...]") -> "tuple[Tensor, Tensor]":
        """This rank's summed loss and its counts for the task's metrics, without gradients, in evaluation mode."""
        loss_and_counts: tuple[Tensor, Tensor] = self.call("evaluate", batch)
        return loss_and_counts

    def call(self, what: str, batch: "tuple[Tensor, ...]") -> Any:
        """Call a method of the objective without gradients, at the training's precision."""
        import torch

        with torch.no_grad(), self.precision():
            return getattr(self.objective, what)(*batch)

    def weights(self) -> "dict[str, Tensor]":
        """The trainable parameters, whole, on the CPU. On ranks other than 0 what is returned means nothing."""
        raise NotImplementedError

    def optimizer_state(self) -> "dict[str, Tensor]":
        """The optimiser's state, whole, on the CPU: `exp_avg/NAME`, `exp_avg_sq/NAME` for each parameter, and `step`.
        The same names and shapes under every strategy. On ranks other than 0 what is returned means nothing."""
        raise NotImplementedError

    def load_state(
        self, weights: "Mapping[str, Tensor]", optimizer_state: "Mapping[str, Tensor] | None" = None
    ) -> None:
        """Take weights, and the optimiser's state when it is given: what `weights` and `optimizer_state` returned."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what the training needed besides the weights. The strategy is not used afterwards."""

    def sum(self, value: "Tensor") -> "Tensor":
        """The sum over ranks; the tensor given is overwritten."""
        if self.world > 1:
            from torch import distributed

            distributed.all_reduce(value)
        return value

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """Matrix products in bfloat16 where the schedule says so."""
        import torch

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.optimization.bfloat16):
            yield

    def check_names(self, weights: "Mapping[str, Any]") -> None:
        """ValueError when these are the weights of another model."""
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
