"""Processes that train together, for the tests of the strategies: started once, they take one job after the other."""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

SECONDS = 400
"""A group that has not answered by then hangs."""


class Group:
    """`world` processes with a process group (gloo) and these variables in their environment. `run` gives what each
    rank's call returned; after a failure the next `run` starts them anew."""

    def __init__(self, world: int, folder: Path, variables: Mapping[str, str]) -> None:
        self.world, self.folder, self.variables, self.starts = world, folder, dict(variables), 0
        self.ends: list[Connection] = []
        self.processes: list[SpawnProcess] = []

    def start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.starts += 1
        store, before = str(self.folder / f"store{self.starts}"), dict(os.environ)
        os.environ |= self.variables
        try:
            for rank in range(self.world):
                mine, theirs = spawn.Pipe()
                process = spawn.Process(target=_serve, args=(theirs, rank, self.world, store), daemon=True)
                process.start()
                self.ends.append(mine)
                self.processes.append(process)
        finally:
            os.environ.clear()
            os.environ |= before

    def run(self, job: Callable[..., Any], **values: Any) -> list[Any]:
        if not self.processes:
            self.start()
        for end in self.ends:
            end.send((job, values))
        answers: dict[int, Any] = {}
        while len(answers) < len(self.ends):
            ready = wait([end for rank, end in enumerate(self.ends) if rank not in answers], SECONDS)
            if not ready:
                self.close()
                raise TimeoutError(f"{job.__name__} hangs with {values}")
            for end in ready:
                error, value = end.recv()  # type: ignore[union-attr]
                if error is not None:
                    self.close()  # the others may wait for this rank
                    raise RuntimeError(error)
                answers[self.ends.index(end)] = value  # type: ignore[arg-type]
        return [answers[rank] for rank in range(len(self.ends))]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        for end in self.ends:
            end.close()
        self.ends, self.processes = [], []


def _serve(end: Connection, rank: int, world: int, store: str) -> None:
    """One process: jobs until the other end is closed."""
    os.environ |= {"LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    while True:
        try:
            job, values = end.recv()
        except EOFError:
            break
        try:
            end.send((None, job(**values)))
        except BaseException:
            end.send((traceback.format_exc(), None))
    distributed.destroy_process_group()
