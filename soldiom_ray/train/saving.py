"""States on their way to storage while the training goes on."""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from soldiom_ray.train.loop import Keeper, Position

COPIED_BYTES = 64 << 20
"""The largest state that is copied so that the training can go on while it is written. A larger one in main memory is
written while the training waits: its copy would be felt beside the model, and a disk takes about a second for each
gigabyte. On a GPU what comes from there is a copy already."""


class Saver:
    """Writes states in a thread, one at a time. An error of the thread is raised by the next call."""

    def __init__(self, keeper: "Keeper") -> None:
        self.keeper = keeper
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(
        self, position: "Position", weights: "Mapping[str, Tensor]", moments: "Mapping[str, Tensor]", *, shared: bool
    ) -> None:
        """Begin to write a state, once the one before is written. `shared`: the training goes on changing these very
        tensors."""
        self.settle()
        if shared:
            if sum(tensor.nbytes for group in (weights, moments) for tensor in group.values()) > COPIED_BYTES:
                self.keeper.write(position, weights, moments)
                return
            weights, moments = _copied(weights), _copied(moments)
        self._thread = threading.Thread(
            target=self._write, args=(position, weights, moments), daemon=True, name="checkpoint"
        )
        self._thread.start()

    def settle(self) -> None:
        """Wait until what was begun is written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(self, position: "Position", weights: "Mapping[str, Tensor]", moments: "Mapping[str, Tensor]") -> None:
        try:
            self.keeper.write(position, weights, moments)
        except BaseException as error:
            self._error = error


def _copied(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    return {name: tensor.clone() for name, tensor in tensors.items()}
