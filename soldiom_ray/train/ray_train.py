"""Ray Train's side of a training: where workers are placed, how they are started and restarted, what each of them runs.

The checkpoints are ours (see `checkpoints`), so a group of workers that is started again resumes from the newest one
that is whole."""

import contextlib
import math
import os
import time
from dataclasses import dataclass
from typing import Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import CancelledError, InputError, SoldiomError
from soldiom_ray.storage import open_storage
from soldiom_ray.train.failures import WorkerFailedError, WorkerFailure, describe
from soldiom_ray.train.loop import PreemptedError
from soldiom_ray.train.progress import ProgressActor, Reporter
from soldiom_ray.train.usage import UsageSampler, cpu_seconds, release_memory
from soldiom_ray.train.work import Work
from soldiom_ray.train.worker import run_worker

FAILURES = 3
"""How often in a row workers may be lost without any progress between."""
WORK_POLL_SECONDS = 0.1
"""How often a worker that has started asks what to do."""
DYING_SECONDS = 1.0
COLLECTIVE_SECONDS = "1800"
PLACEMENT_SECONDS = "10"
"""How long an elastic group waits for places that were free when it was sized."""
RESIZE_SECONDS = 60.0
"""How often a training with fewer workers than it wants looks whether there is room for more."""

Placement = tuple[dict[str, float], int]
"""(what each worker reserves, its threads)."""


@dataclass(frozen=True)
class RayTrainFailure:
    """How Ray Train ended, when it did not end well."""

    exception: str
    """The type's name."""
    text: str
    tried: bool = False
    """Whether Ray Train has started the workers again, FAILURES times, before it gave up."""
    cause: WorkerFailure | None = None
    """What a worker raised; None where one was lost."""


def placement_of(declared: Train) -> Placement:
    """The placement on the connected cluster as it is now."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    available = ray.available_resources().get("CPU", 0.0)
    return _placement(declared.workers, nodes, available, least=declared.min_workers)


class RayTrainRunner(ProgressActor):
    """Runs Ray Train, and passes progress on: when this actor ends, Ray Train's controller and all its workers end."""

    def run(
        self, declared: Train, name: str, home: str, placement: Placement, mark: int, *, keeps_workers: bool
    ) -> RayTrainFailure | None:
        """Run Ray Train to its end, which comes after the first work unless it keeps its workers for others."""
        import ray
        from ray.train import ControllerError, WorkerGroupError

        try:
            runner = ray.get_runtime_context().current_actor
            _run_ray_train(declared, runner, name, home, placement, mark, keeps_workers=keeps_workers)
        except WorkerGroupError as error:
            failures, lost = _sort_exceptions(error.worker_failures)
            cause = failures[0] if failures and not lost else None
            return RayTrainFailure(type(error).__name__, str(error), tried=True, cause=cause)
        except ControllerError as error:
            return RayTrainFailure(type(error.controller_failure).__name__, str(error))
        except Exception as error:  # Ray Train's controller was lost, say
            return RayTrainFailure(type(error).__name__, str(error))
        return None


def start_runner() -> Any:
    """A RayTrainRunner on this node: it must not be lost with another one."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, max_concurrency=8, scheduling_strategy=this_node)(RayTrainRunner).remote()


def release_placements(marks: range) -> None:
    """Remove what attempts reserved whose controllers were lost or killed, known by the bytes of memory in it: one of
    `marks`.

    Ray keeps the placement groups until the job ends (Ray Train's own cleaner needs a dashboard), and counts its
    request for three minutes: an elastic group that starts in that time would leave those nodes out."""
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    low, high = marks.start, marks.stop

    def is_marked(bundle: Any) -> bool:
        return bool(low <= bundle.get("memory", -1) < high)

    for identity, group in placement_group_table().items():
        if group["state"] != "REMOVED" and any(map(is_marked, group["bundles"].values())):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(identity))))

    def withdraw(coordinator: Any) -> None:  # travels by value: the coordinator may not be able to import this module
        for requester, request in list(coordinator._ongoing_reqs.items()):
            if any(low <= bundle.get("memory", -1) < high for bundle in request.requested_resources):
                coordinator.cancel_request(requester)

    if (coordinator := _coordinator()) is not None:
        coordinator.__ray_call__.remote(withdraw)


def release_after_loss(marks: range) -> None:
    """`release_placements` where a controller was just lost or killed: it dies a moment later, and may have reserved
    more until then."""
    release_placements(marks)
    time.sleep(DYING_SECONDS)
    release_placements(marks)


def recount_resources() -> None:
    """Let Ray Train see nodes that have come or gone: it sizes an elastic group by a view of the cluster that is up to
    20 s old."""
    if (coordinator := _coordinator()) is not None:
        coordinator.get_reserved_resources.remote("", recompute=True)


def read_libraries() -> None:
    """Import what a training needs: seconds that can pass while something else is waited for."""
    import peft
    import transformers

    _ = (transformers.AutoModelForCausalLM, peft.LoraConfig)  # their modules are read when they are first named


def _placement(workers: int, nodes: list[dict[str, float]], available: float, *, least: int | None = None) -> Placement:
    """`nodes` are the resources of each node, `available` the CPUs that are free now; `least` workers suffice for a
    while.

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
    reserved = max(1, int(available) // workers)
    while reserved > 1 and sum(cpu // reserved for cpu in cpus) < workers:
        reserved -= 1
    per_node = max(1, math.ceil(workers / max(1, sum(1 for cpu in cpus if cpu >= reserved))))
    return {"CPU": reserved}, max(reserved, max(cpus) // per_node)


def _coordinator() -> Any | None:
    """The actor that divides a cluster among Ray Train's runs; None as long as there was no run."""
    import ray

    try:
        return ray.get_actor("AutoscalingCoordinator", namespace="AutoscalingCoordinator")
    except ValueError:
        return None


def _run_ray_train(
    declared: Train, runner: Any, name: str, home: str, placement: Placement, mark: int, *, keeps_workers: bool
) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    resources, threads = placement
    gpu = "GPU" in resources
    if declared.min_workers is not None:
        # A group sized before a lost node was known to be dead asks for its place too: size it anew soon.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", PLACEMENT_SECONDS)
    TorchTrainer(
        _ray_worker,
        train_loop_config={"runner": runner, "threads": threads, "keeps_workers": keeps_workers},
        # Offloaded gradients are summed in the memory of the host, which needs a backend of its own.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu and declared.offload else None),
        scaling_config=ScalingConfig(
            num_workers=(declared.min_workers, declared.workers) if declared.min_workers else declared.workers,
            use_gpu=gpu,
            resources_per_worker=resources | {"memory": mark},
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=home,
            failure_config=FailureConfig(max_failures=FAILURES),
            callbacks=[_failure_callback(runner)],
            worker_runtime_env={"env_vars": worker_environment(threads, gpu=gpu)},
        ),
    ).fit()


def _failure_callback(runner: Any) -> Any:
    """Ray Train's controller calls it when workers have failed, before it starts them again."""
    from ray.train import UserCallback

    class ReportFailures(UserCallback):  # type: ignore[misc]  # Ray does not type it
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            failures, lost = _sort_exceptions(worker_exceptions)
            runner.post_failures.remote(failures, lost=lost)

    return ReportFailures()


def _sort_exceptions(by_rank: dict[int, Exception]) -> tuple[tuple[WorkerFailure, ...], bool]:
    """(what workers raised, whether a worker was lost)."""
    failures = tuple(error.failure for error in by_rank.values() if isinstance(error, WorkerFailedError))
    return failures, any(not isinstance(error, WorkerFailedError | SoldiomError) for error in by_rank.values())


def worker_environment(threads: int, *, gpu: bool) -> dict[str, str]:
    """The environment that a worker starts with: its threads wait and its memory is taken as its device wants."""
    variables = {"RAY_TRAIN_COLLECTIVE_TIMEOUT_S": COLLECTIVE_SECONDS}
    if not gpu:
        # Threads that spin while they wait take the CPU from the ones they wait for as soon as anything else runs:
        # 2.5 thousand tokens/s against 9.2 with one busy neighbour on two cores.
        variables |= {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
        # Memory in pieces of 2 MiB: 100 MiB of fresh logits are first written in 12 ms instead of 60.
        variables["THP_MEM_ALLOC_ENABLE"] = "1"
    return variables


def _ray_worker(config: dict[str, Any]) -> None:
    """What Ray Train runs in each of its workers: one work, or one after the other until the group is killed."""
    import ray
    import torch

    from soldiom_ray import logs

    logs.start_logging()
    runner, context = config["runner"], ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    try:
        read_libraries()
    except Exception as error:
        raise WorkerFailedError(describe(error, 0)) from error
    torch.set_num_threads(config["threads"])
    number, cpu_before, keeps_workers = 0, 0.0, config["keeps_workers"]
    while (taken := _wait_for_work(runner, rank, number, is_kept=keeps_workers)) is not None:
        number, work = taken
        _train(runner, rank, world, work, cpu_before)
        if not keeps_workers:
            return
        release_memory()
        cpu_before = cpu_seconds()
        ray.get(runner.end_work.remote(rank, world))


def _train(runner: Any, rank: int, world: int, work: Work, cpu_before: float) -> None:
    """Do this worker's part of a training; what ends it is posted. Raises what is to end the whole group.

    `cpu_before` are the CPU seconds that other trainings took of this process."""
    import ray

    reporter = Reporter(runner)
    try:
        with UsageSampler(runner, rank):
            artifacts = Artifacts(open_storage(work.settings))
            run_worker(work, artifacts, reporter.report, reporter.observe, _is_preempted, cpu_before)
            reporter.flush(1.0, "trained")
    except CancelledError:
        return
    except PreemptedError:
        ray.get(runner.post_preemption.remote())
    except SoldiomError as error:
        ray.get(runner.post_error.remote(error))
        if world > 1:
            raise
    except Exception as error:
        raise WorkerFailedError(describe(error, _newest_checkpoint(work))) from error


def _newest_checkpoint(work: Work) -> int | None:
    """Its step, 0 where there is none; None when the storage does not say."""
    with contextlib.suppress(SoldiomError, OSError):
        steps = work.checkpoints(Artifacts(open_storage(work.settings))).steps()
        return steps[-1] if steps else 0
    return None


def _wait_for_work(runner: Any, rank: int, after: int, *, is_kept: bool) -> tuple[int, Work] | None:
    """(number, what to do) after the work of number `after`; None when the training is to stop, or has failed, unless
    the worker is kept for others."""
    import ray

    while is_kept or not ray.get(runner.is_ended.remote()):
        taken: tuple[int, Work] | None = ray.get(runner.take_work.remote(rank, after))
        if taken is not None:
            return taken
        time.sleep(WORK_POLL_SECONDS)
    return None


def _is_preempted() -> bool:
    """Whether a node of this group is about to be preempted: a notice of the cloud's, or a node that is drained."""
    import ray.train

    return ray.train.get_preemption_info() is not None
