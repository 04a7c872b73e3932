"""A dataset and a base model become a run and its weights."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the loop in this package needs torch, transformers and peft alone
    from soldiom_ray.artifacts import Context
    from soldiom_ray.domains.schema import Train
    from soldiom_ray.domains.search import Auto, Sweep
    from soldiom_ray.records import Manifest


def train(context: "Context", dataset: "Manifest", declared: "Train") -> "Manifest":
    """Train on the connected Ray cluster; a run made before from the same inputs is returned at once.

    Killed or cancelled, a second call resumes from the newest checkpoint. Raises InputError for an unknown base model,
    an empty train split or a model that does not fit the memory; StorageFullError with the earlier checkpoints kept;
    CancelledError after a last checkpoint."""
    from soldiom_ray.train.driver import run_on_ray

    return run_on_ray(context, dataset, declared)


def sweep(context: "Context", dataset: "Manifest", declared: "Train", search: "Sweep") -> tuple["Manifest", "Manifest"]:
    """(the run of the best trial, the sweep's artifact) of several trainings on the connected Ray cluster; see
    `sweep.driver`."""
    from soldiom_ray.train.sweeps.driver import run_sweep

    return run_sweep(context, dataset, declared, search)


def train_auto(
    context: "Context", dataset: "Manifest", declared: "Train", auto: "Auto"
) -> tuple["Manifest", "Manifest", list[str]]:
    """(the run, the sweep that found it, why) with settings that are chosen within a time; see `sweeps.auto`."""
    from soldiom_ray.train.sweeps.auto import train_auto as choose

    return choose(context, dataset, declared, auto)
