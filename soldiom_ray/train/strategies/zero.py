"""DeepSpeed ZeRO: each rank holds a shard of gradients and moments (zero2), and of the weights too (zero3).

A shard is a flat slice, padded so that all ranks have the same length. Under zero2 the weights that the passes use,
and frozen weights below adapters, are whole on every rank. Run on CPUs with gloo. Written after DeepSpeed
0.19.8's sources and not run: CUDA, and with it `offload`.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from soldiom_ray.train.strategies.sharded import LOSS, Sharded
from soldiom_ray.train.strategies.strategy import BETAS, MOMENTS, Optimization

if TYPE_CHECKING:
    from torch import Tensor

    from soldiom_ray.models.loss import Objective

BUCKET_ELEMENTS = 50_000_000
"""Gradients that are exchanged together. DeepSpeed keeps a buffer of this size; its own default is ten times as much,
2 GB in float32."""


class Zero(Sharded):
    """The strategies `zero2` and `zero3`."""

    def __init__(self, objective: "Objective", optimization: Optimization, stage: int) -> None:
        import torch

        deepspeed = _deepspeed()
        super().__init__(objective, optimization)
        if not deepspeed.comm.is_initialized():
            deepspeed.init_distributed(torch.distributed.get_backend())
        self.stage = stage
        config = self._config()
        optimizer = torch.optim.AdamW(self.groups(), lr=optimization.learning_rate, betas=BETAS, fused=True)
        originals: dict[str, Tensor] = {}
        if optimization.bfloat16:
            originals = {name: parameter.detach() for name, parameter in self.parameters.items()}
            for parameter in objective.parameters():
                parameter.data = parameter.data.bfloat16()
        inner = self.entry_module()
        if stage == 3:
            # `initialize` alone would put the whole model on the device before it divides it.
            deepspeed.zero.Init(module=inner, mem_efficient_linear=False, config_dict_or_path=config)
        self.entry, *_ = deepspeed.initialize(model=inner, optimizer=optimizer, config=config)
        self.zero = self.entry.optimizer
        """DeepSpeed's side of the optimizer; `zero.optimizer` is torch's, over flat shards of many parameters."""
        # DeepSpeed makes its float32 weights from the rounded ones. From there every small update is rounded away for
        # some steps, all weights alike, and the curve lags behind those of the other strategies.
        for name, whole in originals.items():
            self._copy_shard(name, whole, None)

    def backward(self, batch: "tuple[Tensor, ...]", scale: float, *, last: bool) -> "Tensor":
        self.entry.set_gradient_accumulation_boundary(last)
        loss: Tensor = self.entry(LOSS, *batch)
        self.entry.backward(loss * (scale * self.world), scale_wrt_gas=False)
        return loss.detach()

    def step(self, learning_rate: float) -> None:
        for group in self.zero.optimizer.param_groups:
            group["lr"] = learning_rate
        self.entry.step()

    def weights(self) -> "dict[str, Tensor]":
        from deepspeed.utils import safe_get_full_fp32_param

        return dict(self._gather(safe_get_full_fp32_param))

    def optimizer_state(self) -> "dict[str, Tensor]":
        import torch
        from deepspeed.utils import safe_get_full_optimizer_state

        steps = [float(state["step"]) for state in self.zero.optimizer.state.values() if state]
        state = {"step": torch.tensor(max(steps, default=0.0))}
        if steps:
            self._link_state()
            for moment in MOMENTS:
                whole = self._gather(lambda parameter, key=moment: safe_get_full_optimizer_state(parameter, key))
                state |= {f"{moment}/{name}": tensor for name, tensor in whole}
        return state

    def load_state(
        self, weights: "Mapping[str, Tensor]", optimizer_state: "Mapping[str, Tensor] | None" = None
    ) -> None:
        self.check_names(weights)
        for name in self.parameters:
            self._copy_shard(name, weights[name], None)
        self._refresh_weights(weights)
        if optimizer_state is None or not float(optimizer_state["step"]):
            return
        self._begin_state(optimizer_state["step"])
        for name in self.parameters:
            for moment in MOMENTS:
                self._copy_shard(name, optimizer_state[f"{moment}/{name}"], moment)

    def close(self) -> None:
        import deepspeed

        self.entry.destroy()
        if self.own_group:  # through DeepSpeed, which keeps groups of its own beside it
            deepspeed.comm.destroy_process_group()

    def _config(self) -> dict[str, Any]:
        """DeepSpeed's own configuration. The optimizer is torch's everywhere, on a GPU and for offloaded states too, so
        that nothing needs a compiler."""
        trained = sum(parameter.numel() for parameter in self.parameters.values())
        bucket = max(1, min(BUCKET_ELEMENTS, trained))
        zero: dict[str, Any] = {"stage": self.stage, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
        if self.stage == 3:
            # Norms and biases stay whole on every rank; DeepSpeed's own default keeps whole matrices of small models.
            flat = [parameter.numel() for parameter in self.objective.parameters() if parameter.dim() <= 1]
            zero["stage3_param_persistence_threshold"] = max(flat, default=0)
        if self.optimization.offload and self.device.type == "cuda":
            parts = ("offload_optimizer", "offload_param") if self.stage == 3 else ("offload_optimizer",)
            zero |= {part: {"device": "cpu", "pin_memory": True} for part in parts}
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self.optimization.gradient_clip,
            "zero_optimization": zero,
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": self.optimization.bfloat16},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
            "steps_per_print": None,
        }

    def _gather(self, whole_of: Any) -> "list[tuple[str, Tensor]]":
        """`whole_of(parameter)` for one parameter after the other; rank 0 returns the tensors in float32, in the
        parameters' shapes, on the CPU, the other ranks nothing."""
        gathered = []
        for name, parameter in self.parameters.items():
            tensor = whole_of(parameter)
            if self.rank == 0:
                gathered.append((name, tensor.detach().float().reshape(self.shapes[name]).cpu().contiguous()))
        return gathered

    def _copy_shard(self, name: str, whole: "Tensor", moment: str | None) -> None:
        """Copy this rank's part of a tensor that every rank has whole: into that moment, or, where `moment` is None,
        into the weight's float32 original."""
        from torch.nn import functional

        parameter: Any = self.parameters[name]
        if self.stage == 3:
            # DeepSpeed's own way to do this (0.19.8) fails for sizes that the ranks do not divide evenly.
            size = parameter.ds_tensor.numel()
            padded = functional.pad(whole.flatten(), (0, size * self.world - whole.numel()))
            part = padded[size * self.rank : size * (self.rank + 1)]
            self.zero.set_local_hp_param(part.to(self.device), parameter, moment)
        else:
            parameter.set_full_hp_param(whole.to(self.device), moment)

    def _refresh_weights(self, weights: "Mapping[str, Tensor]") -> None:
        """Renew the weights that the passes use, after their float32 originals were changed."""
        import deepspeed

        if self.stage == 2:
            self.zero.update_lp_params()
            return
        for name, parameter in self.parameters.items():
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if self.rank == 0:
                    parameter.data.copy_(weights[name])

    def _begin_state(self, step: "Tensor") -> None:
        """Make the optimizer's state as a first step would leave it, with moments of zero."""
        import torch

        shards = (
            self.zero.fp32_partitioned_groups_flat if self.stage == 3 else self.zero.single_partition_of_fp32_groups
        )
        for shard in shards:
            self.zero.optimizer.state[shard] = {
                "step": step.clone().to(shard.device),
                **{moment: torch.zeros_like(shard, requires_grad=False) for moment in MOMENTS},
            }
        self._link_state()

    def _link_state(self) -> None:
        """Link zero2's parameters to their moments. DeepSpeed (0.19.8) does so itself once, after the first step of
        the first parameter group: the moments of the other groups do not exist yet then."""
        if self.stage == 2:
            self.zero._hp_optimizer_states_linked = False
            self.zero._lazy_init_hp_params_optimizer_state()


def _deepspeed() -> Any:
    """The package, made ready: quiet, and without the extension that it would compile for inference on CPUs (30 s, and
    it needs a compiler; training does not use it)."""
    import logging

    # DeepSpeed asks for the variable that launchers set: the place of this process among those of its machine.
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.WARNING)
    vars(deepspeed.ops).setdefault("__compatible_ops__", {})
    return deepspeed
