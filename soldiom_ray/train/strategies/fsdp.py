"""FSDP2: every rank holds its shard of each weight, gradient and moment; a transformer block is whole only while it
computes (torch.distributed.fsdp.fully_shard). Parameters are DTensors, sharded along their first dimension.

Run on CPUs with gloo. Written after torch 2.13's sources and not run: CUDA, and with it `offload`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from soldiom_ray.train.strategies.sharded import LOSS, Sharded, blocks_of
from soldiom_ray.train.strategies.strategy import BETAS, MOMENTS, Optimization

if TYPE_CHECKING:
    from torch import Tensor

    from soldiom_ray.models.loss import Objective

SMALL_SHARE = 0.1
"""Where less than this share of the weights is trained (adapters), their gradients stay whole on every rank until the
last pass of a step: they are exchanged once instead of in every pass."""


class Fsdp(Sharded):
    """The strategy `fsdp`."""

    def __init__(self, objective: "Objective", optimization: Optimization) -> None:
        import torch
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

        super().__init__(objective, optimization)
        total = sum(parameter.numel() for parameter in objective.parameters())
        trained = sum(parameter.numel() for parameter in self.parameters.values())
        self.accumulates_whole = trained < SMALL_SHARE * total
        self.mesh = init_device_mesh(self.device.type, (self.world,))
        compute = torch.bfloat16 if optimization.bfloat16 else None
        offloaded = optimization.offload and self.device.type == "cuda"
        mixed_precision = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
        options: dict[str, Any] = {
            "mesh": self.mesh,
            "mp_policy": mixed_precision,
            "offload_policy": CPUOffloadPolicy() if offloaded else OffloadPolicy(),
        }
        self.entry = self.entry_module()
        for block in blocks_of(objective):
            fully_shard(block, **options)
        # Batches are not cast: reference log-probabilities (preferences) do not survive bfloat16.
        uncast_batch = {"mp_policy": replace(mixed_precision, cast_forward_inputs=False)}
        fully_shard(self.entry, reshard_after_forward=False, **options | uncast_batch)
        self.parameters = {n: p for n, p in objective.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.groups(), lr=optimization.learning_rate, betas=BETAS, fused=True)

    def backward(self, batch: "tuple[Tensor, ...]", scale: float, *, last: bool) -> "Tensor":
        self.entry.set_requires_gradient_sync(last or not self.accumulates_whole)
        loss: Tensor = self.entry(LOSS, *batch)
        (loss * (scale * self.world)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def call(self, method: str, batch: "tuple[Tensor, ...]") -> Any:
        result = super().call(method, batch)
        self.entry.reshard()  # without a backward pass the root would stay gathered, and be stale after `load_state`
        return result

    def weights(self) -> "dict[str, Tensor]":
        return self._gather(dict(self.parameters))

    def optimizer_state(self) -> "dict[str, Tensor]":
        import torch

        states = {name: self.optimizer.state.get(parameter) for name, parameter in self.parameters.items()}
        known = {name: state for name, state in states.items() if state}
        steps = [float(state["step"]) for state in known.values()]
        shards = {f"{moment}/{name}": state[moment] for name, state in known.items() for moment in MOMENTS}
        return self._gather(shards) | {"step": torch.tensor(max(steps, default=0.0))}

    def load_state(
        self, weights: "Mapping[str, Tensor]", optimizer_state: "Mapping[str, Tensor] | None" = None
    ) -> None:
        import torch

        self.check_names(weights)
        for name, parameter in self.parameters.items():
            self._copy_shard(parameter, weights[name])
        if optimizer_state is None or not float(optimizer_state["step"]):
            return
        for name, parameter in self.parameters.items():
            state = {moment: torch.zeros_like(parameter, requires_grad=False) for moment in MOMENTS}
            for moment in MOMENTS:
                self._copy_shard(state[moment], optimizer_state[f"{moment}/{name}"])
            self.optimizer.state[parameter] = {"step": optimizer_state["step"].clone().to(parameter.device), **state}

    def _gather(self, shards: "Mapping[str, Any]") -> "dict[str, Tensor]":
        """Gather DTensors one after the other; rank 0 returns them whole, on the CPU, the other ranks nothing."""
        gathered = {}
        for name, shard in shards.items():
            whole = shard.detach().to(self.device).full_tensor()
            if self.rank == 0:
                gathered[name] = whole.cpu().contiguous()
        return gathered

    def _copy_shard(self, shard: Any, whole: "Tensor") -> None:
        """Copy this rank's part of a tensor that every rank has whole into `shard`, a DTensor."""
        import torch
        from torch.distributed.tensor import distribute_tensor

        part = distribute_tensor(whole.to(self.device), self.mesh, shard.placements, src_data_rank=None)
        with torch.no_grad():
            shard.to_local().copy_(part.to_local())
