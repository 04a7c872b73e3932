"""A Ray cluster of several nodes on this machine, whose workers and nodes can be killed."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from process_title import title_of

PROGRAM = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.add_node(num_cpus=1)
    print("added", flush=True)
cluster.shutdown()
"""
STARTS = 3


@dataclass
class Nodes:
    """`address` is the head's. Every node has one CPU."""

    address: str
    process: subprocess.Popen[str]
    count: int = 1

    def add(self, count: int = 1) -> None:
        """Wait until so many nodes more are there; none when `count` is below one."""
        assert self.process.stdin is not None and self.process.stdout is not None
        for _ in range(count):
            self.process.stdin.write("add\n")
            self.process.stdin.flush()
            while self.process.stdout.readline().strip() != "added":
                assert self.process.poll() is None
            self.count += 1

    def workers(self, name: str = "MapWorker") -> list[psutil.Process]:
        """The actors of Ray Data's pools that run now."""
        return [process for process in self._descendants() if name in title_of(process)]

    def kill_a_worker(self, dice: random.Random) -> bool:
        """kill -9 of one actor; whether there was one."""
        workers = self.workers()
        if workers:
            with contextlib.suppress(psutil.Error):
                dice.choice(workers).kill()
        return bool(workers)

    def kill_a_node(self, dice: random.Random) -> bool:
        """kill -9 of a node that is not the head, with all its workers; whether there was one."""
        raylets = [process for process in self._descendants() if "raylet/raylet" in title_of(process)]
        others = [raylet for raylet in raylets if "--head" not in title_of(raylet)]
        if not others:
            return False
        node = dice.choice(others)
        for process in (node, *node.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.count -= 1
        return True

    def _descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@contextlib.contextmanager
def ray_nodes() -> Iterator[Nodes]:
    """One node, for as long as the block lasts. On a crowded machine it may not be up within the 30 seconds that Ray
    waits for it: then it is tried again."""
    folder = Path(f"/tmp/nodes-{os.getpid()}")
    environ = os.environ | {"RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    for _ in range(STARTS):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None and process.stdin is not None
            try:
                if address := process.stdout.readline().strip():
                    yield Nodes(address, process)
                    return
            finally:
                process.stdin.close()
                process.wait(timeout=60)
                shutil.rmtree(folder, ignore_errors=True)
    raise AssertionError(f"no Ray of one node was up after {STARTS} tries")
