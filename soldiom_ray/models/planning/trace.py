"""The memory of one training step, found by running it on tensors without storage.

torch's fake tensors have shapes and dtypes but no storage, so the real model, the real loss and the real backward pass
run in a second or two for any size, and every allocation and release is counted. Nothing is assumed about an
architecture, and a change of a loss or of an attention changes the prediction with it.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from soldiom_ray.models.weight_cache import autocast, cache_weights

Allocation = tuple[str, int]
SMALL = 32 << 20
"""Up to this size glibc keeps freed blocks in its heap; larger ones go back to the system at once (mallopt(3))."""
aten = torch.ops.aten


@dataclass(frozen=True)
class Peak:
    """Bytes allocated at the moment of a step when most are: by part, and how many of the transient ones are in small
    blocks (see SMALL), which a heap cannot pack without gaps."""

    parts: dict[str, float]
    small: float

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())

    def extrapolated(self, deeper: "Peak", times: float) -> "Peak":
        """The same moment of a model that is deeper by `times` the difference in depth between this one and `deeper`; a
        layer never takes less than nothing of any part."""

        def grown(few: float, more: float) -> float:
            return few + max(0.0, more - few) * times

        names = self.parts.keys() | deeper.parts.keys()
        parts = {name: grown(self.parts.get(name, 0.0), deeper.parts.get(name, 0.0)) for name in names}
        return Peak(parts, grown(self.small, deeper.small))


Moments = dict[Hashable, Peak]
"""The most bytes at each kind of moment of a step: an operation and the size of what it makes."""


def largest(moments: Moments) -> Peak:
    """A step's peak."""
    return max(moments.values(), key=lambda moment: moment.total)


def extrapolate(few: Moments, more: Moments, times: float) -> Peak:
    """The peak of a model that is deeper by `times` the difference in depth between `few` and `more`.

    Each moment grows by its own share of a layer, so the deep model's largest need not be the shallow ones'."""
    return largest({name: few.get(name, moment).extrapolated(moment, times) for name, moment in more.items()})


class AllocationTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the memory of tensors made while it is on. Tensors with a dimension of `vocabulary_size` are logits,
    copies of weights in another dtype are casts; `assign` says which belong to a part that stays: weights, gradients,
    optimizer.

    Results that depend on values are as if every label counted in the loss and every mask were open: the most
    memory."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.vocabulary_size = vocabulary_size
        self.alive: dict[int, Allocation] = {}
        self.now: Counter[str] = Counter()
        self.small = self.total = 0
        self.moments: Moments = {}

    def assign(self, tensors: Iterable[Tensor], part: str) -> None:
        """Count these tensors in a part, also those that were counted in another."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._release(storage._cdata)
            self._allocate(tensor, part, part)

    def restart(self) -> None:
        """Find the moments from here on."""
        self.moments = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _ASSUMED_VALUES:
            return _ASSUMED_VALUES[function]
        assumed = _data_dependent_result(function, args)
        result = function(*args, **(kwargs or {})) if assumed is None else assumed
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._allocate(tensor, self._part_of(tensor, function, args), function)
        return result

    def _part_of(self, tensor: Tensor, function: Any, args: Any) -> str:
        if self.vocabulary_size in tensor.shape:
            return "logits"
        if function in (aten._to_copy.default, aten.new_zeros.default) and self._is_weight(args[0]):
            return "casts"
        return "activations"

    def _is_weight(self, tensor: Tensor) -> bool:
        return self.alive.get(tensor.untyped_storage()._cdata, ("", 0))[0] == "weights"

    def _allocate(self, tensor: Tensor, part: str, by: Hashable) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive or not size:
            return
        self.alive[key] = (part, size)
        weakref.finalize(storage, self._release, key).atexit = False
        self._count(part, size)
        known = self.moments.get((by, size))
        if known is None or self.total > known.total:
            self.moments[by, size] = Peak(dict(self.now), self.small)

    def _release(self, key: int) -> None:
        if (allocation := self.alive.pop(key, None)) is not None:
            self._count(allocation[0], -allocation[1])

    def _count(self, part: str, size: int) -> None:
        self.now[part] += size
        self.total += size
        if part in TRANSIENT and abs(size) < SMALL:
            self.small += size


TRANSIENT = ("activations", "casts", "logits")
_ASSUMED_VALUES: dict[Any, Any] = {
    aten._local_scalar_dense.default: 1,
    aten.is_nonzero.default: True,
    aten.equal.default: True,
    aten.allclose.default: True,
}


def _data_dependent_result(function: Any, args: Any) -> Any:
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


def step_moments(
    build: Callable[[], tuple[Any, Any, tuple[Tensor, ...], AbstractContextManager[None]]],
    *,
    vocabulary_size: int,
    bfloat16: bool,
    accumulates: bool,
) -> Moments:
    """The moments of a step after the first. `build` makes (model, objective, batch, the context in which the model
    reads the batch) out of fake tensors; `accumulates`: gradients of an earlier batch are there already."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), AllocationTracker(vocabulary_size) as tracker:
        model, objective, batch, reading = build()
        weights = [*model.parameters(), *model.buffers()]
        tracker.assign(weights, "weights")
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        cache_weights(trained)
        optimizer_state = [torch.empty_like(weight) for weight in trained for _ in range(2)]
        tracker.assign(optimizer_state, "optimizer")
        gradients = [torch.zeros_like(weight) for weight in trained] if accumulates else []
        for weight, gradient in zip(trained, gradients, strict=False):
            weight.grad = gradient
        tracker.assign(gradients, "gradients")
        hooks = [weight.register_post_accumulate_grad_hook(_assign_gradient(tracker)) for weight in trained]
        tracker.restart()
        with reading:
            with autocast("cpu", enabled=bfloat16):
                loss = objective(*batch)
            loss.backward()
        for hook in hooks:
            hook.remove()
        moments: Moments = tracker.moments
    return moments


def _assign_gradient(tracker: AllocationTracker) -> Callable[[Tensor], None]:
    def count(weight: Tensor) -> None:
        if weight.grad is not None:
            tracker.assign([weight.grad], "gradients")

    return count
