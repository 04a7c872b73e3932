"""Machines to train on: nodes with CPUs, memory and GPUs; and the speed of this machine's matrix products."""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soldiom_ray.domains.door_defaults import PLANNED_GPU_GIB

GIB = 1 << 30
ASSUMED_GPU_RATE = 300e12
"""bf16 operations per second of a GPU that this machine does not have: what matrix products reach on an A100 80 GB
(NVIDIA's sheet says 312e12)."""


@dataclass(frozen=True)
class Node:
    """One machine. `memory` are bytes that a training may take, `gpu_memory` those of each GPU."""

    cpus: int
    memory: float
    gpus: int = 0
    gpu_memory: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """All nodes, and where that is known from."""

    nodes: tuple[Node, ...]
    source: str

    @property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)

    def device(self, workers: int) -> str:
        """Where so many workers compute: "cuda" when there is a GPU for each, else "cpu"."""
        return "cuda" if self.gpus >= workers else "cpu"

    def share(self, workers: int) -> tuple[float, float]:
        """(bytes of a worker's device, its share of the host's memory in bytes) on the node with the least for each."""
        if self.device(workers) == "cuda":
            gpu_nodes = [node for node in self.nodes if node.gpus]
            return (
                min(node.gpu_memory for node in gpu_nodes),
                min(node.memory / max(1, min(node.gpus, workers)) for node in gpu_nodes),
            )
        placed = dict.fromkeys(range(len(self.nodes)), 0)
        for _ in range(workers):  # each on the node where its share of the CPUs is largest, as Ray Train spreads them
            node = max(placed, key=lambda index: self.nodes[index].cpus / (placed[index] + 1))
            placed[node] += 1
        shares = [self.nodes[index].memory / count for index, count in placed.items() if count]
        return min(shares), min(shares)


def free_bytes(device: str) -> int:
    """Bytes that a worker may still take here: of the GPU, or of this machine within the limits of its container."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info()[0])
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) << 10
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdecimal():
        free = min(free, max(0, int(text) - int(used.read_text())))
    return free


def local_machine() -> Cluster:
    """One node: what is free here now."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    memory = min(torch.cuda.mem_get_info(index)[0] for index in range(gpus)) if gpus else 0
    cpus = len(os.sched_getaffinity(0))
    return Cluster((Node(cpus, float(free_bytes("cpu")), gpus, float(memory)),), "this machine")


def ray_cluster(nodes: Sequence[dict[str, Any]]) -> Cluster:
    """The nodes of a Ray cluster, from `ray.nodes()`. Memory is what Ray may hand out; on this machine no more than is
    free. Ray does not say how much memory GPUs have: they are taken to be like the ones here, else 16 GiB each."""
    local = local_machine().nodes[0]
    addresses = _own_addresses()
    known = []
    for node in nodes:
        resources = node["Resources"]
        if not node.get("Alive", True) or not resources.get("CPU"):
            continue
        memory = float(resources.get("memory", 0.0)) + float(resources.get("object_store_memory", 0.0))
        if node.get("NodeManagerAddress") in addresses:
            memory = min(memory or local.memory, local.memory)
        known.append(Node(int(resources["CPU"]), memory, int(resources.get("GPU", 0)), local.gpu_memory or 16.0 * GIB))
    return Cluster(tuple(known) or (local,), "the Ray cluster")


def current_cluster() -> Cluster:
    """The cluster that this process is connected to; without one, this machine."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return ray_cluster(ray.nodes())
    return local_machine()


def hypothetical_cluster(
    like: Cluster,
    *,
    gpus: int | None = None,
    gpu_memory: float | None = None,
    nodes: int | None = None,
    memory: float | None = None,
    cpus: int | None = None,
) -> Cluster:
    """A cluster that need not exist: `nodes` equal machines, each with so many GPUs and CPUs; memory in GiB. What is
    None is as in `like`, its first node. `like` itself when all are None."""
    if all(value is None for value in (gpus, gpu_memory, nodes, memory, cpus)):
        return like
    first = like.nodes[0]
    node = Node(
        cpus=cpus or first.cpus,
        memory=memory * GIB if memory else first.memory,
        gpus=first.gpus if gpus is None else gpus,
        gpu_memory=gpu_memory * GIB if gpu_memory else first.gpu_memory or PLANNED_GPU_GIB * GIB,
    )
    return Cluster((node,) * (nodes or len(like.nodes)), "as asked")


def matrix_rate(home: Path, *, bfloat16: bool) -> float:
    """Floating-point operations per second of a large matrix product on this machine's CPUs, measured once and stored
    below `home`."""
    import torch

    dtype = torch.bfloat16 if bfloat16 else torch.float32
    name = f"{socket.gethostname()} {torch.get_num_threads()} {dtype} {torch.__version__}"
    path = home / "run" / "matrix_rate.json"
    known: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
    if name not in known:
        known[name] = _measure(dtype)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known))
    return known[name]


def _measure(dtype: Any) -> float:
    import torch

    size = 1024
    left, right = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _own_addresses() -> set[str]:
    own = {"127.0.0.1", "localhost"}
    with contextlib.suppress(OSError):
        own |= {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)}
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        own.add(str(ray.util.get_node_ip_address()))
    return own
