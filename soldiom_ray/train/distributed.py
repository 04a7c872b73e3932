"""Training on Ray's workers. Ray Train starts, watches and restarts them; the checkpoints are ours (see `checkpoints`),
so a restarted group goes on from the newest one that is whole."""

import contextvars
import logging
import math
import shutil
import threading
import time
from typing import Any

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import CancelledError, InputError, SoldiomError, UnavailableError
from soldiom_ray.records import Manifest, new_id
from soldiom_ray.train.board import Board, Reporter, Tracker
from soldiom_ray.train.fit import Work, finish, open_artifacts, ready, worker

log = logging.getLogger(__name__)
FAILURES = 3
POLL_SECONDS = 0.5
STOP_SECONDS = 90.0
"""How long the workers may take to leave a checkpoint when the job is cancelled."""
COLLECTIVE_SECONDS = "1800"


def fit(context: Context, dataset: Manifest, declared: Train) -> Manifest:
    """Train on the connected Ray and make the run."""
    draft, work = ready(context, dataset, declared)
    if work is None:
        return context.artifacts.get(draft.id)
    tracker = Tracker(
        context.settings.mlflow_url, context.recipe or "soldiom", draft.id, _parameters(declared, dataset)
    )
    status, numbers = "FAILED", {}
    try:
        _run(context, work, tracker)
        status = "FINISHED"
        manifest = finish(context, draft, work, {"mlflow_run_id": tracker.run_id})
        numbers = {key: value for key, value in manifest.details.items() if isinstance(value, int | float)}
    except CancelledError:
        status = "KILLED"
        raise
    finally:
        tracker.end(status, numbers)
    return manifest


def placement(workers: int, nodes: list[dict[str, float]], available: float) -> tuple[dict[str, float], int]:
    """(what each worker reserves, its threads). `nodes` are the totals of each node, `available` the CPUs now free.

    CPUs in use elsewhere are not waited for when a share of the free ones is enough; threads count the whole machine,
    since services that hold a CPU are idle most of the time. InputError when the workers can never be placed."""
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus >= workers:
        return {"CPU": 1, "GPU": 1}, 1
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if sum(cpus) < workers:
        raise InputError(
            f"train.workers is {workers}, and this cluster has {sum(cpus)} CPUs.",
            remedy=f"set train.workers to at most {max(1, sum(cpus))} or add nodes",
        )
    wanted = max(1, int(available) // workers)
    while wanted > 1 and sum(cpu // wanted for cpu in cpus) < workers:
        wanted -= 1
    together = max(1, math.ceil(workers / max(1, sum(1 for cpu in cpus if cpu >= wanted))))
    return {"CPU": wanted}, max(wanted, max(cpus) // together)


def _run(context: Context, work: Work, tracker: Tracker) -> None:
    """Start the workers and stay with them: pass on their progress, stop them when the job is cancelled."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    resources, threads = placement(work.declared.workers, nodes, ray.available_resources().get("CPU", 0.0))
    board = ray.remote(num_cpus=0)(Board).remote()
    ended: list[BaseException | None] = []

    def train() -> None:
        try:
            _fit(context, work, board, resources, threads)
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(train,), daemon=True, name="ray-train")
    thread.start()
    cancelled: CancelledError | None = None
    deadline = math.inf
    while not ended and time.monotonic() < deadline:
        thread.join(POLL_SECONDS)
        fraction, message, records = ray.get(board.take.remote())
        tracker.add(records)
        if cancelled is None:
            try:
                context.report(fraction, message)
            except CancelledError as error:
                cancelled, deadline = error, time.monotonic() + STOP_SECONDS
                ray.get(board.stop.remote())
    _, failure = ray.get(board.verdict.remote())
    tracker.add(ray.get(board.take.remote())[2])
    ray.kill(board)
    if cancelled is not None:
        raise cancelled
    if failure is not None:
        raise failure
    if ended[0] is not None:
        raise _ours(ended[0]) from ended[0]


def _fit(context: Context, work: Work, board: Any, resources: dict[str, float], threads: int) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    gpu = "GPU" in resources
    variables = {"RAY_TRAIN_COLLECTIVE_TIMEOUT_S": COLLECTIVE_SECONDS}
    if not gpu:
        # Threads that spin while they wait take the CPU from the ones they wait for as soon as anything else runs:
        # 2.5 thousand tokens/s against 9.2 with one busy neighbour on two cores.
        variables |= {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
    name, home = f"{work.run}-{new_id()[-12:]}", context.settings.home / "ray-train"
    trainer = TorchTrainer(
        _work,
        train_loop_config={"work": work, "board": board, "threads": threads},
        scaling_config=ScalingConfig(num_workers=work.declared.workers, use_gpu=gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=name,
            storage_path=str(home),
            failure_config=FailureConfig(max_failures=FAILURES),
            worker_runtime_env={"env_vars": variables},
        ),
    )
    try:
        trainer.fit()
    finally:
        shutil.rmtree(home / name, ignore_errors=True)


def _work(config: dict[str, Any]) -> None:
    """One Ray Train worker."""
    import ray
    import torch

    from soldiom_ray import logs

    logs.start_logging()
    work, board = config["work"], config["board"]
    stopping, failure = ray.get(board.verdict.remote())
    if stopping or failure is not None:
        return
    torch.set_num_threads(config["threads"])
    reporter = Reporter(board)
    try:
        worker(work, open_artifacts(work.settings), reporter.report, reporter.observe)
        reporter.flush(1.0, "trained")
    except CancelledError:
        return
    except SoldiomError as error:
        ray.get(board.fail.remote(error))
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise


def _ours(error: BaseException) -> SoldiomError:
    """A failure of the workers as one sentence; Ray's own text holds their stack traces and goes to the log."""
    log.error("Ray Train ended with an error", extra={"data": {"error": str(error)[-4000:]}})
    return UnavailableError(
        f"The training's workers failed {FAILURES + 1} times ({type(error).__name__}); its checkpoints are kept.",
        remedy="see the job's log for the cause (often: out of memory); run again, it goes on from the last checkpoint",
    )


def _parameters(declared: Train, dataset: Manifest) -> dict[str, Any]:
    return declared.model_dump(mode="json", exclude_none=True) | {"dataset": dataset.id}
