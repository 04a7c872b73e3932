"""The memory of one training step, found by running the step without memory.

torch's fake tensors have shapes and kinds but no storage, so the real model, the real loss and the real backward pass
run in a second or two for any size, and every allocation and release is counted. Nothing is assumed about an
architecture, and a change of a loss or of an attention changes the prediction with it.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Allocation = tuple[str, int]
SMALL = 32 << 20
"""Up to this size glibc keeps freed blocks in its heap; larger ones go back to the system at once (mallopt(3))."""
aten = torch.ops.aten


@dataclass(frozen=True)
class Peak:
    """Bytes alive at the moment of a step when most are: by part, and how many of the passing ones are in small blocks
    (see SMALL), which a heap cannot pack without gaps."""

    parts: dict[str, float]
    small: float

    def __add__(self, other: "Peak") -> "Peak":
        names = self.parts.keys() | other.parts.keys()
        parts = {name: self.parts.get(name, 0.0) + other.parts.get(name, 0.0) for name in names}
        return Peak(parts, self.small + other.small)

    def __mul__(self, factor: float) -> "Peak":
        return Peak({name: value * factor for name, value in self.parts.items()}, self.small * factor)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the memory of tensors made while it is on. `pieces` is the vocabulary's size: tensors with that dimension
    are logits. `hold` names tensors that stay: weights, gradients, optimiser.

    What depends on values is answered as if every label were scored and every mask open: the most memory."""

    def __init__(self, pieces: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pieces = pieces
        self.alive: dict[int, Allocation] = {}
        self.held: dict[int, str] = {}
        self.now: Counter[str] = Counter()
        self.small = self.total = self.most = 0
        self.peak = Peak({}, 0)

    def hold(self, tensors: Iterable[Tensor], part: str) -> None:
        """These belong to a part; those that were counted already are moved to it."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._forget(storage._cdata)
            self._see(tensor, part)

    def restart(self) -> None:
        """Look for the peak from here on."""
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _ANSWERS:
            return _ANSWERS[function]
        answered = _every_one(function, args)
        made = function(*args, **(kwargs or {})) if answered is None else answered
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._see(tensor, "logits" if self.pieces in tensor.shape else "activations")
        return made

    def _see(self, tensor: Tensor, part: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive or not size:
            return
        self.alive[key] = (part, size)
        weakref.finalize(storage, self._forget, key).atexit = False
        self._count(part, size)
        if self.total > self.most:
            self.most = self.total
            self.peak = Peak(dict(self.now), self.small)

    def _forget(self, key: int) -> None:
        if (allocation := self.alive.pop(key, None)) is not None:
            self._count(allocation[0], -allocation[1])

    def _count(self, part: str, size: int) -> None:
        self.now[part] += size
        self.total += size
        if part in PASSING and abs(size) < SMALL:
            self.small += size


PASSING = ("activations", "logits")
_ANSWERS: dict[Any, Any] = {
    aten._local_scalar_dense.default: 1,
    aten.is_nonzero.default: True,
    aten.equal.default: True,
    aten.allclose.default: True,
}


def _every_one(function: Any, args: Any) -> Any:
    """The result of an operation whose shape depends on values, all of them true; None for other operations."""
    if function is aten.nonzero.default:
        return torch.empty(args[0].numel(), args[0].dim(), dtype=torch.int64)
    if function in (aten.index.Tensor, aten.index_put.default, aten._index_put_impl_.default):
        if not any(index is not None and index.dtype == torch.bool for index in args[1]):
            return None
        if function is not aten.index.Tensor:
            return args[0] if function is aten._index_put_impl_.default else torch.empty_like(args[0])
        mask = args[1][0]
        return args[0].new_empty(mask.numel(), *args[0].shape[mask.dim() :])
    return None


def step_peak(
    build: Callable[[], tuple[Any, Any, tuple[Tensor, ...], AbstractContextManager[None]]],
    *,
    pieces: int,
    bfloat16: bool,
    accumulates: bool,
) -> Peak:
    """The peak of a step after the first. `build` makes (model, objective, batch, the
    context in which the model reads) out of fake tensors; `accumulates`:
    gradients of an earlier batch are there already."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), Watch(pieces) as watch:
        model, objective, batch, reading = build()
        weights = [*model.parameters(), *model.buffers()]
        watch.hold(weights, "weights")
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        moments = [torch.empty_like(weight) for weight in trained for _ in range(2)]
        watch.hold(moments, "optimizer")
        gradients = [torch.zeros_like(weight) for weight in trained] if accumulates else []
        for weight, gradient in zip(trained, gradients, strict=False):
            weight.grad = gradient
        watch.hold(gradients, "gradients")
        hooks = [weight.register_post_accumulate_grad_hook(_counting(watch)) for weight in trained]
        watch.restart()
        with reading:
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = objective(*batch)
            loss.backward()
        for hook in hooks:
            hook.remove()
        peak: Peak = watch.peak
    return peak


def _counting(watch: Watch) -> Callable[[Tensor], None]:
    def count(weight: Tensor) -> None:
        if weight.grad is not None:
            watch.hold([weight.grad], "gradients")

    return count
