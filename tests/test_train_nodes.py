"""Training on a cluster of small nodes that loses its parts: workers, the controller, nodes, all of it."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import NO_DASHBOARD
from process_title import title_of
from training import context_in, dataset_in, declared, two_layer_model

from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import CancelledError
from soldiom_ray.records import Manifest
from soldiom_ray.train.driver import run_locally
from soldiom_ray.train.work import prepare_work

pytestmark = pytest.mark.service
STEPS, INTERVAL = 500, 50
NOTICE_SECONDS = 0.5
"""How often Ray Train asks which nodes will be taken away; its default is ten times as long."""
MOST_REPEATED = 2 * INTERVAL
"""A checkpoint is written beside the steps that follow it, and the next one waits for it: what is lost meanwhile goes
back to the one before."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_layer_model(tmp_path_factory.mktemp("base"))


def long(base: Path, **values: object) -> Train:
    """A training with a checkpoint every INTERVAL of its STEPS."""
    more = {"max_tokens": 512 * STEPS, "validations": STEPS // INTERVAL, "patience": 25, "learning_rate": 1e-3}
    return declared(base, **(more | values))


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    context = context_in(tmp_path_factory.mktemp("alone"))
    return run_locally(context, dataset_in(context.artifacts), long(base))


@dataclass
class Nodes:
    """A head that offers no CPU, and nodes of one CPU each."""

    cluster: Any
    others: list[Any] = field(default_factory=list)

    def add(self) -> None:
        self.others.append(self.cluster.add_node(num_cpus=1))
        self.cluster.wait_for_nodes()

    def lose(self, node: Any) -> None:
        self.others.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def workers_of(self, node: Any) -> list[psutil.Process]:
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        return raylet.children()

    def kill(self, title: str) -> int:
        """Kill the processes with this title."""
        killed = 0
        for node in (self.cluster.head_node, *self.others):
            for process in self.workers_of(node):
                if f"ray::{title}" in title_of(process):
                    process.send_signal(signal.SIGKILL)
                    killed += 1
        return killed

    def training(self) -> list[Any]:
        """The nodes on which workers are."""
        return [
            node
            for node in self.others
            if any("RayTrainWorker" in title_of(process) for process in self.workers_of(node))
        ]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    import ray
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="sldn-", dir="/tmp")
    before = dict(os.environ)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": folder, "RAY_API_SERVER_ADDRESS": NO_DASHBOARD}
    os.environ["RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"] = str(NOTICE_SECONDS)
    try:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        ray.init(address=cluster.address, log_to_driver=False)
        made = Nodes(cluster)
        made.add()
        made.add()
        yield made
        ray.shutdown()
        cluster.shutdown()
    finally:
        os.environ.clear()
        os.environ |= before
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Watch:
    """Reads the progress, and does something to the cluster at given shares of the training."""

    deeds: list[tuple[float, Callable[[], object]]]
    steps: list[int] = field(default_factory=list)
    message: str = ""
    """The one at the last deed: it stays until the training goes on."""

    def report(self, fraction: float, message: str) -> None:
        if not message.startswith("step "):
            return
        self.steps.append(int(message.split()[1].partition("/")[0]))
        if self.deeds and fraction >= self.deeds[0][0] and message != self.message:
            self.message = message
            self.deeds.pop(0)[1]()

    @property
    def repeated(self) -> int:
        """The most steps that were made again after one loss."""
        return max((a - b for a, b in zip(self.steps, self.steps[1:], strict=False)), default=0)


def train_under(watch: Watch, home: Path, declaration: Train) -> Manifest:
    from soldiom_ray.train import train

    context = replace(context_in(home), report=watch.report)
    run = train(context, dataset_in(context.artifacts), declaration)
    curves = json.loads(context.artifacts.read(run, "curves.json"))
    assert [point["step"] for point in curves] == sorted({point["step"] for point in curves})
    return run


def same_end(run: Manifest, undisturbed: Manifest, within: float = 2e-3) -> bool:
    losses = [each.details["best_validation_loss"] for each in (run, undisturbed)]
    return run.details["steps"] == STEPS and abs(losses[0] - losses[1]) < within


def test_a_worker_the_controller_and_a_node_may_be_lost_in_one_training(
    nodes: Nodes, base: Path, undisturbed: Manifest, tmp_path: Path
) -> None:
    killed: list[int] = []

    def lose_node() -> None:
        nodes.lose(nodes.training()[0])
        nodes.add()

    losses = [
        (0.2, lambda: killed.append(nodes.kill("RayTrainWorker"))),
        (0.4, lambda: killed.append(nodes.kill("TrainController"))),
        (0.6, lose_node),
    ]
    watch = Watch(losses)
    run = train_under(watch, tmp_path, long(base))
    assert killed == [1, 1] and not losses and watch.repeated < MOST_REPEATED
    assert same_end(run, undisturbed)


@pytest.mark.endurance
def test_workers_lost_at_random_steps_cost_one_interval_each(
    nodes: Nodes, base: Path, undisturbed: Manifest, tmp_path: Path
) -> None:
    dice, killed = random.Random(1), []
    places = sorted(dice.uniform(0.1, 0.8) for _ in range(3))
    watch = Watch([(at, lambda: killed.append(nodes.kill("RayTrainWorker"))) for at in places])
    run = train_under(watch, tmp_path, long(base))
    assert killed == [1, 1, 1] and watch.repeated < MOST_REPEATED
    assert same_end(run, undisturbed)


@pytest.mark.endurance
def test_ray_trains_controller_may_be_lost(nodes: Nodes, base: Path, undisturbed: Manifest, tmp_path: Path) -> None:
    killed: list[int] = []
    watch = Watch([(0.4, lambda: killed.append(nodes.kill("TrainController")))])
    run = train_under(watch, tmp_path, long(base))
    assert killed == [1] and watch.repeated < MOST_REPEATED
    assert same_end(run, undisturbed)


@pytest.mark.endurance
def test_the_node_that_trains_may_be_lost(nodes: Nodes, base: Path, undisturbed: Manifest, tmp_path: Path) -> None:
    watch = Watch([(0.4, lambda: nodes.lose(nodes.training()[0]))])
    run = train_under(watch, tmp_path, long(base))
    nodes.add()
    assert watch.repeated < MOST_REPEATED and same_end(run, undisturbed)


def drain(node: Any, seconds: float) -> None:
    """The cloud's notice: this node will be taken away."""
    import ray
    from ray.core.generated import autoscaler_pb2

    accepted, why = ray._private.worker.global_worker.gcs_client.drain_node(
        node.node_id,
        autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "will be taken away",
        int((time.time() + seconds) * 1000),
    )
    assert accepted, why


def test_a_node_that_will_be_taken_away_is_left_in_time_and_nothing_is_repeated(
    nodes: Nodes, base: Path, tmp_path: Path
) -> None:
    drained: list[Any] = []

    def notice() -> None:
        drained.append(nodes.training()[0])
        drain(drained[0], 600)

    watch = Watch([(0.1, notice)])
    # A worker looks for such a notice every 5 s: there must be steps left when it does.
    run = train_under(watch, tmp_path, long(base, max_tokens=512 * 2 * STEPS, validations=5))
    nodes.lose(drained[0])
    nodes.add()
    assert watch.repeated == 0 and not run.details["stopped_early"]


def test_a_training_begins_with_a_node_short_and_goes_on_when_another_is_lost(
    nodes: Nodes, base: Path, tmp_path: Path
) -> None:
    at_once: list[int] = []

    def lose() -> None:
        at_once.append(len(nodes.training()))
        nodes.lose(nodes.training()[0])

    watch = Watch([(0.4, lose)])
    short = {"max_tokens": 512 * STEPS // 2, "validations": STEPS // 2 // INTERVAL, "learning_rate": 3e-3}
    run = train_under(watch, tmp_path, long(base, workers=3, min_workers=1, **short))
    nodes.add()
    assert at_once == [2] and run.details["workers"] == 1
    steps = math.ceil(STEPS / 2 * 8 / 6)  # of 6 units, which three workers share evenly, to the end
    assert run.details["steps"] == steps and watch.repeated <= math.ceil(steps * INTERVAL * 2 / STEPS)
    assert run.details["best_validation_loss"] < 1


def test_a_training_is_cancelled_while_its_workers_cannot_start(nodes: Nodes, base: Path, tmp_path: Path) -> None:
    import ray

    from soldiom_ray.train import train

    @ray.remote(num_cpus=1)
    class Holder:
        """Holds a CPU."""

        def hold(self) -> None: ...

    holders = [Holder.remote() for _ in range(2)]
    ray.get([holder.hold.remote() for holder in holders])
    waits: list[str] = []

    def report(fraction: float, message: str) -> None:
        if message == "waiting for workers":
            waits.append(message)
            if len(waits) > 5:
                raise CancelledError("stop")

    context = replace(context_in(tmp_path), report=report)
    with pytest.raises(CancelledError):
        train(context, dataset_in(context.artifacts), long(base))
    assert len(waits) == 6  # not asked again once it was cancelled
    for holder in holders:
        ray.kill(holder)


KILLED_CLUSTER = """
import os, sys, time
from dataclasses import replace
from pathlib import Path
import psutil, ray
sys.path.insert(0, sys.argv[1])
from test_train_nodes import long
from training import context_in
from soldiom_ray.train import train

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)

def report(fraction, message):
    if message.startswith("step ") and fraction > 0.4:
        me = psutil.Process()
        for process in [*me.children(recursive=True), me]:
            process.kill()

context = context_in(Path(sys.argv[2]))
train(replace(context, report=report), context.artifacts.get(sys.argv[3]), long(Path(sys.argv[4])))
"""


@pytest.mark.endurance
def test_the_whole_cluster_and_its_driver_may_be_lost(
    nodes: Nodes, base: Path, undisturbed: Manifest, tmp_path: Path
) -> None:
    context = context_in(tmp_path / "home")
    dataset = dataset_in(context.artifacts)
    arguments = [str(Path(__file__).parent), str(tmp_path / "home"), dataset.id, str(base)]
    with tempfile.TemporaryDirectory(prefix="sldn-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        environ = os.environ | {"RAY_TMPDIR": folder, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", KILLED_CLUSTER, *arguments], env=environ, timeout=500)
    assert done.returncode == -signal.SIGKILL
    _, work = prepare_work(context, dataset, long(base))
    assert work is not None
    newest = work.checkpoints(context.artifacts).steps()[-1]
    watch = Watch([])
    run = train_under(watch, tmp_path / "home", long(base))
    assert newest >= INTERVAL and watch.steps[0] >= newest
    assert same_end(run, undisturbed)
