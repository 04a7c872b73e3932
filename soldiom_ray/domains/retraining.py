"""The next version of a model from what its users said: a recipe of its former data and the accepted examples."""

from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy.orm import Session

from soldiom_ray.db import deployments, feedback, jobs, models
from soldiom_ray.db.ownership import check_change
from soldiom_ray.db.tables import Job, Model
from soldiom_ray.domains.schema import Condition, Recipe, with_current_keys
from soldiom_ray.errors import ConflictError, InputError

RETRAIN = "retrain"
"""Kind of the jobs that run these recipes."""
Learning = Literal["sft", "dpo"]


def retraining(session: Session, id_or_name: str, tenant: str, learning: Learning = "sft") -> Recipe:
    """The recipe of the next version of a model: its former documents, prepared and trained as they were (`sft`), or
    its full weights moved towards corrections and away from what they correct (`dpo`), with the accepted feedback on
    all versions of its name; it is promoted and served if it beats the champion on held-out samples, or, where no
    version of the name is one, if it passes the gate that the version had. What that asked for beside beating the base
    is asked for again.

    DeniedError for a model that another user shares, ConflictError without accepted feedback, or where it is not known
    how the version was made; InputError where DPO cannot be done."""
    model = models.get_served(session, id_or_name, tenant)
    check_change(session, model, f"Model {model.id}")
    versions = [row.id for row in feedback.versions_of(session, model)]
    examples = feedback.accepted_inputs(session, tenant, versions)
    name = f"{model.family}/{model.name}"
    if not examples:
        raise ConflictError(
            f"No feedback on {name} is accepted.",
            remedy="see `soldiom feedback list`, and accept what it shall learn from: `soldiom feedback review`",
        )
    trained, prepared = _makers(session, model, tenant)
    train, evaluate = dict(trained["train"]), dict(trained.get("evaluate") or {})
    if models.champion_before(session, tenant, model.family, model.name, "", model.owner) is not None:
        evaluate["gate"] = _gate(evaluate.get("gate") or {})
    if learning == "dpo":
        train = _preference(session, model, train)
        evaluate = {"gate": {"beat": "base"}}
    endpoint = deployments.get(session, model.id)
    content: dict[str, Any] = {
        "name": model.name,
        "collect": [{"source": "files", "inputs": examples}],
        "documents": _former_documents(session, model, tenant),
        "prepare": prepared,
        "train": train,
        "evaluate": evaluate,
        "register": {"family": model.family, "name": model.name, "specialization": model.specialization},
    }
    if endpoint is not None:
        content["deploy"] = dict(endpoint.config) | {"only": "promoted"}
    return Recipe.model_validate(content)


def _gate(former: Mapping[str, Any]) -> dict[str, Any]:
    """Beat the version before, and keep what the former gate asked for beside that; to beat the base, which every gate
    asks for by itself, follows from beating what has beaten it. Of conditions of which one was enough, none remains."""
    previous = {"beat": "previous"}
    conditions = former.get("all") or ([] if former.get("any") else [{**former, "all": (), "any": ()}])
    floors = []
    for each in conditions:
        named = Condition.model_validate({name: each[name] for name in Condition.model_fields if name in each})
        if named.beat != "previous" and named != Condition():
            floors.append(named.model_dump(mode="json", exclude_defaults=True))
    return {"all": [previous, *floors]} if floors else previous


def _makers(session: Session, model: Model, tenant: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The recipe that trained a version, and the heading by which its dataset was prepared."""
    trained = _maker(session, model.run_artifact, "train", tenant)
    prepared = _maker(session, model.dataset_id, "prepare", tenant)
    if trained is None or prepared is None:
        raise ConflictError(
            f"It is not recorded here how model {model.id} was made: it is a base model, or its jobs are gone.",
            remedy="name a model that was trained here, with a recipe or from a dataset that was prepared here",
        )
    return with_current_keys(trained.config), with_current_keys(prepared.config)["prepare"]


def _maker(session: Session, artifact: str | None, stage: str, tenant: str) -> Job | None:
    return jobs.maker_of(session, artifact, stage, tenant) if artifact else None


def _former_documents(session: Session, model: Model, tenant: str) -> list[str]:
    """What the version learnt from, without the examples of earlier feedback, which are collected anew: some may have
    been rejected since."""
    found = [str(each["id"]) for each in model.lineage.get("documents") or ()]
    makers = {name: jobs.maker_of(session, name, "collect", tenant) for name in found}
    return [name for name, maker in makers.items() if maker is None or maker.kind != RETRAIN]


def _preference(session: Session, model: Model, train: Mapping[str, Any]) -> dict[str, Any]:
    """`train` as DPO that begins at the version's own weights."""
    if train.get("method") != "full" or models.task_of(model) not in ("causal_lm", "preference"):
        raise InputError(
            f"DPO begins at the weights of a full model that continues texts; {model.family}/{model.name} version"
            f" {model.version} is {train.get('method')}, {models.task_of(model)}.",
            remedy="learn by `--method sft`: the corrections become examples beside the former data",
        )
    kept = ("sequence_length", "batch_tokens", "seed", "workers", "strategy", "template_gaps", "precision")
    return {name: train[name] for name in kept if name in train} | {
        "base_model": model.run_artifact,
        "task": "preference",
        "method": "full",
    }
