"""Training on Ray's workers. Ray Train starts, watches and restarts them; the checkpoints are ours (see `checkpoints`),
so a restarted group goes on from the newest one that is whole."""

import logging
import math
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from typing import Any

from soldiom_ray.artifacts import Context, Draft
from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import CancelledError, InputError, SoldiomError, UnavailableError
from soldiom_ray.records import Manifest, new_id
from soldiom_ray.train.fit import CURVES_PICTURE, Work, finish, open_artifacts, read_libraries, ready, worker
from soldiom_ray.train.loop import LeavingError
from soldiom_ray.train.progress import WAITING, ProgressActor, ProgressUpdate, Reporter
from soldiom_ray.train.tracking import Origin, Tracker
from soldiom_ray.train.usage import UsageSampler

log = logging.getLogger(__name__)
FAILURES = 3
"""How often in a row workers may be lost without any progress between."""
POLL_SECONDS = 0.5
GIVEN_SECONDS = 0.1
"""How often a worker that is ready asks what to do."""
STOP_SECONDS = 25.0
"""How long the workers may take to leave a checkpoint when the job is cancelled: less than a job's process has."""
RETRY_SECONDS = 2.0
COLLECTIVE_SECONDS = "1800"
DYING_SECONDS = 1.0
PLACES_SECONDS = "10"
"""How long an elastic group waits for places that were free when it was sized."""
MARKS = 1 << 20
""""Bytes of memory" by which the placement groups of one attempt are told from all others."""
RESIZE_SECONDS = 60.0
"""How often a training with fewer workers than it wants looks whether there is room for more."""


def fit(context: Context, dataset: Manifest, declared: Train) -> Manifest:
    """Train on the connected Ray and make the run.

    The workers start, and read their libraries, while the dataset is still being tokenised."""
    first = _Attempt(context, declared)
    try:
        draft, work = ready(context, dataset, declared, first.start)
    except BaseException:
        first.end()
        raise
    if work is None:
        return context.artifacts.get(draft.id)
    tracker = Tracker(context.settings.mlflow_url, context.recipe or "soldiom", draft.id, _origin(work, dataset, draft))
    status, numbers, pictures = "FAILED", {}, {}
    try:
        hours = _run(context, work, tracker, first)
        more = {"mlflow_run_id": tracker.settle(), "device_hours": round(hours, 4)}
        manifest = finish(context, draft, work, more)
        status = "FINISHED"
        numbers = _numbers(manifest.details)
        pictures = {CURVES_PICTURE: context.artifacts.read(manifest, CURVES_PICTURE)}
    except CancelledError:
        status = "KILLED"
        raise
    finally:
        tracker.end(status, numbers, pictures)
    return manifest


def placement(
    workers: int, nodes: list[dict[str, float]], available: float, *, least: int | None = None
) -> tuple[dict[str, float], int]:
    """(what each worker reserves, its threads). `nodes` are the totals of each node, `available` the CPUs now free;
    `least` workers do for a while.

    CPUs in use elsewhere are not waited for when a share of the free ones is enough; threads count the whole machine,
    since services that hold a CPU are idle most of the time. InputError when the workers can never be placed."""
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    least = least or workers
    if gpus >= least:
        return {"CPU": 1, "GPU": 1}, 1
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if sum(cpus) < least:
        raise InputError(
            f"train.workers is {workers}, and this cluster has {sum(cpus)} CPUs.",
            remedy=f"set train.workers to at most {max(1, sum(cpus))} or add nodes",
        )
    workers = min(workers, sum(cpus))
    wanted = max(1, int(available) // workers)
    while wanted > 1 and sum(cpu // wanted for cpu in cpus) < workers:
        wanted -= 1
    together = max(1, math.ceil(workers / max(1, sum(1 for cpu in cpus if cpu >= wanted))))
    return {"CPU": wanted}, max(wanted, max(cpus) // together)


def _run(context: Context, work: Work, tracker: Tracker, first: "_Attempt") -> float:
    """Train until it is done, however often workers, nodes or Ray Train's controller are lost; the hours that workers
    were there, all together. Raises when nothing comes of it FAILURES times in a row."""
    failures, furthest, seconds = 0, 0.0, 0.0
    attempt = first
    while True:
        try:
            failure = attempt.run(work, tracker)
        finally:
            seconds += attempt.worker_seconds
        if failure is None and not attempt.news.leaving:
            return seconds / 3600
        if attempt.news.leaving:
            log.info("a machine is taken away; the training goes on elsewhere")
        elif failure is not None:
            kind, text = failure
            log.warning("Ray Train ended with an error", extra={"data": {"kind": kind, "error": text[-4000:]}})
            failures = 0 if attempt.news.fraction > furthest else failures + 1
            furthest = max(furthest, attempt.news.fraction)
            if failures > FAILURES or (failures and kind == WORKERS):  # Ray Train itself has tried FAILURES times
                raise UnavailableError(
                    f"The training's workers failed {FAILURES + 1} times in a row ({kind}); its checkpoints are kept.",
                    remedy="see the job's log for the cause (often: out of memory); run again, it goes on from the last"
                    " checkpoint",
                )
            _wait(context, attempt.news.fraction, RETRY_SECONDS * (1 + failures))
        attempt = attempt.again()


class _Attempt:
    """One group of workers after the other, by one controller of Ray Train, until it is done or the controller gives
    up; the driver's side of it."""

    def __init__(self, context: Context, declared: Train, places: tuple[dict[str, float], int] | None = None) -> None:
        self.context, self.declared, self.places = context, declared, places
        self.news = ProgressUpdate(0.0, WAITING, [], [], begun=False, leaving=False)
        self.worker_seconds = 0.0
        self._mark = 1 + secrets.randbelow(MARKS)
        self._alive: set[str] = set()
        self._desk: Any = None
        self._done: Any = None

    def start(self) -> None:
        """Let workers start; they wait for their work."""
        if self.places is None:  # decided once: when nodes are lost later, their return is waited for
            self.places = _places(self.declared)
        resources, threads = self.places
        home = str(self.context.settings.home / "ray-train")
        self._look_at_nodes()
        self._desk = _desk()
        self._done = self._desk.fit.remote(self.declared, home, resources | {"memory": self._mark}, threads)

    def again(self) -> "_Attempt":
        """Another one, in the same places."""
        another = _Attempt(self.context, self.declared, self.places)
        another.start()
        return another

    def run(self, work: Work, tracker: Tracker) -> tuple[str, str] | None:
        """How it failed, None when it is done. Passes progress on; stops the workers when the job is cancelled."""
        import ray

        try:
            ray.get(self._desk.give.remote(work))
            self._follow(tracker)
            _, error = ray.get(self._desk.verdict.remote())
            self._hear(tracker)
            if error is not None:
                raise error
            ended: tuple[str, str] | None = ray.get(self._done)
            return ended
        except ray.exceptions.RayError as error:
            return type(error).__name__, str(error)
        finally:
            self.end()

    def end(self) -> None:
        """Let nothing of it be left."""
        import ray

        if self._desk is None:
            return
        ended = bool(ray.wait([self._done], timeout=0)[0])
        ray.kill(self._desk)
        _give_back(self._mark)
        if not ended:  # its controller dies a moment later, and may have asked for places until then
            time.sleep(DYING_SECONDS)
            _give_back(self._mark)

    def _follow(self, tracker: Tracker) -> None:
        """Until it has ended. CancelledError when the job is cancelled and the workers are gone or had their time."""
        import ray

        cancelled: CancelledError | None = None
        deadline = math.inf
        while not ray.wait([self._done], timeout=POLL_SECONDS)[0]:
            self._hear(tracker)
            self._look_at_nodes()
            if cancelled is None:
                try:
                    self.context.report(self.news.fraction, self.news.message)
                except CancelledError as error:
                    cancelled, deadline = error, time.monotonic() + STOP_SECONDS
                    ray.get(self._desk.stop.remote())
            if cancelled and (not self.news.begun or time.monotonic() > deadline):
                break
        if cancelled:
            self._hear(tracker)
            raise cancelled

    def _look_at_nodes(self) -> None:
        """Ray Train sizes an elastic group by a view of the cluster that is up to 20 s old: let it look when nodes have
        come or gone."""
        import ray

        if self.declared.min_workers is None:
            return
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if alive != self._alive and (coordinator := _coordinator()) is not None:
            coordinator.get_reserved_resources.remote("", recompute=True)
        self._alive = alive

    def _hear(self, tracker: Tracker) -> None:
        import ray

        self.news = ray.get(self._desk.take.remote())
        self.worker_seconds = ray.get(self._desk.worker_seconds.remote())
        tracker.add(self.news.records)
        tracker.use(self.news.usage)


def _places(declared: Train) -> tuple[dict[str, float], int]:
    """The placement on the connected cluster as it is now."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    available = ray.available_resources().get("CPU", 0.0)
    return placement(declared.workers, nodes, available, least=declared.min_workers)


class TrainController(ProgressActor):
    """The board and, beside it, the one who runs Ray Train: with this actor the controller and all its workers end."""

    def fit(self, declared: Train, home: str, resources: dict[str, float], threads: int) -> tuple[str, str] | None:
        """Run Ray Train to its end; (kind, text) of what it raised."""
        import ray
        from ray.train import ControllerError, WorkerGroupError

        try:
            _fit(declared, ray.get_runtime_context().current_actor, home, resources, threads)
        except WorkerGroupError as error:
            return WORKERS, str(error)
        except ControllerError as error:
            return type(error.controller_failure).__name__, str(error)
        except Exception as error:  # the controller's actor was lost, say
            return type(error).__name__, str(error)
        return None


WORKERS = "WorkerGroupError"


def _desk() -> Any:
    """The actor, on this node: it must not be lost with another one."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, max_concurrency=8, scheduling_strategy=here)(TrainController).remote()


def _give_back(mark: int) -> None:
    """Give back what an attempt reserved whose controller was lost or killed, known by the few bytes of memory in it.

    Ray keeps the placement groups until the job ends (Ray Train's own cleaner needs a dashboard), and counts its
    request for three minutes: an elastic group that starts in that time would leave those nodes out."""
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    for identity, group in placement_group_table().items():
        if group["state"] != "REMOVED" and any(bundle.get("memory") == mark for bundle in group["bundles"].values()):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(identity))))

    def withdraw(coordinator: Any) -> None:  # travels by value: the coordinator may not be able to import this module
        for requester, request in list(coordinator._ongoing_reqs.items()):
            if any(bundle.get("memory") == mark for bundle in request.requested_resources):
                coordinator.cancel_request(requester)

    if (coordinator := _coordinator()) is not None:
        coordinator.__ray_call__.remote(withdraw)


def _coordinator() -> Any | None:
    """The actor that shares a cluster out between trainings; None where there was none yet."""
    import ray

    try:
        return ray.get_actor("AutoscalingCoordinator", namespace="AutoscalingCoordinator")
    except ValueError:
        return None


def _fit(declared: Train, desk: Any, home: str, resources: dict[str, float], threads: int) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = "GPU" in resources
    if declared.min_workers is not None:
        # A group sized before a lost node was known to be dead asks for its place too: size it anew soon.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", PLACES_SECONDS)
    variables = {"RAY_TRAIN_COLLECTIVE_TIMEOUT_S": COLLECTIVE_SECONDS}
    if not gpu:
        # Threads that spin while they wait take the CPU from the ones they wait for as soon as anything else runs:
        # 2.5 thousand tokens/s against 9.2 with one busy neighbour on two cores.
        variables |= {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
        # Memory in pieces of 2 MiB: 100 MiB of fresh logits are first written in 12 ms instead of 60.
        variables["THP_MEM_ALLOC_ENABLE"] = "1"
    name = f"train-{new_id()}"
    trainer = TorchTrainer(
        _work,
        train_loop_config={"board": desk, "threads": threads},
        # What is offloaded is summed where it lies: gradients in the memory of the host need a backend of their own.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu and declared.offload else None),
        scaling_config=ScalingConfig(
            num_workers=(declared.min_workers, declared.workers) if declared.min_workers else declared.workers,
            use_gpu=gpu,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=home,
            failure_config=FailureConfig(max_failures=FAILURES),
            worker_runtime_env={"env_vars": variables},
        ),
    )
    try:
        trainer.fit()
    finally:
        shutil.rmtree(f"{home}/{name}", ignore_errors=True)


def _work(config: dict[str, Any]) -> None:
    """One Ray Train worker."""
    import ray
    import torch

    from soldiom_ray import logs

    logs.start_logging()
    board = config["board"]
    read_libraries()
    work = _given(board)
    if work is None:
        return
    torch.set_num_threads(config["threads"])
    reporter = Reporter(board)
    try:
        with UsageSampler(board, ray.train.get_context().get_world_rank()):
            worker(work, open_artifacts(work.settings), reporter.report, reporter.observe, _leaving)
            reporter.flush(1.0, "trained")
    except CancelledError:
        return
    except LeavingError:
        ray.get(board.leave.remote())
    except SoldiomError as error:
        ray.get(board.fail.remote(error))
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise


def _given(board: Any) -> Work | None:
    """What there is to do; None when the training is to stop, or has failed."""
    import ray

    while True:
        stopping, failure = ray.get(board.verdict.remote())
        if stopping or failure is not None:
            return None
        work: Work | None = ray.get(board.work.remote())
        if work is not None:
            return work
        time.sleep(GIVEN_SECONDS)


def _leaving() -> bool:
    """Whether a node of this group will be taken away: a notice of the cloud's, or a node that is drained."""
    import ray.train

    return ray.train.get_preemption_info() is not None


def _wait(context: Context, fraction: float, seconds: float) -> None:
    """Wait, and hear a cancellation."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        context.report(fraction, "starting workers again")
        time.sleep(POLL_SECONDS)


def _origin(work: Work, dataset: Manifest, draft: Draft) -> Origin:
    declared = work.declared.model_dump(mode="json", exclude_none=True)
    tags = {
        "soldiom.dataset": dataset.id,
        "soldiom.tokens": work.tokens,
        "soldiom.base_model": work.declared.base_model,
        "soldiom.base_hash": str(draft.made_from["base"]),
    }
    return Origin(declared | {"dataset": dataset.id}, tags, dataset.id, dataset.counts)


def _numbers(details: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a run's details, nested ones under dotted names."""
    found: dict[str, float] = {}
    for key, value in details.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            found[prefix + key] = float(value)
    return found
