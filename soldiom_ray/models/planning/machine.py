"""What there is to train on: nodes with CPUs, memory and GPUs; and how fast this machine multiplies."""

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

GIB = 1 << 30
ASSUMED_GPU_RATE = 300e12
"""bf16 operations per second of a GPU that is not here: what matrix products reach on an A100 80 GB (NVIDIA's sheet
says 312e12)."""


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
        """Where as many workers compute: on GPUs when there is one for each."""
        return "cuda" if self.gpus >= workers else "cpu"

    def share(self, workers: int) -> tuple[float, float]:
        """(bytes of a worker's device, bytes of the host's memory that are its share) on the fullest node."""
        if self.device(workers) == "cuda":
            used = [node for node in self.nodes if node.gpus]
            crowd = [min(node.gpus, workers) for node in used]
            return (
                min(node.gpu_memory for node in used),
                min(node.memory / max(1, n) for node, n in zip(used, crowd, strict=True)),
            )
        taken, left = dict.fromkeys(range(len(self.nodes)), 0), workers
        while left:  # each to the node where its share of the CPUs is largest, as `distributed.placement` spreads them
            node = max(taken, key=lambda place: self.nodes[place].cpus / (taken[place] + 1))
            taken[node], left = taken[node] + 1, left - 1
        shares = [self.nodes[place].memory / count for place, count in taken.items() if count]
        return min(shares), min(shares)


def free_bytes(device: str) -> int:
    """Memory a worker may still take here: the GPU's, or this machine's within the limits of its container."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info()[0])
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) << 10
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdecimal():
        free = min(free, max(0, int(text) - int(used.read_text())))
    return free


def this_machine() -> Cluster:
    """One node: what is free here now."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    memory = min(torch.cuda.mem_get_info(index)[0] for index in range(gpus)) if gpus else 0
    cpus = len(os.sched_getaffinity(0))
    return Cluster((Node(cpus, float(free_bytes("cpu")), gpus, float(memory)),), "this machine")


def of_ray(nodes: Sequence[dict[str, Any]]) -> Cluster:
    """The nodes of a Ray cluster, from `ray.nodes()`. Memory is what Ray may hand out; on this machine no more than is
    free. Ray does not say how much memory GPUs have: they are taken to be like the ones here, else 16 GiB each."""
    here = this_machine().nodes[0]
    addresses = _own_addresses()
    found = []
    for node in nodes:
        resources = node["Resources"]
        if not node.get("Alive", True) or not resources.get("CPU"):
            continue
        memory = float(resources.get("memory", 0.0)) + float(resources.get("object_store_memory", 0.0))
        if node.get("NodeManagerAddress") in addresses:
            memory = min(memory or here.memory, here.memory)
        found.append(Node(int(resources["CPU"]), memory, int(resources.get("GPU", 0)), here.gpu_memory or 16.0 * GIB))
    return Cluster(tuple(found) or (here,), "the Ray cluster")


def connected() -> Cluster:
    """The cluster that this process is connected to; without one, this machine."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return of_ray(ray.nodes())
    return this_machine()


def given(
    like: Cluster,
    *,
    gpus: int | None = None,
    gpu_memory: float | None = None,
    nodes: int | None = None,
    memory: float | None = None,
    cpus: int | None = None,
) -> Cluster:
    """A cluster that one does not have: `nodes` equal machines, each with so many GPUs and CPUs; memory in GiB. What is
    not said is as `like`'s first node."""
    if all(value is None for value in (gpus, gpu_memory, nodes, memory, cpus)):
        return like
    first = like.nodes[0]
    node = Node(
        cpus=cpus or first.cpus,
        memory=memory * GIB if memory else first.memory,
        gpus=first.gpus if gpus is None else gpus,
        gpu_memory=gpu_memory * GIB if gpu_memory else first.gpu_memory or 80.0 * GIB,
    )
    return Cluster((node,) * (nodes or len(like.nodes)), "as asked")


def matrix_rate(home: Path, *, bfloat16: bool) -> float:
    """Operations per second of a large matrix product on this machine's CPUs, measured once and kept in `home`."""
    import torch

    kind = torch.bfloat16 if bfloat16 else torch.float32
    name = f"{socket.gethostname()} {torch.get_num_threads()} {kind} {torch.__version__}"
    path = home / "run" / "matrix_rate.json"
    known: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
    if name not in known:
        known[name] = _measure(kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known))
    return known[name]


def _measure(kind: Any) -> float:
    import torch

    size = 1024
    left, right = torch.randn(size, size, dtype=kind), torch.randn(size, size, dtype=kind)
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
