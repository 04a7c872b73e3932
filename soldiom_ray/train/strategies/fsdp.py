"""FSDP2: every rank holds its share of each weight, gradient and moment; a transformer block is whole only while it
computes (torch.distributed.fsdp.fully_shard).

Run on CPUs with gloo. Written after torch 2.13's sources and not run: CUDA, and with it `offload`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from soldiom_ray.train.strategies.sharded import LEARN, Sharded, blocks_of
from soldiom_ray.train.strategies.strategy import BETAS, MOMENTS, Optimization

if TYPE_CHECKING:
    from torch import Tensor

    from soldiom_ray.models.loss import Objective

SMALL = 0.1
"""Below this share of the model's weights, whole gradients (of adapters) are kept until a step's last pass."""


class Fsdp(Sharded):
    """The strategy `fsdp`."""

    def __init__(self, objective: "Objective", optimization: Optimization) -> None:
        import torch
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

        super().__init__(objective, optimization)
        whole = sum(parameter.numel() for parameter in objective.parameters())
        trained = sum(parameter.numel() for parameter in self.parameters.values())
        self.held = trained < SMALL * whole
        self.mesh = init_device_mesh(self.device.type, (self.world,))
        compute = torch.bfloat16 if optimization.bfloat16 else None
        offloaded = optimization.offload and self.device.type == "cuda"
        mixed = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
        options: dict[str, Any] = {
            "mesh": self.mesh,
            "mp_policy": mixed,
            "offload_policy": CPUOffloadPolicy() if offloaded else OffloadPolicy(),
        }
        self.door = self.behind_door()
        for block in blocks_of(objective):
            fully_shard(block, **options)
        # A batch stays as it is: log-probabilities to compare with (preferences) do not survive bfloat16.
        whole_batch = {"mp_policy": replace(mixed, cast_forward_inputs=False)}
        fully_shard(self.door, reshard_after_forward=False, **options | whole_batch)
        self.parameters = {n: p for n, p in objective.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.groups(), lr=optimization.learning_rate, betas=BETAS, fused=True)

    def backward(self, batch: "tuple[Tensor, ...]", scale: float, *, last: bool) -> "Tensor":
        self.door.set_requires_gradient_sync(last or not self.held)
        loss: Tensor = self.door(LEARN, *batch)
        (loss * (scale * self.world)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def call(self, what: str, batch: "tuple[Tensor, ...]") -> Any:
        answer = super().call(what, batch)
        self.door.reshard()  # without a backward pass the root would stay gathered, and be old after `load_state`
        return answer

    def weights(self) -> "dict[str, Tensor]":
        return self._whole(dict(self.parameters))

    def optimizer_state(self) -> "dict[str, Tensor]":
        import torch

        states = {name: self.optimizer.state.get(parameter) for name, parameter in self.parameters.items()}
        known = {name: state for name, state in states.items() if state}
        steps = [float(state["step"]) for state in known.values()]
        found = {f"{moment}/{name}": state[moment] for name, state in known.items() for moment in MOMENTS}
        return self._whole(found) | {"step": torch.tensor(max(steps, default=0.0))}

    def load_state(
        self, weights: "Mapping[str, Tensor]", optimizer_state: "Mapping[str, Tensor] | None" = None
    ) -> None:
        import torch

        self.check_names(weights)
        for name, parameter in self.parameters.items():
            self._take(parameter, weights[name])
        if optimizer_state is None or not float(optimizer_state["step"]):
            return
        for name, parameter in self.parameters.items():
            state = {moment: torch.zeros_like(parameter, requires_grad=False) for moment in MOMENTS}
            for moment in MOMENTS:
                self._take(state[moment], optimizer_state[f"{moment}/{name}"])
            self.optimizer.state[parameter] = {"step": optimizer_state["step"].clone().to(parameter.device), **state}

    def _whole(self, shares: "Mapping[str, Any]") -> "dict[str, Tensor]":
        """Gather tensors one after the other; rank 0 keeps them, on the CPU."""
        kept = {}
        for name, share in shares.items():
            whole = share.detach().to(self.device).full_tensor()
            if self.rank == 0:
                kept[name] = whole.cpu().contiguous()
        return kept

    def _take(self, share: Any, whole: "Tensor") -> None:
        """This rank's part of a tensor that all ranks have."""
        import torch
        from torch.distributed.tensor import distribute_tensor

        part = distribute_tensor(whole.to(self.device), self.mesh, share.placements, src_data_rank=None)
        with torch.no_grad():
            share.to_local().copy_(part.to_local())
