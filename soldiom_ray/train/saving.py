"""Checkpoints written in the background while the training continues."""

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from soldiom_ray.train.state import CheckpointStore, Position

if TYPE_CHECKING:
    from torch import Tensor

COPIED_BYTES = 64 << 20
"""The largest state in main memory that is copied so that the training can continue while it is written. A larger one
is written while the training waits: its copy would take memory beside the model. What comes from a GPU is a copy
already."""
BYTES_PER_SECOND = 150e6
"""What writing is taken to reach before it was measured: 123 MB/s on a virtual machine's disk, hashed and fsynced."""


class Saver:
    """Writes states in a thread, one at a time. An error of the thread is raised by the next call."""

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._bytes_per_second = BYTES_PER_SECOND

    def seconds(self, state_bytes: int, *, shared: bool) -> float:
        """How long the training will wait while a state of this size is written: 0 for one written beside it."""
        return state_bytes / self._bytes_per_second if shared and state_bytes > COPIED_BYTES else 0.0

    def save(
        self,
        position: Position,
        weights: "Mapping[str, Tensor]",
        optimizer_state: "Mapping[str, Tensor] | None",
        *,
        shared: bool,
    ) -> None:
        """Begin to write a state as soon as the one before is written. `shared`: these tensors are the training's own,
        which the next step changes. See `CheckpointStore.write`."""
        self.settle()
        if shared:
            size = sum(tensor.nbytes for group in (weights, optimizer_state or {}) for tensor in group.values())
            if size > COPIED_BYTES:
                began = time.monotonic()
                self.store.write(position, weights, optimizer_state)
                self._bytes_per_second = size / max(time.monotonic() - began, 1e-9)
                return
            weights = _copied(weights)
            optimizer_state = None if optimizer_state is None else _copied(optimizer_state)
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
        self, position: Position, weights: "Mapping[str, Tensor]", optimizer_state: "Mapping[str, Tensor] | None"
    ) -> None:
        try:
            self.store.write(position, weights, optimizer_state)
        except BaseException as error:
            self._error = error


def _copied(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    return {name: tensor.clone() for name, tensor in tensors.items()}
