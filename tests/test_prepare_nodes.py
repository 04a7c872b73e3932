"""Preparation on a cluster: the same bytes from one, two and four nodes, and when workers and nodes are killed, with no
finished part done again."""

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nodes import Nodes
from preparing import context_in, documents_of, package_documents
from programs import finish, start

pytestmark = pytest.mark.service
PROGRAM = """
import json, sys
from pathlib import Path
from preparing import context_in
from soldiom_ray import actors
from soldiom_ray.domains.schema import Prepare
from soldiom_ray.prepare import pipeline
if len(sys.argv) > 3:
    import ray
    ray.init(address=sys.argv[3], log_to_driver=False, logging_level="error")
actors.START_SECONDS = 0
pipeline.PART_BYTES = 4_000
context = context_in(Path(sys.argv[1]))
made = pipeline.prepare(context, [context.artifacts.get(sys.argv[2])], Prepare())
print(json.dumps({"id": made.id, "files": [[f.name, f.sha256] for f in made.files]}))
"""


def begin(home: Path, address: str = "") -> subprocess.Popen[str]:
    """A preparation of the same documents in a home of its own."""
    documents = documents_of(context_in(home), package_documents(most=15)).id
    return start(PROGRAM, str(home), documents, *([address] if address else []))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a run without Ray gives."""
    return finish(begin(tmp_path_factory.mktemp("quiet")))


def test_one_two_and_four_nodes_give_the_same_bytes(undisturbed: Any, node_cluster: Nodes, tmp_path: Path) -> None:
    for count in (1, 2, 4):
        node_cluster.add(count - node_cluster.count)
        assert node_cluster.count == count
        assert finish(begin(tmp_path / str(count), node_cluster.address)) == undisturbed


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.endurance)])
@pytest.mark.parametrize("victims", ["workers", "nodes"])
def test_killed_workers_and_nodes_change_no_byte_and_no_finished_part_is_done_again(
    undisturbed: Any, node_cluster: Nodes, tmp_path: Path, victims: str, kills: int
) -> None:
    """20 of each were survived when this was written."""
    nodes = node_cluster
    kill: Callable[[random.Random], bool] = nodes.kill_a_worker if victims == "workers" else nodes.kill_a_node
    dice, killed, rounds = random.Random(len(victims)), 0, 0
    while killed < kills:
        home, rounds = tmp_path / str(rounds), rounds + 1
        finished: dict[str, int] = {}
        process = begin(home, nodes.address)
        while process.poll() is None:
            time.sleep(dice.uniform(0.1, 1.0))
            now = times_of_finished_parts(home)
            assert all(now.get(name, time_) == time_ for name, time_ in finished.items())
            finished |= now
            if killed < kills and nodes.workers() and kill(dice):
                killed += 1
                nodes.add(victims == "nodes")
        assert finish(process) == undisturbed
        assert not context_in(home).artifacts.storage.keys("work")


def times_of_finished_parts(home: Path) -> dict[str, int]:
    """When the facts of each part were written, which are written last."""
    found = {}
    for path in (home / "storage" / "work").glob("*/*.facts.parquet"):
        try:
            found[path.name] = path.stat().st_mtime_ns
        except FileNotFoundError:  # the dataset is done, and its work is being removed
            continue
    return found
