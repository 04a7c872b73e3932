"""The coordinator: from the recipe to a run. It holds the base and the adapter, and no data of any site."""

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Context, Draft, prefix_of
from soldiom_ray.domains.federation import FEDERATION, Federate
from soldiom_ray.domains.schema import Train, hash_input
from soldiom_ray.errors import InputError
from soldiom_ray.federate.client import SiteClient
from soldiom_ray.federate.local_sites import open_sites
from soldiom_ray.federate.local_training import base_fingerprint, build_model, configuration_of, federated_task, trained
from soldiom_ray.federate.messages import RoundTask, SiteInfo
from soldiom_ray.federate.rounds import POLL_SECONDS, Progress, Rounds
from soldiom_ray.models.base_check import check_base
from soldiom_ray.models.load import load_processor, model_folder
from soldiom_ray.records import Manifest
from soldiom_ray.train.splits import TRAIN
from soldiom_ray.train.strategies import with_weights
from soldiom_ray.train.worker import model_sizes, software_versions, store_weights

if TYPE_CHECKING:
    from pathlib import Path

STAGE_VERSION = 1


def coordinate(
    context: Context, declared: Train, federation: Federate, *, poll_seconds: float = POLL_SECONDS
) -> Manifest:
    """See `federate`."""
    if len(federation.sites) < federation.min_sites:
        raise InputError(
            f"The federation has {len(federation.sites)} site(s) and needs {federation.min_sites} (`min_sites`).",
            remedy="name them: --sites a,b,c, or `federate.sites` in the recipe",
        )
    with ExitStack() as stack:
        folder = stack.enter_context(model_folder(context.settings, context.artifacts, declared.base_model))
        notes = check_base(folder, declared)
        base = base_fingerprint(folder)
        sites = stack.enter_context(open_sites(context, federation.sites))
        infos = [site.info() for site in sites]
        data, draft = _drafts(context, declared, federation, base, infos)
        if (done := draft.finished()) is not None:
            return done
        context.notify(notes)
        return _coordinate(context, declared, federation, data, draft, folder, base, sites, poll_seconds)


def _coordinate(
    context: Context,
    declared: Train,
    federation: Federate,
    data: Draft,
    draft: Draft,
    folder: "Path",
    base: str,
    sites: list[SiteClient],
    poll_seconds: float,
) -> Manifest:
    import torch

    began = time.monotonic()
    processor = load_processor(folder)
    model, bfloat16 = build_model(folder, processor, declared, federation.labels)
    first = RoundTask(
        federation=draft.id,
        recipe=context.recipe or "federation",
        round=1,
        rounds=federation.rounds,
        train=declared,
        base=base,
        labels=federation.labels,
        mu=federation.mu if federation.algorithm == "fedprox" else 0.0,
        clip_norm=federation.clip_norm,
    )
    prefix = f"{prefix_of(draft.id)}/rounds"
    rounds = Rounds(sites, federation, context.artifacts.storage, prefix, context.report, poll_seconds)
    adapter = rounds.run(first, trained(model))
    model = with_weights(model, {name: torch.from_numpy(array) for name, array in adapter.items()})
    draft.add_written(
        store_weights(context.settings, context.artifacts, draft.id, declared, model, processor, bfloat16)
    )
    details = _details(declared, federation, model, processor, rounds.progress, bfloat16)
    details |= {"base_path_hash": base, "seconds": round(time.monotonic() - began, 2)}
    samples = _samples(rounds.progress)
    data.commit(counts={TRAIN: sum(samples.values())}, details={FEDERATION: samples, "data_type": "federation"})
    draft.commit(counts={"rounds": federation.rounds}, details=details)
    rounds.clear()
    return context.artifacts.get(draft.id)


def _drafts(
    context: Context, declared: Train, federation: Federate, base: str, infos: list[SiteInfo]
) -> tuple[Draft, Draft]:
    """(what stands for the datasets of the sites, the run). They are decided by the sites' names and datasets, not by
    where these lie."""
    sites = {info.name: info.dataset for info in sorted(infos, key=lambda info: info.name)}
    data = context.artifacts.draft("dataset", {FEDERATION: sites})
    made_from: dict[str, Any] = {
        "code": STAGE_VERSION,
        "declared": hash_input("train", declared),
        "federate": federation.model_dump(mode="json", exclude={"sites", "round_seconds"}),
        "base": base,
    }
    return data, context.artifacts.draft("run", made_from, parents=[data.id])


def _samples(progress: Progress) -> dict[str, int]:
    """Site -> the most samples that an update of it stood for; only of sites that had a part in the result."""
    counts: dict[str, int] = {}
    for record in progress.rounds:
        for name in record.used:
            counts[name] = max(counts.get(name, 0), record.samples.get(name, 0))
    return counts


def _details(
    declared: Train, federation: Federate, model: Any, processor: Any, progress: Progress, bfloat16: bool
) -> dict[str, Any]:
    """What evaluation, registry and endpoints ask of a run, and how it was made."""
    last = progress.rounds[-1]
    return {
        "task": declared.task,
        "method": declared.method,
        "base_model": declared.base_model,
        "auto_class": federated_task(declared, federation.labels).auto_class,
        "configuration": configuration_of(processor, federation.labels, several=declared.multi_label),
        "prompt_format": progress.prompt_format,
        "sequence_length": progress.sequence_length,
        "precision": "bfloat16" if bfloat16 else "float32",
        "best_validation_loss": last.validation_loss,
        "best_validation": last.metrics,
        "software": software_versions(),
        **model_sizes(model),
        FEDERATION: {
            **federation.model_dump(mode="json", exclude={"sites", "labels"}),
            "rounds": [record.model_dump(mode="json") for record in progress.rounds],
            "losses": [record.validation_loss for record in progress.rounds],
        },
    }
