"""The coordinator: from the recipe to a run. It holds the base and the adapter, and no data of any site."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Context, Draft, prefix_of
from soldiom_ray.domains.federation import FEDERATION, Federate
from soldiom_ray.domains.schema import Train, hash_input
from soldiom_ray.errors import InputError
from soldiom_ray.federate.client import SiteClient
from soldiom_ray.federate.local_sites import open_sites
from soldiom_ray.federate.local_training import base_fingerprint, build_model, configuration_of, federated_task, trained
from soldiom_ray.federate.membership import Membership, datasets_of
from soldiom_ray.federate.messages import RoundTask
from soldiom_ray.federate.rounds import POLL_SECONDS, Progress, Rounds
from soldiom_ray.federate.secure_messages import MIN_SITES, Secure
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
    if federation.secure_aggregation and len(federation.sites) < MIN_SITES:
        raise InputError(
            f"`federate.secure_aggregation` needs {MIN_SITES} sites; there are {len(federation.sites)}.",
            remedy="of two each would know the other's update from the sum",
        )
    with ExitStack() as stack:
        folder = stack.enter_context(model_folder(context.settings, context.artifacts, declared.base_model))
        notes = check_base(folder, declared)
        base = base_fingerprint(folder)
        sites = stack.enter_context(open_sites(context, federation.sites))
        datasets, away = datasets_of(sites)
        made_from = _made_from(declared, federation, base)
        membership = Membership(context.artifacts.storage, made_from | {"sites": sorted(datasets)})

        def is_done(named: Mapping[str, str]) -> bool:
            return _drafts(context, made_from, named)[1].finished() is not None

        data, draft = _drafts(context, made_from, membership.begin(datasets, is_done))
        if (done := draft.finished()) is not None:
            return done
        context.notify([*notes, *away])
        hear: Callable[[SiteClient], None] = membership.hear
        greet = {name: hear for name, dataset in datasets.items() if dataset is None}
        return _coordinate(context, declared, federation, data, draft, folder, base, sites, greet, poll_seconds)


def _coordinate(
    context: Context,
    declared: Train,
    federation: Federate,
    data: Draft,
    draft: Draft,
    folder: "Path",
    base: str,
    sites: list[SiteClient],
    greet: dict[str, Callable[[SiteClient], None]],
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
        secure=_secure(federation, sites),
    )
    prefix = f"{prefix_of(draft.id)}/rounds"
    rounds = Rounds(sites, federation, context.artifacts.storage, prefix, context.report, greet, poll_seconds)
    adapter = rounds.run(first, trained(model))
    model = with_weights(model, {name: torch.from_numpy(array) for name, array in adapter.items()})
    draft.add_written(
        store_weights(context.settings, context.artifacts, draft.id, declared, model, processor, bfloat16)
    )
    details = _details(declared, federation, model, processor, rounds.progress, bfloat16)
    details |= {"base_path_hash": base, "seconds": round(time.monotonic() - began, 2)}
    samples = _samples(rounds.progress)
    if federation.secure_aggregation:
        samples = {f"{len(sites)} sites together": max(record.total_samples for record in rounds.progress.rounds)}
    data.commit(counts={TRAIN: sum(samples.values())}, details={FEDERATION: samples, "data_type": "federation"})
    draft.commit(counts={"rounds": federation.rounds}, details=details)
    rounds.clear()
    return context.artifacts.get(draft.id)


def _made_from(declared: Train, federation: Federate, base: str) -> dict[str, Any]:
    """What decides a federation beside its sites and their datasets."""
    plain = () if federation.secure_aggregation else ("secure_aggregation",)
    return {
        "code": STAGE_VERSION,
        "declared": hash_input("train", declared),
        "federate": federation.model_dump(mode="json", exclude={"sites", "round_seconds", *plain}),
        "base": base,
    }


def _drafts(context: Context, made_from: dict[str, Any], datasets: Mapping[str, str]) -> tuple[Draft, Draft]:
    """(what stands for the datasets of the sites, the run). They are decided by the sites' names and datasets, not by
    where these lie."""
    data = context.artifacts.draft("dataset", {FEDERATION: dict(sorted(datasets.items()))})
    return data, context.artifacts.draft("run", made_from, parents=[data.id])


def _secure(federation: Federate, sites: list[SiteClient]) -> Secure | None:
    """The rules of secure aggregation, where it is declared: a sum is over more than half of all sites."""
    if not federation.secure_aggregation:
        return None
    return Secure(
        sites=tuple(sorted(site.name for site in sites)),
        threshold=max(federation.min_sites, len(sites) // 2 + 1),
        weighting=federation.weighting,
    )


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
