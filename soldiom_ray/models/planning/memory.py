"""Bytes per device of a training, by part, under each strategy: arithmetic over a step's peak (see `trace`)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soldiom_ray.models.planning.shape import Sizes
    from soldiom_ray.models.planning.trace import Peak

PROCESS_BYTES = {"cpu": 530 << 20, "cuda": 700 << 20}
"""Of a process that has not trained yet: Python, torch, transformers and their libraries on a CPU (measured); the CUDA
context and its kernels on a GPU (not measured here)."""
SLACK = {"cpu": 0.2, "cuda": 0.08}
"""What an allocator needs besides, as a share of the passing small blocks. glibc (2.36) aligns each of torch's blocks
by leaving splinters that are handed out to small objects, so a freed block rarely takes the next of its size: 0 to
0.5 measured, 0.06 with every block mapped on its own. The share on a GPU is not measured here."""
FITTED = {
    "cpu": "the process itself and the allocator's gaps are fitted on one machine (x86-64, glibc 2.36, 2 cores);"
    " the rest is counted on the model's own step",
    "cuda": "the process itself and the allocator's gaps are assumed, as no GPU was there to measure them;"
    " the rest is counted on the model's own step",
}
"""What of the estimate is no arithmetic, by device."""
BUCKET_BYTES = 4 * 50_000_000
"""Gradients that DeepSpeed exchanges together (see `train.strategies.zero`)."""
NF4_BYTES = 0.52
"""Per weight in 4 bits with doubly quantised scales (Dettmers et al. 2023)."""
SHARDED = ("fsdp", "zero2", "zero3")
"""Strategies that divide a model among the workers: each takes it whole on the CPU, and no worker holds it whole
afterwards."""
STRATEGIES = ("single", "ddp", *SHARDED)


@dataclass(frozen=True)
class Footprint:
    """Bytes of one worker: on its device by part, and in its host's memory where that is another."""

    parts: dict[str, float]
    loading: float
    """Bytes while the weights are read, which can be more than a step takes."""
    host: float = 0.0

    @property
    def total(self) -> float:
        """The largest number of bytes at any time."""
        return max(sum(self.parts.values()), self.loading)


def footprint(
    peak: "Peak",
    sizes: "Sizes",
    *,
    strategy: str,
    workers: int,
    offload: bool,
    quantized: bool,
    bfloat16: bool,
    device: str,
    stored_bytes: float,
) -> Footprint:
    """Bytes that a worker needs. `peak`: of a step of the whole model on one device; `stored_bytes`: of the weights'
    files, which are mapped while they are read; `device`: "cpu" or "cuda"."""
    trained, frozen = sizes.trainable, sizes.parameters - sizes.trainable
    weights = peak.parts.get("weights", 0.0)
    if quantized:
        weights -= sizes.quantizable * (2 - NF4_BYTES)
    optimizer_state, gradients = 8.0 * trained, 4.0 * trained
    activations, logits = peak.parts.get("activations", 0.0), peak.parts.get("logits", 0.0)
    if strategy not in SHARDED or not bfloat16:  # there they are what is gathered
        activations += peak.parts.get("casts", 0.0)
    whole, exchange = weights, 0.0
    compute_bytes = 2 if bfloat16 else 4
    if strategy == "ddp":
        exchange = gradients
    if strategy in SHARDED:
        optimizer_state, gradients = optimizer_state / workers, gradients / workers
    if strategy == "zero2":
        weights = compute_bytes * sizes.parameters + 4.0 * trained / workers
        exchange = min(BUCKET_BYTES, 4.0 * trained) * 2
    elif strategy in ("fsdp", "zero3"):
        weights = (4.0 * trained + compute_bytes * frozen) / workers
        if strategy == "zero3" and bfloat16:
            weights += 2.0 * trained / workers
        # Two blocks are whole at a time (the next is fetched while one computes), and what lies outside of the stack.
        exchange = compute_bytes * (2.0 * sizes.block + sizes.root) + 4.0 * min(sizes.block, trained)
    host = 0.0
    if device == "cuda":
        host = PROCESS_BYTES["cpu"] + (whole if strategy in SHARDED else stored_bytes)
        if offload and strategy in SHARDED:
            host, optimizer_state = host + optimizer_state, 0.0
            if strategy != "zero2":
                host, weights = host + weights, 0.0
    small = peak.small * SLACK[device]
    parts = {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer_state,
        "activations": activations,
        "logits": logits,
        "exchange": exchange,
        "allocator": small,
        "process": float(PROCESS_BYTES[device]),
    }
    loading = PROCESS_BYTES[device] + whole + (stored_bytes if device == "cpu" else 0.0)
    return Footprint(parts, loading if device == "cpu" or strategy not in SHARDED else 0.0, host)
