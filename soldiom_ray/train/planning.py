"""A plan with the dataset looked at: how its samples fit the sequence length, how many tokens they are, how long it
takes. `python -m soldiom_ray.train.planning` reads a request as JSON and prints the plan as JSON, so that whoever asks
needs no torch."""

import gc
import json
import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import SoldiomError
from soldiom_ray.models.base_check import check_base
from soldiom_ray.models.load import load_processor
from soldiom_ray.models.planning import machine
from soldiom_ray.models.planning.headers import model_description
from soldiom_ray.models.planning.light_imports import import_lightly
from soldiom_ray.models.planning.planner import wants_bfloat16
from soldiom_ray.models.planning.report import plan_report
from soldiom_ray.records import Manifest
from soldiom_ray.settings import HOME_TENANT, Settings, load_settings
from soldiom_ray.storage import open_storage
from soldiom_ray.train.data import tokenizer_hash
from soldiom_ray.train.data_check import DataCheck, check_data
from soldiom_ray.train.strategies import check_strategy
from soldiom_ray.train.tasks import task_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PERCENTILES = (0.5, 0.9, 0.95, 0.99)


def plan_training(
    settings: Settings, declared: Train, dataset_id: str | None = None, resources: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The plan of a training. `resources` need not exist (see `machine.hypothetical_cluster`); those not named are the
    cluster's, or this machine's."""
    check_strategy(declared.strategy, workers=declared.workers, quantization=declared.quantization)
    artifacts = Artifacts(open_storage(settings))
    cluster = machine.hypothetical_cluster(_cluster(settings), **(resources or {}))
    with ExitStack() as stack:
        folder: Path | None = None
        stored: dict[str, Any] = {}
        notes: list[str] = []
        if declared.architecture is None:
            folder, stored = stack.enter_context(model_description(settings, artifacts, declared.base_model))
            notes = check_base(folder, declared)
        sample_stats: dict[str, Any] = {}
        checked = DataCheck()
        if dataset_id is not None and folder is not None:
            processor = load_processor(folder)
            by, dataset = tokenizer_hash(folder), _dataset(settings, artifacts, dataset_id)
            checked = check_data(artifacts, dataset, declared, folder)
            sample_stats = sample_statistics(artifacts, dataset, declared, processor, by)
        device = cluster.device(declared.workers)
        bfloat16 = wants_bfloat16(declared, device)
        planned = plan_report(
            folder,
            declared,
            cluster,
            bfloat16=bfloat16,
            stored=stored,
            train_tokens=sample_stats.get("tokens"),
            matrix_rate=machine.matrix_rate(settings.home, bfloat16=bfloat16)
            if device == "cpu"
            else machine.ASSUMED_GPU_RATE,
            all_strategies=True,
            home=settings.home,
        )
    return planned | {"samples": sample_stats, "notes": notes + checked.notes, "template_gaps": checked.template}


def sample_statistics(
    artifacts: Artifacts, dataset: Manifest, declared: Train, processor: Any, by: str
) -> dict[str, Any]:
    """How a dataset's training samples fit the sequence length: `samples`, `cut_samples`, `cut_tokens`,
    `longest_tokens` (the length that cuts none), `percentiles`, and `tokens` of one pass. A training of this dataset
    reuses the tokens."""
    import numpy as np

    task = task_of(declared.task)
    tokens = task.tokenize(artifacts, dataset, processor, by, declared, lambda fraction, message: None)
    length = declared.sequence_length
    statistics: dict[str, Any] = dict(task.cuts(artifacts, tokens, length))
    with task.open(artifacts, tokens, length, processor) as (train, _):
        statistics["tokens"] = int(train.positions(np.arange(len(train), dtype=np.int64)).sum())
    if statistics.get("longest_tokens"):
        lengths = np.sort(task.lengths(artifacts, tokens))
        statistics["percentiles"] = {f"{share:.0%}": _percentile(lengths, share) for share in PERCENTILES}
    return statistics


def _percentile(ordered: "npt.NDArray[np.int64]", share: float) -> int:
    """The least length that cuts no more than the rest of the samples. `ordered` are their lengths, ascending."""
    return max(1, int(ordered[len(ordered) - 1 - int((1 - share) * len(ordered))]))


def _cluster(settings: Settings) -> machine.Cluster:
    """Ray's nodes where Ray answers; else this machine, without Ray's import where no cluster is known (0.5 s)."""
    from soldiom_ray import compute

    if settings.ray_address is None and "ray" not in sys.modules:
        return machine.local_machine()
    try:
        compute.connect(settings)
    except SoldiomError:
        return machine.local_machine()
    return machine.current_cluster()


def _dataset(settings: Settings, artifacts: Artifacts, name: str) -> Manifest:
    """A dataset by its id in the database, or by its artifact's id, which needs no database."""
    artifact = artifacts.find(name)
    if artifact is not None:
        return artifact
    from soldiom_ray.db import datasets
    from soldiom_ray.db.engine import open_session

    with open_session(settings) as session:
        return artifacts.get(datasets.get(session, name, HOME_TENANT).artifact_id)


def main() -> int:
    """{"train": ..., "dataset": id or null, "cluster": {...}} from stdin; to stdout the plan, or {"error": ...} with
    `SoldiomError.to_dict()`."""
    gc.disable()  # a sixth of the CPU time of the libraries' imports; this process ends with its answer
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("soldiom_ray.models").setLevel(logging.INFO)  # what takes long says so
    import_lightly()  # while the request is still being written
    request = json.load(sys.stdin)
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not get into the JSON document
    try:
        planned = plan_training(
            load_settings(), Train.model_validate(request["train"]), request.get("dataset"), request.get("cluster")
        )
    except SoldiomError as error:
        json.dump({"error": error.to_dict()}, out)
        return error.exit_code
    json.dump(planned, out)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.__stdout__.flush() if sys.__stdout__ else None
    os._exit(code)
