"""Checkpoints written in the background while the training continues."""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from soldiom_ray.train.state import CheckpointStore, Position

if TYPE_CHECKING:
    from torch import Tensor

COPIED_BYTES = 64 << 20
"""The largest state in main memory that is copied so that the training can continue while it is written. A larger one
is written while the training waits: its copy would take memory beside the model, and a disk takes about a second for
each gigabyte. What comes from a GPU is a copy already."""


class Saver:
    """Writes states in a thread, one at a time. An error of the thread is raised by the next call."""

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(
        self,
        position: Position,
        weights: "Mapping[str, Tensor]",
        optimizer_state: "Mapping[str, Tensor]",
        *,
        shared: bool,
    ) -> None:
        """Begin to write a state as soon as the one before is written. `shared`: these tensors are the training's own,
        which the next step changes."""
        self.settle()
        if shared:
            if sum(tensor.nbytes for group in (weights, optimizer_state) for tensor in group.values()) > COPIED_BYTES:
                self.store.write(position, weights, optimizer_state)
                return
            weights, optimizer_state = _copied(weights), _copied(optimizer_state)
        self._thread = threading.Thread(
            target=self._write, args=(position, weights, optimizer_state), daemon=True, name="checkpoint"
        )
        self._thread.start()

    def settle(self) -> None:
        """Wait until the state being written is stored."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(
        self, position: Position, weights: "Mapping[str, Tensor]", optimizer_state: "Mapping[str, Tensor]"
    ) -> None:
        try:
            self.store.write(position, weights, optimizer_state)
        except BaseException as error:
            self._error = error


def _copied(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    return {name: tensor.clone() for name, tensor in tensors.items()}
