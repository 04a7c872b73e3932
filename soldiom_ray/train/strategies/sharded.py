"""What the strategies have in common that leave each rank a shard of the model: fsdp, zero2, zero3.

Every rank passes in the whole model, on the CPU; it goes to the rank's device in shards.
"""

from typing import TYPE_CHECKING, Any

from soldiom_ray.train.strategies.strategy import Optimization, Strategy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from soldiom_ray.models.loss import Objective

LOSS = "loss"
"""Makes the entry module call the objective itself: a summed loss, with gradients."""


class Sharded(Strategy):
    """`entry` is the outermost module: its call gathers the weights at the root of the model; see `entry_module`."""

    entry: Any

    def __init__(self, objective: "Objective", optimization: Optimization) -> None:
        import torch

        self.own_group = _form_group_of_one()
        super().__init__(objective, optimization)
        if torch.cuda.is_available():
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.shapes = {name: parameter.shape for name, parameter in self.parameters.items()}

    def call(self, method: str, batch: "tuple[Tensor, ...]") -> Any:
        import torch

        with torch.no_grad():
            return self.entry(method, *batch)

    def close(self) -> None:
        from torch import distributed

        if self.own_group:
            distributed.destroy_process_group()

    def entry_module(self) -> "nn.Module":
        """The objective as a module with a single entry: `forward(method, *batch)`.

        Weights at the root of a model (embeddings, output matrix) are gathered by the hooks of the outermost module's
        call. Objectives use such weights themselves (the chunked loss) and have several methods; all are called through
        this module, whose hooks are the outermost."""
        from torch import nn

        strategy = self

        class Entry(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.objective = strategy.objective

            def forward(self, method: str, *batch: "Tensor") -> Any:
                with strategy.precision():
                    return self.objective(*batch) if method == LOSS else getattr(self.objective, method)(*batch)

        return Entry()


def blocks_of(module: "nn.Module") -> "list[nn.Module]":
    """A model's transformer blocks: the members, with weights, of the outermost module lists."""
    from torch import nn

    if isinstance(module, nn.ModuleList):
        return [part for part in module if any(True for _ in part.parameters())]
    return [block for child in module.children() for block in blocks_of(child)]


def _form_group_of_one() -> bool:
    """Where no process group stands, make this process a group of one; whether that was done."""
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return False
    store = distributed.HashStore()  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    return True
