"""Scoring as one Ray task with a whole node's CPUs when Ray is connected, else in this process."""

import os
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from soldiom_ray import compute
from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.domains.schema import Evaluate
from soldiom_ray.errors import UnavailableError, own_error
from soldiom_ray.evaluate.score import score_run
from soldiom_ray.metrics.measurement import Event, Measurement, NotMeasured
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings


def score_models(
    context: Context, run: Manifest, dataset: Manifest, declared: Evaluate, previous: Manifest | None
) -> Measurement | NotMeasured:
    """Score a run's model and what it is compared with, reporting progress; a cancelled job also stops the Ray task."""
    import ray

    started = time.monotonic()
    if ray.is_initialized():
        measurement = _on_ray(context, run, dataset, declared, previous)
    else:
        measurement = _follow(context, score_run(context.settings, context.artifacts, run, dataset, declared, previous))
    if isinstance(measurement, NotMeasured):
        return measurement
    return replace(measurement, seconds=round(time.monotonic() - started, 3))


def _follow(context: Context, events: Iterable[Event]) -> Measurement | NotMeasured:
    """Report the progress among the events; returns the measurement, which is the last."""
    for event in events:
        if isinstance(event, Measurement | NotMeasured):
            return event
        context.report(*event)
    raise UnavailableError("The scoring ended without a result.", remedy="run the stage again")


def _on_ray(
    context: Context, run: Manifest, dataset: Manifest, declared: Evaluate, previous: Manifest | None
) -> Measurement | NotMeasured:
    import ray

    task = ray.remote(_score_task).options(
        num_returns="streaming", max_retries=2, runtime_env={"env_vars": compute.QUIET_THREADS}, **_whole_node()
    )
    references = task.remote(context.settings, run, dataset, declared, previous)

    def events() -> Iterable[Event]:
        try:
            for reference in references:
                yield ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if (known := own_error(error)) is not None:
                raise known from None
            raise
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
            raise UnavailableError(
                "The process that scored the models died, most likely because memory ran out.",
                remedy="lower `evaluate.max_tokens`, or free memory on the node",
            ) from error

    try:
        return _follow(context, events())
    except BaseException:
        ray.cancel(references, force=True)
        raise


def _whole_node() -> dict[str, Any]:
    """Ray options that take all CPUs of the largest node, and a GPU where a node has one."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpu_nodes = [node for node in nodes if node.get("GPU", 0) >= 1]
    options: dict[str, Any] = {"num_cpus": int(max((node.get("CPU", 0) for node in gpu_nodes or nodes), default=0))}
    return options | {"num_gpus": 1} if gpu_nodes else options


def _score_task(
    settings: Settings, run: Manifest, dataset: Manifest, declared: Evaluate, previous: Manifest | None
) -> Iterable[Event]:
    import ray
    import torch

    from soldiom_ray.storage import open_storage

    assigned = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))
    torch.set_num_threads(max(1, min(assigned, os.cpu_count() or 1)))
    yield from score_run(settings, Artifacts(open_storage(settings)), run, dataset, declared, previous)
