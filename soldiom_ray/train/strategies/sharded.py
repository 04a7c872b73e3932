"""What the strategies share that leave each rank a part of the model: fsdp, zero2, zero3.

The model is handed over on the CPU, whole on every rank; it goes to the rank's device in parts.
"""

from typing import TYPE_CHECKING, Any

from soldiom_ray.train.strategies.strategy import Optimization, Strategy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from soldiom_ray.models.loss import Objective

LEARN = "learn"
"""What the door is asked for a loss to learn from."""


class Sharded(Strategy):
    """`door` is the module whose call gathers what the root of the model holds; see `behind_door`."""

    door: Any

    def __init__(self, objective: "Objective", optimization: Optimization) -> None:
        import torch

        self.own_group = _stand_alone()
        super().__init__(objective, optimization)
        if torch.cuda.is_available():
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.shapes = {name: parameter.shape for name, parameter in self.parameters.items()}

    def call(self, what: str, batch: "tuple[Tensor, ...]") -> Any:
        import torch

        with torch.no_grad():
            return self.door(what, *batch)

    def close(self) -> None:
        from torch import distributed

        if self.own_group:
            distributed.destroy_process_group()

    def behind_door(self) -> "nn.Module":
        """The objective as a module of one call: `forward(what, *batch)`.

        Weights at the root of a model (embeddings, output matrix) are gathered by the hooks of the outermost module's
        call. Objectives use such weights themselves (the chunked loss) and have other entries (`evaluate`); so all go
        through this one, where the outermost hooks are."""
        from torch import nn

        strategy = self

        class Door(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.objective = strategy.objective

            def forward(self, what: str, *batch: "Tensor") -> Any:
                with strategy.precision():
                    return self.objective(*batch) if what == LEARN else getattr(self.objective, what)(*batch)

        return Door()


def blocks_of(module: "nn.Module") -> "list[nn.Module]":
    """The repeated parts of a model (its transformer blocks): the members of the outermost lists that hold weights."""
    from torch import nn

    if isinstance(module, nn.ModuleList):
        return [part for part in module if any(True for _ in part.parameters())]
    return [block for child in module.children() for block in blocks_of(child)]


def _stand_alone() -> bool:
    """Make this process a group of one where no process group stands; whether that was done."""
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return False
    store = distributed.HashStore()  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    return True
