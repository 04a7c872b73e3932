"""Every rank holds the whole model: one process alone, or several whose gradients are averaged (DDP).

Weights, gradients and optimizer state are whole on every rank, so the results of `weights` and `optimizer_state` are
valid on each of them."""

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from soldiom_ray.models.weight_cache import cache_weights, invalidate_weights
from soldiom_ray.train.strategies.strategy import BETAS, MOMENTS, Optimization, Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from soldiom_ray.models.loss import Objective


class Replicas(Strategy):
    """The strategies `single` and `ddp`."""

    def __init__(self, objective: "Objective", optimization: Optimization) -> None:
        import torch

        super().__init__(objective, optimization)
        cache_weights(self.parameters.values())
        self.optimizer = torch.optim.AdamW(self.groups(), lr=optimization.learning_rate, betas=BETAS, fused=True)
        self.module: Any = objective
        if self.world > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            # Gradients are views of the buckets that are exchanged; otherwise each exists, and is copied, twice.
            self.module = torch.nn.parallel.DistributedDataParallel(
                objective, device_ids=devices, gradient_as_bucket_view=True
            )

    def backward(self, batch: "tuple[Tensor, ...]", scale: float, *, last: bool) -> "Tensor":
        unsynced = self.world > 1 and not last
        with self.module.no_sync() if unsynced else contextlib.nullcontext(), self.precision():
            loss: Tensor = self.module(*batch)
        with self.module.no_sync() if unsynced else contextlib.nullcontext():
            (loss * (scale * self.world)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def step(self, learning_rate: float) -> None:
        super().step(learning_rate)
        invalidate_weights(self.parameters.values())

    def weights(self) -> "dict[str, Tensor]":
        return {name: parameter.detach().cpu().contiguous() for name, parameter in self.parameters.items()}

    def optimizer_state(self) -> "dict[str, Tensor]":
        import torch

        state = self.optimizer.state
        moments = {
            f"{moment}/{name}": state[parameter][moment].cpu().contiguous()
            for name, parameter in self.parameters.items()
            if parameter in state
            for moment in MOMENTS
        }
        steps = [float(state[parameter]["step"]) for parameter in self.parameters.values() if parameter in state]
        return moments | {"step": torch.tensor(max(steps, default=0.0))}

    def load_state(
        self, weights: "Mapping[str, Tensor]", optimizer_state: "Mapping[str, Tensor] | None" = None
    ) -> None:
        import torch

        self.check_names(weights)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
        invalidate_weights(self.parameters.values())
        if optimizer_state is None or not float(optimizer_state["step"]):
            return
        for name, parameter in self.parameters.items():
            self.optimizer.state[parameter] = {
                "step": optimizer_state["step"].clone().to(parameter.device),
                **{moment: optimizer_state[f"{moment}/{name}"].to(parameter.device, copy=True) for moment in MOMENTS},
            }
